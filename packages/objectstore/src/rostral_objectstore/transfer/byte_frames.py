"""What goes over a byte stream: the key that opens it, tickets one way, chunks the other.

    asker                                           holder
      | ---- key ------------------------------------> |   once, the first bytes of the connection
      | ---- ticket ---------------------------------> |
      | <--- header, bytes, header, bytes ... -------- |   as many as the range has chunks
      |  or  <--- ... refusal, text ------------------ |   in place of a header; ends the answer
      | ---- ticket ---------------------------------> |   and so on

Tickets and headers are those of messages.py; a refusal is as long as a header, so that a reader
knows how many bytes to wait for. Pure: no sockets.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from rostral_gcs.errors import RostralError
from rostral_objectstore.errors import ChunkInvalidError
from rostral_objectstore.transfer.messages import HEADER_BYTES, VERSION
from rostral_objectstore.transfer.wire_errors import TEXT_MAX, code_of, error_of

KEY_BYTES = 32
DOOR_ACTION = "rostral.bytes"
"""The Flight action that tells whoever has shown the token where the byte streams are."""

_DOOR = struct.Struct("<4sIHH32s")
_KEY = struct.Struct("<4sI32s")
_REFUSAL = struct.Struct(f"<4sI20sI{HEADER_BYTES - 32}x")
_DOOR_MAGIC, _KEY_MAGIC, _REFUSAL_MAGIC = b"RSTD", b"RSTK", b"RSTE"
HELLO_BYTES = _KEY.size


@dataclass(frozen=True, slots=True)
class Door:
    """Where a holder's byte streams are, and the key to them; both change with its every life."""

    port: int
    key: bytes = field(repr=False)

    def encode(self) -> bytes:
        """As the answer to the action."""
        return _DOOR.pack(_DOOR_MAGIC, VERSION, self.port, 0, self.key)

    def hello(self) -> bytes:
        """What a connection begins with."""
        return _KEY.pack(_KEY_MAGIC, VERSION, self.key)


def decode_door(data: bytes) -> Door:
    """Raises ChunkInvalidError."""
    if len(data) != _DOOR.size:
        raise ChunkInvalidError(f"a door has {_DOOR.size} bytes, not {len(data)}")
    magic, version, port, _, key = _DOOR.unpack(data)
    if (magic, version) != (_DOOR_MAGIC, VERSION) or port == 0:
        raise ChunkInvalidError("what should tell where the byte streams are does not")
    return Door(port, key)


def key_of(hello: bytes) -> bytes | None:
    """The key that a connection shows; None if it does not begin like one of ours."""
    magic, version, key = _KEY.unpack(hello)
    return key if (magic, version) == (_KEY_MAGIC, VERSION) else None


def encode_refusal(error: RostralError) -> bytes:
    """In place of a header, with its text."""
    text = error.message.encode()[:TEXT_MAX]
    return _REFUSAL.pack(_REFUSAL_MAGIC, VERSION, code_of(error), len(text)) + text


def refused_text_bytes(header: bytes | memoryview) -> int | None:
    """How long the text is that follows a refusal; None if this is none."""
    if header[:4] != _REFUSAL_MAGIC:
        return None
    return min(int(_REFUSAL.unpack(header)[3]), TEXT_MAX)


def decode_refusal(header: bytes, text: bytes) -> RostralError:
    """The error that a holder has answered with, of the closed list of wire_errors.py."""
    code: bytes = _REFUSAL.unpack(header)[2]
    return error_of(code.rstrip(b"\0"), text.decode(errors="replace"))
