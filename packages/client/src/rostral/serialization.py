"""Values between processes: what the store's pickles lack, which is code and references.

Functions and classes of `__main__` and lambdas are pickled by value (cloudpickle); references
inside a value are listed, so that the store keeps what they name for as long as the value lives.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections import ChainMap
from collections.abc import Iterable
from typing import Any

import cloudpickle  # type: ignore[import-untyped]

from rostral.exceptions import NotPicklableError
from rostral.object_ref import CollectedRefs, ObjectRef
from rostral.serializers import REGISTERED
from rostral_objectstore._native.handle import Handle
from rostral_objectstore.device_target import any_store, putting_into
from rostral_objectstore.serialization import KIND_BYTES, KIND_PICKLE, OutOfBand
from rostral_objectstore.tensors import REDUCERS, find_tensors

SCALARS = frozenset({int, float, bool, str, bytes, type(None), complex})
# How far into containers the look for plain values goes: further, it costs more than cloudpickle.
PLAIN_ITEMS_MAX = 64
PLAIN_DEPTH_MAX = 3

_numpy_array: Any = None


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Knows the user's serializers, and takes the memory of torch tensors out of band."""

    dispatch_table = ChainMap(  # noqa: RUF012
        REGISTERED, REDUCERS, *cloudpickle.Pickler.dispatch_table.maps
    )


def is_plain(value: Any, depth: int = 0) -> bool:
    """Whether C pickle alone does: builtin values, arrays, references, and small containers."""
    kind = type(value)
    if kind in SCALARS or kind is ObjectRef:
        return True
    if depth < PLAIN_DEPTH_MAX:
        if (kind is list or kind is tuple) and len(value) <= PLAIN_ITEMS_MAX:
            return all(is_plain(item, depth + 1) for item in value)
        if kind is dict and len(value) <= PLAIN_ITEMS_MAX:
            return all(type(k) in SCALARS and is_plain(v, depth + 1) for k, v in value.items())
    return _is_array(value)


def _is_array(value: Any) -> bool:
    global _numpy_array
    if _numpy_array is None:
        numpy = sys.modules.get("numpy")
        if numpy is None:
            return False
        _numpy_array = numpy.ndarray
    return (
        type(value) is _numpy_array and not value.dtype.hasobject and _numpy_array not in REGISTERED
    )


def dumps(value: object, out_of_band: OutOfBand | None = None) -> bytes:
    """Pickles a value, its large buffers beside it if `out_of_band` is given.

    Arrays on a GPU stay there then: the value refers to them.

    Raises NotPicklableError, DeviceFullError.
    """
    try:
        if is_plain(value):
            return pickle.dumps(value, protocol=5, buffer_callback=out_of_band)
        with io.BytesIO() as stream:
            pickler = _Pickler(stream, protocol=5, buffer_callback=out_of_band)
            if find_tensors() and out_of_band is not None:
                with putting_into(any_store()) as out_of_band.contained:
                    pickler.dump(value)
            else:
                pickler.dump(value)
            return stream.getvalue()
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError, ValueError) as error:
        raise NotPicklableError(
            f"a value of type {type(value).__qualname__} cannot be pickled: {error}",
            hint="locks, sockets, open files and generators stay in their process: make them "
            "inside the task or actor",
            reason=str(error),
        ) from error


def first_unpicklable(values: Iterable[tuple[str, object]]) -> str | None:
    """The first of the named values that cannot be pickled, in words, to say in an error."""
    for name, value in values:
        try:
            with CollectedRefs():
                dumps(value)
        except NotPicklableError:
            return f"{name} (a {type(value).__qualname__})"
    return None


class Packed:
    """A value as the object table takes it. `refs` are the objects that it refers to."""

    __slots__ = ("buffers", "inband", "kind", "refs")

    def __init__(
        self, kind: int, inband: bytes, buffers: list[memoryview], refs: list[Handle]
    ) -> None:
        self.kind, self.inband, self.buffers, self.refs = kind, inband, buffers, refs


def pack(value: Any) -> Packed:
    """Serializes a value for the store. Raises NotPicklableError."""
    kind = type(value)
    if kind in SCALARS:
        if kind is bytes:
            return Packed(KIND_BYTES, value, [], [])
        return Packed(KIND_PICKLE, pickle.dumps(value, protocol=5), [], [])
    out_of_band = OutOfBand()
    with CollectedRefs() as refs:
        inband = dumps(value, out_of_band)
    return Packed(KIND_PICKLE, inband, out_of_band.buffers, [*refs, *out_of_band.contained])
