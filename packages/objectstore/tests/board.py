"""A file in which the clients of a kill loop say how far they are, and read whether to pause.

Shared memory of the test's own: nothing of it lies in the store, so it shows a store that hangs.
"""

from __future__ import annotations

import mmap
import struct
import time
from pathlib import Path
from typing import Protocol

ROWS = 1 << 17
ROW = struct.Struct("<QQQ")  # steps, objects checked, the last pause that was seen
FLAG = struct.Struct("<Q")  # the number of the pause that is wanted, 0: none


class Worker(Protocol):
    """What a client does, step by step."""

    checked: int

    def step(self) -> None:
        """Does one thing."""


class Board:
    """The file, mapped; row 0 has the flag."""

    def __init__(self, path: str) -> None:
        if not Path(path).exists():
            with Path(path).open("wb") as file:
                file.truncate(ROWS * ROW.size)
        with Path(path).open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)

    def run(self, work: Worker, row: int) -> None:
        """Steps without end, and stands still between two steps while a pause is wanted."""
        steps = 0
        while True:
            wanted = self.wanted()
            self.write(row, steps, work.checked, wanted)
            if wanted:
                time.sleep(0.001)
                continue
            work.step()
            steps += 1

    def write(self, row: int, steps: int, checked: int, pause: int) -> None:
        ROW.pack_into(self._memory, row * ROW.size, steps, checked, pause)

    def read(self, row: int) -> tuple[int, int, int]:
        """(steps, objects checked, pause) of one client."""
        steps, checked, pause = ROW.unpack_from(self._memory, row * ROW.size)
        return steps, checked, pause

    def wanted(self) -> int:
        number: int = FLAG.unpack_from(self._memory, 0)[0]
        return number

    def want(self, number: int) -> None:
        """Asks for the pause with the number; 0 ends it."""
        FLAG.pack_into(self._memory, 0, number)

    def close(self) -> None:
        self._memory.close()
