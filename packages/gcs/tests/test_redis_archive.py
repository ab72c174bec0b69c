"""Flushing from Redis: its memory stays under the cap, rows are found, and no death loses one."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rostral_gcs import AsyncGcsClient, GcsServer, TaskRow, TaskState
from rostral_gcs.archive.schema import RECORD_MEMORY, SCHEMAS, Filter
from rostral_gcs.backends.base import Columns
from rostral_gcs.backends.redis import RedisBackend
from rostral_gcs.backends.redis_archive_layout import CLEAR, FINISH, REGISTER, FileNote
from rostral_gcs.backends.redis_storage import RedisStorage
from rostral_gcs.backends.redis_work import Call
from rostral_gcs.errors import (
    ControlPlaneFullError,
    GcsOverloadedError,
    InvalidArgumentError,
    StateMovedError,
    StorageError,
    StorageUnavailableError,
)
from rostral_gcs.ids import JobID, TaskID
from rostral_gcs.redis_options import RedisOptions
from rostral_gcs.tables.registry import table_spec
from rostral_gcs.tables.tasks import TASKS

from .redis_servers import RedisProcess

Play = Callable[..., None]
Open = Callable[..., RedisBackend]
TABLE = table_spec("tasks").number
JOB = JobID.from_random()
CAP = 400


def _task(at: int, state: TaskState = TaskState.FINISHED) -> TaskRow:
    return TaskRow(
        task_id=TaskID(at.to_bytes(16, "big")),
        job_id=JOB,
        name=f"task {at % 7}",
        state=state,
        submit_time_s=float(at),
    )


def _columns(rows: Sequence[TaskRow], first_sequence: int) -> Columns:
    values = [TASKS.encode(row) for row in rows]
    keys = b"".join(row.task_id.binary() for row in rows)
    return Columns(TABLE, first_sequence, 16, keys, list(map(len, values)), b"".join(values))


def _append(backend: RedisBackend, rows: Sequence[TaskRow]) -> None:
    """As a shard does: planned on what there is, again while the flush is behind."""
    while True:
        try:
            backend.gather([], {})
            backend.append([_columns(rows, backend.meta.last_sequence + 1)], [])
            return
        except GcsOverloadedError:
            thread = backend.flusher._thread
            if thread is not None:
                thread.join()
            else:  # Another service is at it.
                time.sleep(0.01)
        except StateMovedError:
            pass


def _record(backend: RedisBackend, rows: Sequence[TaskRow]) -> None:
    for at in range(0, len(rows), 50):
        _append(backend, rows[at : at + 50])


def _found(backend: RedisBackend, rows: Sequence[TaskRow]) -> dict[bytes, TaskRow]:
    keys = [row.task_id.binary() for row in rows]
    return {
        key: TASKS.decode(row.key, row.value, row.version)
        for key, row in backend.read(TABLE, keys).items()
    }


def _by_key(rows: Sequence[TaskRow]) -> dict[bytes, TaskRow]:
    return {row.task_id.binary(): row for row in rows}


def _all(backend: RedisBackend, filters: Sequence[Filter] = ()) -> list[bytes]:
    keys: list[bytes] = []
    token = b""
    while True:
        rows, token = backend.query(TABLE, filters, limit=300, token=token)
        keys += [row.key for row in rows]
        if not token:
            return keys


@pytest.fixture
def open_backend(redis_server: RedisProcess, tmp_path: Path) -> Iterator[Open]:
    """Opens services' backends on one shard; all are closed at the end."""
    made: list[RedisBackend] = []

    def make(*, rows_max: int = CAP, folder: Path = tmp_path / "archive") -> RedisBackend:
        storage = RedisStorage(
            RedisOptions(urls=(redis_server.url,)),
            shard_count=1,
            archive_dir=folder,
            lineage_rows_max=rows_max,
        )
        made.append(storage.backend(0))
        made[-1].open()
        return made[-1]

    yield make
    for backend in made:
        backend.close()


