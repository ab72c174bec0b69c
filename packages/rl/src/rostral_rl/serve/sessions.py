"""The states of recurrent policies between requests, by session id: bounded, and expiring.

Pure but for the locks that put a session's requests in a row: the clock comes in.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from rostral_rl.arrays import FloatArray
from rostral_rl.errors import InvalidSettingError, OverloadedError, RequestError

ID_LENGTH_MAX = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionConfig:
    """Limits of the sessions of one model.

    Attributes:
        sessions_max: Sessions alive at once; one beyond is refused, for to forget a state silently
            would make answers wrong.
        idle_s: A session that nobody used for so long is forgotten.
    """

    sessions_max: int = 10_000
    idle_s: float = 600.0

    def __post_init__(self) -> None:
        for name in ("sessions_max", "idle_s"):
            if not getattr(self, name) > 0:
                raise InvalidSettingError(f"{name} must be > 0, got {getattr(self, name)!r}")


@dataclass(slots=True)
class Session:
    """One episode's memory.

    Attributes:
        state: (N, S), as the policy returned it last; None before the first step.
        used_s: When that was.
        turn: Held by the request that is under way; the next waits for its state.
    """

    state: FloatArray | None = None
    used_s: float = 0.0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Sessions:
    """The table. For one event loop.

    Invariant: entries are in the order of their last use, and no more than `sessions_max`.

    Args:
        config: Limits.
        clock: Seconds, from any start.
    """

    def __init__(self, config: SessionConfig, clock: Callable[[], float]) -> None:
        self._config = config
        self._clock = clock
        self._table: OrderedDict[str, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._table)

    def use(self, name: str, *, reset: bool) -> Session:
        """The session of that id, made where there is none.

        Args:
            name: Chosen by the client, and as secret as its state shall be.
            reset: Forget its state: an episode begins.

        Raises:
            RequestError: The id is empty, too long, or not printable.
            OverloadedError: There are as many as there may be.
        """
        if not 0 < len(name) <= ID_LENGTH_MAX or not name.isprintable():
            raise RequestError(f"a session's id has 1 to {ID_LENGTH_MAX} printable characters")
        now = self._clock()
        self._expire(now)
        session = self._table.get(name)
        if session is None:
            if len(self._table) >= self._config.sessions_max:
                oldest = next(iter(self._table.values()))
                raise OverloadedError(
                    f"there are {len(self._table)} sessions, as many as there may be",
                    hint="end sessions that are over, or send again after a pause",
                    retry_after_s=max(oldest.used_s + self._config.idle_s - now, 0.0),
                )
            session = self._table[name] = Session()
        session.used_s = now
        self._table.move_to_end(name)
        if reset:
            session.state = None
        return session

    def end(self, name: str) -> bool:
        """Forgets a session; whether there was one."""
        return self._table.pop(name, None) is not None

    def _expire(self, now: float) -> None:
        while self._table:
            name, session = next(iter(self._table.items()))
            if now - session.used_s < self._config.idle_s or session.turn.locked():
                return
            del self._table[name]
