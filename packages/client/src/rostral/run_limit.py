"""How often a worker may run a function: `max_calls` of what leaks, or does not clean up."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any


class RunLimit:
    """Counts the runs of functions that have a limit, in the process that runs them."""

    def __init__(self) -> None:
        self._runs: dict[Hashable, int] = {}
        # Whether a function has run as often as it may: this process shall end before its next one.
        self.is_reached = False

    def count(self, function: Callable[..., Any], key: int, limit: int) -> None:
        """Counts a run. `key` is how tasks name the function with these options."""
        # Closures of one piece of code, and calls with different options, are the same function.
        name = getattr(function, "__code__", key)
        self._runs[name] = runs = self._runs.get(name, 0) + 1
        if runs >= limit:
            self.is_reached = True
