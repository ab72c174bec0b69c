"""Kills rollout actors in turn while a training runs, to show that it learns all the same."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

LATER = 1.2
"""A gate may be reached this many times later where actors are killed."""


class Killer:
    """Called after each update; kills the next actor whenever `every_s` seconds have passed.

    Attributes:
        killed: How many.
    """

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._next_s = time.monotonic() + every_s
        self._pids: list[int] = []
        self._restarts = -1
        self.killed = 0

    def __call__(self, trainer: Any, iteration: Any) -> None:
        """Kills in the midst of a fragment: to ask for the ids waits until one is over."""
        if trainer.restarts != self._restarts:
            self._restarts = trainer.restarts
            self._pids = trainer.pids()
        elif time.monotonic() >= self._next_s:
            self._next_s += self._every_s
            os.kill(self._pids[self.killed % len(self._pids)], signal.SIGKILL)
            self.killed += 1
