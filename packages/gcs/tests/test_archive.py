"""Flushing: what is over leaves memory, is found again, and no death on the way loses a row."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rostral_gcs import AsyncGcsClient, EventRow, EventSeverity, GcsServer, TaskRow, TaskState
from rostral_gcs.archive.files import open_file
from rostral_gcs.archive.key_index import KeyIndex, verify_index, write_index
from rostral_gcs.archive.schema import RECORD_MEMORY, SCHEMAS, Filter
from rostral_gcs.backends.base import Columns, Row
from rostral_gcs.backends.embedded import EmbeddedBackend
from rostral_gcs.errors import (
    ControlPlaneFullError,
    CorruptError,
    GcsOverloadedError,
    InvalidArgumentError,
)
from rostral_gcs.ids import JobID, TaskID
from rostral_gcs.tables.registry import table_spec
from rostral_gcs.tables.tasks import TASKS

Play = Callable[..., None]
TABLE = table_spec("tasks").number
JOB = JobID.from_random()
# The log then has segments of 100 records.
CAP = 800 * RECORD_MEMORY


@pytest.fixture(params=["sqlite", "parquet"])
def form(request: pytest.FixtureRequest) -> str:
    """The archive must be the same in both forms."""
    if request.param == "parquet":
        pytest.importorskip("pyarrow", reason="the extra `archive` is not installed")
    name: str = request.param
    return name


def _task(at: int, state: TaskState = TaskState.FINISHED) -> TaskRow:
    return TaskRow(
        task_id=TaskID(at.to_bytes(16, "big")),
        job_id=JOB,
        name=f"task {at % 7}",
        state=state,
        submit_time_s=float(at),
        spec=b"spec %d" % at,
    )


def _columns(rows: list[TaskRow], first_sequence: int) -> Columns:
    values = [TASKS.encode(row) for row in rows]
    keys = b"".join(row.task_id.binary() for row in rows)
    return Columns(TABLE, first_sequence, 16, keys, list(map(len, values)), b"".join(values))


def _record(backend: EmbeddedBackend, rows: list[TaskRow], first_sequence: int) -> None:
    """As a client does: again while the flush is behind."""
    for at in range(0, len(rows), 50):
        columns = _columns(rows[at : at + 50], first_sequence + at)
        while True:
            try:
                backend.append([columns], [])
                break
            except GcsOverloadedError:
                thread = backend.flusher._thread
                assert thread is not None
                thread.join()


def _found(backend: EmbeddedBackend, rows: list[TaskRow]) -> dict[bytes, TaskRow]:
    keys = [row.task_id.binary() for row in rows]
    return {
        key: TASKS.decode(row.key, row.value, row.version)
        for key, row in backend.read(TABLE, keys).items()
    }


def _backend(folder: Path, form: str) -> EmbeddedBackend:
    return EmbeddedBackend(
        folder / "shard.sqlite",
        lineage_memory_max=CAP,
        archive_form=form,  # type: ignore[arg-type]
    )


@pytest.mark.slow
def test_memory_stays_under_the_cap_and_every_task_is_found(tmp_path: Path, form: str) -> None:
    backend = _backend(tmp_path, form)
    backend.open()
    rows = [_task(at) for at in range(2000)]
    _record(backend, rows, 1)
    assert backend.log.record_count <= 800
    expected = {row.task_id.binary(): row for row in rows}
    assert _found(backend, rows) == expected
    assert _found(backend, [_task(10**9)]) == {}
    backend.close()
    again = _backend(tmp_path, form)
    opened = again.open()
    assert opened.last_sequence == 2000
    assert _found(again, rows) == expected
    versions = [row.version for row in again.read(TABLE, list(expected)).values()]
    assert sorted(versions) == list(range(1, 2001))
    again.close()


def test_unfinished_tasks_stay_in_the_log(tmp_path: Path, form: str) -> None:
    backend = _backend(tmp_path, form)
    backend.open()
    pending = [_task(at, TaskState.PENDING) for at in range(100)]
    _record(backend, pending, 1)
    finished = [_task(at) for at in range(100, 3000)]
    _record(backend, finished, 101)
    assert backend.flush() > 0
    assert backend.log.record_count == 100
    rows, more = backend.scan(TABLE, b"", b"", 1000, 1 << 20)
    assert ([row.key for row in rows], more) == ([one.task_id.binary() for one in pending], False)
    assert [row.version for row in rows] == list(range(1, 101))
    assert len(_found(backend, pending + finished)) == 3000
    backend.close()


def test_a_task_that_is_run_again_after_its_flush_shows_its_new_row(
    tmp_path: Path, form: str
) -> None:
    backend = _backend(tmp_path, form)
    backend.open()
    _record(backend, [_task(at) for at in range(300)], 1)
    backend.flush()
    again = replace(_task(7, TaskState.RUNNING), attempt=1)
    _record(backend, [again], 301)
    assert _found(backend, [_task(7)]) == {again.task_id.binary(): again}
    rows, _ = backend.query(TABLE, [], limit=1000, token=b"")
    assert len(rows) == 300
    done = replace(again, state=TaskState.FAILED)
    _record(backend, [done], 302)
    backend.flush()
    assert _found(backend, [_task(7)]) == {done.task_id.binary(): done}
    backend.close()


def test_a_death_between_archive_and_log_repeats_no_row(tmp_path: Path, form: str) -> None:
    first = tmp_path / "first"
    first.mkdir()
    backend = _backend(first, form)
    backend.open()
    rows = [_task(at) for at in range(300)]
    _record(backend, rows, 1)
    backend.close()
    before = tmp_path / "before"
    shutil.copytree(first, before)
    backend = _backend(first, form)
    backend.open()
    backend.flush()
    backend.close()
    # The archive is written, and the segments that it replaces are still there.
    shutil.copytree(first / "shard.archive", before / "shard.archive")
    (before / "shard.archive" / "00000009-tasks.new").write_bytes(b"half written")
    backend = _backend(before, form)
    backend.open()
    page, token = backend.query(TABLE, [], limit=1000, token=b"")
    assert (len(page), token) == (300, b"")
    backend.flush()
    page, token = backend.query(TABLE, [], limit=1000, token=b"")
    assert len({row.key for row in page}) == len(page) == 300
    assert len(_found(backend, rows)) == 300
    assert not list((before / "shard.archive").glob("*.new"))
    backend.close()


def test_an_older_row_of_a_flushed_task_never_comes_back(tmp_path: Path) -> None:
    backend = _backend(tmp_path, "sqlite")
    backend.open()
    _record(backend, [_task(at, TaskState.PENDING) for at in range(400)], 1)
    rows = [_task(at) for at in range(400)]
    _record(backend, rows, 401)
    expected = {row.task_id.binary(): row for row in rows}
    for at in range(10):
        _record(backend, [_task(1000 + 100 * at + one) for one in range(100)], 801 + 100 * at)
        assert _found(backend, rows) == expected
    backend.close()
    again = _backend(tmp_path, "sqlite")
    again.open()
    assert _found(again, rows) == expected
    again.close()


def test_what_cannot_be_flushed_is_refused_until_tasks_end(tmp_path: Path) -> None:
    backend = _backend(tmp_path, "sqlite")
    backend.open()
    pending = [_task(at, TaskState.PENDING) for at in range(2000)]
    with pytest.raises(ControlPlaneFullError, match="cannot be flushed") as caught:
        _record(backend, pending, 1)
    assert "lineage_memory_max" in str(caught.value)
    count = len(_found(backend, pending))
    assert 800 <= count < 900
    # What ends tasks makes room, so it is let in; afterwards others are too.
    _record(backend, [_task(at) for at in range(count)], 1001)
    backend.flusher._next_look_s = 0.0
    _record(backend, pending[1000:1100], 3001)
    assert len(_found(backend, pending[1000:1100])) == 100
    backend.close()


def test_a_full_disk_is_named_and_loses_nothing(tmp_path: Path) -> None:
    backend = _backend(tmp_path, "sqlite")
    backend.open()
    # In the folder's place, so that nothing can be written there.
    (tmp_path / "shard.archive").write_bytes(b"")
    rows = [_task(at) for at in range(800)]
    _record(backend, rows, 1)
    with pytest.raises(ControlPlaneFullError, match=r"shard\.archive"):
        _record(backend, [_task(at, TaskState.PENDING) for at in range(1000, 2000)], 1001)
    assert len(_found(backend, rows)) == 800
    (tmp_path / "shard.archive").unlink()
    backend.flush()
    assert backend.log.record_count == 0 or len(_found(backend, rows)) == 800
    backend.close()


@pytest.mark.slow
@pytest.mark.parametrize("shard_count", [1, 3])
def test_tasks_and_events_are_found_by_query_wherever_they_are(
    play: Play, form: str, shard_count: int
) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        rows = [_task(at) for at in range(3000)]
        rows += [_task(at, TaskState.RUNNING) for at in range(3000, 3100)]
        for at in range(0, len(rows), 100):
            await client.record_tasks(rows[at : at + 100])
        events = [
            EventRow(time_s=1.0 + at, kind="even" if at % 2 == 0 else "odd", job_id=JOB)
            for at in range(1500)
        ]
        for at in range(0, len(events), 100):
            await client.record_events(events[at : at + 100])

        async def tasks(**wanted: object) -> list[TaskRow]:
            found: list[TaskRow] = []
            token = b""
            while True:
                page, token = await client.query_tasks(
                    limit=70,
                    page_token=token,
                    **wanted,  # type: ignore[arg-type]
                )
                assert len(page) <= 70
                found += page
                if not token:
                    return sorted(found, key=lambda row: row.task_id)

        assert await tasks() == rows
        assert await tasks(state=TaskState.RUNNING) == rows[3000:]
        assert await tasks(name="task 3", since_s=100.0, until_s=200.0) == [
            row for row in rows[100:200] if row.name == "task 3"
        ]
        assert await tasks(job_id=JobID.from_random()) == []
        found: list[EventRow] = []
        token = b""
        while True:
            page, token = await client.query_events(
                kind="odd", severity=EventSeverity.INFO, limit=100, page_token=token
            )
            found += page
            if not token:
                break
        assert sorted(found, key=lambda row: row.time_s) == events[1::2]

    play(scenario, shard_count=shard_count, lineage_memory_max=CAP, archive_form=form)


@pytest.mark.parametrize("form_name", ["sqlite", "parquet"])
def test_a_file_gives_rows_by_number_and_by_condition(tmp_path: Path, form_name: str) -> None:
    if form_name == "parquet":
        pytest.importorskip("pyarrow", reason="the extra `archive` is not installed")
    schema = SCHEMAS[TABLE]
    rows = [Row(_task(at).task_id.binary(), TASKS.encode(_task(at)), at + 5) for at in range(20)]
    file = open_file(tmp_path / f"1-tasks.{form_name}")
    file.write(schema, rows)
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert (file.get(0), file.get(19), file.get(20)) == (rows[0], rows[19], None)
    assert file.count() == 20
    file.verify()
    named = [Filter("name", "=", "task 3"), Filter("submit_time_s", ">=", 5.0)]
    assert file.find(schema, named, -1, 10) == [(10, rows[10]), (17, rows[17])]
    assert file.find(schema, named, 10, 10) == [(17, rows[17])]
    assert file.find(schema, [Filter("submit_time_s", "<", 4.0)], -1, 2) == [
        (0, rows[0]),
        (1, rows[1]),
    ]
    content = bytearray(file.path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    file.path.write_bytes(content[:-200])
    with pytest.raises(CorruptError, match="is damaged"):
        file.verify()


def test_an_sqlite_archive_is_read_by_anybody(tmp_path: Path) -> None:
    file = open_file(tmp_path / "1-tasks.sqlite")
    file.write(SCHEMAS[TABLE], [Row(_task(3).task_id.binary(), TASKS.encode(_task(3)), 1)])
    with sqlite3.connect(file.path) as database:
        found = database.execute("SELECT state, name, submit_time_s, job_id FROM rows").fetchall()
    database.close()
    assert found == [("FINISHED", "task 3", 3.0, JOB.binary())]


@pytest.mark.parametrize("count", [0, 1, 5, 20_000])
def test_an_index_finds_each_key_and_no_other(tmp_path: Path, count: int) -> None:
    path = tmp_path / "1.index"
    keys = [os.urandom(16) for _ in range(count)]
    write_index(path, keys)
    assert verify_index(path) == count
    index = KeyIndex(path)
    for number, key in enumerate(keys[:2000]):
        assert number in index.candidates(key)
    assert sum(len(index.candidates(os.urandom(16))) for _ in range(500)) == 0
    index.close()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptError):
        KeyIndex(path)


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"limit": 0}, "allowed: 1 to 10000"),
        ({"page_token": b"nonsense"}, "page token"),
        ({"page_token": b"\0\7" + bytes(13)}, "there are 1"),
    ],
)
def test_a_bad_query_is_refused(play: Play, wanted: dict[str, object], says: str) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        with pytest.raises(InvalidArgumentError, match=says):
            await client.query_tasks(**wanted)  # type: ignore[arg-type]
        for conditions, word in (
            ([("nane", "=", "x")], "did you mean 'name'"),
            ([("name", "!=", "x")], "allowed: =, >= or <"),
            ([("name", "=", 5)], "a value of kind text"),
            ([("name", "=", "x")] * 17, "the limit is 16"),
        ):
            with pytest.raises(InvalidArgumentError, match=word):
                await client._rows.query(TASKS, conditions, limit=1, page_token=b"")
        assert await asyncio.wait_for(client.query_tasks(), 5) == ([], b"")

    play(scenario)
