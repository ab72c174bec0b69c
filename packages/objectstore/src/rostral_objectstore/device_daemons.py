"""The store's processes for devices: started when somebody first asks for a device.

Imports nothing of a device's: what it starts does. Each listens beside the store's own socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import glob
import hashlib
import json
import logging
import os
import sys

from rostral_objectstore.config import StoreConfig
from rostral_objectstore.control import Body, ControlClient, decode_error
from rostral_objectstore.errors import (
    DeviceError,
    DeviceLostError,
    ObjectStoreError,
    ProtocolError,
    StoreUnavailableError,
)
from rostral_objectstore.gpu.backend import (
    BACKEND_NAMES,
    BACKEND_VARIABLE,
    MIG_PREFIX,
    VISIBLE_VARIABLE,
)

logger = logging.getLogger("rostral.objectstore.gpu")

# Importing CuPy and making a context of the driver takes seconds, the first time on a machine more.
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 5.0
WRITE_TIMEOUT_S = 600.0
IDENTITY_LENGTH_MAX = 100
PACKED_BYTES = 28
_DIGEST_DIGITS = 8


class DeviceDaemons:
    """One process for each device that is in use."""

    def __init__(self, config: StoreConfig) -> None:
        self._config = config
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._starting = asyncio.Lock()

    async def find(self, identity: str, backend: str) -> Body:
        """Where the process for a device listens, which is started if there is none.

        Raises:
            DeviceError: it cannot be started. DeviceUnavailableError: the store has no such device.
        """
        is_name = identity.isprintable() and 0 < len(identity) <= IDENTITY_LENGTH_MAX
        if backend not in BACKEND_NAMES or not is_name:
            raise ProtocolError(f"{identity!r:.80} of {backend!r:.80} is no device")
        digest = hashlib.blake2b(identity.encode(), digest_size=_DIGEST_DIGITS // 2).hexdigest()
        path = f"{self._config.socket_path}.{digest}"
        async with self._starting:
            if not await _listens(path):
                await self._start(identity, backend, path)
        return {"socket_path": path}

    async def write_host_object(self, packed: object) -> Body:
        """Has a device array's bytes in shared memory too, whichever process has the array.

        Raises: DeviceLostError: none has. ObjectStoreFullError, DeviceError. ProtocolError.
        """
        if not isinstance(packed, bytes) or len(packed) != PACKED_BYTES:
            raise ProtocolError(f"a packed reference has {PACKED_BYTES} bytes")
        hexadecimal = packed[:20].hex()
        refusal: ObjectStoreError = DeviceLostError(
            f"a device array is lost (host object {hexadecimal}): no process of this store has it",
            hint="make it again; the store's log says which of them died, and why",
            object_ref_hex=hexadecimal,
        )
        # By their sockets: one may have been started by a store daemon before this one.
        for path in glob.glob(f"{glob.escape(self._config.socket_path)}.{'?' * _DIGEST_DIGITS}"):
            try:
                await asyncio.to_thread(_write_host_object, path, packed)
            except (DeviceLostError, StoreUnavailableError):
                continue
            except ObjectStoreError as error:
                refusal = error
                continue
            return {}
        raise refusal

    async def stop(self) -> None:
        """Ends them all."""
        running = [one for one in self._processes.values() if one.returncode is None]
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        for process in running:
            try:
                await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
            except TimeoutError:
                process.kill()
                await process.wait()

    async def _start(self, identity: str, backend: str, path: str) -> None:
        settings = {
            "store_socket": self._config.socket_path,
            "socket_path": path,
            "identity": identity,
            "memory_bytes": self._config.device_memory_bytes,
            "idle_s": self._config.device_idle_s,
            "full_timeout_s": self._config.full_timeout_s,
            "worker_user": self._config.worker_user,
        }
        environment = {**os.environ, BACKEND_VARIABLE: backend}
        if identity.startswith(MIG_PREFIX):
            # A process sees one slice of a GPU only, and none of those that it does not name.
            environment[VISIBLE_VARIABLE] = identity
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "rostral_objectstore.gpu.service", json.dumps(settings)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
        )
        self._processes[identity] = process
        assert process.stdout is not None
        try:
            line = await asyncio.wait_for(process.stdout.readline(), START_TIMEOUT_S)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise DeviceError(
                f"the store's process for device {identity} did not start in {START_TIMEOUT_S} s"
            ) from None
        said = json.loads(line) if line else {}
        if said.get("ready"):
            logger.info("device process started device=%s pid=%s", identity, process.pid)
            return
        await process.wait()
        if "error" in said:
            raise decode_error(said["error"])
        raise DeviceError(
            f"the store's process for device {identity} ended with status {process.returncode}",
            hint="its traceback is in the store's log",
        )


def _write_host_object(path: str, packed: bytes) -> None:
    control = ControlClient(path)
    try:
        control.call("write_host_object", {"packed": packed}, WRITE_TIMEOUT_S)
    finally:
        control.close()


async def _listens(path: str) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
