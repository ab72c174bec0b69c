"""One call to one holder: the chunks of a range, each checked before anybody uses it.

Owns what is believed of a source: nothing that it says of the object, the place or the bytes is
taken without a check.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rostral_objectstore._native.buffer import write_past_caches
from rostral_objectstore.errors import ChunkCorruptError, ChunkInvalidError
from rostral_objectstore.transfer.extra import flight, pa
from rostral_objectstore.transfer.messages import (
    CHUNK_BYTES,
    SCHEMA,
    ChunkHeader,
    Ticket,
    check_place,
    decode_header,
    digest_of,
)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk as it came: its place and size are right, its bytes are not checked yet."""

    header: ChunkHeader
    data: Any

    def check(self) -> None:
        """Raises ChunkCorruptError if the bytes are not those of the checksum."""
        if digest_of(self.data, self.header.offset) != self.header.digest:
            raise ChunkCorruptError(
                f"the chunk at {self.header.offset} is not what its checksum was made of"
            )

    def write_to(self, target: memoryview) -> None:
        """Checks it and copies it to its place in `target`, the whole object.

        It is checked where it came, in a cache still, so that the copy can go past the caches.

        Raises: ChunkCorruptError. Releases the GIL while it checks and copies.
        """
        self.check()
        write_past_caches(target, self.header.offset, self.data)


class ChunkStream:
    """The answer to one ticket."""

    def __init__(self, connection: Any, ticket: Ticket, options: Any) -> None:
        self._ticket = ticket
        self._reader = connection.do_get(flight.Ticket(ticket.encode()), options)
        if not self._reader.schema.equals(SCHEMA):
            raise ChunkInvalidError("the columns that it sends are not those of a chunk")

    def cancel(self) -> None:
        """Ends the call, from any thread; who reads it gets an error."""
        self._reader.cancel()

    def chunks(self) -> Iterator[Chunk]:
        """All chunks that the ticket asked for, in order. Raises ChunkInvalidError."""
        offset, stop = self._ticket.offset, self._ticket.offset + self._ticket.length
        for message in self._reader:
            if message.data is None or message.app_metadata is None:
                raise ChunkInvalidError("a message without a chunk, or without its header")
            header = decode_header(message.app_metadata.to_pybytes())
            if self._ticket.length == 0:
                stop = min(header.facts.size, CHUNK_BYTES)
            check_place(header, self._ticket, offset, stop, message.data.num_rows)
            yield Chunk(header, _bytes_of(message.data))
            offset += message.data.num_rows
            if offset == stop:
                # To the end of the call, so that the connection can carry the next one.
                for _ in self._reader:
                    raise ChunkInvalidError("more came than was asked for")
                return
        raise ChunkInvalidError(f"the stream ended at {offset}, before its time")


def _bytes_of(batch: Any) -> Any:
    column = batch.column(0)
    validity, data = column.buffers()
    if column.offset or validity is not None:
        raise ChunkInvalidError("a chunk with nulls, or with an offset")
    if data is None:
        if batch.num_rows:
            raise ChunkInvalidError("a chunk without its bytes")
        return pa.py_buffer(b"")
    if data.size < batch.num_rows:
        raise ChunkInvalidError(f"{data.size} bytes came in a chunk of {batch.num_rows}")
    return data.slice(0, batch.num_rows)
