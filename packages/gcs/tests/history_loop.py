"""Three clients that write and read at random while a service or a Redis primary dies now and then.

One seed gives one schedule of faults and, for each client, one stream of operations. A fault is
repaired, and the next comes only when the store is whole again: that two members at once may die is
not promised. What was done and seen is checked by ``history.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rostral_gcs import KV, AsyncGcsClient, ClientOptions, WatchKind, write_token
from rostral_gcs.backends.redis_layout import Keys
from rostral_gcs.errors import ConflictError, GcsError

from .history import Kind, Operation, Outcome, WatchLog, check_history, check_watch
from .redis_servers import RedisFarm, RedisProcess, free_port, group_url

__all__ = ["Backend", "HistoryLoop", "Report"]

Backend = Literal["embedded", "redis"]

_CLIENTS = 3
_KEYS = 12
_KINDS = (Kind.PUT, Kind.PUT, Kind.CAS, Kind.CAS, Kind.CAS, Kind.DELETE)
_META = Keys("rostral", 0).meta
_DOWN_S = 0.7
_WHOLE_S = 20.0


@dataclass
class Report:
    """What a run came to.

    Attributes:
        operations: Done, by outcome.
        faults: Done, by kind.
        resyncs: Of all watches.
        longest_s: The longest that an acknowledged operation took.
        wrong: What cannot have been; empty when all is well.
    """

    operations: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    resyncs: int = 0
    longest_s: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For one line of JSON."""
        return {**asdict(self), "wrong": len(self.wrong)}


