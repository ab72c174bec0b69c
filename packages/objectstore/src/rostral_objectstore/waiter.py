"""Waiting for objects in asyncio: one thread per client waits for all of its coroutines.

Owns that thread. It is started by the first coroutine that has to wait, sleeps in the object table
while some coroutine waits, and on a condition while none does. A sleep in the table ends when one
of the objects is sealed; so that it also ends when a further coroutine comes, or the client is
closed, it always waits for one object more, the bell, which nobody else knows: sealing it rings.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rostral_objectstore._native.table import Handle, ObjectTable
from rostral_objectstore.errors import ObjectStoreError, StoreClosedError
from rostral_objectstore.handle import ObjectHandle

if TYPE_CHECKING:
    import asyncio

KIND_BELL = 2
# How long the thread stays when nobody waits.
IDLE_S = 1.0


class _Wait:
    """One coroutine, and the objects that it still waits for."""

    __slots__ = ("future", "handles", "loop")

    def __init__(self, handles: Sequence[ObjectHandle]) -> None:
        import asyncio  # not at the top: most clients never wait in a coroutine

        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()
        self.handles: set[Handle] = set(handles)

    def end(self, error: ObjectStoreError | None) -> None:
        """From the thread: lets the coroutine go on, if its loop still runs."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._settle, error)

    def _settle(self, error: ObjectStoreError | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(error)


class Waiter:
    """Waits for objects on behalf of coroutines, in whatever event loops. Thread-safe."""

    def __init__(self, table: ObjectTable) -> None:
        self._table = table
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._waits: dict[Handle, set[_Wait]] = {}
        self._bell: Handle | None = None
        self._closed = False

    async def wait(self, handles: Sequence[ObjectHandle]) -> None:
        """Returns once all of the objects are sealed. Raises StoreClosedError."""
        wait = _Wait(handles)
        self._add(wait)
        try:
            await wait.future
        finally:
            self._remove(wait)

    def close(self) -> None:
        """Ends every wait and the thread. Idempotent."""
        with self._condition:
            self._closed = True
            self._ring()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _add(self, wait: _Wait) -> None:
        with self._condition:
            if self._closed:
                raise _closed()
            for handle in wait.handles:
                self._waits.setdefault(handle, set()).add(wait)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="rostral-waiter", daemon=True
                )
                self._thread.start()
            self._ring()

    def _remove(self, wait: _Wait) -> None:
        with self._condition:
            if not wait.handles:
                return
            for handle in wait.handles:
                waits = self._waits.get(handle)
                if waits is not None:
                    waits.discard(wait)
                    if not waits:
                        del self._waits[handle]
            self._ring()  # the thread has the handles in hand, and with them a hold

    def _ring(self) -> None:
        """The thread looks again. Called with the condition's lock."""
        self._condition.notify()
        bell, self._bell = self._bell, None
        if bell is not None:
            with contextlib.suppress(StoreClosedError):
                self._table.fill(bell, KIND_BELL, b"", [], [])

    def _run(self) -> None:
        try:
            while self._round():
                pass
        except ObjectStoreError as error:
            self._fail(error)

    def _fail(self, error: ObjectStoreError) -> None:
        with self._condition:
            self._thread, self._bell = None, None
            waits = {wait for waits in self._waits.values() for wait in waits}
            self._waits.clear()
        for wait in waits:
            wait.end(error)

    def _round(self) -> bool:
        """Waits once. False: nobody has been waiting for a while, and the thread is forgotten.

        What it holds while it waits, it lets go when it returns.
        """
        with self._condition:
            if not self._waits and not self._closed:
                self._condition.wait(IDLE_S)
            if self._closed:
                raise _closed()
            if not self._waits:
                self._thread = None  # who comes now starts another
                return False
            bell = self._bell = self._table.expect(Handle, os.urandom(20))
            handles = [*self._waits]
        self._table.wait([bell, *handles], 1, -1)
        with self._condition:
            # Some may have been given up meanwhile.
            for sealed in self._table.split(handles, len(handles))[0]:
                for wait in self._waits.pop(sealed, ()):
                    wait.handles.discard(sealed)
                    if not wait.handles:
                        wait.end(None)
        return True


def _closed() -> StoreClosedError:
    return StoreClosedError("the store was closed during the wait")
