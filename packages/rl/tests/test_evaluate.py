"""Evaluation: whole episodes, the same ones for the same seed, and what they are summed up to."""

from __future__ import annotations

import numpy as np
import pytest

from rostral_rl.arrays import SpaceArray
from rostral_rl.errors import InvalidSettingError
from rostral_rl.train.parts.evaluate import play, summarise


def lean(obs: SpaceArray) -> SpaceArray:
    """Pushes towards the side to which the pole leans: good for some fifty steps."""
    return (obs[:, 2] > 0).astype(np.int64)


def always_left(obs: SpaceArray) -> SpaceArray:
    return np.zeros(len(obs), np.int64)


def test_every_environment_plays_one_episode_to_its_end() -> None:
    returns, lengths = play(always_left, "CartPole-v1", episodes=200, seed=1)
    assert len(returns) == 200, "more than one batch of environments"
    assert returns == lengths, "CartPole pays 1 a step"
    assert 8 <= min(lengths) <= max(lengths) <= 11


def test_the_same_seed_plays_the_same_episodes() -> None:
    assert play(lean, "CartPole-v1", episodes=10, seed=1) == play(
        lean, "CartPole-v1", episodes=10, seed=1
    )
    assert play(lean, "CartPole-v1", episodes=10, seed=1) != play(
        lean, "CartPole-v1", episodes=10, seed=2
    )


def test_the_interquartile_mean_leaves_out_the_outer_quarters() -> None:
    result = summarise([0.0, 10.0, 20.0, 1000.0], [1, 1, 1, 1], seed=0)
    assert (result.mean, result.iqm) == (257.5, 15.0)
    assert 0.0 <= result.ci_low < result.mean < result.ci_high <= 1000.0


def test_a_constant_has_an_interval_of_no_width() -> None:
    result = summarise([5.0] * 3, [1] * 3, seed=0)
    assert (result.mean, result.iqm, result.ci_low, result.ci_high) == (5.0, 5.0, 5.0, 5.0)
    assert str(result) == "mean 5.0, IQM 5.0, 95 % CI 5.0 to 5.0 over 3 episodes"


def test_no_episodes_is_an_error() -> None:
    with pytest.raises(InvalidSettingError, match="episodes"):
        play(lean, "CartPole-v1", episodes=0, seed=0)
