"""What the two sides of a transfer say to each other, in bytes.

A ticket asks for a range of one object; each record batch of the answer is one chunk of it and
carries a header as its metadata. Both are fixed structures: nothing here is decoded by a schema
that the peer chose, and nothing is ever unpickled. Every number is checked where it is used.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from rostral_gcs.ids import ObjectID
from rostral_objectstore.checksum import checksum
from rostral_objectstore.errors import ChunkInvalidError
from rostral_objectstore.transfer.extra import pa

CHUNK_BYTES = 1 << 20
"""Part of the protocol. Measured on loopback: at 256 KiB the work per message shows, above 2 MiB
the receiver's copy no longer finds the message in its cache."""

SCHEMA = pa.schema([pa.field("bytes", pa.uint8(), nullable=False)])

# Changes when either structure does: a peer of another version is refused with both numbers.
VERSION = 1
_TICKET = struct.Struct("<4sI20sIQQ")
_HEADER = struct.Struct("<4sI20sIIIQQQ")
_MAGIC = b"RSTX"
TICKET_BYTES = _TICKET.size
HEADER_BYTES = _HEADER.size


@dataclass(frozen=True, slots=True)
class Ticket:
    """Asks for `length` bytes from `offset` on; length 0 asks for the first chunk, however long."""

    id: bytes
    offset: int = 0
    length: int = 0

    def encode(self) -> bytes:
        """As it travels."""
        return _TICKET.pack(_MAGIC, VERSION, self.id, 0, self.offset, self.length)


@dataclass(frozen=True, slots=True)
class ObjectFacts:
    """What all holders of an object must agree about. `flags` are those of the object's record."""

    id: bytes
    kind: int
    flags: int
    size: int


@dataclass(frozen=True, slots=True)
class ChunkHeader:
    """Of which object a chunk is a part, where it lies in it, and its checksum."""

    facts: ObjectFacts
    offset: int
    digest: int

    def encode(self) -> bytes:
        """As it travels."""
        facts = self.facts
        return _HEADER.pack(
            *(_MAGIC, VERSION, facts.id, facts.kind, facts.flags, 0),
            *(facts.size, self.offset, self.digest),
        )


def _check_preamble(what: str, magic: bytes, version: int) -> None:
    if magic != _MAGIC:
        raise ChunkInvalidError(f"a {what} does not begin like one")
    if version != VERSION:
        raise ChunkInvalidError(
            f"the peer speaks version {version} of the transfer protocol, we speak {VERSION}",
            hint="run the same version of rostral-objectstore on both nodes",
        )


def decode_ticket(data: bytes) -> Ticket:
    """Raises ChunkInvalidError."""
    if len(data) != _TICKET.size:
        raise ChunkInvalidError(f"a ticket has {_TICKET.size} bytes, not {len(data)}")
    magic, version, id, reserved, offset, length = _TICKET.unpack(data)
    _check_preamble("ticket", magic, version)
    if reserved:
        raise ChunkInvalidError("a reserved field of a ticket is not zero")
    return Ticket(id, offset, length)


def decode_header(data: bytes) -> ChunkHeader:
    """Raises ChunkInvalidError."""
    if len(data) != _HEADER.size:
        raise ChunkInvalidError(f"a chunk's header has {_HEADER.size} bytes, not {len(data)}")
    magic, version, id, kind, flags, reserved, size, offset, digest = _HEADER.unpack(data)
    _check_preamble("chunk", magic, version)
    if reserved:
        raise ChunkInvalidError("a reserved field of a chunk's header is not zero")
    return ChunkHeader(ObjectFacts(id, kind, flags, size), offset, digest)


def check_place(header: ChunkHeader, ticket: Ticket, offset: int, stop: int, size: int) -> None:
    """Whether a chunk of `size` bytes is the next of an answer. Raises ChunkInvalidError."""
    if header.facts.id != ticket.id:
        raise ChunkInvalidError("a chunk of another object")
    expected = min(CHUNK_BYTES, stop - offset)
    if header.offset != offset or size != expected:
        raise ChunkInvalidError(
            f"{size} bytes at {header.offset} came instead of {expected} at {offset}"
        )


def digest_of(data: Any, offset: int) -> int:
    """The checksum of a chunk, seeded with its place: a chunk elsewhere is a wrong one."""
    return checksum(data, seed=offset)


def hex_of(id: bytes) -> str:
    """An object's id as it is written in messages to people."""
    return ObjectID(id).hex()
