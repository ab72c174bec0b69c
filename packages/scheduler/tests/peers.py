"""Both ends of a stream between nodes in one event loop, with what each was told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from rostral_gcs.credentials import TlsFiles
from rostral_gcs.errors import RostralError
from rostral_gcs.tls import TlsContexts
from rostral_gcs.tokens import Tokens
from rostral_scheduler.between.messages import Message
from rostral_scheduler.between.peer_link import PeerIdentity, PeerLink
from rostral_scheduler.between.peer_server import PeerServer
from rostral_scheduler.between.stream import Outbox

TOKEN = "t" * 40
HOST, ORIGIN = b"h" * 16, b"o" * 16
TIMEOUT_S = 10.0


class HostEnd:
    """The listening side: keeps what it is told."""

    def __init__(self) -> None:
        self.outboxes: dict[bytes, Outbox] = {}
        self.heard: list[Message] = []

    def connected(self, origin: bytes, outbox: Outbox) -> None:
        self.outboxes[origin] = outbox

    def disconnected(self, origin: bytes, outbox: Outbox) -> None:
        if self.outboxes.get(origin) is outbox:
            del self.outboxes[origin]

    def handle(self, origin: bytes, message: Message) -> None:
        self.heard.append(message)


class OriginEnd:
    """The side that connects: keeps what it is told."""

    def __init__(
        self,
        address: str,
        *,
        token: str | Tokens = TOKEN,
        tls: TlsFiles | None = None,
        host_id: bytes = HOST,
        silence_s: float = 4.0,
    ) -> None:
        self.heard: list[Message] = []
        self.times_connected = 0
        self.refusals: list[RostralError] = []
        self.losses: list[str] = []
        identity = PeerIdentity(
            node_id=ORIGIN, tokens=Tokens.of(token), tls=TlsContexts(tls or TlsFiles())
        )
        self.link = PeerLink(
            address,
            host_id,
            identity,
            silence_s=silence_s,
            handle=self.heard.append,
            connected=self._connected,
            refused=self.refusals.append,
            lost=self.losses.append,
        )

    def _connected(self) -> None:
        self.times_connected += 1


@contextlib.asynccontextmanager
async def listening(
    *, token: str | Tokens = TOKEN, tls: TlsFiles | None = None
) -> AsyncIterator[tuple[PeerServer, HostEnd]]:
    """A host that takes streams."""
    host = HostEnd()
    contexts = TlsContexts(tls or TlsFiles())
    server = PeerServer("127.0.0.1:0", HOST, Tokens.of(token), contexts, host)
    await server.start()
    try:
        yield server, host
    finally:
        await server.stop()


async def until(condition: Callable[[], object], what: str) -> None:
    """Polls until the condition holds; fails, saying what did not come."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            while not condition():  # noqa: ASYNC110 - of what others do
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise AssertionError(f"within {TIMEOUT_S} s: {what}") from None
