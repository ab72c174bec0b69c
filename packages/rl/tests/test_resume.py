"""Checkpoints: a training that was interrupted goes on as if it had not been."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import rostral_rl as rl
from rostral_rl.errors import CheckpointError, CheckpointMismatchError, InvalidSettingError
from rostral_rl.train.algorithms import settings_for
from rostral_rl.train.trainer import Trainer

SMALL: dict[str, dict[str, Any]] = {
    "ppo": {"envs": 3, "steps": 16, "minibatch": 24, "epochs": 2, "hidden": (8,)},
    "a2c": {"envs": 3, "steps": 8, "hidden": (8,)},
    "appo": {"envs": 3, "steps": 8, "hidden": (8,)},
    "impala": {"envs": 3, "steps": 8, "hidden": (8,)},
    "dqn": {"envs": 2, "steps": 4, "updates": 2, "minibatch": 16, "buffer": 500, "start": 30},
    "apex": {"envs": 2, "steps": 4, "updates": 2, "minibatch": 16, "buffer": 500, "start": 30},
    "sac": {"envs": 2, "steps": 4, "updates": 2, "minibatch": 16, "buffer": 500, "start": 30},
    "td3": {"envs": 2, "steps": 4, "updates": 3, "minibatch": 16, "buffer": 500, "start": 30},
    "es": {"pairs": 2, "episodes": 2},
    "ars": {"pairs": 3, "top": 2},
}
MORE: dict[str, dict[str, Any]] = {
    "ppo": {"normalise_obs": True, "normalise_reward": True},
    "a2c": {"normalise_obs": True, "lam": 0.9},
    "appo": {"normalise_obs": True},
    "impala": {},
    "dqn": {"n_step": 3, "alpha": 0.5, "hidden": (8,), "target_every": 16},
    "apex": {"hidden": (8,), "target_every": 16},
    "sac": {"n_step": 2, "hidden": (8,)},
    "td3": {"hidden": (8,)},
    "es": {"normalise_obs": True, "hidden": (4,)},
    "ars": {},
}
ENVS = dict.fromkeys(SMALL, "CartPole-v1") | {"sac": "Pendulum-v1", "td3": "Pendulum-v1"}
UPDATES = 24


def built(algorithm: str, env: Any, **settings: Any) -> Trainer[Any]:
    chosen = settings_for(algorithm, "", {**SMALL[algorithm], **MORE[algorithm], **settings})
    # A generation's length is that of its episodes.
    total = 6_000 if algorithm in ("es", "ars") else UPDATES * chosen.batch
    return chosen.build(env, total_steps=total, seed=3)


def finish(trainer: Trainer[Any]) -> list[dict[str, float]]:
    with trainer:
        return [iteration.metrics for iteration in trainer]


def comparable(row: dict[str, float]) -> dict[str, float]:
    """What does not depend on the clock."""
    timed = ("steps_per_s", "simulate_share", "learn_share")
    return {k: v for k, v in row.items() if k not in timed}


def same(resumed: Trainer[Any], reference: Trainer[Any], rows: Any, expected: Any) -> None:
    assert len(rows) == len(expected)
    for row, other in zip(rows, expected, strict=True):
        np.testing.assert_equal(comparable(row), comparable(other))
    for name, array in reference.weights.items():
        np.testing.assert_array_equal(resumed.weights[name], array, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", SMALL)
def test_a_resumed_training_takes_the_same_steps_bit_for_bit(
    algorithm: str, tmp_path: Path
) -> None:
    env = ENVS[algorithm]
    reference = built(algorithm, env)
    expected = finish(reference)
    interrupted = built(algorithm, env)
    with interrupted:
        for _ in range(10):
            interrupted.step()
        interrupted.save(tmp_path)
    resumed = rl.resume(tmp_path, algorithm=algorithm)
    assert (resumed.update, resumed.env_steps) == (10, interrupted.env_steps)
    same(resumed, reference, finish(resumed), expected[10:])


@pytest.mark.slow
@pytest.mark.parametrize("env", ["MountainCar-v0", "FrozenLake-v1"])
def test_episodes_of_any_environment_are_played_again_up_to_where_they_were(
    env: str, tmp_path: Path
) -> None:
    def make() -> Any:
        return gymnasium.make(env, disable_env_checker=True)

    reference = built("ppo", make)
    expected = finish(reference)
    with built("ppo", make) as interrupted:
        for _ in range(10):
            interrupted.step()
        interrupted.save(tmp_path)
    with pytest.raises(InvalidSettingError, match="give env"):
        rl.resume(tmp_path)
    resumed = rl.resume(tmp_path, env=make)
    same(resumed, reference, finish(resumed), expected[10:])


def test_an_environment_that_cannot_be_brought_back_begins_a_new_episode(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Moody(gymnasium.Env[Any, Any]):
        """Draws from a stream that nobody can seed."""

        observation_space = gymnasium.spaces.Box(0.0, 1.0, (2,), np.float64)
        action_space = gymnasium.spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            return np.random.default_rng().random(2), {}

        def step(self, action: Any) -> Any:
            return np.random.default_rng().random(2), 1.0, False, False, {}

    with built("ppo", Moody) as trainer:
        trainer.step()
        trainer.save(tmp_path)
    with rl.resume(tmp_path, env=Moody) as resumed:
        assert resumed.step().update == 2
    assert "cannot be brought back" in caplog.text


def test_a_longer_training_than_planned_is_resumed_with_its_schedule_stretched(
    tmp_path: Path,
) -> None:
    trainer = built("ppo", "CartPole-v1", lr=rl.linear(1e-3))
    rows = finish(trainer)
    assert rows[-1]["lr"] == 0.0
    trainer = built("ppo", "CartPole-v1", lr=rl.linear(1e-3))
    with trainer:
        trainer.step()
        trainer.save(tmp_path)
    with rl.resume(tmp_path, total_steps=2 * UPDATES * 48) as resumed:
        assert resumed.updates == 2 * UPDATES
        assert resumed.step().metrics["lr"] == pytest.approx(1e-3 * (1 - 1 / (2 * UPDATES - 1)))


def test_a_checkpoint_of_another_algorithm_net_or_kind_is_refused(tmp_path: Path) -> None:
    with built("ppo", "CartPole-v1") as trainer:
        trainer.step()
        trainer.save(tmp_path)
    with pytest.raises(CheckpointMismatchError, match="is of ppo, not of dqn"):
        rl.resume(tmp_path, algorithm="dqn")
    with pytest.raises(CheckpointMismatchError, match="parameters"):
        rl.resume(tmp_path, env="Acrobot-v1")
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        rl.resume(tmp_path / "elsewhere")

    manifest = json.loads((tmp_path / "checkpoint.json").read_text())
    (tmp_path / "checkpoint.json").write_text(json.dumps({**manifest, "format_version": 99}))
    with pytest.raises(CheckpointError, match="release that wrote it"):
        rl.resume(tmp_path)
    (tmp_path / "checkpoint.json").write_text(json.dumps(manifest))
    (tmp_path / manifest["state"]["file"]).write_bytes(b"x")
    with pytest.raises(CheckpointError, match="SHA-256 differs"):
        rl.resume(tmp_path)


def test_trainings_write_checkpoints_on_the_way(tmp_path: Path) -> None:
    rl.train(
        "ppo", "CartPole-v1", total_steps=240, out=tmp_path, checkpoint_every=2, **SMALL["ppo"]
    )
    with rl.resume(tmp_path / "checkpoint") as resumed:
        assert resumed.update == 4
        assert [iteration.update for iteration in resumed] == [5]
    with pytest.raises(InvalidSettingError, match="need a folder"):
        rl.train("ppo", "CartPole-v1", checkpoint_every=2)
