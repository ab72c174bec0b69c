"""Whole trainings: what the presets promise, held for seeds that had no part in choosing them."""

from __future__ import annotations

from typing import Any

import pytest

import rostral_rl as rl


@pytest.mark.slow
@pytest.mark.parametrize("seed", [101, 102])
def test_ppo_holds_475_on_cart_pole_within_100_000_steps(seed: int) -> None:
    run = rl.train("ppo", "CartPole-v1", total_steps=100_000, seed=seed, stop_at=475.0)
    assert run.env_steps <= 100_352
    # On episodes other than those that decided when to stop.
    assert run.evaluate(episodes=100, seed=seed + 1).mean >= 475.0
    assert run.policy.info.env_steps == run.env_steps == run.history[-1]["env_steps"]


def test_training_stops_early_only_where_told_to() -> None:
    small: dict[str, Any] = {"envs": 4, "steps": 8, "minibatch": 16, "epochs": 1}
    run = rl.train("ppo", "CartPole-v1", total_steps=3_200, seed=0, stop_at=5.0, **small)
    assert run.env_steps < 3_200, "nobody scores below five"
    run = rl.train("ppo", "CartPole-v1", total_steps=640, seed=0, stop_at=499.0, **small)
    assert run.env_steps == 640
