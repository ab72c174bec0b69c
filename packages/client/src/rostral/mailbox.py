"""The calls of an actor, claimed from its mailbox in the order in which they may run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any

from rostral.arguments import value_count
from rostral.object_ref import ObjectRef
from rostral.runtime import Runtime
from rostral.sweeper import sweep_timeout_ns
from rostral_objectstore._native.task import ClaimedTask
from rostral_objectstore.errors import StoreClosedError

# With calls parked for late inputs, one look at those for so many calls taken meanwhile.
LOOK_INTERVAL_CALLS = 64

# Which calls must keep their order among themselves.
OrderOf = Callable[[ClaimedTask], Hashable]


class Mailbox:
    """An actor's calls as they become ready, until it is `closed`.

    A call whose inputs are late is parked, and so are those after it that must not overtake it.
    One thread at a time takes calls; any may close.

    Args:
        runtime: this process's.
        loc: the mailbox in shared memory.
        order_of: the line that a call stands in; calls of one line keep their order.
    """

    def __init__(self, runtime: Runtime, loc: int, order_of: OrderOf) -> None:
        self._tasks = runtime.tasks
        self._table = runtime.table
        self._segment = runtime.store.segment
        self._slot = runtime.store.slot
        self._loc = loc
        self._order_of = order_of
        self._parked: dict[Hashable, deque[ClaimedTask]] = {}
        self._ready: deque[ClaimedTask] = deque()
        self._late: list[ObjectRef[Any]] = []
        self._taken_since_look = 0
        self.closed = False

    def __iter__(self) -> Iterator[ClaimedTask]:
        """Calls as they become ready; blocks in between."""
        while not self.closed:
            call = self.take(sweep_timeout_ns(self._tasks))
            if call is not None:
                yield call

    def take(self, timeout_ns: int) -> ClaimedTask | None:
        """Claims the next call that may run. None: there is none, at the latest after the timeout.

        `timeout_ns` of 0 does not block; a negative one has no end but a poke's, so callers look
        again at what they wait for.
        """
        while not self.closed:
            if self._parked and (timeout_ns or self._is_time_to_look()):
                self._look_at_parked()
            if self._ready:
                return self._ready.popleft()
            try:
                call = self._tasks.next(self._loc, timeout_ns, self._late)
                if call is None and timeout_ns:
                    self._tasks.sweep()
            except StoreClosedError:
                # An inline session has ended, while another call kept us from waiting for this
                # thread.
                self.closed = True
                return None
            if call is None:
                if not timeout_ns and self._parked and self._taken_since_look:
                    self._taken_since_look = LOOK_INTERVAL_CALLS
                    continue
                return None
            if not (self._parked or value_count(call.payload)) or not self._must_wait(call):
                return call
        return None

    def admit(self, calls: Iterable[ClaimedTask]) -> None:
        """Takes in calls that this process has claimed by itself, to be run before all others."""
        self._ready.extend(call for call in calls if not self._must_wait(call))

    def wait(self, timeout_ns: int, seen: int) -> bool:
        """Blocks until a call may be there to take, a poke since `seen`, or the timeout.

        `timeout_ns` as of `take`; `seen` as of Tasks.wait. Returns whether a call may be there.
        """
        if self.closed or self._ready:
            return True
        is_there = self._tasks.wait(self._loc, timeout_ns, self._late, seen)
        if not is_there and timeout_ns:
            self._tasks.sweep()
        is_sealed, is_cancelled = self._table.is_sealed, self._tasks.is_cancelled
        return (
            is_there
            or any(is_sealed(ref) for ref in self._late)
            or any(is_cancelled(calls[0]) for calls in self._parked.values())
        )

    def close(self) -> None:
        """Yields no more calls. Callable from any thread."""
        self.closed = True
        self._segment.poke(self._slot)

    def _must_wait(self, call: ClaimedTask) -> bool:
        """Parks the call if an input is missing, or if one before it in its line is parked."""
        missing = self._missing(call)
        if not (missing or self._parked):
            return False
        line = self._order_of(call)
        if line in self._parked:
            missing = []  # those of the first in the line tell when to look again
        elif not missing:
            return False
        self._parked.setdefault(line, deque()).append(call)
        self._late += missing
        return True

    def _missing(self, call: ClaimedTask) -> list[ObjectRef[Any]]:
        """The inputs that the call waits for: none if one has failed, and the call with it."""
        count = value_count(call.payload)
        if not count:
            return []
        adopt, is_sealed = self._table.adopt_held, self._table.is_sealed
        refs = [adopt(ObjectRef, loc) for loc in call.dependencies[:count]]
        missing = [ref for ref in refs if not is_sealed(ref)]
        if missing and any(map(self._tasks.has_failed, refs)):
            return []
        return missing

    def _is_time_to_look(self) -> bool:
        self._taken_since_look += 1
        return self._taken_since_look > LOOK_INTERVAL_CALLS

    def _look_at_parked(self) -> None:
        """Moves parked calls that have become ready, and notes what the others wait for."""
        self._taken_since_look = 0
        self._late = []
        for line, calls in list(self._parked.items()):
            while calls:
                missing = self._missing(calls[0])
                if missing and not self._tasks.is_cancelled(calls[0]):
                    self._late += missing
                    break
                self._ready.append(calls.popleft())
            else:
                del self._parked[line]
