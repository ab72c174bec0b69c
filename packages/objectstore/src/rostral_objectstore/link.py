"""A client's line to its store daemon, which may die and come back.

While the daemon is away the shared memory goes on working; what needs the daemon waits a little for
its return. A daemon that took the segment over takes the client back into its slot. One that made a
new segment does not: the client's is closed then, so that nobody goes on putting objects where
nobody looks for them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import weakref

from rostral_objectstore._native.segment import Segment
from rostral_objectstore.control import Body, ControlClient
from rostral_objectstore.errors import StoreRestartedError, StoreUnavailableError

logger = logging.getLogger("rostral.objectstore.link")

# A service manager restarts a daemon within half a second; longer than that a caller wants to know.
RETURN_WAIT_S = 3.0
RETRY_S = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class DaemonLink:
    """Calls to the store daemon. Thread-safe. Made by `DaemonLink.attach`."""

    def __init__(self, path: str, timeout_s: float) -> None:
        self.path = path
        self.timeout_s = timeout_s
        self._pid = os.getpid()
        self._closing = threading.Event()
        # Guards what becomes of `_control` and `_restarted`.
        self._changed = threading.Condition()
        self._restarted: StoreRestartedError | None = None
        # Weak: who forgets the segment leaves the store, and that ends us.
        self._segment: weakref.ref[Segment] | None = None
        self._place: Body = {}
        self._control = self._connect()

    def _connect(self) -> ControlClient:
        return ControlClient(self.path, timeout_s=self.timeout_s, on_close=self._lost)

    def attach(self, body: Body) -> Segment:
        """Asks for a slot and maps the segment.

        Raises: TooManyClientsError, LayoutVersionError, OutOfMemoryError, StoreUnavailableError.
        """
        answer, fds = self._control.call_with_fds("attach", body)
        if len(fds) != 1:
            for fd in fds:
                os.close(fd)
            raise StoreUnavailableError(f"the store sent {len(fds)} descriptors instead of one")
        segment = Segment.attach(fds[0], answer["slot"])
        self._segment = weakref.ref(segment)
        self._place = {"slot": segment.slot, "incarnation": segment.incarnation}
        return segment

    def call(self, method: str, body: Body, timeout_s: float | None = None) -> Body:
        """Asks the daemon; once more after its return, if it dies meanwhile.

        Raises: what the daemon did, StoreUnavailableError, StoreRestartedError.
        """
        control = self._control
        try:
            return control.call(method, body, timeout_s)
        except StoreUnavailableError:
            if not control.closed or self._closing.is_set() or self._pid != os.getpid():
                raise
            with self._changed:
                if not self._changed.wait_for(lambda: self._has_left(control), RETURN_WAIT_S):
                    raise
        if self._restarted is not None:
            raise self._restarted
        return self._control.call(method, body, timeout_s)

    def close(self) -> None:
        """Ends the conversation. Idempotent; waits for no daemon."""
        self._closing.set()
        self._tell()
        self._control.close()

    def _has_left(self, control: ControlClient) -> bool:
        """Whether there is another connection, or will be none."""
        return self._control is not control or self._restarted is not None or self._closing.is_set()

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _lost(self) -> None:
        """On the reading thread of a connection that ended: this thread brings the next one."""
        tries = 0
        while not self._closing.wait(RETRY_S[min(tries, len(RETRY_S) - 1)]):
            tries += 1
            with contextlib.suppress(StoreUnavailableError):
                if self._rejoin():
                    return

    def _rejoin(self) -> bool:
        if self._segment is None:
            return True  # never attached
        control = self._connect()
        try:
            control.call("reattach", self._place)
        except StoreRestartedError as error:
            logger.warning("the store at %s was started anew", self.path)
            self._restarted = error
            segment = self._segment()
            if segment is not None:
                segment.close()
            control.close()
        except BaseException:
            control.close()
            raise
        else:
            former, self._control = self._control, control
            former.close()
            if self._closing.is_set():
                control.close()
        self._tell()
        return True


def wait_until_served(socket_path: str, timeout_s: float) -> None:
    """Returns once a store answers at the socket. Raises StoreUnavailableError after the time."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            ControlClient(socket_path, timeout_s=timeout_s).close()
        except ConnectionError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.01)
        else:
            return
