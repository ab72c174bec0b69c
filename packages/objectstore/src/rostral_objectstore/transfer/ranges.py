"""Which bytes go out for a ticket: chunks of sealed objects, whatever carries them.

Nothing is copied: a chunk is a view of the store's memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from rostral_objectstore.errors import ChunkInvalidError, SourceUnavailableError
from rostral_objectstore.transfer.digests import Digests
from rostral_objectstore.transfer.extra import pa
from rostral_objectstore.transfer.messages import (
    CHUNK_BYTES,
    ChunkHeader,
    Ticket,
    decode_ticket,
    digest_of,
    hex_of,
)
from rostral_objectstore.transfer.outgoing import Outgoing, Streams
from rostral_objectstore.transfer.storage import Storage, StoredObject


class Ranges:
    """What there is to ask for: ranges of sealed objects, and nothing else."""

    def __init__(self, storage: Storage, streams: Streams) -> None:
        self._storage, self._streams = storage, streams
        self._digests = Digests()

    def answer(
        self, ticket: bytes, peer: str, cut: Callable[[], object]
    ) -> Iterator[tuple[ChunkHeader, Any]]:
        """The chunks of the range that the ticket asks for; `cut` ends the peer's connection.

        Raises: ChunkInvalidError, NotHolderError, ObjectNotTransferableError, SourceBusyError.
        """
        asked = decode_ticket(ticket)
        found = self._storage.read(asked.id)
        stop = _checked_stop(asked, found.facts.size)
        chunks = self._chunks(found, asked.offset, stop, self._streams.begin(peer, cut))
        # Into its try block: it ends the stream even if nobody ever takes the first chunk.
        next(chunks)
        return chunks  # type: ignore[return-value]  # the first was none

    def _chunks(
        self, found: StoredObject, offset: int, stop: int, stream: Outgoing
    ) -> Iterator[tuple[ChunkHeader, Any] | None]:
        try:
            yield None
            data = pa.py_buffer(found.data)
            for start in itertools.chain([offset], range(offset + CHUNK_BYTES, stop, CHUNK_BYTES)):
                size = min(CHUNK_BYTES, stop - start)
                chunk = data.slice(start, size)
                self._streams.send(stream, size)
                if self._streams.stopping.is_set():
                    raise SourceUnavailableError("the node is stopping")
                yield ChunkHeader(found.facts, start, self._digest(found, chunk, start)), chunk
        finally:
            self._streams.end(stream)

    def _digest(self, found: StoredObject, chunk: Any, offset: int) -> int:
        digest = self._digests.get(found.life, offset)
        if digest is None:
            digest = digest_of(chunk, offset)
            self._digests.keep(found.life, offset, digest)
        return digest


def _checked_stop(asked: Ticket, size: int) -> int:
    """Where the range ends. Nothing is assumed of the numbers: the peer chose them."""
    if asked.length == 0 and asked.offset == 0:
        return min(size, CHUNK_BYTES)
    if asked.length == 0 or asked.offset > size or asked.length > size - asked.offset:
        raise ChunkInvalidError(
            f"bytes {asked.offset} to {asked.offset + asked.length} do not lie in object "
            f"{hex_of(asked.id)} of {size} bytes"
        )
    if asked.offset % CHUNK_BYTES:
        raise ChunkInvalidError(f"offset {asked.offset} is not where a chunk begins")
    return asked.offset + asked.length
