"""APPO, A3C, Ape-X and ES on actors: nobody waits, lag is told, deaths are outlived."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import rostral
import rostral_rl as rl
from rostral_rl.errors import ConfigError, UnschedulableError
from rostral_rl.train.algorithms import settings_for

SMALL: dict[str, dict[str, Any]] = {
    "appo": {"envs": 4, "steps": 32, "hidden": (8,)},
    "impala": {"envs": 4, "steps": 32, "hidden": (8,), "fragments": 3},
    "a2c": {"envs": 4, "steps": 16, "hidden": (8,), "asynchronous": True},
    "apex": {"envs": 4, "steps": 16, "updates": 2, "minibatch": 16, "start": 64, "hidden": (8,)},
    "dqn": {"envs": 4, "steps": 4, "updates": 2, "minibatch": 16, "start": 64, "n_step": 3},
    "es": {"pairs": 4, "normalise_obs": True},
}

LAG_MAX = 4
"""Updates."""
KILL_EVERY = 20
"""Updates between two kills: about a second of training on an idle machine."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with rostral.init("local", num_cpus=2):
        yield


@pytest.mark.parametrize("algorithm", ["appo", "impala", "a2c", "apex"])
def test_nobody_waits_and_the_lag_is_small_and_told(algorithm: str) -> None:
    bound = {} if algorithm == "apex" else {"lag_max": LAG_MAX}
    settings = {**SMALL[algorithm], **bound}
    run = rl.train(algorithm, "CartPole-v1", total_steps=2_048, seed=1, workers=2, **settings)
    assert run.env_steps >= 2_048
    assert all(np.isfinite(a).all() for a in run.policy.weights.values())
    if bound:
        # Whatever the operating system does: who comes near the bound is waited for.
        assert max(row.get("lag_max", row["lag"]) for row in run.history) <= LAG_MAX


@pytest.mark.parametrize("algorithm", ["es", "dqn"])
def test_the_result_is_the_same_for_any_number_of_workers(algorithm: str) -> None:
    runs = [
        rl.train(algorithm, "CartPole-v1", total_steps=1_500, seed=5, workers=w, **SMALL[algorithm])
        for w in (0, 1, 2)
    ]
    for other in runs[1:]:
        assert other.env_steps == runs[0].env_steps
        for name, array in runs[0].policy.weights.items():
            # To the last bit for ES; products of other sizes round otherwise in a net's batch.
            tolerance = 0.0 if algorithm == "es" else 1e-4
            np.testing.assert_allclose(other.policy.weights[name], array, rtol=0, atol=tolerance)


@pytest.mark.parametrize("algorithm", ["appo", "apex", "es"])
def test_a_death_is_outlived(algorithm: str) -> None:
    settings = settings_for(algorithm, "", SMALL[algorithm])
    with settings.build("CartPole-v1", total_steps=4_096, seed=2, workers=2) as trainer:
        source: Any = cast("Any", trainer)
        crew = (source._population if algorithm == "es" else source._rollouts)._crew
        for iteration in trainer:
            if iteration.update == 3:
                actor = crew.seats[1].actor
                pid = rostral.get(actor.__ray_call__.remote(lambda self: os.getpid()))
                os.kill(pid, signal.SIGKILL)
        assert iteration.env_steps >= 4_096
        assert iteration.metrics["restarts"] == 1


@pytest.mark.parametrize("algorithm", ["ppo", "appo"])
def test_the_gate_is_reached_while_workers_are_killed_in_turn(algorithm: str) -> None:
    settings = settings_for(algorithm, "CartPole-v1", {})
    killed = 0
    # A fifth later than the gate, at most.
    with settings.build("CartPole-v1", total_steps=120_000, seed=1, workers=2) as trainer:
        crew = cast("Any", trainer)._rollouts._crew
        for iteration in trainer:
            if iteration.update % KILL_EVERY == 0:
                actor = crew.seats[killed % 2].actor
                pid = rostral.get(actor.__ray_call__.remote(lambda self: os.getpid()))
                os.kill(pid, signal.SIGKILL)
                killed += 1
            near = len(trainer.recent_returns) >= 20 and np.mean(trainer.recent_returns[-20:]) > 400
            if near and iteration.update % 8 == 0:
                result = rl.evaluate(trainer.policy, "CartPole-v1", episodes=50, seed=3)
                if result.ci_low >= 475.0:
                    break
        restarts = trainer.restarts
    assert rl.evaluate(trainer.policy, "CartPole-v1", episodes=100, seed=8).mean >= 475.0
    assert iteration.env_steps <= 120_000 + settings.batch
    assert killed >= 2 and restarts >= killed - 1


def test_a_training_on_actors_is_resumed_by_another_number_of_workers(tmp_path: Path) -> None:
    given = {"envs": 4, "steps": 16, "minibatch": 32, "epochs": 2, "normalise_obs": True}
    settings = settings_for("ppo", "", given)
    with settings.build("CartPole-v1", total_steps=1_280, seed=4) as trainer:
        reference = [row.metrics for row in trainer]
        expected = trainer.weights
    with settings.build("CartPole-v1", total_steps=1_280, seed=4, workers=2) as trainer:
        for _ in range(8):
            trainer.step()
        # Actors are playing the next fragment already: what is saved is where they were before.
        trainer.save(tmp_path)
    for workers in (0, 1):
        with rl.resume(tmp_path, workers=workers) as resumed:
            rows = [row.metrics for row in resumed]
            assert len(rows) == 12
            for row, other in zip(rows, reference[8:], strict=True):
                assert row["return_mean"] == pytest.approx(other["return_mean"], rel=1e-3)
            for name, array in expected.items():
                np.testing.assert_allclose(resumed.weights[name], array, atol=2e-3, err_msg=name)


def test_what_cannot_be_done_asynchronously_is_refused() -> None:
    with pytest.raises(ConfigError, match="normalise_reward must be False"):
        rl.train("appo", "CartPole-v1", workers=2, normalise_reward=True)
    with pytest.raises(UnschedulableError, match="UNSCHEDULABLE: 3 workers need a CPU each"):
        rl.train("es", "CartPole-v1", workers=3, pairs=4)
