"""Data-parallel learners: the allreduce, and trainings that do not depend on how many learn."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import rostral
import rostral_rl as rl
from rostral_rl.errors import ConfigError, WorkersLostError
from rostral_rl.train.parts import allreduce
from rostral_rl.train.parts.allreduce import Allreduce, Mailbox
from rostral_rl.train.ppo import PPO

SMALL: dict[str, Any] = {"envs": 6, "steps": 8, "minibatch": 24, "epochs": 2, "hidden": (8,)}
# Those of the preset, said again: a class of settings knows no presets.
SMALL |= {"lr": 1e-3, "gamma": 0.98, "lam": 0.8, "clip": 0.2, "ent_coef": 0.0}
TOTAL = 48 * 6


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("one_hop_bytes", [0, 1 << 20])
def test_every_member_gets_the_same_sum(
    count: int, one_hop_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads as members; arrays that travel are read-only, as the object store makes them."""
    monkeypatch.setattr(allreduce, "ONE_HOP_BYTES_MAX", one_hop_bytes)
    mailboxes = [Mailbox() for _ in range(count)]
    arrays = np.random.default_rng(0).standard_normal((3, count, 1_003)).astype(np.float32)
    results = arrays.copy()

    def member(rank: int) -> None:
        def post(turn: int, array: Any) -> None:
            array.setflags(write=False)
            for other in range(count):
                if other != rank:
                    mailboxes[other].deliver(turn, rank, array)

        mine = Allreduce(rank, count, mailboxes[rank], post)
        for turn in range(3):
            mine.sum(results[turn, rank])

    threads = [threading.Thread(target=member, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for turn in range(3):
        for rank in range(count):
            np.testing.assert_array_equal(results[turn, rank], results[turn, 0])
        np.testing.assert_allclose(results[turn, 0], arrays[turn].sum(0), atol=1e-5)
    assert all(not mailbox._arrived for mailbox in mailboxes), "nothing is left"


def test_a_member_that_is_silent_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allreduce, "WAIT_S_MAX", 0.01)
    with pytest.raises(WorkersLostError, match="nothing came from learner 1"):
        Allreduce(0, 2, Mailbox(), lambda turn, array: None).sum(np.ones(3, np.float32))


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    # Learners take no CPU, and are begun where one is free beside the two workers.
    with rostral.init("local", num_cpus=3):
        yield


def trained(**more: Any) -> rl.Run:
    return rl.train("ppo", "CartPole-v1", total_steps=TOTAL, seed=2, **{**SMALL, **more})


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    "more",
    [{"normalise_obs": True}, {"lstm": 5}, {"workers": 2, "clip_value": 0.3}],
    ids=["towers", "memory", "workers"],
)
def test_the_result_does_not_depend_on_how_many_learn(more: dict[str, Any]) -> None:
    alone, together = trained(**more), trained(learners=2, **more)
    for ours, theirs in zip(together.history, alone.history, strict=True):
        for name in ("policy_loss", "value_loss", "entropy", "return_mean"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-2, abs=1e-3, nan_ok=True)
    for name, array in alone.policy.weights.items():
        np.testing.assert_allclose(together.policy.weights[name], array, atol=1e-3, err_msg=name)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_an_update_is_done_again_when_a_learner_dies() -> None:
    alone = trained()
    settings = PPO(**SMALL, learners=2)
    with settings.build("CartPole-v1", total_steps=TOTAL, seed=2) as trainer:
        crew = cast("Any", trainer)._learners._crew
        for iteration in trainer:
            if iteration.update == 2:
                actor = crew.seats[1].actor
                pid = rostral.get(actor.__ray_call__.remote(lambda self: os.getpid()))
                os.kill(pid, signal.SIGKILL)
        assert iteration.metrics["restarts"] == 1
        for name, array in alone.policy.weights.items():
            np.testing.assert_allclose(trainer.weights[name], array, atol=1e-3, err_msg=name)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_training_is_resumed_by_learners(tmp_path: Path) -> None:
    alone = trained()
    settings = PPO(**SMALL, learners=2)
    with settings.build("CartPole-v1", total_steps=TOTAL, seed=2) as trainer:
        for _ in range(3):
            trainer.step()
        trainer.save(tmp_path)
    with rl.resume(tmp_path) as resumed:
        assert resumed.settings.learners == 2
        for _ in resumed:
            pass
        for name, array in alone.policy.weights.items():
            np.testing.assert_allclose(resumed.weights[name], array, atol=1e-3, err_msg=name)


def test_no_learner_is_refused() -> None:
    with pytest.raises(ConfigError, match="learners must be an integer > 0"):
        PPO(learners=0)
