"""The store daemon: makes the segment, lets processes in, and cleans up after them.

It is on nobody's path: once attached, a process creates, seals, gets and releases in shared memory
alone. The daemon owns the client slots and does what only a survivor can: when a connection ends,
it gives the scheduler (if there is one) the time to take the dead one's tasks over, and then clears
its holds and takes its memory back.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
from collections.abc import Coroutine
from typing import TYPE_CHECKING

from rostral_gcs.errors import ConfigError, PortInUseError, RostralError
from rostral_gcs.ids import ObjectID
from rostral_gcs.services.users import uid_of
from rostral_objectstore import takeover, transfer_port
from rostral_objectstore._native import (
    elsewhere,
    events,
    freeing,
    headroom,
    repair,
    residence,
    sweep,
)
from rostral_objectstore._native.heap import Heap
from rostral_objectstore._native.segment import Segment
from rostral_objectstore._native.table import Handle, ObjectTable
from rostral_objectstore._native.task import Tasks
from rostral_objectstore.config import StoreConfig, machine_memory_bytes
from rostral_objectstore.control import Body
from rostral_objectstore.control_server import ControlServer, Session
from rostral_objectstore.device_daemons import DeviceDaemons
from rostral_objectstore.errors import ProtocolError, StoreRestartedError, TooManyClientsError
from rostral_objectstore.layout import (
    CHUNK_BYTES,
    NO_SLOT,
    SLOTS_MAX,
    ObjectRecord,
    ObjectState,
    SlotKind,
    SlotState,
)
from rostral_objectstore.pages_ahead import PagesAhead
from rostral_objectstore.room import Room
from rostral_objectstore.takeover import process_start_time

if TYPE_CHECKING:
    from rostral_objectstore.transfer import TransferService

logger = logging.getLogger("rostral.objectstore.daemon")

REPAIR_POLL_S = 0.002
AWAIT_POLL_S = 0.1
UPKEEP_INTERVAL_S = 1.0
LIST_MAX = 100_000
# Pages are taken ahead of use for no more than a quarter of the store, and only while the machine
# has an eighth of its memory left: others need it more.
AHEAD_SHARE = 4
SPARE_SHARE = 8


def _object_id(body: Body) -> bytes:
    id = body["id"]
    if not isinstance(id, bytes) or len(id) != ObjectID.SIZE:
        raise ProtocolError(f"an object id is {ObjectID.SIZE} bytes")
    return id


class StoreDaemon:
    """One node's store. ``start`` serves until ``stop``; both belong to the running event loop.

    Args:
        config: its settings.
        segment: of a daemon that died: this one takes over, with every object in it. Its size is
            what it was, whatever ``config.memory_bytes`` says.
    """

    def __init__(self, config: StoreConfig, segment: Segment | None = None) -> None:
        config.validate()
        self.config = config
        if segment is None:
            transfer_port.forget(config.socket_path)
        self._unburied = [] if segment is None else takeover.bury_former_daemons(segment)
        if segment is None:
            segment = Segment.create(
                config.memory_bytes,
                config.node_id,
                config.cpu_count,
                huge_pages=config.huge_pages,
            )
        self.segment = segment
        # Attached to the segment and not to us: of a daemon before us.
        self._awaited = takeover.living_clients(segment)
        self._pages_ahead = PagesAhead(
            self.segment,
            ahead_bytes=min(config.pages_ahead_bytes, config.memory_bytes // AHEAD_SHARE),
            spare_bytes=machine_memory_bytes() // SPARE_SHARE,
        )
        slot = self.segment.claim_slot(
            os.getpid(), process_start_time(os.getpid()), SlotKind.STORE, bytes(16), bytes(16)
        )
        self.segment.use_slot(slot)
        self.table = ObjectTable(self.segment)
        self.room = Room(self.table, config)
        self._orphaned_tasks = Tasks(self.table)
        self._server = ControlServer(
            config.socket_path, self, worker_uid=uid_of(config.worker_user)
        )
        self._devices = DeviceDaemons(config)
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self.is_parked = False
        """Whether a daemon after us will be given the segment: what is on disk stays then."""
        self._pinned = takeover.adopt_kept(self.table)
        self.transfer: TransferService | None = None
        self._transfer_lock = asyncio.Lock()

    async def start(self) -> None:
        """Listens from here on."""
        for slot in self._unburied:
            sweep.finish_release(self.table, slot)
            self._spawn(self._bury(slot))
        for slot, pid in self._awaited.items():
            self._spawn(self._await_return(slot, pid))
        if self.config.transfer is not None:
            from rostral_objectstore.transfer import TransferService

            self.transfer = TransferService(
                self.segment, self.config.transfer, room=self.room, keep=self.cache
            )
        elif transfer_port.recalled(self.config.socket_path):
            self._spawn(self._resume_transfers())
        await self._server.start()
        self._pages_ahead.start()
        self._spawn(self._upkeep())
        self.room.start()
        logger.info(
            "store ready socket=%s memory_bytes=%s",
            self.config.socket_path,
            self.config.memory_bytes,
        )

    async def stop(self) -> None:
        """Ends every connection. The segment goes with the last process that maps it.

        Nobody is buried: the processes go on sharing what they have, and a daemon that is given
        the segment takes them back.
        """
        self._stopping = True
        await self._server.stop()
        if not self.is_parked:
            transfer_port.forget(self.config.socket_path)
            await self._devices.stop()
        if self.transfer is not None:
            await self.transfer.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._pages_ahead.stop()
        await self.room.stop(keep_files=self.is_parked)
        self.segment.close()

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- requests

    async def handle(self, session: Session, method: str, body: Body) -> Body:
        """The Handler protocol of the control socket."""
        match method:
            case "attach":
                return self._attach(session, body)
            case "reattach":
                return self._reattach(session, body)
            case "stats":
                return self.stats()
            case "pin":
                id = _object_id(body)
                self._pinned[id] = self.table.adopt(Handle, body["loc"], body["version"], id)
                residence.keep(self.table, self._pinned[id], True)
                return {}
            case "unpin":
                return {"pinned": self._unpin(_object_id(body))}
            case "make_room":
                size, waited_s = int(body["size"]), float(body["waited_s"])
                return {"room": await self.room.make(size, waited_s=waited_s)}
            case "restore":
                handle = self.table.adopt(Handle, body["loc"], body["version"], _object_id(body))
                return {"restored": await self.room.restore(handle)}
            case "free":
                return self._free(body["objects"])
            case "revive":
                return {"revived": self._revive(body["objects"])}
            case "list_objects":
                return {"objects": self._list_objects(int(body["limit"]), body.get("state"))}
            case "fetch":
                return await (await self._transfers()).fetch(body)
            case "device":
                return await self._devices.find(str(body["identity"]), str(body["backend"]))
            case "device_to_host":
                return await self._devices.write_host_object(body["packed"])
            case "transfer_stats":
                return (await self._transfers()).stats()
            case "transfer_address":
                return {"address": (await self._transfers()).address}
        raise ProtocolError(
            f"the store has no method {method!r:.80}", hint="both sides must have the same version"
        )

    async def _transfers(self) -> TransferService:
        """What serves and fetches; it begins with the first request, if it has not with the store.

        Raises: ConfigError, MissingExtraError, TokenFileError, PortInUseError.
        """
        async with self._transfer_lock:
            if self.transfer is None:
                self.transfer = await self._begin_transfers()
        return self.transfer

    async def _begin_transfers(self) -> TransferService:
        config = self.config
        if config.transfer_token_file is None:
            raise ConfigError(
                "this store takes no part in transfers",
                hint="start it with: rostral-objectstore serve --transfer HOST:PORT "
                "--token-file FILE",
            )
        # Arrow Flight takes longer to import than the daemon may be deaf.
        transfer = await asyncio.to_thread(importlib.import_module, "rostral_objectstore.transfer")
        tls = config.transfer_tls
        credentials = transfer.Credentials(
            token_file=config.transfer_token_file,
            tls_certificate_file=tls.tls_certificate_file,
            tls_key_file=tls.tls_key_file,
            tls_ca_file=tls.tls_ca_file,
        )

        def serve(port: int) -> TransferService:
            address = f"{config.transfer_host}:{port}"
            server = transfer.TransferServerConfig(credentials=credentials, address=address)
            fetch = transfer.FetchConfig(credentials=credentials)
            service: TransferService = transfer.TransferService(
                self.segment,
                transfer.TransferConfig(server=server, fetch=fetch),
                room=self.room,
                keep=self.cache,
            )
            return service

        try:
            service = serve(transfer_port.recalled(config.socket_path))
        except PortInUseError as error:
            logger.warning("transfers move to another port: %s", error)
            service = serve(0)
        transfer_port.remember(config.socket_path, int(service.address.rpartition(":")[2]))
        return service

    async def _resume_transfers(self) -> None:
        """Others ask where the daemon before this one has answered."""
        try:
            await self._transfers()
        except RostralError as error:
            logger.warning("transfers do not go on: %s", error)

    def _attach(self, session: Session, body: Body) -> Body:
        if "slot" in session.state:
            raise ProtocolError("this connection is attached already")
        try:
            kind = SlotKind[str(body["kind"]).upper()]
        except KeyError:
            raise ProtocolError(f"no kind of client is called {body['kind']!r}") from None
        worker_id, job_id = body["worker_id"], body["job_id"]
        if len(worker_id) != 16 or len(job_id) != 16:
            raise ProtocolError("worker_id and job_id have 16 bytes each")
        slot = self.segment.claim_slot(
            session.pid, process_start_time(session.pid), kind, worker_id, job_id
        )
        if slot < 0:
            raise TooManyClientsError(
                f"all {SLOTS_MAX} client slots of the store are taken",
                hint="use fewer processes on this node",
            )
        session.state["slot"] = slot
        logger.debug("attached pid=%s slot=%s kind=%s", session.pid, slot, kind.name)
        return {"slot": slot, "_fds": [self.segment.fd]}

    def _reattach(self, session: Session, body: Body) -> Body:
        slot = body["slot"]
        if body["incarnation"] != self.segment.incarnation:
            raise StoreRestartedError(
                f"the store at {self.config.socket_path} was started anew, with its own memory",
                hint="close this client and connect again",
            )
        if slot not in self._awaited or not takeover.is_the_same_process(
            self.segment, slot, session.pid
        ):
            raise ProtocolError(f"slot {slot} is not one that this process had before")
        del self._awaited[slot]
        session.state["slot"] = slot
        logger.debug("reattached pid=%s slot=%s", session.pid, slot)
        return {"slot": slot}

    def _free(self, objects: list[bytes]) -> Body:
        for packed in objects:
            # Without a pause in between: nothing comes back from disk meanwhile.
            freeing.free(self.table, self.table.adopt_packed(Handle, packed))
        return {}

    def _revive(self, objects: list[bytes]) -> list[bool]:
        adopt = self.table.adopt_packed
        return [elsewhere.revive(self.table, adopt(Handle, packed)) for packed in objects]

    async def _await_return(self, slot: int, pid: int) -> None:
        """Buries a client of the former daemon's that dies before it has come back to us."""
        while slot in self._awaited:
            if not takeover.is_the_same_process(self.segment, slot, pid):
                del self._awaited[slot]
                self._lose(slot)
            await asyncio.sleep(AWAIT_POLL_S)

    def _unpin(self, id: bytes) -> bool:
        handle = self._pinned.pop(id, None)
        if handle is not None:
            residence.keep(self.table, handle, False)
        return handle is not None

    def disconnected(self, session: Session) -> None:
        """The Handler protocol: a peer is gone."""
        slot = session.state.get("slot")
        if slot is not None and not self._stopping:
            self._lose(slot)

    def _lose(self, slot: int) -> None:
        sweep.finish_release(self.table, slot)
        self.segment.set_slot_state(slot, SlotState.DEAD)
        if slot == self.segment.scheduler_slot:
            self.segment.set_scheduler(NO_SLOT)
        self._spawn(self._bury(slot))

    async def _bury(self, slot: int) -> None:
        repair.settle(self.table, slot)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.config.repair_timeout_s
        # A plain client has no tasks, but it may have stopped others while it held a lock: nobody
        # is exempt.
        while self.segment.scheduler_slot != NO_SLOT and loop.time() < deadline:
            self.segment.poke(self.segment.scheduler_slot)
            if self.segment.slot_info(slot)["state"] == SlotState.REPAIRED:
                break
            await asyncio.sleep(REPAIR_POLL_S)
        # What no scheduler took over is still to be run, and its inputs to be kept until then.
        repair.take_over(self._orphaned_tasks, slot)
        repair.reap(self.table, slot)
        events.forget(self.segment, slot)
        self.segment.set_slot_state(slot, SlotState.FREE)
        logger.debug("buried slot=%s", slot)

    async def _upkeep(self) -> None:
        """Memory of dead processes comes free as the survivors drop what lies in it."""
        while True:
            await asyncio.sleep(UPKEEP_INTERVAL_S)
            self._orphaned_tasks.sweep()
            sweep.free_empty_orphans(self.table)

    def _list_objects(self, limit: int, state: str | None) -> list[Body]:
        found: list[Body] = []
        for record in repair.list_objects(self.table, LIST_MAX if state else min(limit, LIST_MAX)):
            name = ObjectState(record["state"]).name.lower()
            if len(found) == limit:
                break
            if state is None or name == state:
                found.append(self._describe(record, name))
        return found

    def _describe(self, record: ObjectRecord, state: str) -> Body:
        others = [slot for slot in record["holders"] if slot != self.segment.slot]
        return {
            "id": record["id"],
            "state": state,
            "size_bytes": record["size"],
            "holders": sorted({self.segment.slot_info(slot)["pid"] for slot in others}),
            "pinned": record["id"] in self._pinned,
            "containers": record["containers"],
            "is_error": record["is_error"],
        }

    def cache(self, handle: Handle) -> None:
        """Keeps a copy of an object that is safe on another node, until its room is wanted."""
        self.room.cached.add(handle)

    def stats(self) -> Body:
        """Bytes and chunks by use, and how many processes are attached."""
        kinds = ("free", "claimed", "slabs", "objects", "tasks", "runs", "run_bodies", "queues")
        chunks = Heap(self.segment).chunks_by_kind()
        free, longest = headroom.free_chunks(self.segment)
        return {
            "capacity_bytes": self.segment.capacity,
            "used_bytes": self.segment.capacity - chunks[0] * CHUNK_BYTES,
            "free_bytes": chunks[0] * CHUNK_BYTES,
            "largest_free_bytes": longest * CHUNK_BYTES,
            "fragmentation": 1 - longest / free if free else 0.0,
            "pinned_bytes": sum(self.table.size(handle) for handle in [*self._pinned.values()]),
            "pinned": len(self._pinned),
            "objects": repair.count_objects(self.table),
            "chunks": dict(zip(kinds, chunks, strict=True)),
            "clients": len(self.segment.slots_in_state(SlotState.LIVE)) - 1,  # without ourselves
            **self.room.stats(),
        }
