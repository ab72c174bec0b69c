"""Progress bars in the driver's terminal: below what is printed, or as plain lines in a file.

rich draws them, if it is installed and stderr is a terminal.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# Without a terminal: between two lines about one bar.
PLAIN_INTERVAL_S = 5.0
DRAWN_PER_S = 10
# Of all processes. Others are not shown.
BARS_MAX = 1000

Key = tuple[int, int]


@dataclass(slots=True)
class Bar:
    """How one bar stands."""

    who: str
    desc: str
    unit: str
    total: float | None
    done: float
    began_s: float

    def text(self, now_s: float) -> str:
        """One line for people."""
        counted = f"{self.done:g} {self.unit}"
        if self.total:
            counted = f"{self.done:g}/{self.total:g} {self.unit} ({self.done / self.total:.0%})"
        words = [self.who, f"{self.desc}:" if self.desc else "", counted]
        return " ".join(filter(None, words)) + f" in {now_s - self.began_s:.1f} s"


class Painter(Protocol):
    """How bars are shown."""

    def show(self, key: Key, bar: Bar, now_s: float) -> None:
        """A bar is new, or has changed."""

    def end(self, key: Key, bar: Bar, now_s: float) -> None:
        """A bar has ended; it was shown before."""

    def close(self) -> None:
        """Nothing will be shown any more. Idempotent."""


class ProgressDisplay:
    """All bars of a driver's job. Not thread-safe, and none of its calls waits.

    Args:
        make_painter: called when the first bar comes.
        clock: seconds.
    """

    def __init__(
        self,
        make_painter: Callable[[], Painter] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make_painter = make_painter or choose_painter
        self._clock = clock
        self._painter: Painter | None = None
        self._bars: dict[Key, Bar] = {}

    def show(self, message: dict[str, Any]) -> None:
        """Takes one message: of a bar, or of a process that has ended with all its bars."""
        now_s = self._clock()
        if message["bar"] is None:
            for key in [key for key in self._bars if key[0] == message["pid"]]:
                self._end(key, now_s)
            return
        key = message["pid"], message["bar"]
        bar = self._bars.get(key)
        if bar is None:
            if len(self._bars) >= BARS_MAX:
                return
            who = f"({message['name']} pid={message['pid']})" if message["name"] else ""
            bar = self._bars[key] = Bar(who, "", "", None, 0, now_s)
        bar.desc, bar.unit = message["desc"], message["unit"]
        bar.total, bar.done = message["total"], message["done"]
        if self._painter is None:
            self._painter = self._make_painter()
        self._painter.show(key, bar, now_s)
        if message["ended"]:
            self._end(key, now_s)

    def close(self) -> None:
        """Ends all bars. Idempotent."""
        now_s = self._clock()
        for key in list(self._bars):
            self._end(key, now_s)
        if self._painter is not None:
            self._painter.close()
            self._painter = None

    def _end(self, key: Key, now_s: float) -> None:
        bar = self._bars.pop(key)
        if self._painter is not None:
            self._painter.end(key, bar, now_s)


class PlainLines:
    """Lines on stderr: a bar's every few seconds, and its last."""

    def __init__(self) -> None:
        self._next_s: dict[Key, float] = {}

    def show(self, key: Key, bar: Bar, now_s: float) -> None:
        """Prints a line if the bar's last one is some time ago."""
        if now_s >= self._next_s.setdefault(key, now_s + PLAIN_INTERVAL_S):
            self._next_s[key] = now_s + PLAIN_INTERVAL_S
            self._print(bar, now_s)

    def end(self, key: Key, bar: Bar, now_s: float) -> None:
        """Prints the last line."""
        self._next_s.pop(key, None)
        self._print(bar, now_s)

    def close(self) -> None:
        """Nothing is kept that would have to be printed."""

    def _print(self, bar: Bar, now_s: float) -> None:
        try:
            sys.stderr.write(bar.text(now_s) + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            pass  # the terminal is gone


class RichBars:
    """Bars at the foot of the terminal, redrawn below what is printed meanwhile.

    While there are bars, `sys.stdout` and `sys.stderr` are rich's, where they are the terminal, so
    that what anybody prints comes above them; then what they were before.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.text import Text

        self._console = Console(stderr=True)
        self._text = Text
        self._progress: Progress | None = None
        self._drawn: dict[Key, TaskID] = {}

    def _new_progress(self) -> Progress:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        return Progress(
            TextColumn("{task.fields[who]}", markup=False),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[count]}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
            refresh_per_second=DRAWN_PER_S,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
        )

    @property
    def is_dumb(self) -> bool:
        """Whether the terminal cannot be drawn on."""
        return self._console.is_dumb_terminal

    def show(self, key: Key, bar: Bar, now_s: float) -> None:
        """The next drawing, within a tenth of a second, has the bar as it is now."""
        del now_s
        if self._progress is None:
            self._progress = self._new_progress()
            self._progress.start()
        count = f"{bar.done:g}" + (f"/{bar.total:g}" if bar.total else "") + f" {bar.unit}"
        if key not in self._drawn:
            self._drawn[key] = self._progress.add_task(
                bar.desc, total=bar.total, who=bar.who, count=count
            )
        self._progress.update(
            self._drawn[key],
            description=bar.desc,
            total=bar.total,
            completed=bar.done,
            count=count,
        )

    def end(self, key: Key, bar: Bar, now_s: float) -> None:
        """Leaves a line in the place of the bar."""
        assert self._progress is not None
        self._progress.remove_task(self._drawn.pop(key))
        self._console.print(self._text(bar.text(now_s)), soft_wrap=True)
        if not self._drawn:
            self.close()

    def close(self) -> None:
        """Takes the bars away, and gives the streams back."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def choose_painter() -> Painter:
    """Bars where they can be drawn, else lines."""
    try:
        if sys.stderr.isatty():
            painter = RichBars()
            if not painter.is_dumb:
                return painter
    except (ImportError, OSError, ValueError):
        pass  # rich is an extra; or stderr is closed
    return PlainLines()
