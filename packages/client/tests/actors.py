"""Actors and tasks that the tests of actors share."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import rostral
from rostral.actor import exit_actor

GET_TIMEOUT_S = 20


def get(ref: Any) -> Any:
    """`rostral.get` with a deadline: what hangs fails the test, and not the run."""
    return rostral.get(ref, timeout=GET_TIMEOUT_S)


def counter_class() -> Any:
    @rostral.remote
    class Counter:
        """Counts."""

        def __init__(self, start: int = 0, *, step: int = 1) -> None:
            self.value, self.step = start, step

        def add(self, times: int = 1) -> int:
            self.value += self.step * times
            return self.value

        def fail(self) -> None:
            raise KeyError("zork")

        def pid(self) -> int:
            return os.getpid()

        def append(self, items: list[Any]) -> list[Any]:
            return [*items, self.value]

        def exit(self) -> None:
            exit_actor()

        def leave(self) -> None:
            raise SystemExit(3)

        @rostral.method(num_returns=2)
        def pair(self) -> Any:
            return self.value, self.step

    return Counter


def late_function(marks: Path) -> Any:
    """A task whose value comes once the test writes into the file."""

    @rostral.remote
    def late(value: Any) -> Any:
        deadline = time.monotonic() + 30
        while not marks.read_text() and time.monotonic() < deadline:
            time.sleep(0.002)
        return value

    return late
