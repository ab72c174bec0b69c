"""Other processes' device memory that this process has open, and work that ends its use.

CUDA lets a process open a handle once: so all attachments of this process to one device's daemon
share the opening, and it is closed with the last of them and the last array that lies there. The
daemon frees its memory only when nobody has an array there and nobody is attached, so it is closed
before.

What ends the use of memory may have to wait for a device, and is begun by finalizers, which must
not wait nor lock: a thread of its own does it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from rostral_objectstore.errors import DeviceError
from rostral_objectstore.gpu.backend import Backend, DeviceMemory, Event, Framework

Key = tuple[str, bytes]


@dataclass(slots=True)
class _Opening:
    """Invariant: `users` is how many `OpenMemory` there are of it, those that end included."""

    memory: DeviceMemory
    users: int = 0


class OpenMemory:
    """A share in this process's one opening of a handle.

    Raises: DeviceError: the process that exported it is dead, has freed it, or is this one.
    """

    __slots__ = ("_key", "_opening", "pointer")

    def __init__(self, backend: Backend, device: int, handle: bytes, size_bytes: int) -> None:
        key = backend.identity(device), handle
        with _lock:
            opening = _openings.get(key)
            if opening is None:
                opening = _openings[key] = _Opening(backend.open(device, handle, size_bytes))
            opening.users += 1
        self._key, self._opening, self.pointer = key, opening, opening.memory.pointer
        _start()

    def __del__(self) -> None:
        if hasattr(self, "_key"):
            _ended.put(partial(_give_back, self._key, self._opening))


def end_reading(
    backend: Backend, device: int, framework: Framework, here: Event | None, *kept: object
) -> None:
    """Has `kept` live until the work is done that the process has given to the device by now.

    Args:
        backend: whose device.
        device: its number.
        framework: whose work.
        here: what the calling thread's own streams have come to.
        *kept: what that work may still read.
    """
    _ended.put(partial(_wait, backend, device, framework, here, *kept))


def _wait(
    backend: Backend, device: int, framework: Framework, here: Event | None, *_kept: object
) -> None:
    with contextlib.suppress(DeviceError):  # a device that fails reads nothing any more
        if here is not None:
            here.synchronize()
        backend.fence(device, framework).synchronize()


def _give_back(key: Key, opening: _Opening) -> None:
    with _lock:
        if _openings.get(key) is not opening:
            return  # it is of the process that this one was forked from
        opening.users -= 1
        if opening.users == 0:
            del _openings[key]
            opening.memory.close()


_lock = threading.Lock()
_openings: dict[Key, _Opening] = {}
_ended: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
_thread: threading.Thread | None = None


def _start() -> None:
    global _thread
    with _lock:
        if _thread is None:
            _thread = threading.Thread(target=_end, name="rostral-device", daemon=True)
            _thread.start()


def _end() -> None:
    while True:
        work = _ended.get()
        work()
        del work


def _forget_in_child() -> None:
    # A child has nothing of its parent's device, and no thread that ends its use.
    global _lock, _ended, _thread
    _lock, _ended, _thread = threading.Lock(), queue.SimpleQueue(), None
    _openings.clear()


os.register_at_fork(after_in_child=_forget_in_child)
