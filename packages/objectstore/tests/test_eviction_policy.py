"""Whose bytes leave memory first."""

from __future__ import annotations

from collections.abc import Mapping

from rostral_objectstore.core.eviction import Candidate, Choice, choose, choose_copies


def object_at(
    loc: int,
    *,
    size: int = 100,
    used: int = 0,
    held: bool = True,
    pinned: bool = False,
) -> Candidate:
    return Candidate(loc, 1, bytes(20), size, used, held, pinned)


def locs(candidates: tuple[Candidate, ...]) -> list[int]:
    return [one.loc for one in candidates]


def choose_here(
    *candidates: Candidate,
    need: int,
    cached: frozenset[int] = frozenset(),
    on_disk: frozenset[int] = frozenset(),
    can_write: bool = True,
    restored: Mapping[int, int] = {},
) -> Choice:
    return choose(
        candidates,
        need_bytes=need,
        cached={(loc, 1) for loc in cached},
        on_disk={(loc, 1) for loc in on_disk},
        can_write=can_write,
        restored={(loc, 1): tick for loc, tick in restored.items()},
    )


def test_the_least_recently_used_goes_first_and_no_more_than_needed() -> None:
    chosen = choose_here(
        object_at(1, used=30), object_at(2, used=10), object_at(3, used=20), need=150
    )
    assert locs(chosen.spill) == [2, 3]
    assert chosen.size_bytes == 200


def test_cached_copies_go_before_anything_else_but_not_while_somebody_holds_them() -> None:
    chosen = choose_here(
        object_at(1, used=9, held=False),
        object_at(2, used=8),
        object_at(3, used=7, held=True),
        need=100,
        cached=frozenset({1, 3}),
    )
    assert (locs(chosen.drop), locs(chosen.spill)) == ([1], [])


def test_pinned_objects_stay() -> None:
    assert choose_here(object_at(1, pinned=True), need=1) == Choice()


def test_of_equally_old_ones_what_costs_no_write_goes_first_then_the_largest() -> None:
    chosen = choose_here(
        object_at(1), object_at(2, size=500), object_at(3), need=550, on_disk=frozenset({3})
    )
    assert (locs(chosen.evict), locs(chosen.spill)) == ([3], [2])


def test_what_was_read_back_once_goes_before_what_was_never_written() -> None:
    dirty = [object_at(loc, used=loc) for loc in range(1, 9)]
    read_back = [object_at(loc, used=50 + loc) for loc in range(11, 15)]
    on_disk = frozenset(one.loc for one in read_back)
    chosen = choose_here(
        *dirty, *read_back, need=200, on_disk=on_disk, restored={loc: 50 + loc for loc in on_disk}
    )
    assert (locs(chosen.evict), locs(chosen.spill)) == ([11, 12], [])


def test_a_little_of_what_passes_through_stays() -> None:
    dirty = [object_at(loc, used=loc) for loc in range(1, 32)]
    chosen = choose_here(
        *dirty, object_at(50, used=60), need=100, on_disk=frozenset({50}), restored={50: 60}
    )
    assert (locs(chosen.evict), locs(chosen.spill)) == ([], [1])


def test_what_was_read_back_and_again_later_is_as_good_as_the_rest() -> None:
    read_back = [object_at(loc, used=100 + loc) for loc in range(11, 15)]
    on_disk = frozenset(one.loc for one in read_back)
    chosen = choose_here(
        object_at(1, used=1),
        *read_back,
        need=100,
        on_disk=on_disk,
        restored=dict.fromkeys(on_disk, 50),
    )
    assert (locs(chosen.evict), locs(chosen.spill)) == ([], [1])


def test_without_a_disk_only_what_has_a_copy_goes() -> None:
    chosen = choose_here(
        object_at(1), object_at(2, used=5), need=500, on_disk=frozenset({2}), can_write=False
    )
    assert (locs(chosen.evict), locs(chosen.spill)) == ([2], [])


def test_all_that_there_is_when_it_is_not_enough() -> None:
    assert locs(choose_here(object_at(1), object_at(2), need=10**9).spill) == [1, 2]


def test_copies_are_written_ahead_until_enough_could_go_at_once() -> None:
    candidates = [object_at(1), object_at(2, used=1), object_at(3, used=2), object_at(4, used=3)]
    ahead = choose_copies(candidates, need_bytes=250, cached={(4, 1)}, on_disk={(1, 1)})
    # 4 is held by others: no cached copy that could be dropped.
    assert locs(ahead) == [2, 3]


def test_nothing_is_written_ahead_when_enough_is_ready() -> None:
    candidates = [object_at(1), object_at(2), object_at(3, pinned=True)]
    assert choose_copies(candidates, need_bytes=100, cached=(), on_disk={(1, 1)}) == ()
