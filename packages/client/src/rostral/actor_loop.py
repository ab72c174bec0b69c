"""The event loop of an async actor: an asyncio loop that waits at the actor's mailbox too.

When nothing else is to be done the loop spins at the mailbox, and then sleeps on the same futex
word that callers wake; with no other descriptor open there is no system call between a call and
its coroutine but that. Where coroutines wait for descriptors as well, the loop sleeps in epoll, and
a thread at the mailbox wakes it.
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
import threading
from collections.abc import Callable
from typing import TypeVarTuple

from rostral.mailbox import Mailbox
from rostral_objectstore._native.segment import Segment

Arguments = TypeVarTuple("Arguments")

# Longer than this in one sleep is as good as for ever.
SLEEP_S_MAX = 3600.0
# Looks at the mailbox for as long as a waiter spins, and sleeps no time to speak of.
SPIN_ONLY_NS = 1


class MailboxSelector(selectors.DefaultSelector):
    """Waits for descriptors and, while `bell` is set, for calls.

    Args:
        mailbox: whose calls.
        segment: the shared memory in which this process sleeps.
        sweep_timeout_ns: how long a sleep may be before finished tasks must be looked after, or -1.
    """

    def __init__(
        self, mailbox: Mailbox, segment: Segment, sweep_timeout_ns: Callable[[], int]
    ) -> None:
        super().__init__()
        self._mailbox = mailbox
        self._segment = segment
        self._sweep_timeout_ns = sweep_timeout_ns
        self._doorkeeper: Doorkeeper | None = None
        # Completed when there may be a call to take.
        self.bell: asyncio.Future[None] | None = None
        # Another thread has given the loop something to do, or may have.
        self.is_poked = False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As the base class, and at once when a call is there."""
        if self.bell is None or (timeout is not None and timeout <= 0):
            return super().select(timeout)
        seen = self._segment.futex_value()
        if self.is_poked:
            self.is_poked = False
            return super().select(0)
        # The loop's own descriptor, by which other threads wake it, needs no look: they poke too.
        if len(self.get_map()) > 1:
            if not self._ring_if_called(SPIN_ONLY_NS, seen):
                self._keep_door(self.bell)
                return super().select(timeout)
        elif self._ring_if_called(self._nanoseconds(timeout), seen):
            return []
        return super().select(0)

    def ring(self) -> None:
        """Says that there may be a call."""
        bell, self.bell = self.bell, None
        if bell is not None and not bell.done():
            bell.set_result(None)

    def _ring_if_called(self, timeout_ns: int, seen: int) -> bool:
        is_called = self._mailbox.wait(timeout_ns, seen)
        if is_called:
            self.ring()
        return is_called

    def _nanoseconds(self, timeout: float | None) -> int:
        sweep_ns = self._sweep_timeout_ns()
        if timeout is None:
            return sweep_ns
        timeout_ns = int(min(timeout, SLEEP_S_MAX) * 1e9) + 1
        return timeout_ns if sweep_ns < 0 else min(timeout_ns, sweep_ns)

    def _keep_door(self, bell: asyncio.Future[None]) -> None:
        if self._doorkeeper is None:
            self._doorkeeper = Doorkeeper(self._mailbox, self._segment, self._sweep_timeout_ns)
        loop = bell.get_loop()
        self._doorkeeper.watch(lambda: loop.call_soon_threadsafe(self.ring))


class Doorkeeper:
    """A thread that waits at a mailbox for somebody who sleeps elsewhere."""

    def __init__(
        self, mailbox: Mailbox, segment: Segment, sweep_timeout_ns: Callable[[], int]
    ) -> None:
        self._mailbox = mailbox
        self._segment = segment
        self._sweep_timeout_ns = sweep_timeout_ns
        self._asked = threading.Event()
        self._tell: Callable[[], object] = lambda: None
        threading.Thread(target=self._run, name="rostral-actor-door", daemon=True).start()

    def watch(self, tell: Callable[[], object]) -> None:
        """Calls `tell` once, when there may be a call. Asked again before that: no change."""
        if not self._asked.is_set():
            self._tell = tell
            self._asked.set()

    def _run(self) -> None:
        while True:
            self._asked.wait()
            while not self._mailbox.wait(self._sweep_timeout_ns(), self._segment.futex_value()):
                pass
            tell = self._tell
            self._asked.clear()
            try:
                tell()
            except RuntimeError:
                return  # the loop is closed


class ActorLoop(asyncio.SelectorEventLoop):
    """An asyncio loop whose sleep ends when a call comes."""

    def __init__(self, selector: MailboxSelector, segment: Segment, slot: int) -> None:
        # Before the base class's, which uses the loop already.
        self._mailbox_selector = selector
        self._segment, self._slot = segment, slot
        super().__init__(selector)

    def call_soon_threadsafe(
        self,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """As the base class; wakes the loop wherever it sleeps."""
        handle = super().call_soon_threadsafe(callback, *args, context=context)
        self._mailbox_selector.is_poked = True
        self._segment.poke(self._slot)
        return handle
