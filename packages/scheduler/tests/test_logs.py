"""What workers write: lines, files, bounds."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from rostral_scheduler.local.logs import LogLimits, StreamName, WorkerOutput, make_pipe

LIMITS = LogLimits(
    line_size_max=10, file_size_max=100, old_files_kept=2, lines_kept_max=3, stderr_lines_kept=2
)


class Shown:
    """A sink that knows its driver or not."""

    def __init__(self, *, known: bool = True) -> None:
        self.known = known
        self.lines: list[tuple[StreamName, list[str]]] = []

    def __call__(self, stream: StreamName, lines: Sequence[str]) -> bool:
        if self.known:
            self.lines.append((stream, list(lines)))
        return self.known


class Worker:
    """Both pipes of a worker; must be made on a running loop."""

    def __init__(self, folder: Path, shown: Shown) -> None:
        (read_out, self.out), (read_err, self.err) = make_pipe(), make_pipe()
        self.paths = (folder / "w.out", folder / "w.err")
        self.output = WorkerOutput(
            paths=self.paths, fds=(read_out, read_err), limits=LIMITS, sink=shown
        )

    def close(self) -> None:
        os.close(self.out)
        os.close(self.err)
        self.output.close()


def sizes(folder: Path) -> list[tuple[str, int]]:
    """Names and sizes of its files."""
    return sorted((path.name, path.stat().st_size) for path in folder.iterdir())


def test_lines_are_shown_when_complete_and_kept_in_a_file(tmp_path: Path) -> None:
    async def scenario() -> None:
        shown = Shown()
        worker = Worker(tmp_path, shown)
        os.write(worker.out, b"one\ntw")
        worker.output.drain()
        os.write(worker.err, b"oops")
        worker.output.drain()
        assert shown.lines == [("stdout", ["one"]), ("stdout", ["tw"]), ("stderr", ["oops"])]
        assert list(worker.output.last_stderr) == ["oops"]
        worker.close()
        assert [path.read_bytes() for path in worker.paths] == [b"one\ntw\n", b"oops\n"]

    asyncio.run(scenario())


def test_lines_before_a_driver_is_known_are_kept_and_bounded(tmp_path: Path) -> None:
    async def scenario() -> None:
        shown = Shown(known=False)
        worker = Worker(tmp_path, shown)
        for number in range(5):
            os.write(worker.out, b"%d\n" % number)
            worker.output.drain()
        shown.known = True
        worker.output.flush_waiting()
        assert shown.lines == [("stdout", [str(number)]) for number in (2, 3, 4)]
        worker.close()

    asyncio.run(scenario())


def test_long_lines_are_split(tmp_path: Path) -> None:
    async def scenario() -> None:
        shown = Shown()
        worker = Worker(tmp_path, shown)
        os.write(worker.out, b"x" * 25 + b"\n")
        worker.output.drain()
        assert "".join("".join(lines) for _, lines in shown.lines) == "x" * 25
        assert all(len(line) <= 10 for _, lines in shown.lines for line in lines)
        worker.close()

    asyncio.run(scenario())


def test_log_file_begins_anew_at_its_limit(tmp_path: Path) -> None:
    async def scenario() -> None:
        worker = Worker(tmp_path, Shown())
        for number in range(60):
            os.write(worker.out, b"%7d\n" % number)
            worker.output.drain()
        worker.close()
        names = ["w.out", "w.out.1", "w.out.2"]
        assert [name for name, size in sizes(tmp_path) if 0 < size <= 100] == names
        worker.output.remove_files(only_empty=True)
        assert [name for name, _ in sizes(tmp_path)] == names
        worker.output.remove_files(only_empty=False)
        assert sizes(tmp_path) == []

    asyncio.run(scenario())


def test_last_lines_of_stderr_are_bounded(tmp_path: Path) -> None:
    async def scenario() -> None:
        worker = Worker(tmp_path, Shown())
        os.write(worker.err, b"a\nb\nc\n")
        worker.output.drain()
        assert list(worker.output.last_stderr) == ["b", "c"]
        worker.close()

    asyncio.run(scenario())
