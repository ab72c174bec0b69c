"""One gRPC stream between two schedulers, as both ends see it: messages in, messages out.

This file owns the queue of what waits to be sent and how it is gathered into frames. It knows no
message's meaning.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable

from rostral_scheduler.between.messages import Done, Message, Submit, decode, encode, parts_of

__all__ = ["BEAT_INTERVAL_S", "CHANNEL_OPTIONS", "Outbox", "receive"]

BEAT_INTERVAL_S = 0.5
"""Between two signs of life of a host. Pings of gRPC would tell of its threads, not of its loop."""

FRAME_MESSAGES_MAX = 512
FRAME_BYTES_MAX = 64 << 20

CHANNEL_OPTIONS = [
    # Addresses are the cluster's own: a proxy from the environment has no part in it.
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_send_message_length", FRAME_BYTES_MAX),
    ("grpc.max_receive_message_length", FRAME_BYTES_MAX),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
]


class Outbox:
    """Messages on their way out; unbounded here, bounded by who may have how much outstanding."""

    def __init__(self) -> None:
        self._waiting: deque[Message] = deque()
        self._wake = asyncio.Event()

    def send(self, message: Message) -> None:
        """Sends it after all that was sent before. Never blocks."""
        self._waiting.append(message)
        self._wake.set()

    def clear(self) -> None:
        """What waits is not sent any more."""
        self._waiting.clear()

    async def pump(self, write: Callable[[bytes], Awaitable[object]]) -> None:
        """Writes what is sent, until cancelled or `write` raises."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await write(encode(self._gather()))

    def _gather(self) -> list[Message]:
        """The next messages that go together. A message has its own bound, well below a frame's."""
        gathered: list[Message] = []
        size = 0
        while self._waiting and len(gathered) < FRAME_MESSAGES_MAX:
            size += _weight(self._waiting[0])
            if gathered and size > FRAME_BYTES_MAX // 4:
                break
            gathered.append(self._waiting.popleft())
        return gathered


def _weight(message: Message) -> int:
    """About how many bytes its values take."""
    if not isinstance(message, Submit | Done):
        return 0
    payload = len(message.payload) if isinstance(message, Submit) else 0
    parts = parts_of(message)
    return payload + sum(len(part.data or b"") + sum(map(len, part.buffers)) for part in parts)


async def receive(frames: AsyncIterable[bytes], handle: Callable[[Message], None]) -> None:
    """Hands on what comes in, until the stream ends. Raises RequestError for what is no message."""
    async for frame in frames:
        for message in decode(frame):
            handle(message)
