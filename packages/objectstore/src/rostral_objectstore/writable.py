"""Objects that are written in place: a buffer or an array inside the store, then sealed.

Owns what the writer has in hand until then. Making room and publishing are the table's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rostral_objectstore._native.buffer import ObjectBuffer
from rostral_objectstore._native.table import ObjectTable
from rostral_objectstore.handle import ObjectHandle

if TYPE_CHECKING:
    from numpy.typing import NDArray


class WritableObject:
    """An object being written in place: fill `buffer`, then `seal`.

    Leaving the `with` block unsealed aborts it.
    """

    def __init__(
        self,
        table: ObjectTable,
        handle: ObjectHandle,
        buffer: ObjectBuffer,
        pin: Callable[[ObjectHandle], None],
    ) -> None:
        self._table, self._handle, self._pin = table, handle, pin
        self._view = memoryview(buffer)
        self._open = True

    @property
    def buffer(self) -> memoryview:
        """The bytes inside the store, writable until `seal` or `abort`, and gone then."""
        return self._view

    def seal(self, *, pin: bool = False) -> ObjectHandle:
        """Publishes the object, with no copy. Returns the hold on it.

        `buffer` cannot be used any more. Views of it that were made before, an array from
        `numpy.frombuffer` for instance, still show the object, and nothing may be written to them:
        the store cannot keep its writer from that, and others read it by now.

        Args:
            pin: the store itself keeps the object, see `StoreClient.pin`.

        Raises: ObjectStateError when it was sealed or aborted before.
        """
        self._table.seal(self._handle)
        self._end()
        if pin:
            self._pin(self._handle)
        return self._handle

    def abort(self) -> None:
        """Gives the object up. Raises ObjectStateError when it was sealed or aborted before."""
        self._table.abort(self._handle)
        self._end()

    def _end(self) -> None:
        self._open = False
        with contextlib.suppress(BufferError):  # something was made of it, and shows it still
            self._view.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._open:
            self.abort()


class WritableArray(WritableObject):
    """An array being written in place: fill `array`, then `seal`, which makes it read-only.

    Leaving the `with` block unsealed aborts it.
    """

    array: NDArray[Any]
    """Lies in the store. Not initialised: what it shows at first is what was there before."""

    def _end(self) -> None:
        # The very array that we handed out; slices that were made of it are not reached.
        self.array.flags.writeable = False
        super()._end()
