"""Frames: how a call, its answer and a stream look on a socket. Pure: no sockets, no clock.

A connection belongs to one service. It begins with a greeting, until the end of which no body is
taken in that is longer than ``GREETING_SIZE_MAX``. The token itself does not travel: each side
proves that it knows it, so that who listens at a port that was ours learns nothing::

    caller                                        service
      | -- HELLO  version, nonce, service ---------> |
      | <--------------------- CHALLENGE  nonce ---- |     or ERROR with id 0, and the end
      | -- PROOF  mac of both nonces --------------> |
      | <------------- WELCOME  size_max, its mac -- |     or ERROR with id 0, and the end
      | -- CALL   id, method, body ----------------> |     any number at a time, in any order
      | <-------------------------- REPLY  id, body -|     or ERROR  id, body
      | -- CALL   id, method, body ----------------> |
      | <--------------------------- ITEM  id, body -|     of a stream: any number of them,
      | <--------------------------- END   id -------|     then END, or ERROR
      | -- CANCEL id ------------------------------> |     the caller wants no more of it
      | -- PING -----------------------------------> |     at any time
      | <------------------------------------ PONG --|

A frame is a head of 12 bytes, little endian (size of the body u32, kind u8, zero u8, method u16, id
u32), and the body. Ids are the caller's choice and name a call until it has ended. What the bodies
of CALL, REPLY and ITEM hold is the service's; that of ERROR is an ``ErrorDetail`` (error_wire.py),
and those of the greeting are in this file.
"""

from __future__ import annotations

import enum
import hmac
import struct
from typing import Final, NamedTuple

from rostral_gcs.errors import (
    GcsError,
    InvalidArgumentError,
    TooLargeError,
    UnauthenticatedError,
    VersionMismatchError,
)

__all__ = [
    "GREETING_SIZE_MAX",
    "HEAD_SIZE",
    "NONCE_SIZE",
    "VERSION",
    "Frame",
    "FrameReader",
    "Kind",
    "Role",
    "decode_hello",
    "decode_welcome",
    "encode",
    "encode_hello",
    "encode_welcome",
    "prove",
    "wrong_token",
]

VERSION: Final = 1
"""Rises with every change that an older side would misunderstand."""

GREETING_SIZE_MAX: Final = 2048
"""Bytes of a body before the greeting is done: a nonce and a name, or an error's text."""

_HEAD: Final = struct.Struct("<IBBHI")
HEAD_SIZE: Final = _HEAD.size
NONCE_SIZE: Final = 32
PROOF_SIZE: Final = 32
_HELLO: Final = struct.Struct(f"<4sH{NONCE_SIZE}s")
_WELCOME: Final = struct.Struct("<4sHI")
_HELLO_MAGIC: Final = b"RSTF"
_WELCOME_MAGIC: Final = b"RSTW"


class Kind(enum.IntEnum):
    """What a frame is."""

    HELLO = 1
    CHALLENGE = 2
    PROOF = 3
    WELCOME = 4
    CALL = 5
    REPLY = 6
    ITEM = 7
    END = 8
    ERROR = 9
    CANCEL = 10
    PING = 11
    PONG = 12


class Role(enum.Enum):
    """Who proves that it knows the token."""

    CALLER = "caller"
    SERVICE = "service"


_KINDS: Final = {int(kind): kind for kind in Kind}


class Frame(NamedTuple):
    """One frame as it came."""

    kind: Kind
    method: int
    id: int
    body: bytes


def encode(kind: Kind, *, id: int = 0, method: int = 0, body: bytes = b"") -> bytes:
    """A frame as it travels."""
    return _HEAD.pack(len(body), kind, 0, method, id) + body