@pytest.mark.slow
def test_memory_stays_under_the_cap_and_every_task_is_found_by_each_service(
    open_backend: Open, redis_server: RedisProcess
) -> None:
    first, second = open_backend(), open_backend()
    rows = [_task(at) for at in range(1500)]
    for at in range(0, len(rows), 50):
        _append(first if at % 100 else second, rows[at : at + 50])
        # Rows that end tasks are let in above the cap, up to twice of it.
        assert redis_server.ask("HLEN", "{rostral:0}:t:12") <= 2 * CAP + 50
    for backend in (first, second, open_backend()):
        assert _found(backend, rows[::10]) == _by_key(rows[::10])
        assert _found(backend, [_task(10**9)]) == {}
    assert sorted(_all(second)) == sorted(_by_key(rows))
    live = redis_server.ask("HLEN", "{rostral:0}:t:12")
    assert redis_server.ask("ZCARD", "{rostral:0}:k:12") == live


def test_unfinished_tasks_stay_in_redis(open_backend: Open) -> None:
    backend = open_backend(rows_max=100_000)
    pending = [_task(at, TaskState.PENDING) for at in range(100)]
    finished = [_task(at) for at in range(100, 1000)]
    _record(backend, [*pending, *finished])
    assert backend.flusher.flush_all() == 900
    assert _by_key(pending).keys() == backend.live_rows(TABLE, list(_by_key(pending))).keys()
    assert backend.live_rows(TABLE, list(_by_key(finished))) == {}
    assert _found(backend, pending + finished) == _by_key(pending + finished)
    ended = [replace(row, state=TaskState.FINISHED) for row in pending]
    _record(backend, ended)
    assert backend.flusher.flush_all() == 100
    assert _found(backend, ended) == _by_key(ended)


def test_a_task_that_is_run_again_after_its_flush_shows_its_new_row(open_backend: Open) -> None:
    backend = open_backend(rows_max=100_000)
    _record(backend, [_task(at) for at in range(300)])
    backend.flusher.flush_all()
    again = replace(_task(7, TaskState.RUNNING), attempt=1)
    _record(backend, [again])
    assert _found(backend, [_task(7)]) == _by_key([again])
    assert sorted(_all(backend)) == sorted(_by_key([_task(at) for at in range(300)]))
    done = replace(again, state=TaskState.FAILED)
    _record(backend, [done])
    backend.flusher.flush_all()
    assert _found(backend, [_task(7)]) == _by_key([done])


def test_queries_find_rows_wherever_they_are(open_backend: Open) -> None:
    backend = open_backend(rows_max=100_000)
    _record(backend, [_task(at) for at in range(500)])
    backend.flusher.flush_all()
    _record(backend, [_task(at) for at in range(500, 700)])
    named = Filter("name", "=", "task 3")
    wanted = [_task(at) for at in range(700) if at % 7 == 3]
    assert sorted(_all(backend, [named])) == sorted(_by_key(wanted))
    late = [Filter("submit_time_s", ">=", 450.0), Filter("submit_time_s", "<", 550.0)]
    assert len(_all(backend, late)) == 100
    with pytest.raises(InvalidArgumentError, match="page token of 3 bytes is none"):
        backend.query(TABLE, [], limit=1, token=b"abc")


@pytest.mark.parametrize("step", [REGISTER, CLEAR, FINISH], ids=["register", "clear", "finish"])
def test_a_death_at_any_step_loses_and_repeats_nothing(
    open_backend: Open, monkeypatch: pytest.MonkeyPatch, step: object
) -> None:
    """A service dies before the step; another takes over once its claim has run out."""
    first = open_backend(rows_max=100_000)
    rows = [_task(at) for at in range(200)]
    pending = [_task(at, TaskState.PENDING) for at in range(200, 250)]
    _record(first, [*rows, *pending])
    ask = first._archive.ask

    def dying(work: Sequence[Any]) -> list[Any]:
        if work and isinstance(work[0], Call) and work[0].script is step:
            raise RuntimeError("dead")
        return ask(work)

    monkeypatch.setattr(first._archive, "ask", dying)
    with pytest.raises(RuntimeError, match="dead"):
        first.flusher.flush_all()
    second = open_backend(rows_max=100_000)
    assert _found(second, rows + pending) == _by_key(rows + pending)
    with pytest.raises(StorageUnavailableError, match="flushed by another service"):
        second.flusher.flush_all()
    second.ask([("HSET", "{rostral:0}:meta", "flush_until", "0")])
    second.flusher.flush_all()
    for backend in (first, second):
        assert backend.live_rows(TABLE, list(_by_key(rows))) == {}
        assert _found(backend, rows + pending) == _by_key(rows + pending)
        assert sorted(_all(backend)) == sorted(_by_key(rows + pending))
    ended = [replace(row, state=TaskState.FINISHED) for row in pending]
    _record(second, ended)
    assert second.flusher.flush_all() == 50, "and their keys were not forgotten"


