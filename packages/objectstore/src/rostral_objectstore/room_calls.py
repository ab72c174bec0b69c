"""How a client asks its store daemon for room, and for the bytes of a spilled object.

The daemon answers "not yet" after a moment, and is asked again: so a Ctrl-C is heard, and other
threads get their answers in between.
"""

from __future__ import annotations

import time
from typing import Protocol

from rostral_objectstore._native.handle import Handle
from rostral_objectstore.control import Body


class Caller(Protocol):
    """The connection to the daemon."""

    def call(self, method: str, body: Body, timeout_s: float | None = None) -> Body:
        """Asks, waits for the answer. Raises what the daemon did."""


class RoomCalls:
    """What `ObjectTable.set_daemon` wants. Both block; both raise what the daemon says."""

    def __init__(self, control: Caller) -> None:
        self._control = control

    def make_room(self, size_bytes: int) -> None:
        """Returns when it is worth to try again to put an object of this size.

        Raises: ObjectStoreFullError, OutOfDiskError, StoreUnavailableError.
        """
        began_s = time.monotonic()
        while not self._control.call(
            "make_room", {"size": size_bytes, "waited_s": time.monotonic() - began_s}
        )["room"]:
            pass

    def restore(self, handle: Handle) -> None:
        """Returns when the bytes of a spilled object are back in memory.

        Raises: ObjectCorruptError, ObjectStoreFullError, StoreUnavailableError, ObjectStoreError.
        """
        body = {"loc": handle.loc, "version": handle.version, "id": handle.binary()}
        while not self._control.call("restore", body)["restored"]:
            pass