class _Service:
    """A service that can be ended and started again at its port."""

    def __init__(self, folder: Path, arguments: list[str]) -> None:
        self._port = free_port()
        self._command = [sys.executable, "-m", "rostral_gcs", "serve", f"--port={self._port}"]
        self._command += [f"--token-file={folder / 'token'}", "--log-level=error", *arguments]
        self.address = f"127.0.0.1:{self._port}"
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline(), "the service did not start"

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def end(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.communicate()
            self.process = None


class HistoryLoop:
    """One run.

    Args:
        folder: For data and logs.
        backend: Where the rows lie: one service on files, or two over a group of three Redis.
        seed: Of all that is random.
    """

    def __init__(self, folder: Path, backend: Backend, seed: int) -> None:
        self._folder = folder
        self._backend = backend
        self._seed = seed
        self._operations: list[Operation] = []
        self._logs = [WatchLog() for _ in range(_CLIENTS)]
        self._numbers = itertools.count()
        self._report = Report()
        self._token = write_token(folder / "token")
        self._farm = RedisFarm(folder)
        self._redis: list[RedisProcess] = []
        arguments = [f"--data-dir={folder / 'data'}"]
        if backend == "redis":
            self._redis = self._farm.group(3)
            arguments += ["--backend=redis", f"--redis-url={group_url(self._redis)}"]
        count = 2 if backend == "redis" else 1
        self._services = [_Service(folder, arguments) for _ in range(count)]

    def run(self, seconds: float) -> Report:
        """Runs, checks, and leaves nothing running."""
        try:
            for service in self._services:
                service.start()
            asyncio.run(self._play(seconds))
        finally:
            for service in self._services:
                service.end(signal.SIGKILL)
            self._farm.close()
        for op in self._operations:
            name = op.outcome.value
            self._report.operations[name] = self._report.operations.get(name, 0) + 1
            if op.outcome is not Outcome.UNKNOWN:
                self._report.longest_s = max(self._report.longest_s, op.end_s - op.start_s)
        self._report.wrong += check_history(self._operations)
        for log in self._logs:
            self._report.resyncs += log.resync_count
            self._report.wrong += check_watch(log, self._operations)
        return self._report

    async def _play(self, seconds: float) -> None:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(self._client(at)) for at in range(_CLIENTS)]
            watches = [
                asyncio.create_task(self._watch(client, log))
                for client, log in zip(clients, self._logs, strict=True)
            ]
            await self._until_whole()
            until_s = time.monotonic() + seconds
            async with asyncio.TaskGroup() as tasks:
                for at, client in enumerate(clients):
                    tasks.create_task(self._operate(client, at, until_s))
                tasks.create_task(self._harm(until_s))
            # What everybody must have seen in the end.
            for at in range(_KEYS):
                await self._do(clients[0], Kind.GET, b"key-%d" % at)
            await clients[0].kv_put(b"end", b"")
            try:
                async with asyncio.timeout(30):
                    await asyncio.gather(*watches)
            except TimeoutError:
                self._report.wrong.append("a watch never told of the last write")

    @contextlib.asynccontextmanager
    async def _client(self, at: int) -> AsyncIterator[AsyncGcsClient]:
        services = self._services[at % len(self._services) :]
        services += self._services[: at % len(self._services)]
        options = ClientOptions(call_timeout_s=4.0, attempt_timeout_s=1.5, connect_timeout_s=10.0)
        address = ",".join(service.address for service in services)
        async with AsyncGcsClient(address, self._token, options=options) as client:
            yield client

    # --- Clients ---------------------------------------------------------------------------

    async def _operate(self, client: AsyncGcsClient, at: int, until_s: float) -> None:
        chance = random.Random(f"{self._seed} client {at}")
        while time.monotonic() < until_s:
            key = b"key-%d" % chance.randrange(_KEYS)
            kind = chance.choice([*_KINDS, Kind.GET, Kind.GET])
            await self._do(client, kind, key, is_conditional=chance.random() < 0.5)
            await asyncio.sleep(chance.uniform(0, 0.01))

    async def _do(
        self, client: AsyncGcsClient, kind: Kind, key: bytes, *, is_conditional: bool = False
    ) -> None:
        expected = 0
        if kind is Kind.CAS or (kind is Kind.DELETE and is_conditional):
            found = await self._do_one(client, Operation(Kind.GET, key, time.monotonic()))
            if found.outcome is not Outcome.OK:
                return
            expected = found.version
        operation = Operation(kind, key, time.monotonic(), expected=expected)
        if kind.is_put:
            operation.value = b"value-%d" % next(self._numbers)
        await self._do_one(client, operation)

    async def _do_one(self, client: AsyncGcsClient, op: Operation) -> Operation:
        self._operations.append(op)
        try:
            if op.kind is Kind.GET:
                row = await client.kv_get(op.key)
                op.value, op.version = (row.value, row.version) if row else (None, 0)
            elif op.kind is Kind.DELETE:
                await client.kv_delete(op.key, expected_version=op.expected or None)
            else:
                assert op.value is not None
                expected = op.expected if op.kind is Kind.CAS else None
                op.version = await client.kv_put(op.key, op.value, expected_version=expected)
            op.outcome = Outcome.OK
        except ConflictError as error:
            op.outcome, op.version = Outcome.CONFLICT, error.current_version
        except GcsError:
            op.outcome = Outcome.UNKNOWN
        op.end_s = time.monotonic()
        return op

    async def _watch(self, client: AsyncGcsClient, log: WatchLog) -> None:
        is_snapshot = True
        async with contextlib.aclosing(client.watch(KV)) as events:
            async for event in events:
                if event.kind is WatchKind.RESYNC:
                    is_snapshot = True
                    log.add(None, 0, is_snapshot=True)
                elif event.kind is WatchKind.SYNCED:
                    is_snapshot = False
                else:
                    key = event.key.partition(b"\0")[2]
                    is_delete = event.kind is WatchKind.DELETE
                    log.add(key, event.version, is_snapshot=is_snapshot, is_delete=is_delete)
                    if key == b"end":
                        return

    # --- Faults ----------------------------------------------------------------------------

    async def _harm(self, until_s: float) -> None:
        chance = random.Random(f"{self._seed} faults")
        faults: dict[str, Callable[[random.Random], Awaitable[None]]] = {
            "service killed": self._kill_service,
            "service stopped": self._stop_service,
        }
        if self._backend == "redis":
            faults["primary killed"] = self._kill_primary
            faults["primary stopped"] = self._stop_primary
            faults["primary cut"] = self._cut_primary
        while True:
            pause_s = chance.uniform(0.5, 2.0)
            name = chance.choice(sorted(faults))
            if time.monotonic() + pause_s + _DOWN_S > until_s:
                return
            await asyncio.sleep(pause_s)
            self._report.faults[name] = self._report.faults.get(name, 0) + 1
            await faults[name](chance)
            await self._until_whole()

    async def _kill_service(self, chance: random.Random) -> None:
        service = chance.choice(self._services)
        await asyncio.to_thread(service.end, signal.SIGKILL)
        await asyncio.sleep(_DOWN_S)
        await asyncio.to_thread(service.start)

    async def _stop_service(self, chance: random.Random) -> None:
        service = chance.choice(self._services)
        service.send(signal.SIGSTOP)
        await asyncio.sleep(2 * _DOWN_S)
        service.send(signal.SIGCONT)

    async def _kill_primary(self, _: random.Random) -> None:
        primary = await self._primary()
        await asyncio.to_thread(primary.kill)
        await asyncio.sleep(_DOWN_S)
        await asyncio.to_thread(primary.start)

    async def _stop_primary(self, _: random.Random) -> None:
        primary = await self._primary()
        primary.send(signal.SIGSTOP)
        # Long enough to be taken for dead.
        await asyncio.sleep(3.0)
        primary.send(signal.SIGCONT)

    async def _cut_primary(self, _: random.Random) -> None:
        primary = await self._primary()
        await asyncio.to_thread(primary.ask, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    async def _primary(self) -> RedisProcess:
        def find() -> RedisProcess:
            masters = [one for one in self._redis if one.info("role") == "master"]
            return max(masters, key=lambda one: int(one.ask("HGET", _META, "epoch") or 0))

        return await asyncio.to_thread(find)

    async def _until_whole(self) -> None:
        """Waits until every Redis server follows the primary, and writes wait for a replica."""
        if self._backend == "embedded":
            return
        deadline_s = time.monotonic() + _WHOLE_S
        while not await self._is_whole():
            if time.monotonic() > deadline_s:
                self._report.wrong.append(f"the group was not whole again after {_WHOLE_S} s")
                return
            await asyncio.sleep(0.05)

    async def _is_whole(self) -> bool:
        primary = await self._primary()

        def look() -> bool:
            if primary.ask("HGET", _META, "wait") != b"1":
                return False
            return all(
                one is primary or one.info("master_link_status") == "up" for one in self._redis
            )

        return await asyncio.to_thread(look)