def test_who_was_away_while_another_flushed_does_no_harm(
    open_backend: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = open_backend(rows_max=100_000), open_backend(rows_max=100_000)
    rows = [_task(at) for at in range(200)]
    _record(first, rows)
    write = first._archive.files.write

    def away(*arguments: Any, **keywords: Any) -> None:
        write(*arguments, **keywords)
        second.ask([("HSET", "{rostral:0}:meta", "flush_until", "0")])
        second.flusher.flush_all()

    monkeypatch.setattr(first._archive.files, "write", away)
    with pytest.raises(StorageUnavailableError, match="flushed by another service"):
        first.flusher.flush_all()
    assert sorted(_all(first)) == sorted(_by_key(rows))
    assert len(first._archive.notes(first.ask)) == 1


def test_what_cannot_be_flushed_is_refused_until_tasks_end(open_backend: Open) -> None:
    backend = open_backend(rows_max=100)
    pending = [_task(at, TaskState.PENDING) for at in range(100)]
    _record(backend, pending)
    with pytest.raises(ControlPlaneFullError, match="the limit is 100"):
        while True:
            _append(backend, [_task(1000, TaskState.PENDING)])
    _append(backend, [replace(row, state=TaskState.FINISHED) for row in pending])
    if (thread := backend.flusher._thread) is not None:
        thread.join()
    backend.flusher.flush_all()
    _append(backend, [_task(2000, TaskState.PENDING)])


def test_an_archive_that_is_not_there_is_named(open_backend: Open, tmp_path: Path) -> None:
    backend = open_backend(rows_max=100_000)
    _record(backend, [_task(at) for at in range(50)])
    backend.flusher.flush_all()
    elsewhere = open_backend(folder=tmp_path / "elsewhere")
    with pytest.raises(StorageError, match=r"is not in .*elsewhere"):
        elsewhere.read(TABLE, [_task(1).task_id.binary()])
    shutil.copytree(tmp_path / "archive", tmp_path / "elsewhere", dirs_exist_ok=True)
    assert _found(elsewhere, [_task(1)]) == _by_key([_task(1)])


def test_a_client_finds_flushed_tasks_by_id_and_by_query(
    play: Play, redis_server: RedisProcess
) -> None:
    async def scenario(server: GcsServer, client: AsyncGcsClient) -> None:
        rows = [_task(at) for at in range(1000)]
        for at in range(0, len(rows), 100):
            await client.record_tasks(rows[at : at + 100])
        wanted = {row.task_id: row for row in rows}
        assert await client.get_tasks(list(wanted)) == wanted
        found, token = await client.query_tasks(name="task 3", limit=1000)
        while token:
            page, token = await client.query_tasks(name="task 3", limit=1000, page_token=token)
            found += page
        assert {row.task_id for row in found} == {row.task_id for row in rows[3::7]}

    play(
        scenario,
        redis=RedisOptions(urls=(redis_server.url,)),
        lineage_memory_max=CAP * RECORD_MEMORY,
    )


def test_a_note_is_read_as_it_was_written() -> None:
    for note in (FileNote(12, 40, is_open=True), FileNote(13, 0, is_open=False)):
        assert FileNote.decode(note.encode()) == note
    assert set(SCHEMAS) == {12, 13}
