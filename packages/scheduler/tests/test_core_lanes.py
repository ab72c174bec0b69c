"""The choice of a lane: in which order, how many, and what shares one."""

from __future__ import annotations

import pytest

from rostral_scheduler.core.lanes import DEEP_LANES_MAX, Lanes, Rank
from rostral_scheduler.errors import LimitReachedError

BASE = 100
CHILD = Rank(0, 1)


def lanes(priorities_max: int = 4) -> Lanes:
    """Those of a queue for what tasks submit."""
    return Lanes(BASE, CHILD, priorities_max)


def add(there_are: Lanes, *ranks: tuple[int, int]) -> None:
    """Adds each, with a locator that says which it was."""
    for rank in ranks:
        assert there_are.choose(Rank(*rank), may_add=True) == rank
        there_are.queues[Rank(*rank)] = BASE + 1 + there_are.lane_count


def test_the_higher_priority_comes_first_and_then_the_deeper() -> None:
    found = lanes()
    add(found, (5, 1), (0, 2), (-1, 1))
    high, deep, low = (found.queues[Rank(*rank)] for rank in ((5, 1), (0, 2), (-1, 1)))
    assert found.neighbours(Rank(9, 1)) == (None, high)
    assert found.neighbours(Rank(5, 2)) == (None, high)
    assert found.neighbours(Rank(3, 1)) == (high, deep)
    assert found.neighbours(Rank(0, 3)) == (high, deep)
    assert found.neighbours(Rank(-1, 7)) == (BASE, low)
    assert found.neighbours(Rank(-2, 1)) == (low, None)


def test_a_lane_that_there_is_is_used_again() -> None:
    found = lanes()
    add(found, (5, 1))
    assert found.choose(Rank(5, 1), may_add=False) == (5, 1)
    assert found.choose(CHILD, may_add=False) == CHILD


def test_one_priority_too_many_is_refused() -> None:
    found = lanes(priorities_max=2)
    add(found, (1, 1), (2, 1), (0, 2))
    with pytest.raises(LimitReachedError, match="priority 3 would be one more than the 3"):
        found.choose(Rank(3, 1), may_add=True)
    with pytest.raises(LimitReachedError, match="priority 3"):
        found.choose(Rank(3, 1), may_add=False)


def test_a_drivers_queue_has_lanes_for_priorities() -> None:
    found = Lanes(BASE, Rank(), 1)
    assert found.neighbours(Rank(-1, 0)) == (BASE, None)
    add(found, (1, 0))
    with pytest.raises(LimitReachedError, match="priority 2"):
        found.choose(Rank(2, 0), may_add=True)


def test_deeper_tasks_than_there_are_lanes_for_share_the_deepest() -> None:
    found = lanes()
    add(found, *((0, depth) for depth in range(2, DEEP_LANES_MAX + 2)))
    assert found.choose(Rank(0, 1000), may_add=True) == (0, DEEP_LANES_MAX + 1)
    assert found.choose(Rank(6, 3), may_add=True) == (6, 1)
    add(found, (5, 1))
    assert found.choose(Rank(5, 2), may_add=True) == (5, 1)
