"""Asks an HTTP server for actions, over and over, and prints how long it took. One process.

Standard library only, so that a peer's interpreter can run this file too, beside the server and
never in its process: what is timed is the server, and the two do not share a lock. Prints one JSON
object:

    {"requests": n, "seconds": s, "p50_ms": ..., "p99_ms": ..., "failed": n, "first_failure": ""}
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import gc
import json
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit


class Connection(asyncio.Protocol):
    """One keep-alive connection; cheaper than any HTTP library, so as not to be timed."""

    def __init__(self, load: Load, request: bytes) -> None:
        self._load = load
        self._request = request
        self._received = b""
        self._sent_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Waits to be asked to ask."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def ask(self, since_s: float) -> None:
        """Sends the request; its latency counts from `since_s`."""
        self._sent_s = since_s
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Counts the answer once it is whole."""
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator or not is_whole(head, body):
            return
        self._received = b""
        failure = "" if head.startswith(b"HTTP/1.1 200") else (head + body)[:300].decode("latin-1")
        self._load.answered(self, time.perf_counter() - self._sent_s, failure)

    def connection_lost(self, error: Exception | None) -> None:
        """A server that hangs up fails the run."""
        self._load.lost(str(error))

    def close(self) -> None:
        """Hangs up."""
        self._transport.close()


def is_whole(head: bytes, body: bytes) -> bool:
    """Whether a response's body has come to its end: by its length, or by its last chunk."""
    _, announced, length = head.lower().partition(b"content-length: ")
    if announced:
        return len(body) >= int(length.split(b"\r\n")[0])
    return body.endswith(b"0\r\n\r\n")


class Load:
    """All connections of one run.

    Args:
        requests: What is sent; each connection keeps to one, the first to the first.
        rate: Requests a second in all, evenly spaced, whether or not answers come ("open loop");
            0 asks on each connection as soon as it is answered.
    """

    def __init__(self, requests: Sequence[bytes], rate: float = 0.0) -> None:
        self._requests = requests
        self.latencies_s: list[float] = []
        self.failed = 0
        self.first_failure = ""
        self._rate = rate
        self._until_s = 0.0
        self._idle: deque[Connection] = deque()
        self._due: deque[float] = deque()
        self._over = asyncio.Event()

    def answered(self, connection: Connection, latency_s: float, failure: str) -> None:
        """One answer."""
        now = time.perf_counter()
        if failure:
            self.failed += 1
            self.first_failure = self.first_failure or failure
        elif self._rate or now < self._until_s:
            self.latencies_s.append(latency_s)
        if self._due:
            connection.ask(self._due.popleft())
        elif self._rate or now >= self._until_s:
            self._idle.append(connection)
        else:
            connection.ask(now)

    def lost(self, why: str) -> None:
        """A connection that the server closed."""
        if not self._over.is_set():
            self.failed += 1
            self.first_failure = self.first_failure or f"connection lost: {why}"
            self._over.set()

    async def run(self, host: str, port: int, *, clients: int, seconds: float) -> None:
        """Asks for so long, then waits for what is under way."""
        loop = asyncio.get_running_loop()
        requests = [self._requests[i % len(self._requests)] for i in range(clients)]
        made = [
            await loop.create_connection(functools.partial(Connection, self, request), host, port)
            for request in requests
        ]
        connections = [connection for _, connection in made]
        start_s = time.perf_counter()
        self._until_s = start_s + seconds
        if self._rate:
            self._idle.extend(connections)
            await self._ask_evenly(start_s)
        else:
            for connection in connections:
                connection.ask(time.perf_counter())
        while len(self._idle) < clients and not self._over.is_set():
            await asyncio.sleep(0.005)
            if time.perf_counter() > self._until_s + 30.0:
                self.lost("no answer for 30 s")
        self._over.set()
        for connection in connections:
            connection.close()

    def summary(self, seconds: float) -> dict[str, Any]:
        """What a run of so many seconds has shown, as this file's head says."""
        ordered = sorted(self.latencies_s)
        return {
            "requests": len(ordered),
            "seconds": seconds,
            "p50_ms": percentile(ordered, 0.5) * 1e3 if ordered else None,
            "p99_ms": percentile(ordered, 0.99) * 1e3 if ordered else None,
            "failed": self.failed,
            "first_failure": self.first_failure,
        }

    async def _ask_evenly(self, start_s: float) -> None:
        sent = 0
        while (now := time.perf_counter()) < self._until_s and not self._over.is_set():
            while (due_s := start_s + sent / self._rate) <= now:
                sent += 1
                if self._idle:
                    self._idle.popleft().ask(due_s)
                else:
                    self._due.append(due_s)
            await asyncio.sleep(0.0005)


def percentile(ordered: list[float], share: float) -> float:
    """The value that so large a share of the values does not exceed."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def main() -> int:
    """Runs the load; 1 where nothing was answered."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second; 0: closed loop")
    parser.add_argument("--header", action="append", default=[], metavar="NAME:VALUE")
    parser.add_argument("--body-bytes", type=int, default=0, help="so many zeros")
    parser.add_argument("--body", default="", help="instead of zeros")
    arguments = parser.parse_args()
    parts = urlsplit(arguments.url)
    body = arguments.body.encode() or bytes(arguments.body_bytes)
    lines = [f"POST {parts.path or '/'} HTTP/1.1", f"host: {parts.netloc}", *arguments.header]
    request = "\r\n".join((*lines, f"content-length: {len(body)}", "", "")).encode() + body
    gc.disable()

    async def run() -> Load:
        load = Load([request], arguments.rate)
        assert parts.hostname is not None
        assert parts.port is not None
        await load.run(
            parts.hostname, parts.port, clients=arguments.clients, seconds=arguments.seconds
        )
        return load

    load = asyncio.run(run())
    result = load.summary(arguments.seconds)
    sys.stdout.write(json.dumps(result) + "\n")
    return 0 if result["requests"] else 1


if __name__ == "__main__":
    sys.exit(main())
