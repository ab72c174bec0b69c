"""The lineage log: what a torn or damaged file does, and that a commit is whole or absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rostral_gcs.backends.base import Answer, Row
from rostral_gcs.backends.lineage_log import LineageLog
from rostral_gcs.backends.segment import Frame, read_frames
from rostral_gcs.errors import CorruptError, StorageError

TABLE = 12


def _key(at: int) -> bytes:
    return at.to_bytes(16, "big")


def _frame(first_sequence: int, rows: dict[int, bytes], *, more: bool = False) -> Frame:
    return Frame(
        table=TABLE,
        key_size=16,
        keys=b"".join(_key(at) for at in rows),
        sizes=[len(value) for value in rows.values()],
        values=b"".join(rows.values()),
        first_sequence=first_sequence,
        more=more,
    )


def _write(folder: Path, commits: list[list[Frame]], *, records_max: int = 1000) -> list[Path]:
    log = LineageLog(folder, records_max=records_max)
    log.open()
    for frames in commits:
        log.append(frames)
    log.close()
    return sorted(folder.iterdir())


@pytest.mark.slow
def test_a_log_cut_anywhere_holds_the_commits_before_the_cut(tmp_path: Path) -> None:
    commits = [[_frame(at + 1, {at: b"v" * at})] for at in range(5)]
    commits.append([_frame(6, {5: b"x"}, more=True), _frame(7, {6: b"y"})])
    (path,) = _write(tmp_path / "log", commits)
    content = path.read_bytes()
    ends = [end for _, end, frame in read_frames(path) if not frame.more]
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        whole = sum(end <= cut for end in ends)
        log = LineageLog(tmp_path / "log")
        assert log.open() == (7 if whole == 6 else whole)
        assert len(log.read(TABLE, [_key(at) for at in range(7)])) == (7 if whole == 6 else whole)
        # What is written next stands where the torn commit stood.
        log.append([_frame(100, {100: b"after"})])
        log.close()
        again = LineageLog(tmp_path / "log")
        assert again.open() == 100
        assert again.read(TABLE, [_key(100)]) == {_key(100): Row(_key(100), b"after", 100)}
        again.close()


@pytest.mark.slow
def test_a_flipped_byte_before_whole_commits_is_found_and_named(tmp_path: Path) -> None:
    (path,) = _write(tmp_path / "log", [[_frame(at + 1, {at: b"value"})] for at in range(3)])
    content = bytearray(path.read_bytes())
    starts = [start for start, _, _ in read_frames(path)]
    for at in range(starts[0], starts[2]):
        content[at] ^= 0xFF
        path.write_bytes(content)
        content[at] ^= 0xFF
        log = LineageLog(tmp_path / "log")
        with pytest.raises(CorruptError, match="damaged at offset") as caught:
            log.open()
        assert caught.value.path == str(path)
        assert caught.value.offset == (starts[0] if at < starts[1] else starts[1])
        log.close()


def test_a_torn_segment_that_is_not_the_newest_is_refused(tmp_path: Path) -> None:
    commits = [[_frame(at + 1, {at: b"value"})] for at in range(4)]
    paths = _write(tmp_path / "log", commits, records_max=2)
    assert len(paths) == 2
    os.truncate(paths[0], paths[0].stat().st_size - 1)
    with pytest.raises(CorruptError, match="segments follow it"):
        LineageLog(tmp_path / "log").open()


def test_a_file_that_is_no_segment_is_refused(tmp_path: Path) -> None:
    (tmp_path / "00000001.segment").write_bytes(b"something else entirely")
    with pytest.raises(CorruptError, match="no segment"):
        LineageLog(tmp_path).open()


def test_the_newest_row_is_found_over_all_segments(tmp_path: Path) -> None:
    log = LineageLog(tmp_path / "log", records_max=3)
    log.open()
    for at in range(1, 21):
        log.append([_frame(at, {at % 4: b"%d" % at})])
    assert len(log.segments) == 7
    expected = {
        _key(at): Row(_key(at), b"%d" % (16 + (at or 4)), 16 + (at or 4)) for at in range(4)
    }
    assert log.read(TABLE, [_key(at) for at in range(5)]) == expected
    rows, more = log.scan(TABLE, b"", b"", 10, 1000)
    assert ({row.key: row for row in rows}, more) == (expected, False)
    assert [row.key for row in rows] == sorted(expected)
    log.close()


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.dictionaries(st.integers(0, 9), st.binary(max_size=5), min_size=1), max_size=12),
    st.integers(0, 9),
    st.integers(1, 5),
)
def test_a_scan_gives_each_key_once_in_order(
    tmp_path_factory: pytest.TempPathFactory,
    commits: list[dict[int, bytes]],
    after: int,
    limit: int,
) -> None:
    log = LineageLog(tmp_path_factory.mktemp("log"), records_max=12)
    sequence = 1
    model: dict[bytes, bytes] = {}
    for rows in commits:
        log.append([_frame(sequence, rows)])
        sequence += len(rows)
        model |= {_key(at): value for at, value in rows.items()}
    wanted = sorted(key for key in model if key > _key(after))
    found, more = log.scan(TABLE, b"", _key(after), limit, 1000)
    assert [(row.key, row.value) for row in found] == [(key, model[key]) for key in wanted[:limit]]
    assert more == (len(wanted) > limit)
    log.close()


def test_answers_come_back_with_the_rows_and_are_forgotten_by_age(tmp_path: Path) -> None:
    log = LineageLog(tmp_path / "log")
    log.open()
    for at in (1, 2, 3):
        frame = _frame(at, {at: b""})
        frame.answer = Answer(b"%d" % at * 16, b"answer", float(at))
        log.append([frame])
    log.close()
    again = LineageLog(tmp_path / "log")
    again.open()
    again.forget(2.5)
    assert [again.recall(b"%d" % at * 16) for at in (1, 2, 3)] == [None, None, b"answer"]
    again.close()


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    import resource
    import signal

    log = LineageLog(tmp_path / "log")
    log.open()
    log.append([_frame(1, {1: bytes(100)})])
    size = log.segments[0].size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # As a full disk does, the limit lets a part of the write through before it fails.
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5000, limits[1]))
    try:
        with pytest.raises(StorageError, match="cannot write"):
            log.append([_frame(2, {2: bytes(20_000)})])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert log.segments[0].path.stat().st_size == size
    log.append([_frame(2, {3: b"well"})])
    log.close()
    again = LineageLog(tmp_path / "log")
    assert again.open() == 2
    assert set(again.read(TABLE, [_key(1), _key(2), _key(3)])) == {_key(1), _key(3)}
    again.close()
