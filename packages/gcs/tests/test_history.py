"""The checker of histories finds what is wrong; and short histories of both backends are right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from .history import Kind, Operation, Outcome, WatchLog, check_history, check_watch
from .history_loop import Backend, HistoryLoop

PUT = Operation(Kind.PUT, b"k", 0.0, value=b"a", version=5, end_s=1.0, outcome=Outcome.OK)
NEXT = Operation(Kind.PUT, b"k", 2.0, value=b"b", version=7, end_s=3.0, outcome=Outcome.OK)
GET = Operation(Kind.GET, b"k", 4.0, value=b"b", version=7, end_s=5.0, outcome=Outcome.OK)


def test_a_right_history_is_right() -> None:
    lost = Operation(Kind.PUT, b"k", 1.5, value=b"c", end_s=2.5)
    cas = Operation(
        Kind.CAS, b"k", 6.0, value=b"d", version=8, expected=7, end_s=7.0, outcome=Outcome.OK
    )
    assert check_history([PUT, NEXT, GET, lost, cas]) == []
    # What nobody knows may have happened, even late.
    assert check_history([PUT, NEXT, lost, replace(GET, value=b"c", version=9)]) == []


@pytest.mark.parametrize(
    ("operations", "says"),
    [
        ([PUT, NEXT, replace(GET, value=b"a", version=5)], "has version 5, but 7 was there before"),
        ([PUT, NEXT, replace(GET, value=None, version=0)], "has version 0, but 7 was there before"),
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


def _log(*events: tuple[bytes | None, int, bool]) -> WatchLog:
    log = WatchLog()
    log.add(None, 0, is_snapshot=True)
    for key, version, is_snapshot in events:
        log.add(key, version, is_snapshot=is_snapshot)
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


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["embedded", "redis"])
def test_a_short_history_with_faults_is_right(tmp_path: Path, backend: Backend) -> None:
    report = HistoryLoop(tmp_path, backend, seed=5).run(20.0)
    assert report.wrong == []
    assert report.operations["ok"] > 100
    assert sum(report.faults.values()) > 0
