"""The checker of histories finds what is wrong; and short histories of both backends are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from .history import Kind, Operation, Outcome, WatchLog, check_history, check_watch
from .history_loop import Backend, HistoryLoop

PUT = Operation(Kind.PUT, b"k", 0.0, value=b"a", version=5, end_s=1.0, outcome=Outcome.OK)
NEXT = Operation(Kind.PUT, b"k", 2.0, value=b"b", version=7, end_s=3.0, outcome=Outcome.OK)
GONE = Operation(Kind.DELETE, b"k", 3.2, end_s=3.8, outcome=Outcome.OK)
GET = Operation(Kind.GET, b"k", 4.0, value=b"b", version=7, end_s=5.0, outcome=Outcome.OK)

NOTHING = replace(GET, value=None, version=0)


def test_a_right_history_is_right() -> None:
    lost = Operation(Kind.PUT, b"k", 1.5, value=b"c", end_s=2.5)
    cas = Operation(
        Kind.CAS, b"k", 6.0, value=b"d", version=8, expected=7, end_s=7.0, outcome=Outcome.OK
    )
    assert check_history([PUT, NEXT, GET, lost, cas]) == []
    # What nobody knows may have happened, even late.
    assert check_history([PUT, NEXT, lost, replace(GET, value=b"c", version=9)]) == []


def test_a_right_history_with_deletes_is_right() -> None:
    made = replace(NEXT, kind=Kind.CAS, value=b"d", version=9, start_s=6.0, end_s=7.0)
    assert check_history([PUT, NEXT, GONE, NOTHING]) == []
    assert check_history([PUT, NEXT, replace(GONE, expected=7), NOTHING, made]) == []
    assert check_history([NOTHING]) == [], "nobody has written yet"
    # A delete whose outcome nobody knows may come late; one at the same time as a read, or not.
    assert check_history([PUT, NEXT, replace(GONE, outcome=Outcome.UNKNOWN, end_s=0), GET]) == []
    assert check_history([PUT, replace(GONE, start_s=4.1, end_s=9.0), NEXT, NOTHING]) == []
    assert check_history([PUT, replace(GONE, start_s=4.1, end_s=9.0), NEXT, GET]) == []
    refused = replace(GONE, expected=5, outcome=Outcome.CONFLICT, version=7)
    assert check_history([PUT, NEXT, refused, GET]) == []


@pytest.mark.parametrize(
    ("operations", "says"),
    [
        ([PUT, NEXT, replace(GET, value=b"a", version=5)], "has version 5, but 7 was there before"),
        ([PUT, NEXT, NOTHING], "and nobody had deleted it"),
        ([PUT, NEXT, GONE, GET], "version 7 was there at 4.000, and had been deleted"),
        (
            [PUT, replace(GONE, start_s=1.2, end_s=1.4), NEXT, NOTHING],
            "and nobody had deleted it",
        ),
        (
            [PUT, NEXT, NOTHING, replace(GONE, start_s=5.5, end_s=6.0)],
            "and nobody had deleted it",
        ),
        (
            [
                PUT,
                NEXT,
                GONE,
                NOTHING,
                replace(GET, end_s=9, start_s=8),
            ],
            "version 7 was there at 8.000, and had been deleted",
        ),
        ([PUT, NEXT, replace(GONE, expected=5)], "has version 5, but 7 was there before"),
        (
            [PUT, NEXT, replace(GONE, expected=7, version=7, outcome=Outcome.CONFLICT)],
            "was refused although 7 was there",
        ),
        (
            [PUT, NEXT, replace(NEXT, kind=Kind.CAS, value=b"d", version=9, start_s=6, end_s=7)],
            "nothing was there for cas at 6.000, and nobody had deleted it",
        ),
        ([PUT, replace(NEXT, version=4)], "has version 4, but 5 was there before"),
        ([PUT, replace(GET, value=b"x", version=9)], "was read and never written"),
        ([PUT, replace(GET, value=b"a", version=9)], "was written twice"),
        ([PUT, replace(NEXT, version=5)], "version 5 has two values"),
        (
            [PUT, replace(NEXT, kind=Kind.CAS, outcome=Outcome.CONFLICT, version=5), GET],
            "was refused, and is there with version 7",
        ),
        (
            [PUT, NEXT, replace(NEXT, kind=Kind.CAS, value=b"d", version=9, expected=5)],
            "passed over [7]",
        ),
        (
            [PUT, replace(NEXT, kind=Kind.CAS, outcome=Outcome.CONFLICT, version=5, expected=5)],
            "was refused although 5 was there",
        ),
    ],
)
def test_a_wrong_history_is_found(operations: list[Operation], says: str) -> None:
    assert says in "\n".join(check_history(operations))


def _log(*events: tuple[bytes | None, int, bool], deletes: Sequence[int] = ()) -> WatchLog:
    log = WatchLog()
    log.add(None, 0, is_snapshot=True)
    for key, version, is_snapshot in events:
        log.add(key, version, is_snapshot=is_snapshot, is_delete=version in deletes)
    return log


def test_a_right_watch_is_right() -> None:
    assert check_watch(_log((b"k", 5, False), (b"k", 7, False)), [PUT, NEXT]) == []
    assert check_watch(_log((b"k", 7, True)), [PUT, NEXT]) == []
    again = _log((b"k", 5, False), (None, 0, True), (b"k", 7, True))
    assert check_watch(again, [PUT, NEXT]) == []
    assert again.resync_count == 1


@pytest.mark.parametrize(
    ("log", "says"),
    [
        (_log((b"k", 5, False)), "version 7 was never told"),
        (_log((b"k", 7, False)), "version 5 was never told"),
        (_log((b"k", 7, False), (b"k", 5, False)), "version 5 came after 7"),
        (_log((b"k", 5, False), (b"k", 7, False), (b"k", 7, False)), "version 7 came after 7"),
        (_log((b"k", 7, True), (b"k", 7, False)), "was told version 7 after 7"),
    ],
)
def test_a_wrong_watch_is_found(log: WatchLog, says: str) -> None:
    assert says in "\n".join(check_watch(log, [PUT, NEXT]))


def test_a_watch_of_deletes_is_checked() -> None:
    puts = ((b"k", 5, False), (b"k", 7, False))
    operations = [PUT, NEXT, GONE, NOTHING]
    assert check_watch(_log(*puts, (b"k", 8, False), deletes=[8]), operations) == []
    assert check_watch(_log(*puts, (None, 0, True)), operations) == []
    assert check_watch(_log((b"k", 5, False), (None, 0, True)), operations) == []
    silent = check_watch(_log(*puts), operations)
    assert silent == ["watch: b'k' has version 0 in the end, and 7 was told last"]
    twice = _log(*puts, (b"k", 8, False), (b"k", 9, False), deletes=[8, 9])
    assert check_watch(twice, operations) == ["watch: 2 deletes of b'k' were told, 1 asked for"]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["embedded", "redis"])
def test_a_short_history_with_faults_is_right(tmp_path: Path, backend: Backend) -> None:
    report = HistoryLoop(tmp_path, backend, seed=5).run(20.0)
    assert report.wrong == []
    assert report.operations["ok"] > 100
    assert sum(report.faults.values()) > 0
