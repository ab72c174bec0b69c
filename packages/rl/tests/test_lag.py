"""The bound on how old the acting weights may be."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import rostral_rl as rl
from rostral_rl.errors import ConfigError
from rostral_rl.simulate.lag import LagBound


@pytest.mark.parametrize(("workers", "per_update", "updates"), [(2, 1, 2), (8, 3, 3), (5, 5, 1)])
def test_the_bound_holds_whoever_is_done_first(workers: int, per_update: int, updates: int) -> None:
    bound = LagBound(updates, per_update)
    bound.check(workers)
    generator = np.random.default_rng(workers)
    flying = [0] * workers  # versions, the oldest first
    lags: list[int] = []
    freely = 0
    for version in range(2_000):
        for taken in range(per_update):
            due = bound.is_due(flying, version, taken)
            # Whoever was sent last is done first whenever it may: the worst that can be.
            index = 0 if due else len(flying) - 1 - int(generator.integers(2)) % len(flying)
            freely += not due
            lags.append(version - flying.pop(index))
            flying.append(version)
    assert max(lags) == updates
    assert freely > 0


def test_a_wide_bound_makes_nobody_wait() -> None:
    assert not LagBound(20, 2).is_due([7, 8, 8], 9, 1)
    assert LagBound(2, 1).is_due([7, 8, 8], 9, 0)


def test_a_bound_that_so_many_workers_cannot_keep_is_refused() -> None:
    with pytest.raises(ConfigError, match="lag_max must be >= 3 with 5 workers") as caught:
        LagBound(2, 2).check(5)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(ConfigError, match="lag_max"):
        rl.train("appo", "CartPole-v1", lag_max=0)
