"""The ranges that a node is sending: how many, how fast, and which of them have stopped moving."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from rostral_objectstore.errors import SourceBusyError
from rostral_objectstore.transfer.bandwidth import ByteBudget
from rostral_objectstore.transfer.config import TransferServerConfig


class Outgoing:
    """One range on its way to a peer."""

    __slots__ = ("cut", "peer", "progress_at_s")

    def __init__(self, peer: str, cut: Callable[[], object], now_s: float) -> None:
        self.peer = peer
        self.cut = cut
        self.progress_at_s = now_s


class Streams:
    """All of them. Thread-safe.

    Args:
        clock, sleep: the time; `sleep` is only called under a bandwidth limit.
    """

    def __init__(
        self,
        config: TransferServerConfig,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        self.stopping = threading.Event()
        self._config, self._clock = config, clock
        self._sleep = sleep if sleep is not None else self.stopping.wait
        self._lock = threading.Lock()
        self._running: set[Outgoing] = set()
        self._counts = {"bytes_sent": 0, "chunks_sent": 0, "cut_off": 0}
        self._budget: ByteBudget | None = None
        if config.bandwidth_bytes_s is not None:
            self._budget = ByteBudget(
                rate_bytes_s=config.bandwidth_bytes_s,
                burst_bytes=config.burst_bytes,
                now_s=clock(),
            )

    def begin(self, peer: str, cut: Callable[[], object]) -> Outgoing:
        """A place for one more; `cut` ends its connection. Raises SourceBusyError."""
        stream = Outgoing(peer, cut, self._clock())
        with self._lock:
            if len(self._running) >= self._config.streams_max or self.stopping.is_set():
                raise SourceBusyError(
                    f"{len(self._running)} ranges are being sent already",
                    hint="ask again, or ask another holder",
                )
            self._running.add(stream)
        return stream

    def end(self, stream: Outgoing) -> None:
        """It is over, however."""
        with self._lock:
            self._running.discard(stream)

    def send(self, stream: Outgoing, size: int) -> None:
        """Waits until the bytes may go."""
        with self._lock:
            now_s = self._clock()
            self._counts["bytes_sent"] += size
            self._counts["chunks_sent"] += 1
            delay_s = 0.0 if self._budget is None else self._budget.spend(size, now_s)
            # While it waits here it is we who are slow, not the peer.
            stream.progress_at_s = now_s + delay_s
        if delay_s > 0:
            self._sleep(delay_s)

    def take_stalled(self) -> set[Outgoing]:
        """Those whose peer has taken nothing for too long; they count as ended."""
        with self._lock:
            oldest_s = self._clock() - self._config.stall_timeout_s
            stalled = {stream for stream in self._running if stream.progress_at_s < oldest_s}
            self._running -= stalled
            self._counts["cut_off"] += len(stalled)
        return stalled

    def stats(self) -> dict[str, int]:
        """bytes_sent, chunks_sent and cut_off since the start, and the streams of now."""
        with self._lock:
            return {**self._counts, "streams": len(self._running)}
