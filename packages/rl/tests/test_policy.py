"""Policies and their folders: what was saved acts the same, what was not is refused by name."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import rostral_rl as rl
from rostral_rl import forward
from rostral_rl.errors import (
    PolicyCorruptError,
    PolicyFormatError,
    PolicyNotFoundError,
    RLError,
    ShapeError,
)
from rostral_rl.policy import Policy, PolicyInfo


def make_policy(*, action_space: Any = None, normalised: bool = False, seed: int = 0) -> Policy:
    """A policy with random weights on observations of three numbers."""
    action_space = action_space or spaces.Discrete(4)
    discrete = isinstance(action_space, spaces.Discrete)
    spec = forward.NetSpec(
        inputs=3,
        hidden=(6, 5),
        outputs=4 if discrete else 2,
        activation="tanh",
        head="categorical" if discrete else "gaussian",
    )
    generator = np.random.default_rng(seed)
    weights: dict[str, Any] = {}
    for i, (before, after) in enumerate(zip(spec.widths, spec.widths[1:], strict=False)):
        weights[f"pi.{i}.weight"] = generator.standard_normal((before, after), np.float32)
        weights[f"pi.{i}.bias"] = generator.standard_normal(after, np.float32)
    if not discrete:
        weights["log_std"] = np.zeros(2, np.float32)
    if normalised:
        weights["obs.mean"] = np.array((1.0, 2.0, 3.0), np.float32)
        weights["obs.std"] = np.array((0.5, 2.0, 1.0), np.float32)
    return Policy(
        observation_space=spaces.Box(-np.inf, np.inf, (3,), np.float32),
        action_space=action_space,
        spec=spec,
        weights=weights,
        info=PolicyInfo(algorithm="ppo", env="Some-v0", env_steps=10, seed=2, version=5),
    )


OBS = np.random.default_rng(5).standard_normal((40, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "action_space",
    [spaces.Discrete(4), spaces.Discrete(4, start=-1), spaces.Box(-0.1, 0.2, (2,), np.float32)],
)
def test_a_loaded_policy_acts_exactly_as_the_saved_one(action_space: Any, tmp_path: Path) -> None:
    policy = make_policy(action_space=action_space, normalised=True)
    policy.save(tmp_path / "p")
    loaded = rl.load(tmp_path / "p")
    np.testing.assert_array_equal(loaded(OBS), policy(OBS))
    assert loaded.info == policy.info
    assert loaded.observation_space == policy.observation_space
    assert loaded.action_space == policy.action_space
    assert all(loaded.action_space.contains(action) for action in loaded(OBS))
    drawn = [p(OBS, sample=True, generator=np.random.default_rng(1)) for p in (policy, loaded)]
    np.testing.assert_array_equal(drawn[0], drawn[1])


def test_one_observation_gives_one_action_and_a_batch_a_batch() -> None:
    policy = make_policy()
    batch = policy(OBS)
    assert batch.shape == (40,)
    assert policy(OBS[0]).shape == ()
    assert policy(OBS[0]) == batch[0]
    assert policy(OBS[:1]).shape == (1,)
    assert policy([0.0, 1, 2.5]).shape == ()


def test_the_normaliser_is_part_of_the_policy() -> None:
    plain, scaled = make_policy(), make_policy(normalised=True)
    by_hand = (OBS - scaled.weights["obs.mean"]) / scaled.weights["obs.std"]
    np.testing.assert_array_equal(scaled(OBS), plain(by_hand))


@pytest.mark.parametrize(
    ("obs", "said"),
    [
        (np.zeros(4), r"shape \(4,\) float64"),
        (np.zeros((2, 2, 3)), r"shape \(2, 2, 3\)"),
        (np.zeros(3, np.complex64), "dtype complex64"),
        (["a", "b", "c"], "dtype"),
        ([[1.0], [1.0, 2.0]], "not an array"),
        ([0.0, np.nan, 0.0], "NaN"),
        (0.0, r"shape \(\)"),
    ],
)
def test_an_observation_that_does_not_fit_is_told_what_would(obs: Any, said: str) -> None:
    with pytest.raises(ShapeError, match=said) as caught:
        make_policy()(obs)
    assert caught.value.hint is not None
    assert "expected shape (3,) or (N, 3) float32" in caught.value.hint


def test_saving_again_replaces_and_leaves_nothing_over(tmp_path: Path) -> None:
    make_policy(seed=1).save(tmp_path)
    make_policy(seed=2).save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    np.testing.assert_array_equal(rl.load(tmp_path)(OBS), make_policy(seed=2)(OBS))


def test_a_save_cut_short_leaves_the_older_policy_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_policy(seed=1).save(tmp_path)
    real = os.replace

    def dies_at_the_manifest(source: Any, target: Any) -> None:
        if str(target).endswith("policy.json"):
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", dies_at_the_manifest)
    with pytest.raises(KeyboardInterrupt):
        make_policy(seed=2).save(tmp_path)
    np.testing.assert_array_equal(rl.load(tmp_path)(OBS), make_policy(seed=1)(OBS))


def test_no_folder_and_no_manifest_are_told_apart_from_damage(tmp_path: Path) -> None:
    with pytest.raises(PolicyNotFoundError, match="no policy folder"):
        rl.load(tmp_path / "nowhere")
    with pytest.raises(PolicyNotFoundError, match=r"holds no policy\.json"):
        rl.load(tmp_path)
    assert issubclass(PolicyNotFoundError, FileNotFoundError)


def edit(folder: Path, change: Any) -> None:
    manifest = json.loads((folder / "policy.json").read_text())
    change(manifest)
    (folder / "policy.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda m: m.update(format="other"), PolicyFormatError),
        (lambda m: m.update(format_version=99), PolicyFormatError),
        (lambda m: m["action_space"].update(kind="Graph"), PolicyFormatError),
        (lambda m: m.pop("net"), PolicyCorruptError),
        (lambda m: m["net"].update(extra=1), PolicyCorruptError),
        (lambda m: m["net"].update(hidden=[6, 7]), PolicyCorruptError),
        (lambda m: m["weights"].update(sha256="0" * 64), PolicyCorruptError),
        (lambda m: m["weights"].update(file="gone.safetensors"), PolicyCorruptError),
        (lambda m: m["weights"].update(file="../policy.json"), PolicyCorruptError),
    ],
)
def test_a_manifest_that_is_not_ours_is_a_typed_error(
    change: Any, error: type[RLError], tmp_path: Path
) -> None:
    make_policy().save(tmp_path)
    edit(tmp_path, change)
    with pytest.raises(error, match=r"policy\.json|kind of space|tensor|SHA-256|no gone"):
        rl.load(tmp_path)


def test_damage_to_either_file_is_seen(tmp_path: Path) -> None:
    make_policy().save(tmp_path)
    (weights,) = tmp_path.glob("*.safetensors")
    blob = bytearray(weights.read_bytes())
    blob[-1] ^= 1
    weights.write_bytes(blob)
    with pytest.raises(PolicyCorruptError, match="SHA-256"):
        rl.load(tmp_path)
    (tmp_path / "policy.json").write_text("{")
    with pytest.raises(PolicyCorruptError, match="not JSON"):
        rl.load(tmp_path)


def test_errors_survive_pickling() -> None:
    error = ShapeError("what", hint="why")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.hint) == (ShapeError, str(error), "why")


@pytest.mark.slow
def test_loading_and_acting_import_neither_torch_nor_a_web_server(tmp_path: Path) -> None:
    make_policy().save(tmp_path)
    program = (
        "import sys, rostral_rl as rl\n"
        f"rl.load({str(tmp_path)!r})([0.0, 0.0, 0.0])\n"
        "sys.exit('torch' in sys.modules or 'uvicorn' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
