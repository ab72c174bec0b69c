"""Policies with memory, and of images: served by session, swapped, exported with parity."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import rostral_rl as rl
from rostral_rl.errors import RequestError
from rostral_rl.forward import NetSpec
from rostral_rl.heads import HeadKind
from rostral_rl.net import shapes
from rostral_rl.policy import Policy, PolicyInfo, policy_class
from rostral_rl.recurrent import RecurrentPolicy
from rostral_rl.serve.export import export_onnx
from rostral_rl.serve.onnx import OnnxRecurrent, load_onnx

NUMBERS = spaces.Box(-np.inf, np.inf, (3,), np.float32)
PICTURE = spaces.Box(0, 255, (12, 10, 2), np.uint8)
PLANES = spaces.Box(0, 255, (2, 12, 10), np.uint8)
CHOICE = spaces.Discrete(5)
VECTOR = spaces.Box(-1, 1, (2,), np.float32)
CONV = ((4, 4, 2), (3, 2, 1))


def made(observation: spaces.Box, action: spaces.Space[Any], seed: int = 0, **net: Any) -> Policy:
    """A random policy with such a net."""
    head: HeadKind = "gaussian" if action.shape else "categorical"
    size = int(np.prod(observation.shape))
    outputs = 2 if action.shape else 5
    spec = NetSpec(inputs=size, outputs=outputs, activation="tanh", head=head, **net)
    generator = np.random.default_rng(seed)
    weights = {
        name: generator.normal(0, 0.5, shape).astype(np.float32)
        for name, shape in shapes(spec).items()
    }
    if not net.get("conv"):
        weights["obs.mean"] = generator.normal(0, 1, size).astype(np.float32)
        weights["obs.std"] = generator.uniform(0.5, 2, size).astype(np.float32)
    return policy_class(spec)(
        observation_space=observation,
        action_space=action,
        spec=spec,
        weights=weights,
        info=PolicyInfo(version=seed + 1),
    )


def remembering(seed: int = 0) -> RecurrentPolicy:
    policy = made(NUMBERS, VECTOR, seed, hidden=(6,), lstm=4)
    assert isinstance(policy, RecurrentPolicy)
    return policy


def observations(count: int) -> Any:
    return np.random.default_rng(9).standard_normal((count, 3)).astype(np.float32)


def test_a_saved_policy_with_memory_is_served_by_session_as_its_player_plays(
    tmp_path: Path,
) -> None:
    policy = remembering()
    policy.save(tmp_path)
    plays = {"a": policy.player(), "b": policy.player()}
    with rl.serve(tmp_path, http=0) as server, rl.PolicyClient(server.url) as client:
        for i, obs in enumerate(observations(12)):
            name = "ab"[i % 3 == 0]
            np.testing.assert_allclose(
                client.act(obs, session=name), plays[name](obs), rtol=1e-5, atol=1e-6
            )
        plays["a"].reset()
        obs = observations(1)[0]
        np.testing.assert_allclose(
            client.act(obs, session="a", reset=True), plays["a"](obs), rtol=1e-5, atol=1e-6
        )
        assert client.policy()["recurrent"]
        with pytest.raises(RequestError, match="names no session"):
            client.act(obs)


def test_a_session_goes_on_from_its_state_under_new_weights() -> None:
    old, new = remembering(), remembering(1)
    first, second = observations(2)[:, None]
    _, state = old.step(first, old.start(1))
    want, _ = new.step(second, state)
    with rl.serve(old, http=0) as server, rl.PolicyClient(server.url) as client:
        client.act(first[0], session="s")
        assert server.swap(new) == 2
        np.testing.assert_allclose(client.act(second[0], session="s"), want[0], rtol=1e-5)
        assert client.version == 2


@pytest.mark.parametrize("action", [CHOICE, VECTOR], ids=["choice", "vector"])
@pytest.mark.parametrize(
    ("observation", "net"),
    [
        (NUMBERS, {"hidden": (6,), "lstm": 4}),
        (NUMBERS, {"hidden": (), "lstm": 4}),
        (PICTURE, {"hidden": (7,), "conv": CONV, "image": (12, 10, 2)}),
        (
            PLANES,
            {"hidden": (), "conv": CONV, "image": (12, 10, 2), "channels_first": True, "lstm": 3},
        ),
    ],
    ids=["memory", "memory alone", "images", "images and memory"],
)
def test_an_exported_net_of_any_form_acts_like_the_policy(
    observation: spaces.Box, net: dict[str, Any], action: spaces.Space[Any], tmp_path: Path
) -> None:
    policy = made(observation, action, **net)
    export_onnx(policy, tmp_path / "policy.onnx")  # Checks parity before it writes.
    loaded = load_onnx(tmp_path / "policy.onnx")
    observation.seed(1)
    batch = np.stack([observation.sample() for _ in range(8)])
    if not isinstance(policy, RecurrentPolicy):
        np.testing.assert_allclose(loaded.act(batch), policy.act(batch), rtol=1e-4, atol=1e-5)
        return
    assert isinstance(loaded, OnnxRecurrent)
    assert loaded.state_width == policy.state_width
    ours = theirs = policy.start(len(batch))
    for _ in range(3):
        expected, ours = policy.step(batch, ours)
        actions, theirs = loaded.step(batch, theirs)
        np.testing.assert_allclose(actions, expected, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-4)


def test_a_memory_of_another_width_is_not_swapped_in() -> None:
    wider = made(NUMBERS, VECTOR, hidden=(6,), lstm=8)
    with (
        rl.serve(remembering(), http=0) as server,
        pytest.raises(rl.errors.ModelRejectedError, match="have width 8, those of the new"),
    ):
        server.swap(replace(wider))
