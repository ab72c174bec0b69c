"""Where the device arrays of a value go while it is pickled, and come back to while it is loaded.

Reducers and loaders are called by pickle, which has no arguments of ours: so this is per thread.
Light, since everybody imports it: the device tier itself is imported when there is an array for it.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rostral_objectstore._native.handle import Handle
    from rostral_objectstore.client import StoreClient


class _Finishing(Protocol):
    def synchronize(self) -> None: ...


class Putting:
    """One value on its way into a store.

    Attributes:
        store: to put its device arrays into.
        contained: holds on the host objects of these arrays, for the value to refer to.
        copies: what must be done before the value may be read.
        sources: what must live until then.
    """

    __slots__ = ("contained", "copies", "sources", "store")

    def __init__(self, store: StoreClient) -> None:
        self.store = store
        self.contained: list[Handle] = []
        self.copies: list[_Finishing] = []
        self.sources: list[object] = []


class _Target(threading.local):
    putting: Putting | None = None
    device: str | None = None


target = _Target()

# This process's attachments to stores, the latest last, for values that name theirs by its
# incarnation. Nearly always there is one.
_attached: list[weakref.ref[StoreClient]] = []


@contextlib.contextmanager
def putting_into(store: StoreClient | None) -> Iterator[list[Handle]]:
    """Device arrays that are pickled inside go to the store's device tier.

    Gives the holds on them, all bytes being there when the block is left. Without a store, they are
    pickled in their library's own way, which is by a copy in the processor's memory.
    """
    former = target.putting
    target.putting = None if store is None else Putting(store)
    try:
        yield [] if target.putting is None else target.putting.contained
    finally:
        putting, target.putting = target.putting, former
        if putting is not None:
            # Also if something went wrong: room is given back only once nobody writes to it.
            for copy in putting.copies:
                copy.synchronize()


@contextlib.contextmanager
def loading_to(device: str | None) -> Iterator[None]:
    """Device arrays that are loaded inside come back there: `cpu`, `cuda:N`; None: as they were."""
    former, target.device = target.device, device
    try:
        yield
    finally:
        target.device = former


def attached(store: StoreClient) -> None:
    """Has `store_of` and `any_store` find it, as long as it is open."""
    _attached[:] = [known for known in _attached if known() is not None]
    _attached.append(weakref.ref(store))


def store_of(incarnation: bytes) -> StoreClient | None:
    """This process's latest attachment to that store; None: it has none."""
    for known in reversed(_attached):
        store = known()
        if store is None or store.segment.closed:
            continue
        if store.segment.incarnation == incarnation:
            return store
    return None


def any_store() -> StoreClient | None:
    """The latest attachment of this process; None: it has none."""
    for known in reversed(_attached):
        store = known()
        if store is not None and not store.segment.closed:
            return store
    return None
