"""The store's process for one device: owns its share of the device's memory, and answers clients.

A process for each device, and apart from the store daemon, for three reasons. CUDA must not be
initialised before a fork, and nodes fork. A driver that hangs or crashes takes this process with
it, and no object in shared memory. And a handle of device memory cannot be opened by the process
that exported it, while anybody may want to read: so the owner is somebody who never does.

The store daemon starts it when a client first asks for the device, and ends it. It is a client of
the store like any other: when it dies, the store buries it like any other.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from rostral_gcs.services.users import uid_of
from rostral_objectstore.client import StoreClient
from rostral_objectstore.control import Body
from rostral_objectstore.control_server import ControlServer, Session
from rostral_objectstore.errors import (
    DeviceUnavailableError,
    ObjectStoreError,
    ProtocolError,
    StoreUnavailableError,
)
from rostral_objectstore.gpu.backend import find_device, own_backend
from rostral_objectstore.gpu.buffers import Buffer, DeviceBuffers
from rostral_objectstore.gpu.residence import new_table

logger = logging.getLogger("rostral.objectstore.gpu")

TICK_S = 0.1
# How often it is asked whether the store lives; how long it may be away before we go too.
STORE_PING_TICKS = 20
STORE_AWAY_S = 30.0
ANSWER_WITHIN_S = 0.25
RETRY_S = 0.01
# Of the device's memory, when nobody says how much: as of the machine's. Never all that is free.
MEMORY_SHARE = 0.3
FREE_SHARE_MAX = 0.9

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceDaemonConfig:
    """Settings of one device daemon.

    Attributes:
        store_socket: of the store daemon that it belongs to.
        socket_path: where it listens itself.
        identity: of the device.
        memory_bytes: of the device, taken at once and kept; None: three tenths of it.
        idle_s: with no array and no client for so long, it ends.
        full_timeout_s: how long who finds no room waits for some.
        worker_user: another user who is answered too, as by the store; None: nobody.
    """

    store_socket: str
    socket_path: str
    identity: str
    memory_bytes: int | None
    idle_s: float
    full_timeout_s: float
    worker_user: str | None = None


class DeviceDaemon:
    """Serves one device until it is idle, its store is gone, or `stop`."""

    def __init__(self, config: DeviceDaemonConfig) -> None:
        self.config = config
        backend = own_backend()
        device = find_device(backend, config.identity)
        if device is None:
            raise DeviceUnavailableError(
                f"the store's process sees no device {config.identity}",
                hint="the store must be started where the device is, with access to it",
            )
        free, total = backend.memory_info(device)
        wanted = int(total * MEMORY_SHARE) if config.memory_bytes is None else config.memory_bytes
        size_bytes = min(wanted, int(free * FREE_SHARE_MAX))
        self._store = StoreClient.connect(config.store_socket)
        try:
            self._table_fd, table = new_table()
            self._buffers = DeviceBuffers(self._store, backend, device, table, size_bytes)
            self._handle = backend.export(self._buffers.memory)
        except BaseException:
            self._store.close()
            raise
        self._backend_name = backend.name
        self._incarnation = os.urandom(16)
        # One thread at a time is at the buffers: the loop's for what is quick, else the worker.
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(1, "rostral-device")
        self._server = ControlServer(
            config.socket_path, self, worker_uid=uid_of(config.worker_user)
        )
        self._sessions = 0
        self._clock = 0

    async def serve(self, ready: Callable[[], None], stopped: asyncio.Event) -> None:
        """Serves; calls `ready` once it does. Raises StoreUnavailableError."""
        try:
            await self._server.start()
            ready()
            upkeep = asyncio.get_running_loop().create_task(self._look_after())
            waiting = asyncio.get_running_loop().create_task(stopped.wait())
            await asyncio.wait([upkeep, waiting], return_when=asyncio.FIRST_COMPLETED)
            for task in (upkeep, waiting):
                task.cancel()
            await asyncio.gather(upkeep, waiting, return_exceptions=True)
        finally:
            await self._server.stop()
            await asyncio.to_thread(self._worker.shutdown)
            self._store.close()

    # ---- requests

    async def handle(self, session: Session, method: str, body: Body) -> Body:
        """The Handler protocol of the control socket."""
        match method:
            case "attach":
                self._sessions += 1
                session.state["attached"] = True
                return {
                    "incarnation": self._incarnation,
                    "backend": self._backend_name,
                    "handle": self._handle,
                    "size_bytes": self._buffers.extents.size_bytes,
                    "_fds": [self._table_fd],
                }
            case "allocate":
                packed, size_bytes = _packed(body), int(body["size_bytes"])
                quick = self._at_once(packed, size_bytes)
                if quick is not None:
                    return _place(quick)
                return await self._patiently(
                    partial(self._buffers.allocate, packed, size_bytes), float(body["waited_s"])
                )
            case "promote":
                promote = partial(self._buffers.promote, _packed(body))
                return await self._patiently(promote, float(body["waited_s"]))
            case "write_host_object":
                await self._in_worker(partial(self._buffers.write_host_object, _packed(body)))
                return {}
            case "stats":
                return self._stats()
        raise ProtocolError(
            f"the device's process has no method {method!r:.80}",
            hint="both sides must have the same version",
        )

    def disconnected(self, session: Session) -> None:
        """The Handler protocol: a peer is gone. What it held, the store takes from it."""
        if session.state.get("attached"):
            self._sessions -= 1

    def _at_once(self, packed: bytes, size_bytes: int) -> Buffer | None:
        """A new array's place, if nothing has to leave for it: then no other thread is needed."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            extents = self._buffers.extents
            if extents.longest_bytes < extents.rounded(size_bytes):
                return None
            return self._buffers.allocate(packed, size_bytes, can_wait=True)
        finally:
            self._lock.release()

    async def _patiently(self, ask: Callable[..., Buffer | None], waited_s: float) -> Body:
        """Asks for room until there is some, or answers "not yet" after a moment.

        Raises what `ask` does once the caller has waited for long enough.
        """
        loop = asyncio.get_running_loop()
        left_s = self.config.full_timeout_s - waited_s
        until_s = loop.time() + min(left_s, ANSWER_WITHIN_S)
        while True:
            buffer = await self._in_worker(partial(ask, can_wait=left_s > 0))
            if buffer is not None:
                return _place(buffer)
            if loop.time() >= until_s:
                if left_s > ANSWER_WITHIN_S:
                    return {"room": False}
                left_s = 0.0
                continue
            await asyncio.sleep(RETRY_S)

    async def _in_worker(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._locked, work)

    def _locked(self, work: Callable[[], _T]) -> _T:
        with self._lock:
            return work()

    def _stats(self) -> Body:
        extents, counts = self._buffers.extents, self._buffers.counts
        return {
            "pid": os.getpid(),
            "identity": self._buffers.identity,
            "arrays": len(self._buffers),
            "capacity_bytes": extents.size_bytes,
            "used_bytes": extents.size_bytes - extents.free_bytes,
            "demoted": counts.demoted,
            "promoted": counts.promoted,
            "freed": counts.freed,
            "clock": self._clock,
        }

    # ---- upkeep

    async def _look_after(self) -> None:
        """Turns the clock, frees what is gone; returns when there is nothing left to serve."""
        loop = asyncio.get_running_loop()
        busy_s = store_seen_s = loop.time()
        while True:
            await asyncio.sleep(TICK_S)
            self._clock += 1
            self._buffers.tick(self._clock)
            if len(self._buffers):
                await self._in_worker(self._buffers.reclaim)
            if self._sessions or len(self._buffers):
                busy_s = loop.time()
            if loop.time() - busy_s > self.config.idle_s:
                logger.info("idle, ending device=%s", self._buffers.identity)
                return
            if self._store.segment.closed:
                logger.warning("another store listens now, ending")
                return
            if self._clock % STORE_PING_TICKS == 0:
                if await asyncio.to_thread(self._store_answers):
                    store_seen_s = loop.time()
                elif loop.time() - store_seen_s > STORE_AWAY_S:
                    logger.warning("the store is gone, ending device=%s", self._buffers.identity)
                    return

    def _store_answers(self) -> bool:
        try:
            self._store.stats()
        except StoreUnavailableError:
            return False
        except ObjectStoreError:
            logger.exception("the store answers with an error")
        return True


def _packed(body: Body) -> bytes:
    packed = body["packed"]
    if not isinstance(packed, bytes) or len(packed) != 28:
        raise ProtocolError("a packed reference has 28 bytes")
    return packed


def _place(buffer: Buffer) -> Body:
    return {
        "room": True,
        "entry": buffer.entry,
        "generation": buffer.generation,
        "offset": buffer.offset,
    }
