"""The scheduler's side of the zygote: asks it for workers, hears what became of them.

This file owns the zygote's process and socket, which ``zygote_start.py`` has made. It knows no
workers beyond the message at hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Protocol

import msgspec

from rostral_scheduler.errors import WorkerStartError
from rostral_scheduler.local.zygote import MESSAGE_SIZE_MAX
from rostral_scheduler.worker_start import WorkerStart
from rostral_scheduler.zygote_start import StartedZygote

__all__ = ["ZygoteListener", "ZygoteProcess"]

logger = logging.getLogger("rostral.scheduler.zygote")


class ZygoteListener(Protocol):
    """Who is told what the zygote says."""

    def worker_forked(self, worker_id: bytes, pid: int) -> None:
        """The process exists."""

    def worker_not_forked(self, worker_id: bytes, error: str) -> None:
        """It could not be made."""

    def worker_exited(self, pid: int, status: int) -> None:
        """The process is dead; ``status`` is as waitpid gives it."""

    def zygote_lost(self, zygote: ZygoteProcess) -> None:
        """The zygote died, and every worker with it."""


class ZygoteProcess:
    """One zygote, from its process's start to ``stop``, on the running event loop."""

    def __init__(self, listener: ZygoteListener, started: StartedZygote, *, entry: str) -> None:
        self._listener = listener
        self._entry = entry
        self._process: subprocess.Popen[bytes] | None = started.process
        self._connection: socket.socket | None = started.connection
        self._ready: asyncio.Future[None] | None = None
        self._serving = False

    async def wait_ready(self, timeout_s: float) -> None:
        """Waits until it can fork.

        Raises:
            WorkerStartError: The worker module cannot be imported, or the process ends, or it is
                not ready in time. Then it is gone.
        """
        loop = asyncio.get_running_loop()
        assert self._connection is not None
        self._ready = loop.create_future()
        loop.add_reader(self._connection, self._receive)
        try:
            async with asyncio.timeout(timeout_s):
                await self._ready
        except TimeoutError as error:
            await self.stop()
            raise WorkerStartError(
                f"the zygote was not ready after {timeout_s:g} s",
                hint=f"importing {self._entry} takes too long, or the machine is overloaded",
            ) from error
        except WorkerStartError:
            await self.stop()
            raise
        self._serving = True

    @property
    def pid(self) -> int:
        """Of the zygote; 0 when there is none."""
        return 0 if self._process is None else self._process.pid

    def fork(
        self, start: WorkerStart, environment: Mapping[str, str], stdout: int, stderr: int
    ) -> None:
        """Asks for a worker. The descriptors stay the caller's.

        Raises:
            WorkerStartError: The zygote is gone, or does not keep up.
        """
        message = msgspec.msgpack.encode({"start": asdict(start), "env": dict(environment)})
        if len(message) > MESSAGE_SIZE_MAX:
            raise WorkerStartError(
                f"the environment of a worker takes {len(message)} bytes",
                hint=f"at most {MESSAGE_SIZE_MAX}",
            )
        try:
            if self._connection is None:
                raise BrokenPipeError
            socket.send_fds(self._connection, [message], [stdout, stderr])
        except OSError as error:
            raise WorkerStartError(f"the zygote cannot be asked for a worker: {error}") from error

    async def stop(self) -> None:
        """Ends the zygote and all its workers, and waits for that. May be called twice."""
        self._close()
        process, self._process = self._process, None
        if process is None:
            return
        try:
            await asyncio.to_thread(process.wait, 5.0)
        except subprocess.TimeoutExpired:
            logger.warning("the zygote does not end; killing it pid=%s", process.pid)
            process.kill()
            await asyncio.to_thread(process.wait)

    def _close(self) -> None:
        if self._connection is not None:
            asyncio.get_running_loop().remove_reader(self._connection)
            self._connection.close()
            self._connection = None

    def _receive(self) -> None:
        assert self._connection is not None
        while self._connection is not None:
            try:
                data = self._connection.recv(MESSAGE_SIZE_MAX)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._lost()
                return
            self._handle(msgspec.msgpack.decode(data))

    def _lost(self) -> None:
        self._close()
        assert self._ready is not None
        if self._serving:
            self._listener.zygote_lost(self)
        elif not self._ready.done():
            self._ready.set_exception(
                WorkerStartError("the zygote ended before it was ready", hint="its stderr says why")
            )

    def _handle(self, message: dict[str, Any]) -> None:
        assert self._ready is not None
        match message:
            case {"ready": _}:
                with contextlib.suppress(asyncio.InvalidStateError):
                    self._ready.set_result(None)
            case {"broken": text}:
                self._ready.set_exception(
                    WorkerStartError(
                        f"the worker module {self._entry!r} cannot be used:\n{text}",
                        hint="install it, or name another with --worker-module",
                    )
                )
            case {"forked": worker_id, "pid": pid}:
                self._listener.worker_forked(worker_id, pid)
            case {"failed": worker_id, "error": text}:
                self._listener.worker_not_forked(worker_id, text)
            case {"exited": pid, "status": status}:
                self._listener.worker_exited(pid, status)
