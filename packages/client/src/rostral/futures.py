"""Futures of values, and callbacks: one thread that sees to them as their objects are sealed."""

from __future__ import annotations

import functools
import itertools
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rostral.exceptions import RostralError
from rostral.object_ref import ObjectRef

if TYPE_CHECKING:
    import concurrent.futures

    from rostral.runtime import Runtime

logger = logging.getLogger("rostral.futures")

# Called when the object is sealed, with None; or when it never will be, with the reason; or when
# nobody waits any more, with the reason for that.
OnSealed = Callable[[RostralError | None], None]


class FutureWaiter:
    """One thread that completes futures, and calls back, as their objects are sealed."""

    # Between two looks at what was added meanwhile, should the poke that tells of it be lost.
    INTERVAL_S = 0.1

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._pending: dict[int, tuple[list[ObjectRef[Any]], OnSealed]] = {}
        self._numbers = itertools.count()
        self._lock = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="rostral-futures", daemon=True)
        self._thread.start()

    def add(self, ref: ObjectRef[Any]) -> concurrent.futures.Future[Any]:
        """A future that this thread will complete."""
        import concurrent.futures

        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self.watch(ref, functools.partial(self._complete, ref, future))
        return future

    def when_any(self, refs: list[ObjectRef[Any]]) -> concurrent.futures.Future[None]:
        """A future that is None once one of the objects is sealed; its value is not looked at."""
        import concurrent.futures

        future: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._watch(refs, functools.partial(_settle, future))
        return future

    def watch(self, ref: ObjectRef[Any], on_sealed: OnSealed) -> None:
        """Calls back, in this thread, once the object is sealed."""
        self._watch([ref], on_sealed)

    def _watch(self, refs: list[ObjectRef[Any]], on_sealed: OnSealed) -> None:
        with self._lock:
            self._pending[next(self._numbers)] = refs, on_sealed
            self._lock.notify()
        self._runtime.store.segment.poke(self._runtime.store.slot)

    def stop(self) -> None:
        """Ends the thread; open futures are cancelled, callbacks told that the cluster is gone."""
        with self._lock:
            self._stopped = True
            self._lock.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=5.0)
        for _, on_sealed in self._pending.values():
            self._call(on_sealed, self._runtime.gone())

    def _run(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._pending or self._stopped)
                if self._stopped:
                    return
            # In a call of its own, so that an idle thread keeps no reference, and thus no object.
            self._complete_sealed()

    def _complete_sealed(self) -> None:
        with self._lock:
            waited = {number: refs for number, (refs, _) in self._pending.items()}
        failure: RostralError | None = None
        done = list(waited)
        try:
            flat = list(itertools.chain.from_iterable(waited.values()))
            self._runtime.wait_sealed(flat, 1, self.INTERVAL_S)
            is_sealed = self._runtime.table.is_sealed
            done = [number for number, refs in waited.items() if any(map(is_sealed, refs))]
        except RostralError as error:
            failure = error  # The cluster is gone: nothing of this will ever be sealed.
        self._runtime.recovery.ahead = [ref for number in done for ref in waited[number]]
        for number in done:
            with self._lock:
                _, on_sealed = self._pending.pop(number)
            self._call(on_sealed, failure)
        self._runtime.recovery.ahead = ()

    @staticmethod
    def _call(on_sealed: OnSealed, failure: RostralError | None) -> None:
        try:
            on_sealed(failure)
        except Exception:  # a user's callback; those of others must be called all the same
            logger.exception("a callback of a reference raised")

    def _complete(
        self,
        ref: ObjectRef[Any],
        future: concurrent.futures.Future[Any],
        failure: RostralError | None,
    ) -> None:
        if self._stopped:
            future.cancel()
        if not future.set_running_or_notify_cancel():
            return
        try:
            if failure is not None:
                raise failure
            future.set_result(self._runtime.get([ref], None)[0])
        except BaseException as error:
            future.set_exception(error)


def _settle(future: concurrent.futures.Future[None], failure: RostralError | None) -> None:
    if not future.set_running_or_notify_cancel():
        return
    if failure is None:
        future.set_result(None)
    else:
        future.set_exception(failure)
