"""A frame server with a method of each kind, for tests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

from rostral_gcs import TlsFiles
from rostral_gcs.auth import generate_token
from rostral_gcs.errors import NotFoundError
from rostral_gcs.frames.client import FrameChannel, open_frames
from rostral_gcs.frames.server import FrameLimits, FrameServer, Method
from rostral_gcs.needs import Need
from rostral_gcs.tokens import Scope, Tokens

TOKEN = generate_token()
SERVICE = "test.v1"
LIMITS = FrameLimits(size_max=100_000, greeting_timeout_s=0.3, idle_timeout_s=0.5)


class Service:
    """Methods for tests, and what became of their calls."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.sent = 0

    async def echo(self, body: bytes) -> bytes:
        return body

    async def missing(self, _: bytes) -> bytes:
        raise NotFoundError("no such thing", hint="make one")

    async def broken(self, _: bytes) -> bytes:
        raise ZeroDivisionError("by nothing")

    async def wait(self, body: bytes) -> bytes:
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return body

    async def count(self, body: bytes) -> AsyncGenerator[bytes, None]:
        try:
            for number in range(int(body)):
                self.sent += 1
                yield b"%d" % number + bytes(9_000)
            await self.release.wait()
        finally:
            self.cancelled.set()

    def methods(self) -> dict[int, Method]:
        read = Need(Scope.READ)
        runs: list[Callable[[bytes], Awaitable[bytes]]] = [
            self.echo,
            self.missing,
            self.broken,
            self.wait,
        ]
        made = {
            number: Method(name=run.__name__, parse=bytes, pack=bytes, run=run, need=read)
            for number, run in enumerate(runs, 1)
        }
        made[5] = Method(name="count", parse=bytes, pack=bytes, stream=self.count, need=read)
        made[6] = Method(name="closed", parse=bytes, pack=bytes, run=self.echo)
        made[7] = Method(name="number", parse=int, pack=str.encode, run=self.echo, need=read)
        return made


@contextlib.asynccontextmanager
async def serving(
    *,
    tokens: str | Tokens = TOKEN,
    tls: TlsFiles | None = None,
    limits: FrameLimits = LIMITS,
) -> AsyncIterator[tuple[FrameServer, int, Service]]:
    service = Service()
    server = FrameServer(
        SERVICE, service.methods(), tokens=tokens, tls=tls or TlsFiles(), limits=limits
    )
    port = await server.start("127.0.0.1", 0)
    try:
        yield server, port, service
    finally:
        await server.stop()


async def connect(
    port: int,
    *,
    token: str = TOKEN,
    service: str = SERVICE,
    tls: TlsFiles | None = None,
    ping_interval_s: float = 0.1,
) -> FrameChannel:
    return await open_frames(
        "127.0.0.1",
        port,
        service=service,
        token=token,
        tls=tls or TlsFiles(),
        timeout_s=2.0,
        size_max=100_000,
        ping_interval_s=ping_interval_s,
    )


def run(scenario: Awaitable[None]) -> None:
    async def body() -> None:
        async with asyncio.timeout(10):
            await scenario

    asyncio.run(body())
