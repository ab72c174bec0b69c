"""ES and ARS: ranks, gradients, mirrored pairs, and a result that no number of workers changes."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import rostral_rl as rl
from rostral_rl import forward
from rostral_rl.errors import ConfigError, UnsupportedSpaceError
from rostral_rl.simulate.population import (
    Generation,
    PopulationLayout,
    Scores,
    forward_many,
    join_scores,
    parameter_count,
    unpack,
)
from rostral_rl.train.ars import direction
from rostral_rl.train.es import centred_ranks, gradient

SPEC = forward.NetSpec(inputs=4, hidden=(5,), outputs=2, activation="tanh", head="categorical")


def layout(**more: Any) -> PopulationLayout:
    given = {"env": "CartPole-v1", "spec": SPEC, "seed": 3, "pairs": 5, "episodes": 2}
    return PopulationLayout(**{**given, "steps_max": 60, **more})


def generation(number: int = 0, sigma: float = 0.5) -> Generation:
    centre = np.random.default_rng(0).standard_normal(parameter_count(SPEC), dtype=np.float32)
    normaliser = {"obs.mean": np.full(4, 0.1, np.float32), "obs.std": np.full(4, 0.5, np.float32)}
    return Generation(number=number, centre=centre, sigma=sigma, normaliser=normaliser)


def test_ranks_are_centred_and_equal_scores_share_theirs() -> None:
    scores = np.array([[10.0, -3.0], [10.0, 500.0]], np.float32)
    np.testing.assert_allclose(centred_ranks(scores), [[0.0, -0.5], [0.0, 0.5]])
    assert not centred_ranks(np.full((3, 2), 7.0, np.float32)).any()


def test_the_gradient_points_where_scores_rise() -> None:
    generator = np.random.default_rng(0)
    noise = generator.standard_normal((4_000, 3), dtype=np.float32)
    slope = np.array([2.0, -1.0, 0.0])
    scores = np.stack((noise @ slope, -noise @ slope), axis=1).astype(np.float32)
    for found in (gradient(scores, noise, 0.1), direction(scores, noise, 4_000)):
        np.testing.assert_allclose(found / found[0], slope / slope[0], atol=0.05)


def test_the_search_takes_the_best_directions_only_and_no_step_where_all_are_equal() -> None:
    noise = np.eye(3, dtype=np.float32)
    scores = np.array([[1.0, 3.0], [9.0, 5.0], [0.0, 0.0]], np.float32)
    found = direction(scores, noise, 2)
    deviation = float(np.std(scores[:2]))
    expected = np.array([-2.0, 4.0, 0.0]) / (2.0 * deviation)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert not direction(np.ones((3, 2), np.float32), noise, 2).any()


def test_many_nets_at_once_say_what_each_says_alone() -> None:
    generator = np.random.default_rng(1)
    nets = generator.standard_normal((6, parameter_count(SPEC)), dtype=np.float32)
    x = generator.standard_normal((6, 3, 4), dtype=np.float32)
    found = forward_many(SPEC, unpack(SPEC, nets), x)
    for k in range(6):
        weights = {}
        for i, (weight, bias) in enumerate(unpack(SPEC, nets[k : k + 1])):
            weights[f"pi.{i}.weight"], weights[f"pi.{i}.bias"] = weight[0], bias[0, 0]
        alone = forward.Tower(weights, "pi", layers=2, activation="tanh")(x[k])
        np.testing.assert_allclose(found[k], alone, rtol=1e-5, atol=1e-6)


def test_any_division_of_a_generation_gives_the_same_to_the_last_bit() -> None:
    whole = layout().play(generation(), 0, 5)
    parts = join_scores([layout().play(generation(), f, c) for f, c in ((0, 1), (1, 3), (4, 1))])
    for name in Scores.__slots__:
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name), err_msg=name)
    again = layout().play(generation(1), 0, 5)
    assert not np.array_equal(again.returns, whole.returns), "other noise, other episodes"


def test_mirrored_candidates_play_the_same_episodes() -> None:
    class Start(gymnasium.Env[Any, Any]):
        """Pays what it started with, whoever plays."""

        observation_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
        action_space = spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            self._pay = float(self.np_random.random())
            return np.zeros(4, np.float32), {}

        def step(self, action: Any) -> Any:
            return np.zeros(4, np.float32), self._pay, True, False, {}

    scores = layout(env=Start).play(generation(), 0, 5)
    np.testing.assert_array_equal(scores.returns[:, 0], scores.returns[:, 1])
    assert len(np.unique(scores.returns[:, 0])) == 10, "every pair has episodes of its own"
    assert scores.lengths.tolist() == np.ones((5, 2, 2)).tolist()


def test_moments_are_of_what_was_seen_while_playing() -> None:
    scores = layout(steps_max=7).play(generation(), 0, 5)
    np.testing.assert_array_equal(scores.count, scores.lengths.sum(axis=(1, 2)))
    assert (scores.lengths <= 7).all()
    assert (scores.squares * scores.count[:, None] >= np.square(scores.total)).all()


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["es", "ars"])
def test_cart_pole_is_learned_within_the_gate(algorithm: str) -> None:
    run = rl.train(algorithm, "CartPole-v1", total_steps=50_000, seed=101, stop_at=475.0)
    assert run.env_steps <= 50_000
    assert run.evaluate(episodes=100, seed=7).mean >= 475.0


@pytest.mark.slow
def test_a_box_policy_is_learned_too() -> None:
    run = rl.train("ars", "Pendulum-v1", total_steps=8_000, seed=1, pairs=2, hidden=(4,))
    assert run.policy.spec.head == "deterministic"
    assert np.isfinite(run.evaluate(episodes=5).mean)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="top must be at most pairs = 8"):
        rl.train("ars", "CartPole-v1", top=9, pairs=8)

    class Unbounded(gymnasium.Env[Any, Any]):
        observation_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
        action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)

    for algorithm in ("es", "sac", "td3"):
        with pytest.raises(UnsupportedSpaceError, match="finite bounds"):
            rl.train(algorithm, Unbounded)
    with pytest.raises(UnsupportedSpaceError, match="needs Discrete"):
        rl.train("dqn", "Pendulum-v1")
