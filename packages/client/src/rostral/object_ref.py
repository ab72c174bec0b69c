"""ObjectRef: the future of a task's result, or the name of a `put` value."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from rostral import _context, callbacks
from rostral.exceptions import OutOfBandReferenceError
from rostral_gcs.ids import JobID, ObjectID, TaskID
from rostral_objectstore._native.handle import Handle, name_object
from rostral_objectstore._native.references import rebuild_ref, set_reference_class

if TYPE_CHECKING:
    import asyncio
    import concurrent.futures

T_co = TypeVar("T_co", covariant=True)

_collecting = threading.local()


class _ByName(type):
    """Makes `ObjectRef(id)` a look-up; what makes references all the time does not come here."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return named(*args, **kwargs)


class ObjectRef(Handle, Generic[T_co], metaclass=_ByName):
    """A future: the value may not exist yet. While any reference lives anywhere, the value is kept.

    Cheap to copy between processes, as an argument or inside any value. Equal and hashable by id.
    `await` it, `get` it, `wait` for it, or pass it on without ever looking.
    """

    __slots__ = ()

    def __init__(self, id: bytes) -> None:
        """A reference by its id: of the object if this node has it, else one that is only a name.

        Raises: TypeError; ValueError for another length than 20 bytes.
        """

    def __class_getitem__(cls, item: object) -> Any:
        return cls

    @classmethod
    def nil(cls) -> Self:
        """The reference that stands for none."""
        ref: Self = name_object(cls, bytes(ObjectID.SIZE))
        return ref

    @classmethod
    def from_random(cls) -> Self:
        """A reference that names no object, and will not."""
        ref: Self = name_object(cls, os.urandom(ObjectID.SIZE))
        return ref

    @classmethod
    def size(cls) -> int:
        """How many bytes an id has."""
        return ObjectID.SIZE

    def is_nil(self) -> bool:
        """Whether it stands for none."""
        return ObjectID(self.binary()).is_nil()

    def task_id(self) -> TaskID:
        """The task that makes the object; of a `put` object, the task that put it."""
        return ObjectID(self.binary()).task_id()

    def job_id(self) -> JobID:
        """The job that this process works for."""
        return JobID(_context.runtime().job_id)

    def owner_address(self) -> str:
        """Empty: an object here needs no owner."""
        return ""

    def call_site(self) -> str:
        """Empty: an object does not remember the line of code that made it."""
        return ""

    def __reduce__(self) -> tuple[Any, ...]:
        refs: list[ObjectRef[Any]] | None = getattr(_collecting, "refs", None)
        if refs is None:
            check_out_of_band(self)
            # Pickled by the user's own hand: nobody can say how long that pickle lives, so the
            # object stays.
            _context.runtime().keep_for_good(self)
        else:
            refs.append(self)
        return rebuild_ref, (self.packed(),)

    def _on_completed(self, callback: Callable[[Any], object]) -> Self:
        """Calls back, in another thread, with the value, or with the exception `get` would raise.

        Returns the reference itself.
        """
        callbacks.call_with_value(_context.runtime(), self, callback)
        return self

    def _on_ready(self, callback: Callable[[], object]) -> Self:
        """Calls back, in another thread, once the value is there, without fetching it.

        Returns the reference itself.
        """
        callbacks.call_when_ready(_context.runtime(), self, callback)
        return self

    def future(self) -> concurrent.futures.Future[T_co]:
        """A concurrent.futures.Future of the value. Cancelling it does not cancel the task."""
        return _context.runtime().future_of(self)

    def as_future(self) -> asyncio.Future[T_co]:
        """An asyncio future of the value, for the running loop."""
        import asyncio

        return asyncio.wrap_future(self.future())

    def __await__(self) -> Generator[Any, None, T_co]:
        return self.as_future().__await__()


def named(id: bytes) -> ObjectRef[Any]:
    """What `ObjectRef(id)` gives."""
    name = ObjectID(id)
    current = _context.current_runtime()
    found = None if current is None or name.is_nil() else current.find(id)
    return found if found is not None else name_object(ObjectRef, id)


def check_out_of_band(ref: ObjectRef[Any]) -> None:
    """Raises OutOfBandReferenceError where the environment forbids pickling references by hand."""
    if "0" in (
        os.environ.get("ROSTRAL_ALLOW_OUT_OF_BAND_REFERENCES"),
        os.environ.get("RAY_allow_out_of_band_object_ref_serialization"),  # noqa: SIM112 - Ray's
    ):
        raise OutOfBandReferenceError(
            f"{ref!r} was pickled by hand, or captured by a function",
            hint="pass it as an argument, or put it into a value that is passed or put; or unset "
            "ROSTRAL_ALLOW_OUT_OF_BAND_REFERENCES, and the object stays until this process ends",
        )


def _rebuild_unconnected(packed: bytes) -> ObjectRef[Any]:
    """`rebuild_ref` in a process that has no runtime yet."""
    return _context.runtime().adopt(ObjectRef, packed)


def is_collecting() -> bool:
    """Whether what this thread pickles now goes into a value whose references are counted."""
    return getattr(_collecting, "refs", None) is not None


set_reference_class(ObjectRef, _rebuild_unconnected)
# Pickles name it by this module: who loads one imports what it takes.
rebuild_ref.__module__ = __name__


class CollectedRefs:
    """Within the `with` block, the references that this thread pickles are listed in `refs`."""

    def __enter__(self) -> list[ObjectRef[Any]]:
        self._outer = getattr(_collecting, "refs", None)
        self.refs: list[ObjectRef[Any]] = []
        _collecting.refs = self.refs
        return self.refs

    def __exit__(self, *_: object) -> None:
        _collecting.refs = self._outer
