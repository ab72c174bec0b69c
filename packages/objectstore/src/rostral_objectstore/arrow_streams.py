"""Arrow tables as IPC streams: sized first, then written straight into the store.

What lies in the store is the stream and nothing else, so that whoever has Arrow, in any language,
can read the object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from rostral_objectstore.errors import ObjectKindError

if TYPE_CHECKING:
    import pyarrow as pa


class ArrowData(Protocol):
    """What gives its columns away through Arrow's C interface: tables, batches, readers, frames."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """A capsule with a stream of batches."""


def as_table(data: ArrowData) -> pa.Table:
    """A table, record batch, or reader of batches as something that can be written twice.

    A reader is read to its end. No column is copied. Raises ObjectKindError for what is none.
    """
    import pyarrow as pa

    if isinstance(data, pa.Table | pa.RecordBatch):
        return data
    if hasattr(data, "__arrow_c_stream__"):  # readers, and frames of other libraries
        return pa.RecordBatchReader.from_stream(data).read_all()
    raise ObjectKindError(
        f"put_arrow cannot store a value of type {type(data).__qualname__}",
        hint="give it an Arrow table, record batch, or record batch reader, or use put",
    )


def size_bytes(table: pa.Table) -> int:
    """How long the table's stream is. Nothing is copied to find out."""
    import pyarrow as pa

    sink = pa.MockOutputStream()
    _write(table, sink)
    size: int = sink.size()
    return size


def write_into(table: pa.Table, buffer: Any) -> None:
    """Writes the table's stream into a writable buffer of exactly its size: the only copy."""
    import pyarrow as pa

    with pa.FixedSizeBufferWriter(pa.py_buffer(buffer)) as sink:
        _write(table, sink)


def _write(table: pa.Table, sink: Any) -> None:
    import pyarrow as pa

    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write(table)


def read(stream: memoryview) -> pa.Table:
    """The table, in place: its columns keep the stream alive."""
    import pyarrow as pa

    with pa.ipc.open_stream(pa.py_buffer(stream)) as reader:
        return reader.read_all()
