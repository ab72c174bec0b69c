"""How a stream between two schedulers begins: who asks, for whom, with which token; and the answer.

    origin                                                             host
      | -- hello: magic, version, both nodes' ids, token ------------->  |
      | <- answer: magic, version, what is wrong, if anything ---------- |
      | <============= frames: a length, and the messages of one ======> |

Pure: bytes in, bytes out. Under TLS all of this is inside of it; without, it stays on the loopback.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, field
from typing import Final

from rostral_gcs.errors import (
    PermissionDeniedError,
    RostralError,
    UnauthenticatedError,
    VersionMismatchError,
)
from rostral_gcs.tokens import Scope, Tokens
from rostral_scheduler.between.messages import VERSION
from rostral_scheduler.errors import LimitReachedError, NodeDiedError, RequestError

__all__ = [
    "ANSWER_BYTES",
    "HELLO_BYTES_MAX",
    "Hello",
    "Verdict",
    "decode_answer",
    "encode_answer",
    "encode_hello",
    "error_of",
    "judge",
    "parse_hello",
]

_HELLO: Final = struct.Struct("<4sI16s16sH")
_ANSWER: Final = struct.Struct("<4sIB")
_HELLO_MAGIC: Final = b"RSTP"
_ANSWER_MAGIC: Final = b"RSTA"
_TOKEN_BYTES_MAX: Final = 512

HELLO_BYTES_MAX: Final = _HELLO.size + _TOKEN_BYTES_MAX
ANSWER_BYTES: Final = _ANSWER.size


@dataclass(frozen=True, slots=True)
class Hello:
    """What an origin begins with."""

    version: int
    origin: bytes
    host: bytes
    token: str = field(repr=False)


class Verdict(enum.IntEnum):
    """What a host says to a hello."""

    WELCOME = 0
    OTHER_VERSION = 1
    NO_TOKEN = 2
    OTHER_SCOPE = 3
    OTHER_NODE = 4
    """The host is not the node that was asked for: that one is gone, and its port another's."""
    FULL = 5


def encode_hello(origin: bytes, host: bytes, token: str) -> bytes:
    """The first bytes of a connection."""
    shown = token.encode()
    return _HELLO.pack(_HELLO_MAGIC, VERSION, origin, host, len(shown)) + shown


def parse_hello(data: bytes | bytearray) -> tuple[Hello, int] | None:
    """A hello and how many bytes it took; None: there is more to come.

    Raises RequestError for what does not begin like one.
    """
    if data[:4] != _HELLO_MAGIC[: len(data)]:
        raise RequestError("a stream between nodes does not begin like this")
    if len(data) < _HELLO.size:
        return None
    _, version, origin, host, token_bytes = _HELLO.unpack_from(data)
    if token_bytes > _TOKEN_BYTES_MAX:
        raise RequestError(f"a token has {_TOKEN_BYTES_MAX} bytes at most")
    end = _HELLO.size + token_bytes
    if len(data) < end:
        return None
    token = bytes(data[_HELLO.size : end]).decode("ascii", errors="replace")
    return Hello(version, origin, host, token), end


def judge(hello: Hello, tokens: Tokens, own_id: bytes) -> Verdict:
    """What to answer. The token first: to strangers nothing else is said."""
    grant = tokens.find(hello.token)
    if grant is None:
        return Verdict.NO_TOKEN
    if grant.scope < Scope.NODE:
        return Verdict.OTHER_SCOPE
    if hello.version != VERSION:
        return Verdict.OTHER_VERSION
    return Verdict.WELCOME if hello.host == own_id else Verdict.OTHER_NODE


def encode_answer(verdict: Verdict) -> bytes:
    """What a host says to a hello."""
    return _ANSWER.pack(_ANSWER_MAGIC, VERSION, verdict)


def decode_answer(data: bytes) -> Verdict:
    """Raises RequestError for what is no answer."""
    magic, _, code = _ANSWER.unpack(data)
    if magic != _ANSWER_MAGIC or code not in Verdict.__members__.values():
        raise RequestError("what listens there answers like no scheduler")
    return Verdict(code)


def error_of(verdict: Verdict, address: str) -> RostralError:
    """What a verdict other than WELCOME means to the origin."""
    match verdict:
        case Verdict.NO_TOKEN:
            return UnauthenticatedError(
                f"the node at {address} does not know the cluster token of this one",
                hint="give all nodes of a cluster the same token file",
            )
        case Verdict.OTHER_SCOPE:
            return PermissionDeniedError(
                f"the node at {address} takes tasks from nodes only, and the token of this one is "
                "of another scope",
                hint="start nodes with a token of scope node",
            )
        case Verdict.OTHER_VERSION:
            return VersionMismatchError(
                f"the node at {address} runs another version of rostral-scheduler",
                hint="run the same version on all nodes",
            )
        case Verdict.OTHER_NODE:
            return NodeDiedError(f"another node listens at {address} now")
        case _:
            return LimitReachedError(f"the node at {address} has too many streams that begin")
