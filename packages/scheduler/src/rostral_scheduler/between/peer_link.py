"""The origin's end of its stream to one host: connects, comes back, and says when the host is dead.

This file owns the channel and the verdict. A connection that is refused means that the process is
gone: its port was its own. One that is silent may be a cut, so it is given time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from rostral_gcs.auth import bearer_metadata
from rostral_scheduler.between.messages import METHOD, Beat, Message
from rostral_scheduler.between.peer_server import ORIGIN
from rostral_scheduler.between.stream import (
    BEAT_INTERVAL_S,
    CHANNEL_OPTIONS,
    Outbox,
    receive,
)
from rostral_scheduler.errors import RequestError

__all__ = ["PeerLink"]

logger = logging.getLogger("rostral.scheduler.between")

_PAUSE_S = 0.05
_SILENCE_S = 4 * BEAT_INTERVAL_S
"""After this a stream is given up, and another one tried."""
_PROBE_S = 1.0


class PeerLink:
    """One host, on the running event loop, from construction to `close`.

    Args:
        address: ``host:port`` of its scheduler.
        token: The cluster token.
        own_id: This node's id.
        silence_s: How long it may be silent before it is taken for dead.
        handle: Called with what it says.
        connected: Called each time the stream is open; what was sent before is not sent again.
        lost: Called once, with the reason, when it is dead.
    """

    def __init__(
        self,
        address: str,
        token: str,
        own_id: bytes,
        *,
        silence_s: float,
        handle: Callable[[Message], None],
        connected: Callable[[], None],
        lost: Callable[[str], None],
    ) -> None:
        self.address = address
        self._metadata = (*bearer_metadata(token), (ORIGIN, own_id.hex()))
        self._silence_s = silence_s
        self._handle, self._connected, self._lost = handle, connected, lost
        self._outbox = Outbox()
        self._heard_at_s = 0.0
        self._task = asyncio.create_task(self._run(), name=f"peer {address}")

    def send(self, message: Message) -> None:
        """Sends it, in order, if the stream is open; `connected` is where to say the rest."""
        self._outbox.send(message)

    async def close(self) -> None:
        """Ends the stream. May be called twice."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        channel = grpc.aio.insecure_channel(self.address, options=CHANNEL_OPTIONS)
        loop = asyncio.get_running_loop()
        self._heard_at_s = loop.time()
        try:
            while True:
                await self._exchange(channel)
                silent_s = loop.time() - self._heard_at_s
                if await self._is_refused():
                    self._lost(f"nothing listens at {self.address} any more")
                    return
                if silent_s > self._silence_s:
                    self._lost(f"{self.address} has said nothing for {silent_s:.1f} s")
                    return
                await asyncio.sleep(_PAUSE_S)
        finally:
            await channel.close(None)

    async def _exchange(self, channel: Any) -> None:
        """One stream from its beginning to its end."""
        call = channel.stream_stream(METHOD)(metadata=self._metadata)
        works: list[asyncio.Task[None]] = []
        try:
            async with asyncio.timeout(_SILENCE_S):
                await call.wait_for_connection()
            self._outbox.clear()
            self._connected()
            works = [
                asyncio.create_task(self._outbox.pump(call.write)),
                asyncio.create_task(receive(call, self._hear)),
            ]
            await self._watch(works)
        except (grpc.aio.AioRpcError, RequestError, TimeoutError) as error:
            logger.info("stream to %s ended: %r", self.address, error)
        finally:
            for work in works:
                work.cancel()
            call.cancel()
            await asyncio.gather(*works, return_exceptions=True)

    async def _watch(self, works: list[asyncio.Task[None]]) -> None:
        """Returns when one of the works does. Raises what it raises; TimeoutError for silence."""
        loop = asyncio.get_running_loop()
        begun_at_s = loop.time()
        while True:
            done, _ = await asyncio.wait(
                works, timeout=BEAT_INTERVAL_S, return_when=asyncio.FIRST_COMPLETED
            )
            for work in done:
                work.result()
            if done:
                return
            if loop.time() - max(begun_at_s, self._heard_at_s) > _SILENCE_S:
                raise TimeoutError("nothing was heard")

    def _hear(self, message: Message) -> None:
        self._heard_at_s = asyncio.get_running_loop().time()
        if isinstance(message, Beat):
            return
        try:
            self._handle(message)
        except Exception:
            # What one message does wrong must not end the stream, which would bring it again.
            logger.exception("cannot take in what a host says: %s", type(message).__name__)

    async def _is_refused(self) -> bool:
        host, _, port = self.address.rpartition(":")
        try:
            async with asyncio.timeout(_PROBE_S):
                _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except ConnectionRefusedError:
            return True
        except (OSError, TimeoutError):
            return False
        writer.close()
        return False
