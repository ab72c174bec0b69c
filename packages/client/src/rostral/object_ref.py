"""ObjectRef: the future of a task's result, or the name of a `put` value."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Generator
from typing import Any, Generic, TypeVar

from rostral import _context
from rostral_gcs.ids import ObjectID, TaskID
from rostral_objectstore._native.table import Handle

T_co = TypeVar("T_co", covariant=True)

_collecting = threading.local()


class ObjectRef(Handle, Generic[T_co]):
    """A future: the value may not exist yet. While any reference lives anywhere, the value is kept.

    Cheap to copy between processes, as an argument or inside any value. Equal and hashable by id.
    `await` it, `get` it, `wait` for it, or pass it on without ever looking.
    """

    __slots__ = ()

    def __class_getitem__(cls, item: object) -> Any:
        return cls

    def task_id(self) -> TaskID:
        """The task that makes the object; of a `put` object, the task that put it."""
        return ObjectID(self.binary()).task_id()

    def __reduce__(self) -> tuple[Any, ...]:
        refs: list[ObjectRef[Any]] | None = getattr(_collecting, "refs", None)
        if refs is None:
            # Pickled by the user's own hand: nobody can say how long that pickle lives, so the
            # object stays.
            _context.runtime().keep_for_good(self)
        else:
            refs.append(self)
        return rebuild_ref, (self.packed(),)

    def future(self) -> concurrent.futures.Future[T_co]:
        """A concurrent.futures.Future of the value. Cancelling it does not cancel the task."""
        return _context.runtime().future_of(self)

    def as_future(self) -> asyncio.Future[T_co]:
        """An asyncio future of the value, for the running loop."""
        return asyncio.wrap_future(self.future())

    def __await__(self) -> Generator[Any, None, T_co]:
        return self.as_future().__await__()


def rebuild_ref(packed: bytes) -> ObjectRef[Any]:
    """Takes hold of the object behind a reference that came from another process of this node."""
    return _context.runtime().adopt(ObjectRef, packed)


def is_collecting() -> bool:
    """Whether what this thread pickles now goes into a value whose references are counted."""
    return getattr(_collecting, "refs", None) is not None


class CollectedRefs:
    """Within the `with` block, the references that this thread pickles are listed in `refs`."""

    def __enter__(self) -> list[ObjectRef[Any]]:
        self._outer = getattr(_collecting, "refs", None)
        self.refs: list[ObjectRef[Any]] = []
        _collecting.refs = self.refs
        return self.refs

    def __exit__(self, *_: object) -> None:
        _collecting.refs = self._outer
