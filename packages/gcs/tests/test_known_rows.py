"""Rows of Redis that are known already: right at their moment, and not used at any other."""

from __future__ import annotations

from rostral_gcs.backends import redis_known
from rostral_gcs.backends.base import Change, Row
from rostral_gcs.backends.redis_known import KnownRows

A, B = Row(b"a", b"1", 5), Row(b"b", b"2", 6)


def _change(sequence: int, key: bytes, value: bytes | None) -> Change:
    return Change(sequence, 8, key, value, True)


def test_what_was_read_is_known_at_that_moment_alone() -> None:
    known = KnownRows()
    assert known.find((1, 10), {8: [b"a"]}) is None
    known.learn((1, 10), {8: [b"a", b"none"]}, {(8, b"a"): A})
    assert known.find((1, 10), {8: [b"a", b"none"]}) == {(8, b"a"): A}
    assert known.find((1, 10), {8: [b"a", b"b"]}) is None, "b was never looked at"
    assert known.find((1, 11), {8: [b"a"]}) is None, "somebody has written"
    assert known.find((2, 10), {8: [b"a"]}) is None, "another primary, which lost some commits"
    assert known.find((7, 7), {8: []}) == {}, "whoever wants nothing needs to know nothing"


def test_commits_of_our_own_are_followed() -> None:
    known = KnownRows()
    known.learn((1, 10), {8: [b"a", b"b"]}, {(8, b"a"): A, (8, b"b"): B})
    known.apply((1, 10), (1, 11), [_change(7, b"a", b"new"), _change(8, b"b", None)])
    assert known.find((1, 11), {8: [b"a", b"b"]}) == {(8, b"a"): Row(b"a", b"new", 7)}
    # A commit between, which was not ours: nothing of before is known any more.
    known.apply((1, 12), (1, 13), [_change(9, b"a", b"newer")])
    assert known.find((1, 13), {8: [b"a"]}) is None


def test_tables_that_are_left_out_are_never_known() -> None:
    known = KnownRows(leave_out=[12])
    known.learn((1, 1), {12: [b"a"], 8: [b"a"]}, {(12, b"a"): A, (8, b"a"): A})
    assert known.find((1, 1), {12: [b"a"]}) is None
    assert known.find((1, 1), {8: [b"a"]}) is not None


def test_memory_is_bounded() -> None:
    known = KnownRows()
    value = bytes(redis_known.SIZE_MAX // 10)
    for at in range(100):
        known.learn((1, 1), {8: [b"%d" % at]}, {(8, b"%d" % at): Row(b"%d" % at, value, at)})
    kept = [at for at in range(100) if known.find((1, 1), {8: [b"%d" % at]}) is not None]
    assert 99 in kept
    assert len(kept) <= 10
