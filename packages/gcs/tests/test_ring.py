"""The ring of newest changes: complete after its start, bounded in count and size."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rostral_gcs.backends.base import Change
from rostral_gcs.watch import Ring


@given(
    commits=st.lists(st.lists(st.booleans(), min_size=1, max_size=5), max_size=30),
    asked=st.integers(0, 150),
)
def test_ring_gives_all_after_a_sequence_or_admits_that_it_cannot(
    commits: list[list[bool]], asked: int
) -> None:
    ring = Ring(start_sequence=10, count_max=8, size_max=10_000)
    kept: list[Change] = []
    sequence = 10
    for commit in commits:
        changes = []
        for watchable in commit:
            sequence += 1
            if watchable:
                changes.append(Change(sequence, 1, b"k", b"v", True))
        ring.append(sequence, changes)
        kept.extend(changes)
    found = ring.after(asked, limit=1000, size_max=10_000)
    if asked < ring.start_sequence:
        assert found is None
    else:
        assert found == [change for change in kept if change.sequence > asked]


def test_ring_is_bounded_in_bytes() -> None:
    ring = Ring(start_sequence=0, count_max=1000, size_max=1000)
    for sequence in range(1, 101):
        ring.append(sequence, [Change(sequence, 1, b"k", bytes(199), True)])
    page = ring.after(ring.start_sequence, limit=1000, size_max=10**6)
    assert page is not None
    assert sum(len(change.value or b"") for change in page) <= 2000
    assert ring.after(0, limit=10, size_max=10**6) is None


def test_a_page_ends_at_its_size() -> None:
    ring = Ring(start_sequence=0, count_max=100, size_max=10**6)
    ring.append(5, [Change(at, 1, b"k", bytes(100), True) for at in range(1, 6)])
    page = ring.after(0, limit=100, size_max=150)
    assert page is not None
    assert [change.sequence for change in page] == [1, 2]
