"""The node's link to the GCS: registered, its lease renewed, its changes written behind.

This file owns the connection and the queue of writes. Nothing on a request's path waits for it, but
for the one question that only the whole cluster can answer: whether an actor's name is free. A GCS
that is away is waited for; a GCS that has declared the node dead is obeyed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace

from rostral_gcs import (
    ActorRow,
    ActorState,
    AsyncGcsClient,
    JobRow,
    NodeReport,
    NodeRow,
    QueueReport,
)
from rostral_gcs.errors import (
    AlreadyExistsError,
    FencedError,
    GcsError,
    GcsUnavailableError,
    NotFoundError,
)
from rostral_gcs.ids import ActorID, FunctionID, JobID, NodeID
from rostral_scheduler.config import LocalSchedulerConfig
from rostral_scheduler.errors import ActorAlreadyExistsError
from rostral_scheduler.local.actor_record import ActorRecord, ActorStage
from rostral_scheduler.local.jobs import Job
from rostral_scheduler.local.load import Load

__all__ = ["GcsLink"]

logger = logging.getLogger("rostral.scheduler.gcs")

_PAUSE_S = 0.5
_RENEWALS_PER_LEASE = 4
# What comes within this time is written together: an actor that is made and ready is one write.
_GATHER_S = 0.05
_STATES = {
    ActorStage.PENDING: ActorState.PENDING,
    ActorStage.STARTING: ActorState.PENDING,
    ActorStage.ALIVE: ActorState.ALIVE,
    ActorStage.RESTARTING: ActorState.RESTARTING,
    ActorStage.DEAD: ActorState.DEAD,
}
_LIVING = (ActorState.ALIVE, ActorState.RESTARTING)

Write = Callable[[], Awaitable[object]]


class GcsLink:
    """One node's link, on the running event loop.

    Args:
        client: Connected by ``start`` if ``owns_client``.
        owns_client: Whether ``stop`` closes it.
        config: Of the scheduler.
        node_id: The node.
        available: What the node has free, for the lease's renewals.
        load: What waits on it, for the same.
        listen: Makes the scheduler reachable for other nodes; returns where, or nothing.
        is_draining: Whether the node takes nothing new.
        fenced: Called when the GCS has declared the node dead.
    """

    def __init__(
        self,
        client: AsyncGcsClient,
        *,
        owns_client: bool,
        config: LocalSchedulerConfig,
        node_id: bytes,
        available: Callable[[], dict[str, float]],
        load: Load,
        listen: Callable[[], Awaitable[str]],
        is_draining: Callable[[], bool],
        fenced: Callable[[], None],
    ) -> None:
        self.client = client
        self._owns_client = owns_client
        self._config = config
        self._node_id = NodeID(node_id)
        self._available = available
        self._load = load
        self._listen = listen
        self._is_draining = is_draining
        self._renewal_is_due = asyncio.Event()
        self._scheduler_address = ""
        self._fenced = fenced
        self._epoch = 0
        self._writes: deque[Write] = deque()
        self._wake = asyncio.Event()
        # What the cluster does not know yet of actors: the latest of each.
        self._actors: dict[bytes, ActorRow] = {}
        self._unregistered: set[bytes] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self.writes_dropped = 0

    async def start(self) -> None:
        """Connects and registers the node.

        Raises:
            GcsUnavailableError: Nothing answers there.
            UnauthenticatedError: The token is wrong.
            AlreadyExistsError: A living node has this id.
        """
        if self._owns_client:
            await self.client.connect()
        self._scheduler_address = await self._listen()
        try:
            await self._register()
        except AlreadyExistsError:
            await self._bury_former_self()
            await self._register()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._renew()), loop.create_task(self._write_behind())]

    async def stop(self) -> None:
        """Writes what waits, says that the node is gone, and closes."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(GcsError, TimeoutError):
            async with asyncio.timeout(2.0):
                while self._writes:
                    await self._writes.popleft()()
                await self.client.mark_node_dead(self._node_id, "the node was stopped")
        if self._owns_client:
            with contextlib.suppress(GcsError):
                await self.client.close()

    async def _bury_former_self(self) -> None:
        """Ends the lease of a scheduler of this very node that died a moment ago.

        It cannot be alive: it would listen at the socket that is ours now.

        Raises:
            AlreadyExistsError: The living node is another.
        """
        row = await self.client.get_node(self._node_id)
        ours = (socket.gethostname(), self._config.socket_path)
        if row is not None and (row.hostname, row.scheduler_socket) != ours:
            raise AlreadyExistsError(
                f"node {self._node_id} lives on {row.hostname} already",
                hint="start this node's store anew, it then has an id of its own",
            )
        await self.client.mark_node_dead(self._node_id, "its local scheduler was started again")

    async def _register(self) -> None:
        config = self._config
        row = await self.client.register_node(
            NodeRow(
                node_id=self._node_id,
                address=config.address,
                hostname=socket.gethostname(),
                store_socket=config.store_socket,
                scheduler_socket=config.socket_path,
                scheduler_address=self._scheduler_address,
                resources_total=config.total().as_floats(),
                resources_available=self._available(),
                labels=config.labels,
                lease_s=config.node_lease_s,
            )
        )
        self._epoch = row.epoch

    async def _renew(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._config.node_lease_s / _RENEWALS_PER_LEASE):
                    await self._renewal_is_due.wait()
            self._renewal_is_due.clear()
            try:
                await self.confirm()
            except FencedError as error:
                logger.error("the GCS has declared this node dead: %s", error)
                return
            except NotFoundError:
                with contextlib.suppress(GcsError):
                    await self._register()
            except GcsError as error:
                logger.warning("cannot renew the lease error=%s", error)

    async def confirm(self) -> None:
        """Renews the lease, now.

        Raises:
            FencedError: The cluster has taken this node for dead; the scheduler has been told.
            GcsError: The GCS does not answer.
        """
        try:
            await self.client.renew_node_lease(
                self._node_id,
                self._epoch,
                resources_available=self._available(),
                report=self._report(),
            )
        except FencedError:
            self._fenced()
            raise

    def renew_soon(self) -> None:
        """Something has changed that others must know now."""
        self._renewal_is_due.set()

    def _report(self) -> NodeReport:
        return NodeReport(
            queues=tuple(
                QueueReport(
                    resources=queue.shape.as_floats(),
                    length=queue.length,
                    run_time_s=queue.run_time_s,
                )
                for queue in self._load.queues()
            ),
            run_time_s=self._load.run_time_s(),
            resources_held=self._load.held(),
            is_draining=self._is_draining(),
        )

    # ---- written behind

    def _later(self, write: Write) -> None:
        if len(self._writes) >= self._config.gcs_writes_queued_max:
            self._writes.popleft()
            self.writes_dropped += 1
        self._writes.append(write)
        self._wake.set()

    async def _write_behind(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(_GATHER_S)
            self._wake.clear()
            while self._writes:
                write = self._writes.popleft()
                try:
                    await write()
                except GcsUnavailableError as error:
                    logger.warning("the GCS is away; waiting error=%s", error)
                    self._writes.appendleft(write)
                    await asyncio.sleep(_PAUSE_S)
                except GcsError as error:
                    logger.warning("the GCS refused a write error=%s", error)

    def job_began(self, job: Job, driver_pid: int) -> None:
        """Adds the job's row."""
        row = JobRow(
            job_id=JobID(job.job_id),
            driver_pid=driver_pid,
            hostname=socket.gethostname(),
            namespace=job.namespace,
            entrypoint=job.entrypoint,
            node_id=self._node_id,
        )
        self._later(lambda: self.client.add_job(row))

    def job_ended(self, job: Job) -> None:
        """Marks the job finished."""
        job_id = JobID(job.job_id)
        self._later(lambda: self.client.finish_job(job_id))

    def export_function(self, function_id: bytes, name: str, blob: bytes) -> None:
        """Stores a function."""
        key = FunctionID(function_id)
        self._later(lambda: self.client.put_function(key, name, blob))

    def _row(self, actor: ActorRecord, pid: int) -> ActorRow:
        return ActorRow(
            actor_id=ActorID(actor.actor_id),
            job_id=JobID(actor.job_id),
            name=actor.name or "",
            namespace=actor.namespace,
            class_name=actor.class_name,
            node_id=self._node_id,
            worker_pid=pid,
            state=_STATES[actor.stage],
            death_cause=actor.death_cause,
            detached=actor.detached,
            max_restarts=actor.max_restarts,
            restarts=actor.restarts,
        )

    async def claim_name(self, actor: ActorRecord) -> None:
        """Registers a named actor, now. Raises ActorAlreadyExistsError."""
        row = self._row(actor, 0)
        for other in list(self._actors.values()):
            if (other.namespace, other.name) == (row.namespace, row.name):
                # It is dead here, and the cluster has not heard of that yet.
                await self._write_actor(other.actor_id.binary())
        try:
            await self.client.register_actor(row)
        except AlreadyExistsError as error:
            raise ActorAlreadyExistsError(
                f"the name {actor.name!r} in namespace {actor.namespace!r} is taken by actor "
                f"{error.owner}",
                hint="choose another name, or get that actor by its name",
            ) from error

    async def names_elsewhere(self) -> list[dict[str, str | None]]:
        """Names and namespaces of living actors of other nodes, by name. Raises GcsError."""
        rows = [
            (row.name, row.namespace)
            for row in await self.client.list_actors()
            if row.name and row.state is not ActorState.DEAD and row.node_id != self._node_id
        ]
        return [{"name": name, "namespace": namespace} for name, namespace in sorted(rows)]

    def actor_made(self, actor: ActorRecord) -> None:
        """Registers an actor without a name."""
        self._unregistered.add(actor.actor_id)
        self.actor_changed(actor, 0)

    @property
    def writes_queued(self) -> int:
        """How many wait to be written."""
        return len(self._writes)

    def is_registered(self, actor_id: bytes) -> bool:
        """Whether the cluster has heard of an actor that was made here."""
        return actor_id not in self._unregistered

    def actor_changed(self, actor: ActorRecord, pid: int) -> None:
        """Writes the actor's state."""
        actor_id = actor.actor_id
        is_queued = actor_id in self._actors
        self._actors[actor_id] = self._row(actor, pid)
        if not is_queued:
            self._later(lambda: self._write_actor(actor_id))

    async def _write_actor(self, actor_id: bytes) -> None:
        """Writes what there is to write of one actor."""
        while (now := self._actors.get(actor_id)) is not None:
            try:
                if actor_id in self._unregistered:
                    await self.client.register_actor(now)
                    self._unregistered.discard(actor_id)
                else:
                    await self._change_actor(now)
            except GcsUnavailableError:
                raise
            except GcsError:
                self._actors.pop(actor_id, None)
                self._unregistered.discard(actor_id)
                raise
            if self._actors.get(actor_id) is now:
                del self._actors[actor_id]

    async def _change_actor(self, now: ActorRow) -> None:
        def decide(row: ActorRow) -> ActorRow | None:
            if row.node_id != self._node_id:
                return None  # It was given to another node, which took this one for dead.
            if row.state is ActorState.DEAD or (
                now.state is ActorState.PENDING and row.state in _LIVING
            ):
                return None
            return replace(
                row,
                state=now.state,
                death_cause=now.death_cause,
                restarts=now.restarts,
                worker_pid=now.worker_pid,
            )

        await self.client.change_actor(now.actor_id, decide)
