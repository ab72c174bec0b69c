"""What workers write to stdout and stderr: read on the event loop, kept in files, shown to drivers.

This file owns the pipes' reading ends and the log files. It decides nothing about workers and
never blocks on a driver: who cannot keep up misses lines.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Literal

__all__ = ["LogLimits", "StreamName", "WorkerOutput", "make_pipe"]

logger = logging.getLogger("rostral.scheduler.logs")

StreamName = Literal["stdout", "stderr"]
Sink = Callable[[StreamName, Sequence[str]], bool]
"""Shows lines to whom they concern. False: nobody is known yet, keep them."""

_READ_SIZE = 64 * 1024
_READS_PER_TURN = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLimits:
    """Bounds on what is kept; ``config.py`` has their reasons."""

    line_size_max: int
    file_size_max: int
    old_files_kept: int
    lines_kept_max: int
    stderr_lines_kept: int


def make_pipe() -> tuple[int, int]:
    """(our end, not blocking; the worker's end)."""
    read, write = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(read, False)
    return read, write


class _Stream:
    """One pipe and its file, which is there from the first line on: most workers write none.

    Invariant: ``partial`` has no newline and at most ``line_size_max`` bytes between two reads.
    """

    def __init__(self, fd: int, path: Path) -> None:
        self.fd = fd
        self.path = path
        self.file: FileIO | None = None
        self.written = 0
        self.partial = b""

    def write(self, data: bytes, limits: LogLimits) -> None:
        if self.written and self.written + len(data) > limits.file_size_max:
            self.close_file()
            self._rotate(limits.old_files_kept)
            self.written = 0
        if self.file is None:
            self.file = self.path.open("ab", buffering=0)
        self.file.write(data)
        self.written += len(data)

    def close_file(self) -> None:
        """Writes no more, until the next write."""
        if self.file is not None:
            self.file.close()
            self.file = None

    def _rotate(self, kept: int) -> None:
        """Each old file takes the name of the next older one; the oldest is overwritten."""
        for age in range(kept, 0, -1):
            younger = self.path if age == 1 else old_file(self.path, age - 1)
            with contextlib.suppress(FileNotFoundError):
                younger.replace(old_file(self.path, age))


def old_file(path: Path, age: int) -> Path:
    """The name of a log file that was begun anew ``age`` times since."""
    return path.with_name(f"{path.name}.{age}")


class WorkerOutput:
    """Both streams of one worker, from its fork until both pipes are closed.

    Args:
        paths: The log files of stdout and stderr.
        fds: Our ends of the pipes, taken over.
        limits: What is kept.
        sink: Shows complete lines.
    """

    def __init__(
        self, *, paths: tuple[Path, Path], fds: tuple[int, int], limits: LogLimits, sink: Sink
    ) -> None:
        self.last_stderr: deque[str] = deque(maxlen=limits.stderr_lines_kept)
        self.paths = paths
        self._limits = limits
        self._sink = sink
        self._waiting: deque[tuple[StreamName, list[str]]] = deque(maxlen=limits.lines_kept_max)
        self._loop = asyncio.get_running_loop()
        self._streams: dict[StreamName, _Stream] = {
            "stdout": _Stream(fds[0], paths[0]),
            "stderr": _Stream(fds[1], paths[1]),
        }
        for name, stream in self._streams.items():
            self._loop.add_reader(stream.fd, self._readable, name)

    def drain(self) -> None:
        """Takes what the pipes hold now, an unfinished last line too: the worker is dead."""
        for name in list(self._streams):
            while self._read(name):
                pass
            if (stream := self._streams.get(name)) is not None and stream.partial:
                self._take(name, stream, b"\n")

    def flush_waiting(self) -> None:
        """Shows the lines that were kept until somebody was known."""
        while self._waiting:
            name, lines = self._waiting[0]
            if not self._sink(name, lines):
                return
            self._waiting.popleft()

    def close(self) -> None:
        """Reads no more. May be called twice."""
        for name in list(self._streams):
            self._close(name)

    def remove_files(self, *, only_empty: bool) -> None:
        """Takes the closed log files away, or those in which nothing was written."""
        for path in self.paths:
            ages = range(1, self._limits.old_files_kept + 1)
            for file in (path, *(old_file(path, age) for age in ages)):
                with contextlib.suppress(OSError):
                    if not only_empty or not file.stat().st_size:
                        file.unlink()

    def _readable(self, name: StreamName) -> None:
        # A worker that never stops writing must not keep the loop from everybody else.
        for _ in range(_READS_PER_TURN):
            if not self._read(name):
                return

    def _read(self, name: StreamName) -> bool:
        """Takes one piece. False when there is none, for now or for good."""
        stream = self._streams.get(name)
        if stream is None:
            return False
        try:
            data = os.read(stream.fd, _READ_SIZE)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            if stream.partial:
                self._take(name, stream, b"\n")
            self._close(name)
            return False
        self._take(name, stream, data)
        return True

    def _take(self, name: StreamName, stream: _Stream, data: bytes) -> None:
        try:
            stream.write(data, self._limits)
        except OSError as error:
            logger.warning("cannot write %s: %s", stream.path, error.strerror)
        complete, stream.partial = _split(stream.partial + data, self._limits.line_size_max)
        if not complete:
            return
        lines = [line.decode(errors="backslashreplace") for line in complete]
        if name == "stderr":
            self.last_stderr.extend(lines)
        self.flush_waiting()
        if self._waiting or not self._sink(name, lines):
            self._waiting.append((name, lines))

    def _close(self, name: StreamName) -> None:
        stream = self._streams.pop(name)
        self._loop.remove_reader(stream.fd)
        os.close(stream.fd)
        with contextlib.suppress(OSError):
            stream.close_file()


def _split(data: bytes, size_max: int) -> tuple[list[bytes], bytes]:
    """Complete lines, over-long ones in pieces, and the unfinished rest."""
    *lines, rest = data.split(b"\n")
    pieces = []
    for line in lines:
        pieces += [line[at : at + size_max] for at in range(0, len(line), size_max)] or [b""]
    while len(rest) > size_max:
        pieces.append(rest[:size_max])
        rest = rest[size_max:]
    return pieces, rest
