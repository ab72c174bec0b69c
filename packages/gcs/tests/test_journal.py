"""The journal: what was acknowledged is there after any death, and nothing else is."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from rostral_gcs.backends import journal as journal_module
from rostral_gcs.backends.base import Answer, Change, Row
from rostral_gcs.backends.embedded import EmbeddedBackend
from rostral_gcs.backends.journal import Journal, read_journal, whole_part
from rostral_gcs.backends.unsettled import COUNT_MAX
from rostral_gcs.errors import CorruptError, StorageError
from rostral_gcs.maintenance.backup import backup
from rostral_gcs.maintenance.verify import verify_folder


def _put(sequence: int, key: bytes = b"k", value: bytes | None = b"v") -> Change:
    return Change(sequence, 8, key, value, True)


def _records(path: Path, count: int, *, durable: bool) -> list[int]:
    """Writes records and returns where each ends."""
    journal = Journal(path)
    ends = []
    for at in range(1, count + 1):
        assert journal.append([_put(at)], [Answer(b"%016d" % at, b"p", 1.0)], durable=durable)
        ends.append(len(whole_part(path.read_bytes())))
    journal.close(remove=False)
    return ends


def test_what_was_written_is_read_back_in_its_order(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journal = Journal(path)
    commits = [
        ([_put(1), _put(2, b"", b""), _put(3, b"x", None)], [Answer(b"r" * 16, b"", 2.5)]),
        ([], [Answer(b"s" * 16, b"payload", 0.0)]),
        ([Change(4, 3, b"f" * 1024, bytes(300_000), False)], []),
    ]
    for changes, answers in commits:
        assert journal.append(changes, answers, durable=True)
    assert read_journal(path) == commits
    assert path.stat().st_mode & 0o777 == 0o600
    journal.close(remove=True)
    assert read_journal(path) == []


def test_a_torn_end_is_dropped_wherever_it_is_torn(tmp_path: Path) -> None:
    path = tmp_path / "j"
    ends = _records(path, 3, durable=False)
    whole = path.read_bytes()[: ends[-1]]
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert len(read_journal(path)) == sum(end <= size for end in ends)


def test_damage_that_a_later_synced_record_follows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "j"
    ends = _records(path, 3, durable=True)
    whole = path.read_bytes()
    for at in range(ends[0], ends[1]):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(CorruptError, match=f"damaged at offset {ends[0]}"):
            read_journal(path)
    # Nobody was told of a record that was not synced, whatever a machine's death left behind it.
    path.unlink()
    ends = _records(path, 3, durable=False)
    whole = path.read_bytes()
    path.write_bytes(whole[: ends[0]] + bytes(ends[1] - ends[0]) + whole[ends[1] :])
    assert len(read_journal(path)) == 1


def test_records_of_an_earlier_turn_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journal = Journal(path)
    for at in range(1, 11):
        journal.append([_put(at)], [], durable=False)
    journal.begin_turn()
    assert len(read_journal(path)) == 10, "until something is written, the old ones are there"
    journal.append([_put(11)], [], durable=False)
    assert read_journal(path) == [([_put(11)], [])]
    journal.close(remove=False)


def test_a_full_journal_takes_nothing_until_it_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "SIZE_MAX", 1000)
    journal = Journal(tmp_path / "j")
    assert not journal.append([_put(1, value=bytes(1000))], [], durable=True)
    while journal.append([_put(1, value=bytes(100))], [], durable=True):
        pass
    journal.begin_turn()
    assert journal.append([_put(1, value=bytes(100))], [], durable=True)
    journal.close(remove=True)


def test_what_is_not_applied_yet_is_found_by_key(tmp_path: Path) -> None:
    backend = EmbeddedBackend(tmp_path / "shard.sqlite")
    backend.open()
    backend.commit([_put(1, b"a", b"1"), _put(2, b"b"), _put(3, b"c")], [], durable=True)
    backend.settle()
    backend.commit([_put(4, b"a", b"2"), _put(5, b"b", None)], [], durable=True)
    backend.commit([_put(6, b"d")], [Answer(b"r" * 16, b"p", 1.0)], durable=False)
    backend.commit([_put(7, b"a", b"3"), _put(8, b"d", None), _put(9, b"d")], [], durable=True)
    expected = {
        b"a": Row(b"a", b"3", 7),
        b"c": Row(b"c", b"v", 3),
        b"d": Row(b"d", b"v", 9),
    }
    keys = [b"a", b"b", b"c", b"d", b"e"]
    assert backend.read(8, keys) == expected
    assert backend.recall(b"r" * 16) == b"p"
    assert backend.gather([b"r" * 16], {8: keys}).answers == {b"r" * 16: b"p"}
    was_settled = backend.is_settled
    assert {row.key: row for row in backend.scan(8, b"", b"", 10, 1 << 20)[0]} == expected
    assert (was_settled, backend.is_settled) == (False, True)
    assert backend.read(8, keys) == expected
    assert backend.recall(b"r" * 16) == b"p"
    backend.close()


# --- With the database ----------------------------------------------------------------------------


def _copied(source: Path, target: Path) -> EmbeddedBackend:
    """What the next process finds when this one is killed now."""
    shutil.copytree(source, target)
    return EmbeddedBackend(target / "shard.sqlite")


def test_a_kill_before_the_database_has_a_commit_loses_nothing(tmp_path: Path) -> None:
    backend = EmbeddedBackend(tmp_path / "a" / "shard.sqlite")
    (tmp_path / "a").mkdir()
    backend.open()
    backend.commit([_put(1, b"a"), _put(2, b"b")], [], durable=True)
    backend.settle()
    backend.commit(
        [_put(3, b"a", None), _put(4, b"c")], [Answer(b"r" * 16, b"p", 9.0)], durable=True
    )
    again = _copied(tmp_path / "a", tmp_path / "b")
    opened = again.open()
    assert (opened.last_sequence, opened.history_size) == (4, 3)
    assert again.read(8, [b"a", b"b", b"c"]) == {
        b"b": Row(b"b", b"v", 2),
        b"c": Row(b"c", b"v", 4),
    }
    assert [change.sequence for change in again.history(0, 10, 1 << 20)] == [1, 2, 3, 4]
    assert again.recall(b"r" * 16) == b"p"
    again.close()
    # The other one goes on as if nothing had been copied.
    assert backend.read(8, [b"a"]) == {}
    backend.close()


def test_a_database_that_lost_unsynced_commits_gets_them_back(tmp_path: Path) -> None:
    """A machine's death: of the database what it was told to sync, of the journal all."""
    folder = tmp_path / "a"
    folder.mkdir()
    backend = EmbeddedBackend(folder / "shard.sqlite")
    backend.open()
    old = tmp_path / "old"
    shutil.copytree(folder, old)
    for at in range(1, 51):
        backend.commit([_put(at, b"%d" % at)], [Answer(b"%016d" % at, b"p", 1.0)], durable=True)
        backend.settle()
    backend.drop(8, [b"7"])
    shutil.copy(folder / "shard.journal", old)
    backend.close()
    again = EmbeddedBackend(old / "shard.sqlite")
    assert again.open().last_sequence == 50
    assert len(again.scan(8, b"", b"", 100, 1 << 20)[0]) == 50
    assert again.recall(b"%016d" % 50) == b"p"
    again.close()


