"""The arithmetic of resources."""

from __future__ import annotations

import pytest

from rostral_scheduler.core.resources import UNITS, NodeResources, ResourceSet
from rostral_scheduler.errors import RequestError, UnschedulableError


def test_equal_amounts_are_equal_sets_whatever_their_order() -> None:
    assert ResourceSet.of({"CPU": 1, "a": 0.5}) == ResourceSet.of({"a": 0.5, "CPU": 1.0, "b": 0})


def test_a_thousand_tenths_are_a_hundred() -> None:
    ledger = NodeResources(ResourceSet.of({"CPU": 100}))
    taken = [ledger.acquire(ResourceSet.of({"CPU": 0.1})) for _ in range(1000)]
    assert ledger.available["CPU"] == 0
    for allocation in taken:
        ledger.release(allocation)
    assert ledger.available["CPU"] == 100 * UNITS


@pytest.mark.parametrize(
    "amounts",
    [{"CPU": -1.0}, {"CPU": float("nan")}, {"CPU": float("inf")}, {"CPU": 0.00001}, {"GPU": 1.5}],
)
def test_wrong_amounts_are_refused(amounts: dict[str, float]) -> None:
    with pytest.raises(RequestError, match=next(iter(amounts))):
        ResourceSet.of(amounts)


def test_infeasible_shape_names_what_is_lacking_and_what_there_is() -> None:
    ledger = NodeResources(ResourceSet.of({"CPU": 4, "memory": 100}))
    with pytest.raises(UnschedulableError, match=r"8 CPU .* has 4 \(all it has: CPU=4, memory=100"):
        ledger.check_feasible(ResourceSet.of({"CPU": 8}))


def test_fractions_of_gpus_share_one_and_leave_others_whole() -> None:
    ledger = NodeResources(ResourceSet.of({"GPU": 2}))
    half = ResourceSet.of({"GPU": 0.5})
    first, second = ledger.acquire(half), ledger.acquire(half)
    assert first.gpu_indexes == second.gpu_indexes == (0,)
    assert ledger.acquire(ResourceSet.of({"GPU": 1})).gpu_indexes == (1,)
    assert not ledger.fits(half)


def test_gpus_in_pieces_do_not_make_a_whole_one() -> None:
    """Two halves are free, of two GPUs: a task that needs one GPU cannot have it."""
    ledger = NodeResources(ResourceSet.of({"GPU": 2}))
    most = ResourceSet.of({"GPU": 0.6})
    ledger.acquire(most)
    ledger.acquire(most)
    assert not ledger.fits(ResourceSet.of({"GPU": 0.8}))
    ledger.check_invariants()


def test_lent_cpu_is_free_and_everything_else_is_kept() -> None:
    ledger = NodeResources(ResourceSet.of({"CPU": 1, "memory": 10}))
    taken = ledger.acquire(ResourceSet.of({"CPU": 1, "memory": 10}))
    ledger.lend_cpu(taken)
    assert ledger.available == {"CPU": UNITS, "memory": 0}
    ledger.reclaim_cpu(taken)
    assert ledger.available == {"CPU": 0, "memory": 0}


def test_gpus_move_to_those_that_are_preferred_and_free() -> None:
    ledger = NodeResources(ResourceSet.of({"GPU": 3}))
    whole, half = ResourceSet.of({"GPU": 1}), ResourceSet.of({"GPU": 0.5})
    first = ledger.acquire(whole)
    assert first.gpu_indexes == (0,)
    moved = ledger.moved(first, (2,))
    assert moved.gpu_indexes == (2,)
    # That is taken now: who prefers it stays where it is, or takes the next best.
    other = ledger.acquire(half)
    assert ledger.moved(other, (2,)).gpu_indexes == other.gpu_indexes == (0,)
    assert ledger.moved(other, (2, 1)).gpu_indexes == (1,)
    ledger.check_invariants()
    both = ledger.moved(ledger.acquire(whole), (7,))
    assert both.gpu_indexes == (0,)
    ledger.check_invariants()


def test_of_several_gpus_those_that_are_preferred_are_among_them() -> None:
    ledger = NodeResources(ResourceSet.of({"GPU": 4}))
    moved = ledger.moved(ledger.acquire(ResourceSet.of({"GPU": 2})), (3,))
    assert sorted(moved.gpu_indexes) == [0, 3]
    ledger.release(moved)
    assert ledger.fits(ResourceSet.of({"GPU": 4}))
    ledger.check_invariants()


def test_what_holds_no_gpu_moves_nowhere() -> None:
    ledger = NodeResources(ResourceSet.of({"CPU": 1, "GPU": 1}))
    taken = ledger.acquire(ResourceSet.of({"CPU": 1}))
    assert ledger.moved(taken, (0,)) is taken