class FrameReader:
    """Cuts a stream of bytes into frames.

    Args:
        size_max: Longest body in bytes. May be set anew at any time.
    """

    def __init__(self, size_max: int) -> None:
        self.size_max = size_max
        self._rest = bytearray()
        self._needed = HEAD_SIZE

    @property
    def is_within_frame(self) -> bool:
        """Whether the last bytes were part of a frame that is not complete."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete with these bytes.

        Raises:
            TooLargeError: A body is longer than ``size_max``; nothing of it was kept.
            InvalidArgumentError: This is no frame.
        """
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return []
            data = bytes(self._rest)
            self._rest.clear()
        frames: list[Frame] = []
        at, end = 0, len(data)
        self._needed = HEAD_SIZE
        while end - at >= HEAD_SIZE:
            size, number, zero, method, id = _HEAD.unpack_from(data, at)
            kind = _KINDS.get(number)
            if kind is None or zero:
                raise InvalidArgumentError(
                    f"what came is no frame: it begins with {data[at : at + 4].hex()}",
                    hint="check that the caller speaks this protocol, and TLS if the service does",
                )
            if size > self.size_max:
                raise TooLargeError(
                    f"a frame of {size} bytes; the limit is {self.size_max}",
                    hint="send or ask for less in one call",
                    limit_bytes=self.size_max,
                )
            stop = at + HEAD_SIZE + size
            if stop > end:
                self._needed = HEAD_SIZE + size
                break
            frames.append(Frame(kind, method, id, data[at + HEAD_SIZE : stop]))
            at = stop
        if at < end:
            self._rest += data[at:] if at else data
        return frames


def encode_hello(service: str, nonce: bytes) -> bytes:
    """The body of HELLO; the nonce has ``NONCE_SIZE`` bytes, random ones."""
    return _HELLO.pack(_HELLO_MAGIC, VERSION, nonce) + service.encode()


def decode_hello(body: bytes, service: str) -> bytes:
    """The caller's nonce.

    Raises:
        InvalidArgumentError: This is no greeting, or one for another service.
        VersionMismatchError: The caller speaks another version.
    """
    if len(body) < _HELLO.size or body[:4] != _HELLO_MAGIC:
        raise InvalidArgumentError(
            "a connection must begin with a greeting", hint="connect with this version's client"
        )
    _, version, nonce = _HELLO.unpack_from(body)
    _check_version(version)
    wanted = body[_HELLO.size :]
    if wanted != service.encode():
        raise InvalidArgumentError(
            f"this is {service}, the caller wants {wanted.decode(errors='replace')[:80]!r}",
            hint="check the address",
        )
    return bytes(nonce)


def prove(token: str, role: Role, service: str, caller: bytes, answerer: bytes) -> bytes:
    """What shows that a side knows the token.

    Args:
        token: The secret.
        role: Whose proof it is: one is no good in the place of the other.
        service: Its name: nor is one for another service.
        caller: The caller's nonce.
        answerer: The service's nonce.
    """
    text = b"\0".join((b"rostral frames", role.value.encode(), service.encode()))
    return hmac.digest(token.encode(), text + caller + answerer, "sha256")


def encode_welcome(size_max: int, proof: bytes) -> bytes:
    """The body of WELCOME."""
    return _WELCOME.pack(_WELCOME_MAGIC, VERSION, size_max) + proof


def decode_welcome(body: bytes) -> tuple[int, bytes]:
    """Longest body that the service takes, and its proof.

    Raises:
        InvalidArgumentError: This is no answer to a greeting.
        VersionMismatchError: The service speaks another version.
    """
    if len(body) != _WELCOME.size + PROOF_SIZE or body[:4] != _WELCOME_MAGIC:
        raise InvalidArgumentError(
            "what answers does not greet back", hint="check the address and the port"
        )
    _, version, size_max = _WELCOME.unpack_from(body)
    _check_version(version)
    return int(size_max), body[_WELCOME.size :]


def wrong_token() -> GcsError:
    """What a caller is told whose token is not valid, or not any more."""
    return UnauthenticatedError(
        "the connection was made without a token of this cluster, or with one that has ended",
        hint="use the token file that the server was started with",
    )


def _check_version(version: int) -> None:
    if version != VERSION:
        raise VersionMismatchError(
            f"the other side speaks version {version} of the frames, this one {VERSION}",
            hint="run the same rostral version on both sides",
        )