def test_commits_are_whole_over_many_turns_of_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "SIZE_MAX", 5000)
    folder = tmp_path / "a"
    folder.mkdir()
    backend = EmbeddedBackend(folder / "shard.sqlite")
    backend.open()
    sequence = 0
    for turn in range(40):
        # Every tenth is more than the journal holds.
        count = 60 if turn % 10 == 9 else 3
        changes = [_put(sequence + at, b"%d" % (sequence + at)) for at in range(1, count + 1)]
        changes[0] = _put(sequence + 1, b"large", bytes(600))
        sequence += count
        backend.commit(changes, [], durable=turn % 2 == 0)
        again = _copied(folder, tmp_path / f"copy-{turn}")
        assert again.open().last_sequence == sequence
        assert len(again.history(0, 10_000, 1 << 20)) == sequence
        again.close()
        shutil.rmtree(tmp_path / f"copy-{turn}")
    backend.close()


def test_a_disk_without_room_for_the_journal_refuses_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = EmbeddedBackend(tmp_path / "shard.sqlite")
    backend.open()
    backend.commit([_put(1)], [], durable=True)
    full = OSError(28, "No space left on device")

    def refuse(*_: object) -> int:
        raise full

    monkeypatch.setattr("os.fdatasync", refuse)
    with pytest.raises(StorageError, match="No space left"):
        backend.commit([_put(2, b"lost")], [], durable=True)
    monkeypatch.undo()
    assert read_journal(tmp_path / "shard.journal") == [([_put(1)], [])]
    backend.commit([_put(2, b"kept")], [], durable=True)
    assert set(backend.read(8, [b"k", b"lost", b"kept"])) == {b"k", b"kept"}
    backend.close()


