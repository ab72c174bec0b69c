"""Policies in files of other programs: ONNX both ways, Stable-Baselines3 in, no pickles."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from gymnasium import spaces
from onnx import TensorProto, helper

import rostral_rl as rl
from rostral_rl import forward
from rostral_rl import spaces as known
from rostral_rl.cli import main
from rostral_rl.errors import ModelRejectedError, PolicyNotFoundError
from rostral_rl.heads import HeadKind
from rostral_rl.policy import Policy, PolicyInfo
from rostral_rl.serve.engine import Engine, EngineConfig
from rostral_rl.serve.export import check_parity, export_onnx
from rostral_rl.serve.front import load
from rostral_rl.serve.onnx import OnnxPolicy, OnnxRecurrent, load_onnx
from rostral_rl.serve.sb3 import load_sb3, policy_of

BOX = spaces.Box(-np.inf, np.inf, (3,), np.float32)
BOUNDED = spaces.Box(
    np.array([-2.0, 0.0], np.float32), np.array([2.0, 5.0], np.float32), (2,), np.float32
)
MASKED = spaces.Dict({"action_mask": spaces.MultiBinary(3), "x": BOX})


def policy(
    observation: spaces.Space[Any],
    action: spaces.Space[Any],
    head: HeadKind,
    *,
    normalised: bool = False,
    activation: forward.Activation = "tanh",
) -> Policy:
    """A random net of one hidden layer."""
    generator = np.random.default_rng(0)
    inputs = known.feature_count(observation)
    outputs = known.action_width(action) * (2 if head == "squashed" else 1)
    weights = {
        "pi.0.weight": generator.standard_normal((inputs, 16)),
        "pi.0.bias": generator.standard_normal(16),
        "pi.1.weight": generator.standard_normal((16, outputs)),
        "pi.1.bias": generator.standard_normal(outputs),
    }
    if head == "gaussian":
        weights["log_std"] = np.zeros(outputs)
    if normalised:
        weights |= {"obs.mean": np.full(inputs, 0.5), "obs.std": np.full(inputs, 0.1)}
    return Policy(
        observation_space=observation,
        action_space=action,
        spec=forward.NetSpec(
            inputs=inputs,
            hidden=(16,),
            outputs=outputs,
            activation=activation,
            head=head,
            parts=known.choices(action),
            mask_at=known.mask_at(observation, action),
        ),
        weights={key: value.astype(np.float32) for key, value in weights.items()},
        info=PolicyInfo(algorithm="test", version=5),
    )


POLICIES = {
    "choice": policy(BOX, spaces.Discrete(4, start=3), "categorical", normalised=True),
    "masked choice": policy(MASKED, spaces.Discrete(3), "categorical"),
    "choices": policy(BOX, spaces.MultiDiscrete([2, 3], start=[1, 0]), "multi"),
    "clipped": policy(BOX, BOUNDED, "gaussian", activation="relu"),
    "squashed": policy(BOX, BOUNDED, "squashed"),
    "deterministic": policy(BOX, BOUNDED, "deterministic"),
    "of an image": policy(spaces.Box(0, 255, (2, 2, 1), np.uint8), spaces.Discrete(3), "greedy"),
    "of a number": policy(spaces.Discrete(4, start=2), spaces.Discrete(3), "categorical"),
    "of numbers": policy(spaces.MultiDiscrete([2, 3]), spaces.Discrete(3), "categorical"),
    "of bits": policy(spaces.MultiBinary(4), spaces.Discrete(3), "categorical"),
}


@pytest.mark.parametrize("name", POLICIES)
def test_an_exported_policy_acts_like_the_policy(name: str, tmp_path: Path) -> None:
    file = tmp_path / "policy.onnx"
    export_onnx(POLICIES[name], file)
    exported = load(file)
    assert isinstance(exported, OnnxPolicy)
    check_parity(POLICIES[name], exported, seed=1)
    assert known.alike(exported.action_space, POLICIES[name].action_space)
    assert exported.info.version == 5


def test_parity_is_checked_and_not_believed(tmp_path: Path) -> None:
    export_onnx(POLICIES["choice"], tmp_path / "policy.onnx")
    other = policy(BOX, spaces.Discrete(4, start=3), "categorical")
    with pytest.raises(ModelRejectedError, match="differently"):
        check_parity(other, load_onnx(tmp_path / "policy.onnx"))


def recurrent(width: int | str = 2, rows: int | str = "N") -> bytes:
    """A foreign model with memory: acts by the sum of what it has seen."""
    values = [("obs", 2), ("h", width), ("action", 2), ("h_next", width)]
    made = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [rows, w]) for n, w in values]
    nodes = [
        helper.make_node("Add", ["obs", "h"], ["h_next"]),
        helper.make_node("Identity", ["h_next"], ["action"]),
    ]
    graph = helper.make_graph(nodes, "sum", made[:2], made[2:])
    opset = [helper.make_opsetid("", 17)]
    content: bytes = helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    return content


def test_a_foreign_model_with_memory_is_served_by_session(tmp_path: Path) -> None:
    import asyncio

    (tmp_path / "sum.onnx").write_bytes(recurrent())
    model = load_onnx(tmp_path / "sum.onnx")
    assert isinstance(model, OnnxRecurrent)

    async def main() -> None:
        engine = Engine({"default": model}, EngineConfig())
        await engine.act([1.0, 2.0], session="a")
        await engine.act([9.0, 9.0], session="b")
        assert (await engine.act([1.0, 2.0], session="a")).actions.tolist() == [2.0, 4.0]
        await engine.close()

    asyncio.run(main())


@pytest.mark.parametrize("rows", [1, 3])
def test_a_model_that_was_exported_for_so_many_rows_takes_any_number(
    rows: int, tmp_path: Path
) -> None:
    (tmp_path / "sum.onnx").write_bytes(recurrent(rows=rows))
    model = load_onnx(tmp_path / "sum.onnx")
    assert isinstance(model, OnnxRecurrent)
    for count in (1, 2, 3, 7):
        obs = np.arange(2.0 * count, dtype=np.float32).reshape(count, 2)
        actions, after = model.step(obs, np.ones((count, 2), np.float32))
        np.testing.assert_array_equal(actions, obs + 1.0)
        np.testing.assert_array_equal(after, obs + 1.0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Of torch's older exporter, about itself.
def test_what_stable_baselines3s_own_recipe_exports_is_served(tmp_path: Path) -> None:
    """Its documentation wraps the policy in a module and shows the exporter one observation."""
    library = pytest.importorskip("stable_baselines3", reason="needs stable-baselines3")
    theirs = library.PPO("MlpPolicy", "CartPole-v1", seed=1, device="cpu")

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.policy = theirs.policy

        def forward(self, obs: torch.Tensor) -> Any:
            return self.policy(obs, deterministic=True)

    torch.onnx.export(
        Wrapped(),
        (torch.zeros(1, 4),),
        str(tmp_path / "ppo.onnx"),
        opset_version=17,
        input_names=["input"],
        dynamo=False,
    )
    obs = np.random.default_rng(0).uniform(-1, 1, (9, 4)).astype(np.float32)
    want, _ = theirs.predict(obs, deterministic=True)
    with rl.serve(tmp_path / "ppo.onnx", http=0) as server, rl.PolicyClient(server.url) as client:
        np.testing.assert_array_equal(client.act(obs), want)
        assert client.act(obs[0]) == want[0]


def test_what_is_no_model_is_rejected_by_name(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not ONNX")
    with pytest.raises(ModelRejectedError, match=r"broken\.onnx is no ONNX model"):
        load(tmp_path / "broken.onnx")
    with pytest.raises(PolicyNotFoundError):
        load(tmp_path / "none.onnx")
    with pytest.raises(PolicyNotFoundError):
        load(tmp_path / "none.zip")
    (tmp_path / "free.onnx").write_bytes(recurrent("S"))
    with pytest.raises(ModelRejectedError, match="fixed S"):
        load(tmp_path / "free.onnx")
    for name in ("policy.pkl", "policy.pt"):
        with pytest.raises(ModelRejectedError, match=r"MODEL_REJECTED.*unpickled"):
            load(tmp_path / name)


def test_export_is_a_command(tmp_path: Path) -> None:
    POLICIES["choice"].save(tmp_path / "policy")
    file = tmp_path / "policy.onnx"
    done = CliRunner().invoke(main, ["export", str(tmp_path / "policy"), str(file)])
    assert done.exit_code == 0, done.output
    onnx.checker.check_model(onnx.load(file))
    again = CliRunner().invoke(main, ["export", str(file), str(tmp_path / "again.onnx")])
    assert (again.exit_code, "ONNX already" in again.stderr) == (2, True)


def box_text(space: spaces.Box) -> dict[str, Any]:
    return {
        ":type:": "<class 'gymnasium.spaces.box.Box'>",
        ":serialized:": "never read",
        "dtype": str(space.dtype),
        "_shape": list(space.shape),
        "low": str(space.low),
        "high": str(space.high),
        "low_repr": None,
        "high_repr": None,
    }


def sb3_zip(file: Path, tensors: Any, **data: Any) -> Path:
    """A file as the library writes it."""
    stored = io.BytesIO()
    torch.save(tensors, stored)
    said = {"num_timesteps": 7, "policy_kwargs": {}, "observation_space": box_text(BOX), **data}
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data", json.dumps(said))
        archive.writestr("policy.pth", stored.getvalue())
    return file


def actor(layers: dict[str, tuple[int, int]]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, (before, after) in layers.items():
        tensors[f"{name}.weight"] = torch.randn(after, before, generator=generator)
        tensors[f"{name}.bias"] = torch.randn(after, generator=generator)
    return tensors


DISCRETE = {":type:": "<class 'gymnasium.spaces.discrete.Discrete'>", "n": "4", "start": "0"}


def test_a_ppo_policy_of_stable_baselines3_acts_as_its_layers_say(tmp_path: Path) -> None:
    tensors = actor(
        {
            "mlp_extractor.policy_net.0": (3, 8),
            "mlp_extractor.policy_net.2": (8, 8),
            "mlp_extractor.value_net.0": (3, 8),
            "action_net": (8, 4),
            "value_net": (8, 1),
        }
    )
    loaded = load_sb3(sb3_zip(tmp_path / "ppo.zip", tensors, action_space=DISCRETE))
    obs = np.random.default_rng(0).standard_normal((32, 3)).astype(np.float32)
    x = torch.from_numpy(obs)
    for layer in ("mlp_extractor.policy_net.0", "mlp_extractor.policy_net.2"):
        x = torch.tanh(x @ tensors[f"{layer}.weight"].T + tensors[f"{layer}.bias"])
    x = x @ tensors["action_net.weight"].T + tensors["action_net.bias"]
    np.testing.assert_array_equal(loaded(obs), x.argmax(1).numpy())
    with rl.serve(tmp_path / "ppo.zip", http=0) as server, rl.PolicyClient(server.url) as client:
        np.testing.assert_array_equal(client.act(obs), loaded(obs))


def test_a_sac_policy_of_stable_baselines3_is_squashed_to_its_bounds(tmp_path: Path) -> None:
    tensors = actor({"actor.latent_pi.0": (3, 8), "actor.mu": (8, 2), "actor.log_std": (8, 2)})
    file = sb3_zip(tmp_path / "sac.zip", tensors, action_space=box_text(BOUNDED))
    loaded = load_sb3(file)
    obs = np.ones((1, 3), np.float32)
    x = torch.relu(
        torch.ones(1, 3) @ tensors["actor.latent_pi.0.weight"].T + tensors["actor.latent_pi.0.bias"]
    )
    raw = torch.tanh(x @ tensors["actor.mu.weight"].T + tensors["actor.mu.bias"]).numpy()
    want = BOUNDED.low + (raw + 1) / 2 * (BOUNDED.high - BOUNDED.low)
    np.testing.assert_allclose(loaded(obs), want, rtol=1e-5)
    export_onnx(loaded, tmp_path / "sac.onnx")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "env"),
    [
        ("PPO", "CartPole-v1"),
        ("DQN", "CartPole-v1"),
        ("SAC", "Pendulum-v1"),
        ("TD3", "Pendulum-v1"),
    ],
)
def test_a_file_of_the_library_itself_acts_like_the_library(
    algorithm: str, env: str, tmp_path: Path
) -> None:
    library = pytest.importorskip("stable_baselines3", reason="needs stable-baselines3")
    theirs = getattr(library, algorithm)("MlpPolicy", env, seed=1)
    theirs.save(tmp_path / "policy.zip")
    ours = load_sb3(tmp_path / "policy.zip")
    obs = np.random.default_rng(0).uniform(-1, 1, (64, *theirs.observation_space.shape))
    want, _ = theirs.predict(obs.astype(np.float32), deterministic=True)
    np.testing.assert_allclose(ours(obs), want, rtol=1e-4, atol=1e-5)


class Frames(gymnasium.Env[Any, Any]):
    """Four frames of noise."""

    observation_space = spaces.Box(0, 255, (4, 84, 84), np.uint8)

    def __init__(self, action_space: spaces.Space[Any]) -> None:
        self.action_space = action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), 0.0, False, True, {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "action", "more"),
    [
        ("PPO", spaces.Discrete(6), {}),
        ("A2C", BOUNDED, {}),
        ("DQN", spaces.Discrete(6), {"buffer_size": 10}),
        ("SAC", BOUNDED, {"buffer_size": 10}),
    ],
)
def test_a_policy_on_images_of_the_library_itself_acts_like_the_library(
    algorithm: str, action: Any, more: dict[str, Any], tmp_path: Path
) -> None:
    library = pytest.importorskip("stable_baselines3", reason="needs stable-baselines3")
    theirs = getattr(library, algorithm)("CnnPolicy", Frames(action), seed=1, **more)
    theirs.save(tmp_path / "policy.zip")
    ours = load_sb3(tmp_path / "policy.zip")
    obs = np.random.default_rng(0).integers(256, size=(8, 4, 84, 84), dtype=np.uint8)
    want, _ = theirs.predict(obs, deterministic=True)
    np.testing.assert_allclose(ours(obs), want, rtol=1e-3, atol=1e-4)
    with rl.serve(tmp_path / "policy.zip", http=0) as server, rl.PolicyClient(server.url) as client:
        np.testing.assert_allclose(client.act(obs), ours(obs), rtol=1e-4, atol=1e-5)


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("unpickled",)


def test_what_is_pickled_in_a_zip_is_never_unpickled(tmp_path: Path) -> None:
    with pytest.raises(ModelRejectedError, match="weights cannot be read"):
        load_sb3(sb3_zip(tmp_path / "bomb.zip", {"x": Bomb()}, action_space=DISCRETE))
    with zipfile.ZipFile(tmp_path / "odd.zip", "w") as archive:
        archive.writestr("data", pickle.dumps(Bomb()))
        archive.writestr("policy.pth", pickle.dumps(Bomb()))
    with pytest.raises(ModelRejectedError, match="no file of Stable-Baselines3"):
        load_sb3(tmp_path / "odd.zip")
    (tmp_path / "text.zip").write_text("text")
    with pytest.raises(ModelRejectedError):
        load_sb3(tmp_path / "text.zip")


def test_a_net_that_is_no_plain_perceptron_is_rejected(tmp_path: Path) -> None:
    convolution = actor({"mlp_extractor.policy_net.0": (512, 8), "action_net": (8, 4)})
    with pytest.raises(ModelRejectedError, match="only MlpPolicy"):
        load_sb3(sb3_zip(tmp_path / "cnn.zip", convolution, action_space=DISCRETE))
    with pytest.raises(ModelRejectedError, match="no actor that is known"):
        load_sb3(sb3_zip(tmp_path / "none.zip", {}, action_space=DISCRETE))


@pytest.mark.parametrize(
    "described",
    [
        {
            ":type:": "<class 'Spaces.Box'>",
            "_shape": [1],
            "dtype": "f4,,(2",
            "low": "0",
            "high": "1",
        },
        {":type:": "<class 'Spaces.Discrete'>", "n": float("inf"), "start": 0},
        {":type:": "<class 'Spaces.Discrete'>", "n": 2},
        {":type:": "<class 'Spaces.Nothing'>"},
    ],
)
def test_a_space_of_stable_baselines3_that_makes_no_sense_is_refused(described: Any) -> None:
    with pytest.raises(ModelRejectedError, match="observation_space cannot be read"):
        policy_of({"observation_space": described}, {}, "some.zip")
