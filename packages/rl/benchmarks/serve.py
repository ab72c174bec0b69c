"""Latency of the policy server over HTTP, and what a request costs it and its client.

    python packages/rl/benchmarks/serve.py --seconds 5

Serves an untrained 2x64 net for CartPole-v1 from a process of its own. Clients ask one observation
each, again as soon as they are answered. Gates on 2 cores: p99 of 3 ms with 1 client and of 15 ms
with 64.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

import rostral_rl as rl
from rostral_rl.serve import wire

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Client(asyncio.Protocol):
    """Sends the same request again and again; cheaper than any HTTP library, so as not to be timed.

    Args:
        request: What is sent.
        latencies: Seconds of each answer are appended here.
        until: `time.perf_counter` after which no request is sent.
    """

    def __init__(self, request: bytes, latencies: list[float], until: float) -> None:
        self._request = request
        self._latencies = latencies
        self._until = until
        self._received = b""
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Sends the first request."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        """Sends the next request once the answer is whole."""
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator or len(body) < _content_length(head):
            return
        assert head.startswith(b"HTTP/1.1 200 "), self._received
        self._received = b""
        now = time.perf_counter()
        self._latencies.append(now - self._sent)
        if now < self._until:
            self._send()
        else:
            self._transport.close()
            self.done.set_result(None)

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(self._request)


def _content_length(head: bytes) -> int:
    return int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])


async def load(url: str, *, clients: int, seconds: float) -> list[float]:
    """Latencies in seconds of what so many clients asked in that time."""
    parts = urlsplit(url)
    body, headers = wire.encode_raw(np.array([0.01, -0.02, 0.03, 0.04], np.float32))
    lines = [f"host: {parts.netloc}", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    request = ("POST /v1/act HTTP/1.1\r\n" + "\r\n".join(lines) + "\r\n\r\n").encode() + body
    latencies: list[float] = []
    until = time.perf_counter() + seconds
    assert parts.hostname is not None
    assert parts.port is not None
    loop = asyncio.get_running_loop()
    started = [
        await loop.create_connection(
            lambda: Client(request, latencies, until), host=parts.hostname, port=parts.port
        )
        for _ in range(clients)
    ]
    await asyncio.gather(*(client.done for _, client in started))
    return latencies


@contextmanager
def server() -> Iterator[tuple[str, int]]:
    """Runs `rostral-rl serve`; yields its URL and process id."""
    with tempfile.TemporaryDirectory() as folder:
        with rl.PPO(hidden=(64, 64)).build("CartPole-v1") as trainer:
            trainer.policy.save(Path(folder))
        command = [sys.executable, "-m", "rostral_rl", "serve", folder, "--http", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                yield process.stdout.readline().split()[-1], process.pid
            finally:
                process.terminate()


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with server() as (url, pid):
        asyncio.run(load(url, clients=8, seconds=0.5))
        for clients in arguments.clients:
            server_s, client_s = cpu_s(pid), cpu_s(os.getpid())
            latencies = asyncio.run(load(url, clients=clients, seconds=arguments.seconds))
            server_s, client_s = cpu_s(pid) - server_s, cpu_s(os.getpid()) - client_s
            p50, p99 = np.percentile(latencies, (50, 99)) * 1e3
            count = len(latencies)
            print(
                f"{clients} clients: {count / arguments.seconds:,.0f} requests/s, "
                f"p50 {p50:.2f} ms, p99 {p99:.2f} ms; CPU a request: server "
                f"{server_s / count * 1e6:.0f} us, client {client_s / count * 1e6:.0f} us",
                flush=True,
            )


if __name__ == "__main__":
    main()