def test_a_database_that_cannot_take_a_commit_gets_it_later(tmp_path: Path) -> None:
    backend = EmbeddedBackend(tmp_path / "shard.sqlite")
    backend.open()
    other = sqlite3.connect(tmp_path / "shard.sqlite", isolation_level=None)
    backend._db.execute("PRAGMA busy_timeout=1")
    other.execute("BEGIN IMMEDIATE")
    for at in range(1, COUNT_MAX + 1):
        backend.commit([_put(at)], [], durable=True)
    assert backend.read(8, [b"k"]) == {b"k": Row(b"k", b"v", COUNT_MAX)}, "it is known all the same"
    with pytest.raises(StorageError, match="locked"):
        backend.scan(8, b"", b"", 10, 1 << 20)
    with pytest.raises(StorageError, match="locked"):
        backend.commit([_put(COUNT_MAX + 1)], [], durable=True)
    other.execute("ROLLBACK")
    other.close()
    backend.commit([_put(COUNT_MAX + 1)], [], durable=True)
    assert backend.scan(8, b"", b"", 10, 1 << 20)[0] == [Row(b"k", b"v", COUNT_MAX + 1)]
    assert len(backend.history(0, 1000, 1 << 20)) == COUNT_MAX + 1
    backend.close()


def test_a_clean_stop_leaves_no_journal_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shard.journal"
    backend = EmbeddedBackend(tmp_path / "shard.sqlite")
    backend.open()
    backend.commit([_put(1)], [], durable=True)
    assert path.exists()
    backend.close()
    assert not path.exists()
    ends = _records(path, 3, durable=True)
    data = bytearray(path.read_bytes())
    data[ends[0] + 30] ^= 1
    path.write_bytes(data)
    again = EmbeddedBackend(tmp_path / "shard.sqlite")
    with pytest.raises(CorruptError, match=r"shard\.journal is damaged"):
        again.open()
    again.close()
    assert path.read_bytes() == data, "what was refused is left as it is"


def test_a_backup_has_what_only_the_journal_has(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "cluster.json").write_text('{"cluster_id": "00", "shard_count": 1}')
    backend = EmbeddedBackend(data / "shard-000.sqlite")
    backend.open()
    backend.commit([_put(1)], [], durable=True)
    backup(data, tmp_path / "backup")
    assert verify_folder(data) == (2, [])
    assert verify_folder(tmp_path / "backup") == (2, [])
    backend.close()
    again = EmbeddedBackend(tmp_path / "backup" / "shard-000.sqlite")
    assert again.open().last_sequence == 1
    assert again.read(8, [b"k"]) == {b"k": Row(b"k", b"v", 1)}
    again.close()
