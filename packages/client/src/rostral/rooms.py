"""Room in streams, for producers on event loops, which must not sleep themselves."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from rostral_objectstore._native.stream import StreamWriter
from rostral_objectstore.errors import StoreClosedError

if TYPE_CHECKING:
    import asyncio

    from rostral.runtime import Runtime


class RoomWaiter:
    """One thread that tells event loops when streams have room again."""

    # Between two looks, should a poke be lost with a consumer that died.
    INTERVAL_NS = 100_000_000

    def __init__(self, runtime: Runtime) -> None:
        self._segment = runtime.store.segment
        self._slot = runtime.store.slot
        self._pending: list[tuple[StreamWriter, asyncio.Future[None]]] = []
        self._lock = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="rostral-rooms", daemon=True)
        self._thread.start()

    def wait(self, writer: StreamWriter) -> asyncio.Future[None]:
        """A future of the running loop that is done once the stream has room."""
        import asyncio

        future = asyncio.get_running_loop().create_future()
        with self._lock:
            self._pending.append((writer, future))
            self._lock.notify()
        self._segment.poke(self._slot)
        return future

    def stop(self) -> None:
        """Ends the thread."""
        with self._lock:
            self._stopped = True
            self._lock.notify()
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._pending or self._stopped)
                if self._stopped:
                    return
            try:
                self._look()
            except StoreClosedError:
                return

    def _look(self) -> None:
        seen = self._segment.futex_value()
        with self._lock:
            pending, self._pending = self._pending, []
        for writer, future in pending:
            writer.announce()
            if writer.has_room():
                with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                    future.get_loop().call_soon_threadsafe(_complete, future)
            elif not future.cancelled():
                with self._lock:
                    self._pending.append((writer, future))
        if self._pending:
            self._segment.wait_poke(seen, self.INTERVAL_NS)


def _complete(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
