"""The conformance suite: what every backend must do, whatever it stores in.

Redis is a real server; one of them serves a whole run, and each test has a shard of its own there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rostral_gcs.backends.base import Answer, Backend, Change, Columns, Row
from rostral_gcs.backends.embedded import EmbeddedBackend
from rostral_gcs.backends.redis_storage import RedisStorage
from rostral_gcs.errors import StorageError
from rostral_gcs.redis_options import RedisOptions
from rostral_gcs.tables.registry import table_spec

from .redis_servers import RedisFarm, RedisProcess

Open = Callable[[], Backend]
SIZE_MAX = 1 << 20
TASKS = table_spec("tasks").number


def _embedded(folder: Path, _: RedisProcess) -> Backend:
    return EmbeddedBackend(folder / "shard.sqlite")


def _redis(folder: Path, server: RedisProcess) -> Backend:
    options = RedisOptions(urls=(server.url,), prefix=hashlib.sha1(bytes(folder)).hexdigest())
    return RedisStorage(options, shard_count=1, archive_dir=folder / "archive").backend(0)


@pytest.fixture(scope="module")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """The server of all these tests."""
    farm = RedisFarm(tmp_path_factory.mktemp("redis"))
    yield farm.server()
    farm.close()


@pytest.fixture(params=[_embedded, _redis], ids=["embedded", "redis"])
def reopen(
    request: pytest.FixtureRequest, tmp_path: Path, shared_redis: RedisProcess
) -> Iterator[Open]:
    """Makes a backend on the same storage each time; all are closed at the end."""
    made: list[Backend] = []

    def make() -> Backend:
        made.append(request.param(tmp_path, shared_redis))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


def _put(sequence: int, key: bytes, value: bytes = b"v", table: int = 1) -> Change:
    return Change(sequence, table, key, value, True)


def test_a_fresh_backend_is_empty(reopen: Open) -> None:
    backend = reopen()
    opened = backend.open()
    assert (opened.last_sequence, opened.trimmed_sequence, opened.history_size) == (0, 0, 0)
    assert backend.read(1, [b"a"]) == {}
    assert backend.scan(1, b"", b"", 10, SIZE_MAX) == ([], False)
    assert backend.history(0, 10, SIZE_MAX) == []


@pytest.mark.parametrize("durable", [True, False])
def test_committed_rows_are_there_after_reopening(reopen: Open, durable: bool) -> None:
    backend = reopen()
    backend.open()
    backend.commit([_put(1, b"a", b"x"), _put(2, b"b", b"y")], [], durable=durable)
    backend.close()
    again = reopen()
    opened = again.open()
    assert (opened.last_sequence, opened.history_size) == (2, 2)
    assert again.read(1, [b"b", b"a", b"c"]) == {
        b"a": Row(b"a", b"x", 1),
        b"b": Row(b"b", b"y", 2),
    }


def test_later_changes_of_one_commit_win(reopen: Open) -> None:
    backend = reopen()
    backend.open()
    backend.commit(
        [
            _put(1, b"a", b"1"),
            Change(2, 1, b"a", None, True),
            _put(3, b"a", b"3"),
            _put(4, b"b", b"4"),
            Change(5, 1, b"b", None, True),
        ],
        [],
        durable=True,
    )
    assert backend.read(1, [b"a", b"b"]) == {b"a": Row(b"a", b"3", 3)}


def test_tables_do_not_see_each_other(reopen: Open) -> None:
    backend = reopen()
    backend.open()
    backend.commit([_put(1, b"a", table=1), _put(2, b"a", b"other", table=2)], [], durable=False)
    assert backend.read(2, [b"a"]) == {b"a": Row(b"a", b"other", 2)}
    assert [row.version for row in backend.scan(1, b"", b"", 10, SIZE_MAX)[0]] == [1]


@pytest.mark.parametrize("prefix", [b"", b"a", b"a\xff", b"\xff", b"\xff\xff"])
def test_scan_finds_exactly_the_prefix_in_order(reopen: Open, prefix: bytes) -> None:
    keys = [
        b"a",
        b"a\x00",
        b"ab",
        b"a\xff",
        b"a\xffz",
        b"b",
        b"\xff",
        b"\xff\xff",
        b"\xff\xffz",
    ]
    backend = reopen()
    backend.open()
    backend.commit([_put(at, key) for at, key in enumerate(keys, 1)], [], durable=False)
    expected = sorted(key for key in keys if key.startswith(prefix))
    found: list[bytes] = []
    more = True
    while more:
        rows, more = backend.scan(1, prefix, found[-1] if found else b"", 2, SIZE_MAX)
        found.extend(row.key for row in rows)
    assert found == expected


def test_scan_and_history_stop_at_the_size(reopen: Open) -> None:
    backend = reopen()
    backend.open()
    backend.commit([_put(at, b"%d" % at, bytes(100)) for at in range(1, 6)], [], durable=False)
    rows, more = backend.scan(1, b"", b"", 10, 150)
    assert (len(rows), more) == (2, True)
    assert [change.sequence for change in backend.history(0, 10, 150)] == [1, 2]


def test_history_keeps_only_watchable_changes_in_order(reopen: Open) -> None:
    backend = reopen()
    backend.open()
    backend.commit(
        [_put(1, b"a"), Change(2, 3, b"f", b"blob", False), Change(3, 1, b"a", None, True)],
        [],
        durable=False,
    )
    assert backend.history(0, 10, SIZE_MAX) == [_put(1, b"a"), Change(3, 1, b"a", None, True)]
    assert backend.history(1, 10, SIZE_MAX) == [Change(3, 1, b"a", None, True)]


def test_trim_is_remembered(reopen: Open) -> None:
    backend = reopen()
    backend.open()
    backend.commit([_put(at, b"%d" % at, bytes(10)) for at in range(1, 6)], [], durable=False)
    assert backend.trim(3) == 30
    backend.close()
    again = reopen()
    opened = again.open()
    assert (opened.trimmed_sequence, opened.last_sequence, opened.history_size) == (3, 5, 20)
    assert [change.sequence for change in again.history(0, 10, SIZE_MAX)] == [4, 5]


def test_answers_are_recalled_until_forgotten(reopen: Open) -> None:
    backend = reopen()
    backend.open()
    backend.commit([_put(1, b"a")], [Answer(b"r1", b"p1", 100.0)], durable=True)
    backend.commit([], [Answer(b"r2", b"p2", 200.0)], durable=False)
    assert (backend.recall(b"r1"), backend.recall(b"r2"), backend.recall(b"r3")) == (
        b"p1",
        b"p2",
        None,
    )
    backend.forget(150.0)
    assert (backend.recall(b"r1"), backend.recall(b"r2")) == (None, b"p2")


def _columns(first_sequence: int, rows: dict[bytes, bytes]) -> Columns:
    keys = [key.ljust(16, b"\0") for key in rows]
    sizes = [len(value) for value in rows.values()]
    return Columns(TASKS, first_sequence, 16, b"".join(keys), sizes, b"".join(rows.values()))


def _row(key: bytes, value: bytes, version: int) -> Row:
    return Row(key.ljust(16, b"\0"), value, version)


def test_columns_are_rows_again_after_reopening(reopen: Open) -> None:
    backend = reopen()
    backend.open()
    backend.append([_columns(1, {b"a": b"1", b"b": b""})], [Answer(b"r" * 16, b"p", 100.0)])
    backend.append([_columns(3, {b"a": b"three"}), _columns(4, {b"c": b"4"})], [])
    keys = [row.ljust(16, b"\0") for row in (b"a", b"b", b"c", b"d")]
    rows = [_row(b"a", b"three", 3), _row(b"b", b"", 2), _row(b"c", b"4", 4)]
    assert backend.read(TASKS, keys) == {row.key: row for row in rows}
    backend.close()
    again = reopen()
    assert again.open().last_sequence == 4
    assert again.read(TASKS, keys) == {row.key: row for row in rows}
    assert again.recall(b"r" * 16) == b"p"
    assert again.history(0, 10, SIZE_MAX) == []


def test_columns_are_scanned_in_the_order_of_their_keys(reopen: Open) -> None:
    backend = reopen()
    backend.open()
    backend.append([_columns(1, {b"c": b"1", b"a": b"2"})], [])
    backend.append([_columns(3, {b"b": b"3", b"c": b"4"})], [])
    first, more = backend.scan(TASKS, b"", b"", 2, SIZE_MAX)
    assert (first, more) == ([_row(b"a", b"2", 2), _row(b"b", b"3", 3)], True)
    assert backend.scan(TASKS, b"", first[-1].key, 2, SIZE_MAX) == ([_row(b"c", b"4", 4)], False)
    assert backend.scan(TASKS, b"b", b"", 2, SIZE_MAX) == ([_row(b"b", b"3", 3)], False)


def test_single_changes_of_an_appended_table_are_stored_with_it(reopen: Open) -> None:
    backend = reopen()
    backend.open()
    key = b"k".ljust(16, b"\0")
    backend.append([_columns(1, {b"k": b"1"})], [])
    answer = Answer(b"r" * 16, b"p", 1.0)
    backend.commit([Change(2, TASKS, key, b"2", False), _put(3, b"x")], [answer], durable=True)
    backend.commit([Change(4, TASKS, key, b"4", False)], [], durable=False)
    backend.close()
    again = reopen()
    assert again.open().last_sequence == 4
    assert again.read(TASKS, [key]) == {key: Row(key, b"4", 4)}
    assert again.recall(b"r" * 16) == b"p"
    again.forget(2.0)
    assert again.recall(b"r" * 16) is None


def test_a_failed_commit_changes_nothing(reopen: Open) -> None:
    backend = reopen()
    backend.open()
    backend.commit([_put(1, b"a")], [], durable=True)
    with pytest.raises(StorageError):
        # Sequence 1 is taken: the transaction fails after its row was written.
        backend.commit([_put(1, b"b")], [Answer(b"r", b"p", 1.0)], durable=True)
    assert backend.read(1, [b"b"]) == {}
    assert backend.recall(b"r") is None
    backend.commit([_put(2, b"b")], [], durable=True)


def test_use_when_closed_is_a_typed_error(reopen: Open) -> None:
    with pytest.raises(StorageError, match="not open"):
        reopen().read(1, [b"a"])


def test_gather_finds_answers_and_rows_at_once(reopen: Open) -> None:
    backend = reopen()
    backend.open()
    changes = [_put(1, b"a", b"x"), _put(2, b"b", b"y", table=2)]
    backend.commit(changes, [Answer(b"r1", b"p1", 1.0)], durable=True)
    gathered = backend.gather([b"r1", b"r2"], {1: [b"a", b"none"], 2: [b"b"], 3: [b"a"]})
    assert gathered.answers == {b"r1": b"p1"}
    assert gathered.rows == {(1, b"a"): Row(b"a", b"x", 1), (2, b"b"): Row(b"b", b"y", 2)}


def test_many_rows_and_large_ones_go_in_one_commit(reopen: Open) -> None:
    backend = reopen()
    backend.open()
    changes = [_put(at, b"%06d" % at, bytes([at % 256]) * 100) for at in range(1, 9001)]
    changes += [_put(9000 + at, b"large-%d" % at, bytes(512 * 1024)) for at in range(1, 4)]
    changes += [Change(9003 + at, 1, b"%06d" % at, None, True) for at in range(1, 5001)]
    answers = [Answer(b"%06d" % at, b"p", float(at)) for at in range(9000)]
    backend.commit(changes, answers, durable=True)
    keys = [change.key for change in changes[:9000]]
    assert len(backend.read(1, keys)) == 4000
    rows, more = backend.scan(1, b"", b"", 10_000, 64 << 20)
    assert ([row.key for row in rows[:4000]], more) == (keys[5000:], False)
    assert len(backend.history(0, 20_000, 64 << 20)) == len(changes)
    backend.forget(8999.0)
    assert backend.recall(b"008998") is None
    assert backend.recall(b"008999") == b"p"
