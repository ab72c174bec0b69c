"""A virtual network and clock: messages are lost, delayed, doubled and reordered, as the seed says.

This file owns time and delivery. Processes are named; one that is dead hears nothing. When the
network is ``calm`` every message arrives once, soon: so that a scenario can ask for an end.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Network", "NetworkSettings"]

Handler = Callable[[str, object], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """How bad the network is.

    Attributes:
        loss: Share of messages that are lost.
        doubled: Share that arrive twice.
        late: Share that take up to ``late_s_max``.
        delay_s_max: Longest delay of the others.
        late_s_max: Longest of all.
    """

    loss: float = 0.05
    doubled: float = 0.05
    late: float = 0.02
    delay_s_max: float = 0.02
    late_s_max: float = 2.0


class Network:
    """Virtual time, and messages between named processes.

    Args:
        rng: Of everything that is drawn.
        settings: How bad it is.

    Attributes:
        calm: Nothing is lost, doubled or late any more.
        cut: Pairs (from, to) between which nothing passes.
        messages: Sent so far.
    """

    def __init__(self, rng: random.Random, settings: NetworkSettings) -> None:
        self.rng = rng
        self.settings = settings
        self.now_s = 0.0
        self.calm = False
        self.cut: set[tuple[str, str]] = set()
        self.messages = 0
        self._handlers: dict[str, Handler] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0

    def number(self) -> int:
        """A new number, different from all before: of a call, so that no other is answered."""
        self._order += 1
        return self._order

    def attach(self, name: str, handler: Handler) -> None:
        """A process is there, or another one under the same name."""
        self._handlers[name] = handler

    def detach(self, name: str) -> None:
        """The process is dead."""
        self._handlers.pop(name, None)

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Does something later."""
        self._order += 1
        heapq.heappush(self._events, (self.now_s + delay_s, self._order, action))

    def send(self, source: str, target: str, message: object) -> None:
        """Sends a message, which may arrive never, once or twice."""
        self.messages += 1
        rng, settings = self.rng, self.settings
        copies = 1
        if not self.calm:
            if rng.random() < settings.loss:
                copies = 0
            elif rng.random() < settings.doubled:
                copies = 2
        for _ in range(copies):
            is_late = not self.calm and rng.random() < settings.late
            longest_s = settings.late_s_max if is_late else settings.delay_s_max
            delay_s = 0.0005 + rng.random() * longest_s
            self.after(delay_s, lambda: self._deliver(source, target, message))

    def _deliver(self, source: str, target: str, message: object) -> None:
        handler = self._handlers.get(target)
        if handler is not None and (source, target) not in self.cut:
            handler(source, message)

    def run(self, until_s: float, done: Callable[[], bool]) -> bool:
        """Plays on until that time, or until ``done`` says so; whether it did."""
        while self._events and self._events[0][0] <= until_s:
            self.now_s, _, action = heapq.heappop(self._events)
            action()
            if done():
                return True
        self.now_s = until_s
        return done()
