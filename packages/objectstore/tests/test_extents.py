"""Room within one stretch of memory, against a model that is a list of bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rostral_objectstore.core.extents import Extents

ALIGNMENT = 64


def test_a_part_is_aligned_and_no_two_overlap() -> None:
    extents = Extents(10 * ALIGNMENT, ALIGNMENT)
    offsets = [extents.take(size) for size in (1, ALIGNMENT, ALIGNMENT + 1)]
    assert offsets == [0, ALIGNMENT, 2 * ALIGNMENT]
    assert extents.free_bytes == 6 * ALIGNMENT


def test_the_smallest_gap_that_fits_is_taken() -> None:
    extents = Extents(10 * ALIGNMENT, ALIGNMENT)
    taken = [extents.take(size * ALIGNMENT) for size in (3, 1, 2, 1)]
    extents.give_back(0)
    extents.give_back(4 * ALIGNMENT)
    assert taken[2] == 4 * ALIGNMENT
    assert extents.take(2 * ALIGNMENT) == 4 * ALIGNMENT


def test_neighbours_that_are_free_become_one() -> None:
    extents = Extents(3 * ALIGNMENT, ALIGNMENT)
    offsets = [extents.take(ALIGNMENT) for _ in range(3)]
    for offset in (0, 2, 1):
        extents.give_back(offset * ALIGNMENT)
    assert offsets == [0, ALIGNMENT, 2 * ALIGNMENT]
    assert extents.longest_bytes == 3 * ALIGNMENT


def test_what_does_not_fit_in_one_piece_is_none() -> None:
    extents = Extents(3 * ALIGNMENT, ALIGNMENT)
    for _ in range(3):
        extents.take(1)
    extents.give_back(0)
    extents.give_back(2 * ALIGNMENT)
    assert extents.free_bytes == 2 * ALIGNMENT
    assert extents.take(2 * ALIGNMENT) is None


def test_what_was_not_taken_cannot_be_given_back() -> None:
    with pytest.raises(KeyError):
        Extents(ALIGNMENT, ALIGNMENT).give_back(0)


def test_room_of_nothing_gives_nothing() -> None:
    extents = Extents(ALIGNMENT - 1, ALIGNMENT)
    assert (extents.longest_bytes, extents.take(1)) == (0, None)
    extents.check_invariants()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6 * ALIGNMENT)), max_size=60))
def test_whatever_is_taken_and_given_back_the_invariants_hold(
    steps: list[tuple[bool, int]],
) -> None:
    extents = Extents(20 * ALIGNMENT, ALIGNMENT)
    taken: list[int] = []
    for takes, number in steps:
        if takes or not taken:
            offset = extents.take(number)
            if offset is not None:
                taken.append(offset)
        else:
            extents.give_back(taken.pop(number % len(taken)))
        extents.check_invariants()
    for offset in taken:
        extents.give_back(offset)
    extents.check_invariants()
    assert extents.longest_bytes == 20 * ALIGNMENT
