"""Values to bytes and back: what the `kind` of an object means.

Pickle protocol 5 with out-of-band buffers: arrays, tables and tensors are copied into the store
once, at 64-byte boundaries, and come back as views of shared memory that keep the object held.
Pickles are loaded only from the node's own segment, which only processes of the same user can
attach to.

Plain NumPy arrays need no pickle: array_form.py has how they describe themselves. How tensors are
pickled is in tensors.py, how Arrow streams are written in arrow_streams.py.
"""

from __future__ import annotations

import copyreg
import gc
import io
import pickle
from collections import ChainMap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rostral_objectstore import array_form, arrow_streams
from rostral_objectstore.device_target import putting_into
from rostral_objectstore.errors import ObjectKindError, ObjectStoreError
from rostral_objectstore.tensors import REDUCERS, find_tensors

if TYPE_CHECKING:
    from rostral_objectstore._native.handle import Handle
    from rostral_objectstore.client import StoreClient

KIND_PICKLE = 1
KIND_BYTES = 2
KIND_BUFFER = 3
KIND_ARROW = 4
KIND_ARRAY = 5
# Added to a kind: the last buffer is the object's metadata, not part of the value.
WITH_METADATA = 0x100

METADATA_BYTES_MAX = 64 << 10

# A longer pickle may make thousands of containers, none of them garbage while it is loaded: looking
# for it all the same takes half the time of a list of 10,000 references.
UNCOLLECTED_BYTES_MIN = 16 << 10

# A shorter buffer costs less inside the pickle than beside it.
OUT_OF_BAND_BYTES_MIN = 512


class Serialized(NamedTuple):
    """A value ready to be copied into the store."""

    kind: int
    inband: bytes
    buffers: list[memoryview]


class OutOfBand:
    """Collects a pickler's large buffers; called with each one, says whether it stays in band.

    Attributes:
        buffers: what it took.
        contained: holds on the objects that the value refers to.
    """

    __slots__ = ("buffers", "contained")

    def __init__(self) -> None:
        self.buffers: list[memoryview] = []
        self.contained: list[Handle] = []

    def __call__(self, buffer: pickle.PickleBuffer) -> bool:
        """False takes the buffer; True leaves it to the pickle."""
        try:
            raw = buffer.raw()
        except BufferError:
            return True  # not contiguous: pickle copies it
        if raw.nbytes < OUT_OF_BAND_BYTES_MIN:
            return True
        self.buffers.append(raw)
        return False


class _Pickler(pickle.Pickler):
    """Takes the memory of torch tensors out of band."""

    dispatch_table = ChainMap[Any, Any](REDUCERS, copyreg.dispatch_table)  # noqa: RUF012


# Nothing of torch can be inside: the plain pickler is faster to make.
_WITHOUT_TENSORS = frozenset({int, float, bool, str, type(None), complex, bytearray})


def serialize(value: object, metadata: bytes = b"") -> Serialized:
    """A value as the store keeps it, and metadata beside it; all of it is the processor's memory.

    Raises: ValueError when the metadata is too long, and what pickle raises for what cannot be
        pickled.
    """
    kind, inband, buffers, _ = serialize_into(None, value, metadata)
    return Serialized(kind, inband, buffers)


def serialize_into(
    store: StoreClient | None, value: object, metadata: bytes = b""
) -> tuple[int, bytes, list[memoryview], list[Handle]]:
    """`serialize` for one store: device arrays are put into its device tier.

    Returns kind, in-band bytes and buffers of the value, and holds on the objects it refers to.
    """
    check_metadata(metadata)
    out_of_band = OutOfBand()
    if type(value) is bytes:
        form, inband = KIND_BYTES, value
    elif (array := array_form.plain_array(value)) and array[1].nbytes >= OUT_OF_BAND_BYTES_MIN:
        form, inband = KIND_ARRAY, array[0]
        out_of_band.buffers.append(array[1])
    elif type(value) in _WITHOUT_TENSORS or not find_tensors():
        form = KIND_PICKLE
        inband = pickle.dumps(value, protocol=5, buffer_callback=out_of_band)
    else:
        form = KIND_PICKLE
        with io.BytesIO() as stream, putting_into(store) as out_of_band.contained:
            _Pickler(stream, protocol=5, buffer_callback=out_of_band).dump(value)
            inband = stream.getvalue()
    if metadata:
        form |= WITH_METADATA
        out_of_band.buffers.append(memoryview(metadata))
    return form, inband, out_of_band.buffers, out_of_band.contained


def check_metadata(metadata: bytes) -> None:
    """Raises TypeError or ValueError for what cannot be an object's metadata."""
    if type(metadata) is not bytes:
        raise TypeError(f"metadata must be bytes, not {type(metadata).__name__}")
    if len(metadata) > METADATA_BYTES_MAX:
        raise ValueError(
            f"metadata has {len(metadata)} bytes: {METADATA_BYTES_MAX} are the most; "
            "put what is larger as an object of its own"
        )


def deserialize(kind: int, inband: Any, buffers: Sequence[Any]) -> Any:
    """The value that was serialized. Buffers stay where they are: arrays are views of them."""
    if kind & WITH_METADATA:
        kind, buffers = kind & ~WITH_METADATA, buffers[:-1]
    if kind == KIND_PICKLE:
        if type(inband) is bytes and len(inband) < UNCOLLECTED_BYTES_MIN:
            return pickle.loads(inband, buffers=buffers)
        return _load_uncollected(inband, buffers)
    if kind == KIND_BYTES:
        return bytes(inband)
    if kind == KIND_BUFFER:
        return _in_place(inband, buffers)
    if kind == KIND_ARROW:
        return arrow_streams.read(_in_place(inband, buffers))
    if kind == KIND_ARRAY:
        return array_form.view(inband, buffers[0])
    raise ObjectStoreError(f"an object of kind {kind}, which this version does not know")


def _load_uncollected(inband: Any, buffers: Sequence[Any]) -> Any:
    """Loads a pickle while the cycle collector rests."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return pickle.loads(inband, buffers=buffers)
    finally:
        if was_enabled:
            gc.enable()


def raw_bytes(kind: int, inband: Any, buffers: Sequence[Any]) -> memoryview:
    """The bytes of an object that is not a pickle, in place. Raises ObjectKindError."""
    if kind & WITH_METADATA:
        kind, buffers = kind & ~WITH_METADATA, buffers[:-1]
    if kind == KIND_PICKLE:
        raise ObjectKindError(
            "the object is a pickled value, which has no single buffer",
            hint="read it with get, or write it with create, put_arrow or as bytes",
        )
    return _in_place(inband, buffers)


def metadata_of(kind: int, buffers: Sequence[Any]) -> bytes:
    """The metadata that lies beside the value; empty when there is none."""
    return bytes(buffers[-1]) if kind & WITH_METADATA else b""


def _in_place(inband: Any, buffers: Sequence[Any]) -> memoryview:
    return memoryview(buffers[0] if buffers else inband).toreadonly()
