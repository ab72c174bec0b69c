"""The blocking client: a thin face over the asynchronous one on a loop thread of its own.

This file owns the thread and the waiting; every method says in one line what it does and is
described in full at the method of the same name in ``client.py``.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from typing import Any, Self, TypeVar

from rostral_gcs.client import AsyncGcsClient
from rostral_gcs.client_options import ClientOptions
from rostral_gcs.client_watch import WatchEvent, WatchPosition
from rostral_gcs.errors import ClientClosedError, ForkedClientError
from rostral_gcs.ids import (
    ActorID,
    FunctionID,
    JobID,
    NodeID,
    ObjectID,
    PlacementGroupID,
    TaskID,
)
from rostral_gcs.shard_map import GrowthSummary
from rostral_gcs.tables.actors import ActorRow
from rostral_gcs.tables.checkpoints import CheckpointRow
from rostral_gcs.tables.events import EventRow, EventSeverity
from rostral_gcs.tables.functions import FunctionRow
from rostral_gcs.tables.jobs import JobRow
from rostral_gcs.tables.kv import KvRow
from rostral_gcs.tables.node_report import NodeReport
from rostral_gcs.tables.nodes import NodeRow
from rostral_gcs.tables.objects import ObjectRow
from rostral_gcs.tables.placement_groups import PlacementGroupRow
from rostral_gcs.tables.table import RowT, Table
from rostral_gcs.tables.tasks import TaskRow, TaskState
from rostral_gcs.tokens import Tokens

__all__ = ["GcsClient"]

_T = TypeVar("_T")


class GcsClient:
    """A connected client whose methods block. Threads may share it; a forked child may not.

    The caller must ``close()`` it, or use it in a ``with`` statement.

    Args:
        address: ``host:port``; several services of one store with commas between.
        token: The cluster token, or its file, which may then change.
        options: Bounds; the defaults suit a cluster on one site.

    Raises:
        GcsUnavailableError: Nothing answers within ``connect_timeout_s``.
        UnauthenticatedError: The token is not the server's.
        VersionMismatchError: The server speaks another protocol.
    """

    def __init__(
        self, address: str, token: str | Tokens, *, options: ClientOptions | None = None
    ) -> None:
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._run, args=(self._loop,), name="gcs-client", daemon=True
        )
        self._thread.start()
        # Made on its loop, where its locks and tasks belong.
        self._core = self._wait(_make(address, token, options))
        try:
            self._wait(self._core.connect())
        except BaseException:
            self._stop_loop()
            raise

    @property
    def address(self) -> str:
        """``host:port``."""
        return self._core.address

    @property
    def cluster_id(self) -> bytes:
        """The store's 16 random bytes."""
        return self._core.cluster_id

    def close(self) -> None:
        """Sends the writes that wait, closes the connection, ends the thread. Twice is well."""
        if self._loop is not None:
            self._wait(self._core.close())
            self._stop_loop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def act_as(self, node_id: NodeID, epoch: int) -> None:
        """Makes every further write in the name of the node, so that it is fenced once dead."""
        self._core.act_as(node_id, epoch)

    def register_node(self, row: NodeRow) -> NodeRow:
        """Registers a node and starts its lease."""
        return self._wait(self._core.register_node(row))

    def renew_node_lease(
        self,
        node_id: NodeID,
        epoch: int,
        *,
        resources_available: Mapping[str, float] | None = None,
        report: NodeReport | None = None,
    ) -> float:
        """Renews the lease; call it at least three times within a lease."""
        return self._wait(
            self._core.renew_node_lease(
                node_id, epoch, resources_available=resources_available, report=report
            )
        )

    def get_node(self, node_id: NodeID) -> NodeRow | None:
        """The node, or None."""
        return self._wait(self._core.get_node(node_id))

    def list_nodes(self) -> list[NodeRow]:
        """All nodes, dead ones included."""
        return self._wait(self._core.list_nodes())

    def mark_node_dead(self, node_id: NodeID, cause: str) -> NodeRow:
        """Marks the node DEAD and fences it; of a dead node it changes nothing."""
        return self._wait(self._core.mark_node_dead(node_id, cause))

    def add_job(self, row: JobRow) -> JobRow:
        """Adds a job, RUNNING since now."""
        return self._wait(self._core.add_job(row))

    def finish_job(self, job_id: JobID) -> JobRow:
        """Marks the job FINISHED; of a finished job it changes nothing."""
        return self._wait(self._core.finish_job(job_id))

    def get_job(self, job_id: JobID) -> JobRow | None:
        """The job, or None."""
        return self._wait(self._core.get_job(job_id))

    def list_jobs(self) -> list[JobRow]:
        """All jobs, finished ones included."""
        return self._wait(self._core.list_jobs())

    def put_function(self, function_id: FunctionID, name: str, blob: bytes) -> None:
        """Stores a function, once; the same bytes again are well."""
        return self._wait(self._core.put_function(function_id, name, blob))

    def get_function(self, function_id: FunctionID) -> FunctionRow:
        """The function."""
        return self._wait(self._core.get_function(function_id))

    def register_actor(self, row: ActorRow) -> ActorRow:
        """Adds an actor and claims its name, if it has one."""
        return self._wait(self._core.register_actor(row))

    def update_actor(self, row: ActorRow) -> ActorRow:
        """Writes the row if it still has the version that ``row`` was read with."""
        return self._wait(self._core.update_actor(row))

    def change_actor(
        self, actor_id: ActorID, decide: Callable[[ActorRow], ActorRow | None]
    ) -> ActorRow:
        """Reads the row, writes what ``decide`` makes of it, and begins again on a conflict."""
        return self._wait(self._core.change_actor(actor_id, decide))

    def get_actor(self, actor_id: ActorID) -> ActorRow | None:
        """The actor, or None."""
        return self._wait(self._core.get_actor(actor_id))

    def get_actor_by_name(self, name: str, *, namespace: str = "") -> ActorRow | None:
        """The actor of that name that is not DEAD, or None."""
        return self._wait(self._core.get_actor_by_name(name, namespace=namespace))

    def list_actors(self) -> list[ActorRow]:
        """All actors, dead ones included."""
        return self._wait(self._core.list_actors())

    def record_tasks(self, rows: Sequence[TaskRow]) -> None:
        """Writes tasks, whatever was known of them."""
        return self._wait(self._core.record_tasks(rows))

    def get_tasks(self, task_ids: Iterable[TaskID]) -> dict[TaskID, TaskRow]:
        """The tasks that are known, by id; others are left out."""
        return self._wait(self._core.get_tasks(task_ids))

    def get_producers(self, object_ids: Iterable[ObjectID]) -> dict[ObjectID, TaskRow]:
        """The task that makes each object, where it is known."""
        return self._wait(self._core.get_producers(object_ids))

    def query_tasks(
        self,
        *,
        job_id: JobID | None = None,
        state: TaskState | None = None,
        name: str | None = None,
        function_id: FunctionID | None = None,
        actor_id: ActorID | None = None,
        parent_id: TaskID | None = None,
        node_id: NodeID | None = None,
        since_s: float | None = None,
        until_s: float | None = None,
        limit: int = 1000,
        page_token: bytes = b"",
    ) -> tuple[list[TaskRow], bytes]:
        """A page of tasks, archived ones included."""
        return self._wait(
            self._core.query_tasks(
                job_id=job_id,
                state=state,
                name=name,
                function_id=function_id,
                actor_id=actor_id,
                parent_id=parent_id,
                node_id=node_id,
                since_s=since_s,
                until_s=until_s,
                limit=limit,
                page_token=page_token,
            )
        )

    def query_events(
        self,
        *,
        kind: str | None = None,
        severity: EventSeverity | None = None,
        job_id: JobID | None = None,
        node_id: NodeID | None = None,
        subject_id: bytes | None = None,
        since_s: float | None = None,
        until_s: float | None = None,
        limit: int = 1000,
        page_token: bytes = b"",
    ) -> tuple[list[EventRow], bytes]:
        """A page of events, archived ones included."""
        return self._wait(
            self._core.query_events(
                kind=kind,
                severity=severity,
                job_id=job_id,
                node_id=node_id,
                subject_id=subject_id,
                since_s=since_s,
                until_s=until_s,
                limit=limit,
                page_token=page_token,
            )
        )

    def record_events(self, rows: Sequence[EventRow]) -> None:
        """Writes events."""
        return self._wait(self._core.record_events(rows))

    def list_events(self, since_s: float = 0.0, *, limit: int = 1000) -> list[EventRow]:
        """The oldest events since a time, in their order."""
        return self._wait(self._core.list_events(since_s, limit=limit))

    def add_placement_group(self, row: PlacementGroupRow) -> PlacementGroupRow:
        """Adds a group and claims its name, if it has one."""
        return self._wait(self._core.add_placement_group(row))

    def update_placement_group(self, row: PlacementGroupRow) -> PlacementGroupRow:
        """Writes the row if it still has the version that ``row`` was read with."""
        return self._wait(self._core.update_placement_group(row))

    def change_placement_group(
        self,
        group_id: PlacementGroupID,
        decide: Callable[[PlacementGroupRow], PlacementGroupRow | None],
    ) -> PlacementGroupRow:
        """Reads the row, writes what ``decide`` makes of it, and begins again on a conflict."""
        return self._wait(self._core.change_placement_group(group_id, decide))

    def get_placement_group(self, group_id: PlacementGroupID) -> PlacementGroupRow | None:
        """The group, or None."""
        return self._wait(self._core.get_placement_group(group_id))

    def get_placement_group_by_name(
        self, name: str, *, namespace: str = ""
    ) -> PlacementGroupRow | None:
        """The group of that name that is not REMOVED, or None."""
        return self._wait(self._core.get_placement_group_by_name(name, namespace=namespace))

    def list_placement_groups(self) -> list[PlacementGroupRow]:
        """All groups, removed ones included."""
        return self._wait(self._core.list_placement_groups())

    def add_checkpoint(self, row: CheckpointRow) -> CheckpointRow:
        """Adds a checkpoint."""
        return self._wait(self._core.add_checkpoint(row))

    def list_checkpoints(self, actor_id: ActorID) -> list[CheckpointRow]:
        """The actor's checkpoints, oldest first."""
        return self._wait(self._core.list_checkpoints(actor_id))

    def remove_checkpoints(self, actor_id: ActorID, *, before: int) -> None:
        """Removes the actor's checkpoints with a number below ``before``."""
        return self._wait(self._core.remove_checkpoints(actor_id, before=before))

    def add_object_locations(self, node_id: NodeID, sizes_bytes: Mapping[ObjectID, int]) -> None:
        """Says that the node holds these objects, with their sizes; may be repeated."""
        return self._wait(self._core.add_object_locations(node_id, sizes_bytes))

    def remove_object_locations(self, node_id: NodeID, object_ids: Iterable[ObjectID]) -> None:
        """Says that the node no longer holds these objects; may be repeated."""
        return self._wait(self._core.remove_object_locations(node_id, object_ids))

    def get_object_locations(self, object_ids: Iterable[ObjectID]) -> dict[ObjectID, ObjectRow]:
        """The objects that some node holds, with their holders; others are left out."""
        return self._wait(self._core.get_object_locations(object_ids))

    def kv_put(
        self, key: bytes, value: bytes, *, namespace: str = "", expected_version: int | None = None
    ) -> int:
        """Writes an entry and returns its version."""
        return self._wait(
            self._core.kv_put(key, value, namespace=namespace, expected_version=expected_version)
        )

    def kv_get(self, key: bytes, *, namespace: str = "") -> KvRow | None:
        """The entry with its version, or None."""
        return self._wait(self._core.kv_get(key, namespace=namespace))

    def kv_delete(
        self, key: bytes, *, namespace: str = "", expected_version: int | None = None
    ) -> None:
        """Deletes the entry; one that is not there is well, unless a version is expected."""
        return self._wait(
            self._core.kv_delete(key, namespace=namespace, expected_version=expected_version)
        )

    def kv_keys(self, prefix: bytes = b"", *, namespace: str = "") -> list[bytes]:
        """All keys of the namespace that begin with the prefix, in order."""
        return self._wait(self._core.kv_keys(prefix, namespace=namespace))

    def add_shards(self, shard_count: int, *, timeout_s: float = 3600.0) -> GrowthSummary:
        """Adds shards to the store until there are so many; calls are served meanwhile."""
        return self._wait(self._core.add_shards(shard_count, timeout_s=timeout_s))

    def watch(
        self,
        table: Table[RowT],
        *,
        prefix: bytes = b"",
        position: WatchPosition | None = None,
        resync: bool = True,
    ) -> Generator[WatchEvent[RowT], None, None]:
        """Yields a snapshot of the table and then every change, across reconnects; blocks."""
        events = self._core.watch(table, prefix=prefix, position=position, resync=resync)
        try:
            while True:
                yield self._wait(anext(events))
        finally:
            if self._loop is not None:
                self._wait(events.aclose())

    def _wait(self, work: Coroutine[Any, Any, _T]) -> _T:
        loop = self._loop
        if loop is None:
            work.close()
            raise ClientClosedError("the client was closed", hint="make a new client")
        if os.getpid() != self._pid:
            # The child has the loop's memory but not its thread: waiting would hang for ever.
            work.close()
            raise ForkedClientError(
                f"the client was made before a fork, in pid {self._pid}",
                hint="make a new client in this process",
            )
        future = asyncio.run_coroutine_threadsafe(work, loop)
        try:
            return future.result()
        except BaseException:
            # Ctrl-C in the waiting thread must not leave the call running behind its back.
            future.cancel()
            raise

    def _stop_loop(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join()

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()


async def _make(address: str, token: str | Tokens, options: ClientOptions | None) -> AsyncGcsClient:
    return AsyncGcsClient(address, token, options=options)
