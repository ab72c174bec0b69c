"""Lines that several processes print alike: the first is shown, the others are counted.

Pure: takes lines and the time, returns what to show. Owns the rule, which is Ray's: a line that
another process has printed a moment before is held back, and shown once with how often it came when
the window is over. A process that repeats itself is shown as it is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

WINDOW_S = 5.0
KEPT_MAX = 1000


class Line(NamedTuple):
    """One line, and who printed it on which stream."""

    stream: str
    name: str
    pid: int
    text: str


@dataclass(slots=True)
class _Seen:
    """A text of one stream that was shown lately."""

    until_s: float
    pids: set[int] = field(default_factory=set)
    held: Line | None = None
    count: int = 0


class LineFolder:
    """Lines in, lines to show out. Not thread-safe.

    Args:
        window_s: How long a line is remembered, and its repetitions are held back; 0: nothing is.
    """

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        # In the order of their ends, since all last as long.
        self._seen: OrderedDict[tuple[str, str], _Seen] = OrderedDict()

    def take(self, line: Line, now_s: float) -> Iterator[Line]:
        """What to show at this moment: what was due before the line, and the line unless held."""
        yield from self.due(now_s)
        if not self._window_s or not line.text.strip():
            yield line
            return
        key = (line.stream, line.text)
        seen = self._seen.get(key)
        if seen is None:
            if len(self._seen) >= KEPT_MAX:
                _, oldest = self._seen.popitem(last=False)
                yield from _summary(oldest)
            self._seen[key] = _Seen(now_s + self._window_s, {line.pid})
            yield line
            return
        seen.pids.add(line.pid)
        if len(seen.pids) == 1:
            yield line
            return
        seen.held, seen.count = line, seen.count + 1

    def due(self, now_s: float) -> Iterator[Line]:
        """What was held back for long enough."""
        while self._seen:
            seen = next(iter(self._seen.values()))
            if seen.until_s > now_s:
                return
            self._seen.popitem(last=False)
            yield from _summary(seen)

    def flush(self) -> Iterator[Line]:
        """All that is held back."""
        return self.due(float("inf"))

    @property
    def next_due_s(self) -> float | None:
        """When something that is held back will be due; None: nothing is."""
        return next((seen.until_s for seen in self._seen.values() if seen.held), None)


def _summary(seen: _Seen) -> Iterator[Line]:
    if seen.held is None:
        return
    suffix = f" [repeated {seen.count}x across processes]" if seen.count > 1 else ""
    yield seen.held._replace(text=f"{seen.held.text}{suffix}")
