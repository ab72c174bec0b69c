"""Atari, MuJoCo and videos: what needs the extras `atari`, `mujoco` and `video`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import rostral_rl as rl
from rostral_rl.cli import main
from rostral_rl.errors import (
    FolderUnwritableError,
    InvalidSettingError,
    ShapeError,
    UnknownNameError,
)
from rostral_rl.images import NATURE
from rostral_rl.simulate.make import make_vector
from rostral_rl.simulate.slabs import Slab

WANTED = "an extra is not installed; `tox -e rl-games` runs these"
pytest.importorskip("ale_py", reason=WANTED)
pytest.importorskip("mujoco", reason=WANTED)
pytest.importorskip("imageio", reason=WANTED)
ffmpeg = pytest.importorskip("imageio_ffmpeg", reason=WANTED)

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {"envs": 2, "steps": 8, "minibatch": 8, "epochs": 1}


def played(env: str, steps: int, *, seed: int = 1) -> Slab:
    """Random steps of two games."""
    vector = make_vector(env, 2, seed=seed)
    slab = Slab.allocate(
        steps, 2, observation_space=vector.observation_space, action_space=vector.action_space
    )
    generator = np.random.default_rng(0)
    space: Any = vector.action_space
    slab.actions[...] = generator.integers(space.n, size=slab.actions.shape)
    vector.reset(slab.obs[0])
    ends = [vector.step(slab, t) for t in range(steps)]
    vector.close()
    over = slab.terminated | slab.truncated
    assert [end is not None for end in ends] == over.any(axis=1).tolist()
    assert slab.valid.all(), "an episode's end and the next one's begin are one step"
    for t, end in enumerate(ends):
        if end is not None:
            np.testing.assert_array_equal(end.index, np.flatnonzero(over[t]))
            assert not np.array_equal(end.obs[0], slab.obs[t + 1, end.index[0]])
    return slab


@pytest.mark.parametrize("env", ["ALE/Breakout-v5", "BreakoutNoFrameskip-v4"])
def test_a_game_is_played_from_its_seed(env: str) -> None:
    slab, again, other = played(env, 200), played(env, 200), played(env, 200, seed=2)
    assert slab.obs.shape == (201, 2, 4, 84, 84) and slab.obs.dtype == np.uint8
    assert slab.terminated.any(), "two hundred random steps lose a game of Breakout"
    np.testing.assert_array_equal(slab.obs, again.obs)
    np.testing.assert_array_equal(slab.reward, again.reward)
    assert not np.array_equal(slab.obs, other.obs)
    # The newest frame is the last of the stack.
    np.testing.assert_array_equal(slab.obs[1, 0, :-1], slab.obs[0, 0, 1:])


def test_a_game_is_learned_from_by_convolutions_and_memory() -> None:
    run = rl.train("ppo", "ALE/Pong-v5", total_steps=32, seed=1, reward_sign=True, **SMALL)
    assert run.policy.spec.conv == NATURE and run.policy.spec.channels_first
    assert run.policy(np.zeros((3, 4, 84, 84), np.uint8)).shape == (3,)
    run = rl.train("appo", "PongNoFrameskip-v4", total_steps=16, lstm=8, envs=2, steps=8)
    assert run.policy.spec.lstm == 8


def test_rewards_are_the_games_own_until_learning_takes_their_sign() -> None:
    settings = rl.PPO(**SMALL, reward_sign=True)
    with settings.build("ALE/Breakout-v5", total_steps=16) as trainer:
        fragment: Any = {"reward": np.array([[0.0, 4.0], [-7.0, 1.0]], np.float32)}
        learned: Any = trainer
        np.testing.assert_array_equal(learned._rewards(fragment), [[0.0, 1.0], [-1.0, 1.0]])


def test_a_game_that_is_not_there_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="Pong-v5"):
        rl.train("ppo", "ALE/Pnog-v5", total_steps=16, **SMALL)


def test_half_cheetah_is_learned_from() -> None:
    given: dict[str, Any] = {"start": 32, "minibatch": 16, "buffer": 500, "hidden": (16,)}
    run = rl.train("sac", "HalfCheetah-v5", total_steps=64, seed=1, **given)
    assert run.env_steps == 64
    assert run.policy(np.zeros(17)).shape == (6,)


def policy_for(env: str, folder: Path) -> rl.Policy:
    run = rl.train("ppo", env, total_steps=16, seed=1, out=folder, **SMALL)
    return run.policy


def frame_count(file: Path) -> int:
    count: int = ffmpeg.count_frames_and_secs(str(file))[0]
    return count


def test_what_a_policy_does_is_recorded(tmp_path: Path) -> None:
    policy_for("CartPole-v1", tmp_path / "cart")
    film = tmp_path / "films" / "cart.mp4"
    arguments = ["record", str(tmp_path / "cart"), str(film), "--episodes", "2", "--seed", "7"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    expected = rl.evaluate(rl.load(tmp_path / "cart"), "CartPole-v1", episodes=2, seed=7)
    assert (
        result.stdout
        == f"{film}: returns " + ", ".join(f"{value:.1f}" for value in expected.returns) + "\n"
    )
    # A frame before the first step of each episode, and one after every step.
    assert frame_count(film) == sum(expected.lengths) + 2
    assert [file.name for file in film.parent.iterdir()] == ["cart.mp4"]


def test_a_game_is_recorded_as_the_policy_sees_it(tmp_path: Path) -> None:
    policy = policy_for("ALE/Pong-v5", tmp_path / "game")
    returns = rl.record(policy, "ALE/Pong-v5", tmp_path / "game.mp4", seed=3)
    expected = rl.evaluate(policy, "ALE/Pong-v5", episodes=1, seed=3)
    assert returns == list(expected.returns)
    assert frame_count(tmp_path / "game.mp4") == expected.lengths[0]


def test_what_cannot_be_recorded_is_refused(tmp_path: Path) -> None:
    policy = policy_for("CartPole-v1", tmp_path / "cart")
    with pytest.raises(InvalidSettingError, match="no kind of video"):
        rl.record(policy, "CartPole-v1", tmp_path / "cart.txt")
    with pytest.raises(InvalidSettingError, match="episodes must be > 0"):
        rl.record(policy, "CartPole-v1", tmp_path / "cart.mp4", episodes=0)
    with pytest.raises(ShapeError, match="record it where it was trained"):
        rl.record(policy, "Acrobot-v1", tmp_path / "cart.mp4")
    (tmp_path / "file").touch()
    with pytest.raises(FolderUnwritableError, match="cannot write"):
        rl.record(policy, "CartPole-v1", tmp_path / "file" / "cart.mp4")
    assert not list(tmp_path.glob("*cart*.mp4"))
