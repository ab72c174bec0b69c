"""Evaluation: whole episodes, the same ones for the same seed, and what they are summed up to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rostral_rl as rl
from rostral_rl.arrays import SpaceArray
from rostral_rl.errors import ConfigError, InvalidSettingError
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


@pytest.mark.slow
def test_a_policy_is_evaluated_while_it_is_trained() -> None:
    """In this process or in actors, and then by several: always the same episodes."""
    small: dict[str, Any] = {"envs": 2, "steps": 16, "minibatch": 16, "epochs": 1}
    runs = [
        rl.train(
            "ppo",
            "CartPole-v1",
            total_steps=32 * 6,
            seed=3,
            evaluate_every=2,
            evaluate_episodes=6,
            evaluators=actors,
            **small,
        )
        for actors in (0, 2)
    ]
    alone, together = runs
    assert [scored.version for scored in alone.evaluations] == [2, 4, 6]
    expected = {scored.version: scored.result for scored in alone.evaluations}
    assert together.evaluations[-1].version == 6, "the newest policy is never left out"
    for scored in together.evaluations:
        assert scored.result == expected[scored.version]
    assert np.isnan(alone.history[0]["eval_return"])
    assert alone.history[-1]["eval_return"] == expected[6].mean
    with pytest.raises(ConfigError, match="evaluators must be an integer >= 0"):
        rl.train("ppo", "CartPole-v1", evaluators=-1)
