"""Values to bytes and back: what the `kind` of an object means.

Pickle protocol 5 with out-of-band buffers: arrays, tables and tensors are copied into the store
once, at 64-byte boundaries, and come back as read-only views of shared memory that keep the object
held. Pickles are loaded only from the node's own segment, which only processes of the same user can
attach to.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any, NamedTuple

from rostral_objectstore.errors import ObjectStoreError

KIND_PICKLE = 1
KIND_BYTES = 2
KIND_BUFFER = 3
KIND_ARROW = 4

# A shorter buffer costs less inside the pickle than beside it.
OUT_OF_BAND_BYTES_MIN = 512


class Serialized(NamedTuple):
    """A value ready to be copied into the store."""

    kind: int
    inband: bytes
    buffers: list[memoryview]


class OutOfBand:
    """Collects a pickler's large buffers; called with each one, says whether it stays in band."""

    __slots__ = ("buffers",)

    def __init__(self) -> None:
        self.buffers: list[memoryview] = []

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


def serialize(value: object) -> Serialized:
    """A value as the store keeps it. Raises what pickle raises for what cannot be pickled."""
    if type(value) is bytes:
        return Serialized(KIND_BYTES, value, [])
    out_of_band = OutOfBand()
    inband = pickle.dumps(value, protocol=5, buffer_callback=out_of_band)
    return Serialized(KIND_PICKLE, inband, out_of_band.buffers)


def deserialize(kind: int, inband: Any, buffers: Sequence[Any]) -> Any:
    """The value that was serialized. Buffers stay where they are: arrays are views of them."""
    if kind == KIND_PICKLE:
        return pickle.loads(inband, buffers=buffers)
    if kind == KIND_BYTES:
        return bytes(inband)
    if kind == KIND_BUFFER:
        return memoryview(inband).toreadonly()
    if kind == KIND_ARROW:
        return _read_arrow(inband)
    raise ObjectStoreError(f"an object of kind {kind}, which this version does not know")


def serialize_arrow(table: Any) -> bytes:
    """An Arrow table or record batch as an IPC stream, for readers in any language."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write(table)
    stream: bytes = sink.getvalue().to_pybytes()
    return stream


def _read_arrow(inband: Any) -> Any:
    import pyarrow as pa

    with pa.ipc.open_stream(pa.py_buffer(inband)) as reader:
        return reader.read_all()
