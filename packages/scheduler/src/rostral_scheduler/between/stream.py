"""One stream between two schedulers, as both ends see it: messages in, messages out.

This file owns the form of frames, how messages are gathered into them, and when a slow receiver
stops a sender. It knows no message's meaning, and not how a stream begins (``handshake.py``).

Why not gRPC: an empty message over a stream of grpc.aio took 0.5 ms of two cores, over a socket of
asyncio 0.1 ms. A frame leaves in the turn of the event loop in which its messages were sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from typing import Final

from rostral_scheduler.between.messages import (
    Call,
    CreateActor,
    Done,
    Message,
    Submit,
    decode,
    encode_into,
    parts_of,
)
from rostral_scheduler.errors import RequestError

__all__ = ["BEAT_INTERVAL_S", "FRAME_BYTES_MAX", "FrameReader", "Outbox", "tune"]

BEAT_INTERVAL_S = 0.5
"""Between two signs of life of a host: pings of TCP would tell of its kernel, not of its loop."""

FRAME_MESSAGES_MAX = 512
FRAME_BYTES_MAX = 256 << 20
_GATHER_BYTES_MAX = 16 << 20
_WRITE_BUFFER_BYTES = 1 << 20
_UNANSWERED_MS = 10_000

_LENGTH: Final = struct.Struct("<I")


class Outbox:
    """Messages on their way out; unbounded here, bounded by who may have how much outstanding.

    Used on the event loop's thread alone.
    """

    def __init__(self) -> None:
        self._waiting: deque[Message] = deque()
        self._transport: asyncio.Transport | None = None
        self._is_paused = self._is_due = False

    def send(self, message: Message) -> None:
        """Sends it after all that was sent before. Never blocks."""
        self._waiting.append(message)
        self._flush_soon()

    def open(self, transport: asyncio.Transport) -> None:
        """From here on what is sent goes there. What waited for a former stream does not."""
        self._waiting.clear()
        self._transport, self._is_paused = transport, False
        transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)

    def close(self) -> None:
        """The stream has ended: what waits is not sent any more."""
        self._waiting.clear()
        self._transport = None

    def pause(self) -> None:
        """The receiver does not keep up."""
        self._is_paused = True

    def resume(self) -> None:
        """It does again."""
        self._is_paused = False
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._is_due and self._transport is not None:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._is_due = False
        while self._waiting and self._transport is not None and not self._is_paused:
            frame = bytearray(_LENGTH.size)
            encode_into(self._gather(), frame, _LENGTH.size)
            _LENGTH.pack_into(frame, 0, len(frame) - _LENGTH.size)
            self._transport.write(frame)

    def _gather(self) -> list[Message]:
        """The next messages that go together. A message has its own bound, well below a frame's."""
        gathered: list[Message] = []
        size = 0
        while self._waiting and len(gathered) < FRAME_MESSAGES_MAX:
            size += _weight(self._waiting[0])
            if gathered and size > _GATHER_BYTES_MAX:
                break
            gathered.append(self._waiting.popleft())
        return gathered


def _weight(message: Message) -> int:
    """About how many bytes its values take."""
    if isinstance(message, Call):
        message = message.task
    if isinstance(message, CreateActor):
        given = [message.creation, *message.beside]
        return sum(len(part.data or b"") + sum(map(len, part.buffers)) for part in given)
    if not isinstance(message, Submit | Done):
        return 0
    payload = len(message.payload) if isinstance(message, Submit) else 0
    parts = parts_of(message)
    return payload + sum(len(part.data or b"") + sum(map(len, part.buffers)) for part in parts)


class FrameReader:
    """Bytes as they come; messages as soon as their frame is whole."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes | bytearray) -> list[Message]:
        """The messages whose frames end in these bytes. Raises RequestError for what is none."""
        buffer = self._buffer
        buffer += data
        messages: list[Message] = []
        at = 0
        while len(buffer) - at >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(buffer, at)
            if size > FRAME_BYTES_MAX:
                raise RequestError(
                    f"a peer sends a frame of {size} bytes; allowed: {FRAME_BYTES_MAX}",
                    hint="run the same version of rostral-scheduler on all nodes",
                )
            begin = at + _LENGTH.size
            if len(buffer) < begin + size:
                break
            at = begin + size
            with memoryview(buffer) as whole, whole[begin:at] as frame:
                messages += decode(frame)
        del buffer[:at]
        return messages


def tune(transport: asyncio.BaseTransport) -> None:
    """Small frames go at once, and a peer whose machine is gone does not keep the connection."""
    connection = transport.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNANSWERED_MS)
