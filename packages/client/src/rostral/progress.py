"""Progress bars, where they count: in any task, actor or driver. Its driver's terminal draws them.

Counting is an addition to a field of the bar; a thread of the process looks ten times a second what
has changed, and says so. So a bar costs a loop nothing that could be measured beside its work.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, overload

from rostral import _context
from rostral.exceptions import RostralError
from rostral_objectstore.control import Body

INTERVAL_S = 0.1
# Of one process. Nobody reads more; what is above is not shown.
BARS_MAX = 100

T = TypeVar("T")

_numbers = itertools.count(1)


@dataclass(slots=True, eq=False)
class BarState:
    """What a bar shows: written by who counts, read by the reporter.

    `scope` is the task's that it belongs to, None of a bar that may outlive the call that made it.
    """

    number: int
    name: str
    desc: str
    unit: str
    total: float | None
    scope: weakref.ref[object] | None
    done: float = 0
    is_ended: bool = False
    told: Body | None = None

    def message(self) -> Body:
        """What the driver is told."""
        ended = self.is_ended or (self.scope is not None and self.scope() is None)
        return {
            "bar": self.number,
            "pid": os.getpid(),
            "name": self.name,
            "desc": self.desc,
            "unit": self.unit,
            "total": self.total,
            "done": self.done,
            "ended": ended,
        }


class ProgressReporter:
    """Tells the driver how the bars of this process stand, while there are any.

    Args:
        tell: takes one message; called from any thread, one call at a time.
    """

    def __init__(self, tell: Callable[[Body], object]) -> None:
        self._tell = tell
        self._bars: dict[int, BarState] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, bar: BarState) -> None:
        """Shows the bar from now on."""
        with self._lock:
            if len(self._bars) >= BARS_MAX or self._stopped.is_set():
                return
            self._bars[bar.number] = bar
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="rostral-bars", daemon=True)
                self._thread.start()

    def tell(self, bar: BarState) -> None:
        """Tells at once how the bar stands."""
        with self._lock:
            if bar.number in self._bars:
                self._tell_if_changed(bar)

    def stop(self) -> None:
        """Ends every bar, and the thread. Idempotent."""
        self._stopped.set()
        with self._lock:
            for bar in list(self._bars.values()):
                bar.is_ended = True
                self._tell_if_changed(bar)

    def _run(self) -> None:
        while not self._stopped.wait(INTERVAL_S):
            with self._lock:
                for bar in list(self._bars.values()):
                    self._tell_if_changed(bar)
                if not self._bars:
                    self._thread = None
                    return

    def _tell_if_changed(self, bar: BarState) -> None:
        message = bar.message()
        if message == bar.told:
            return
        bar.told = message
        if message["ended"]:
            del self._bars[bar.number]
        with contextlib.suppress(RostralError):  # who would show it is gone
            self._tell(message)


class ProgressBar(Generic[T]):
    """A progress bar in the driver's terminal: iterate over it, or call `update` by hand.

    It ends with its loop, with `close`, with the last reference to it, and with its task or its
    process. One that an actor keeps lives as long as it does.

    Args:
        iterable: What to iterate over.
        desc: Words before the bar.
        total: How much there is to do; of an iterable that has one, its length by default. Without
            it there is a count, and no bar.
        unit: What is counted.
        position, flush_interval_s: Not needed: bars stand in the order in which they begin, and
            are told of ten times a second.

    Raises: ValueError for a total below 0.
    """

    @overload
    def __init__(
        self: ProgressBar[Any],
        iterable: None = None,
        desc: str | None = None,
        total: float | None = None,
        unit: str | None = None,
        position: int | None = None,
        flush_interval_s: float | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        iterable: Iterable[T],
        desc: str | None = None,
        total: float | None = None,
        unit: str | None = None,
        position: int | None = None,
        flush_interval_s: float | None = None,
    ) -> None: ...
    def __init__(
        self,
        iterable: Iterable[T] | None = None,
        desc: str | None = None,
        total: float | None = None,
        unit: str | None = None,
        position: int | None = None,
        flush_interval_s: float | None = None,
    ) -> None:
        del position, flush_interval_s
        if total is None:
            with contextlib.suppress(TypeError):
                total = len(iterable)  # type: ignore[arg-type]
        if total is not None and total < 0:
            raise ValueError(f"total is {total}: there cannot be less than nothing to do")
        self._iterable = iterable
        scope = _context.task_scope.get()
        ends_with: weakref.ref[object] | None = None
        if scope is not None and scope.actor_id is None:
            ends_with = weakref.ref(scope)
        name = "" if scope is None else scope.name
        self._state = BarState(next(_numbers), name, desc or "", unit or "it", total, ends_with)
        runtime = _context.current_runtime()
        self._reporter = None if runtime is None else runtime.reporter
        if self._reporter is not None:
            self._reporter.add(self._state)

    def __iter__(self) -> Iterator[T]:
        if self._iterable is None:
            raise TypeError("this progress bar was made without anything to iterate over")
        state = self._state
        try:
            for item in self._iterable:
                yield item
                state.done += 1
        finally:
            # Sends nothing: who leaves a loop early may do so in the middle of anything.
            state.is_ended = True
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        state = getattr(self, "_state", None)
        if state is not None:
            state.is_ended = True

    @property
    def n(self) -> float:
        """How much is done."""
        return self._state.done

    @property
    def total(self) -> float | None:
        """How much there is to do; None: nobody knows."""
        return self._state.total

    @total.setter
    def total(self, total: float | None) -> None:
        self._state.total = total

    def update(self, n: float = 1) -> None:
        """So much more is done."""
        self._state.done += n

    def set_description(self, desc: str) -> None:
        """Changes the words before the bar."""
        self._state.desc = str(desc)

    def refresh(self) -> None:
        """Tells at once how it stands, not within a tenth of a second."""
        if self._reporter is not None:
            self._reporter.tell(self._state)

    def close(self) -> None:
        """Ends the bar. Idempotent."""
        self._state.is_ended = True
        self.refresh()


tqdm = ProgressBar
