"""The asynchronous client: every table's methods over one connection.

This file owns the public methods. Rows are in ``row_client.py``, names in ``actor_registry.py``,
watches in ``client_watch.py``; the blocking face over this one is ``sync_client.py``.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace
from typing import Self

from rostral_gcs import actor_registry
from rostral_gcs._proto import gcs_pb2
from rostral_gcs.client_lineage import LineageMethods
from rostral_gcs.client_options import ClientOptions
from rostral_gcs.client_placement import PlacementMethods
from rostral_gcs.client_watch import WatchEvent, WatchPosition, follow
from rostral_gcs.connection import Connection
from rostral_gcs.credentials import TlsFiles
from rostral_gcs.errors import AlreadyExistsError, ConflictError, GcsError, NotFoundError
from rostral_gcs.ids import ActorID, FunctionID, JobID, NodeID
from rostral_gcs.row_client import RowClient
from rostral_gcs.shard_map import GrowthSummary
from rostral_gcs.tables.actors import ACTORS, ActorRow, ActorState
from rostral_gcs.tables.functions import (
    FUNCTION_CHUNKS,
    FUNCTIONS,
    FunctionRow,
    chunk_keys,
    encode_function,
    join_function,
    open_header,
)
from rostral_gcs.tables.jobs import JOBS, JobRow, JobState
from rostral_gcs.tables.kv import KV, KvRow, kv_key, kv_prefix
from rostral_gcs.tables.node_report import NodeReport, encode_report
from rostral_gcs.tables.nodes import NODES, NodeRow, NodeState
from rostral_gcs.tables.table import RowT, Table
from rostral_gcs.tokens import Tokens

__all__ = ["AsyncGcsClient"]

_CHUNKS_PER_READ = 16


class AsyncGcsClient(LineageMethods, PlacementMethods):
    """A client of one GCS, used on the event loop that connected it; not across a fork.

    Small writes that are made while a request is under way go together in the next one. Every
    method retries while nothing answers, up to ``call_timeout_s``, and may then raise
    GcsUnavailableError; a write may then have happened or not. Any method may also raise
    UnauthenticatedError, and ClientClosedError after ``close``.

    Args:
        address: ``host:port``; several services of one store with commas between.
        token: The cluster token, or its file, which may then change.
        options: Bounds; the defaults suit a cluster on one site.
    """

    def __init__(
        self, address: str, token: str | Tokens, *, options: ClientOptions | None = None
    ) -> None:
        self._options = options if options is not None else ClientOptions()
        self._connection = Connection(address, token, self._options)
        self._rows = RowClient(self._connection, self._options)

    @property
    def address(self) -> str:
        """``host:port``."""
        return self._connection.address

    @property
    def tls(self) -> TlsFiles:
        """The files of its TLS, for channels to other services of the cluster."""
        return self._options.tls

    @property
    def call_metadata(self) -> tuple[tuple[str, str], ...]:
        """What shows the cluster token, for calls to other services of the cluster."""
        return self._connection.metadata

    @property
    def cluster_id(self) -> bytes:
        """The store's 16 random bytes; empty before ``connect``."""
        return self._connection.cluster_id

    async def connect(self) -> None:
        """Connects and greets the server; call once, before anything else.

        Raises:
            GcsUnavailableError: Nothing answers within ``connect_timeout_s``.
            UnauthenticatedError: The token is not the server's.
            VersionMismatchError: The server speaks another protocol.
        """
        await self._connection.open()

    async def close(self) -> None:
        """Sends the writes that wait and closes the connection. May be called twice."""
        await self._rows.close()
        await self._connection.close()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def act_as(self, node_id: NodeID, epoch: int) -> None:
        """Makes every further write in the name of the node, so that it is fenced once dead."""
        self._rows.act_as(node_id, epoch)

    # --- Nodes -------------------------------------------------------------------------------

    async def register_node(self, row: NodeRow) -> NodeRow:
        """Registers a node and starts its lease.

        A node that is DEAD may register again; its epoch then rises and fences its former self.

        Args:
            row: The node; its state, epoch, version and times are set here.

        Returns:
            The row as stored, with the epoch to renew with.

        Raises:
            AlreadyExistsError: A live node has this id.
            InvalidArgumentError: A resource, or the lease, is out of bounds.
        """
        key = row.node_id.binary()
        known = await self._rows.get(NODES, key)
        if known is not None and known.state is NodeState.ALIVE:
            raise _node_exists(row.node_id)
        fresh = replace(
            row,
            state=NodeState.ALIVE,
            epoch=1 if known is None else known.epoch + 1,
            death_cause="",
            start_time_s=time.time(),
            end_time_s=0.0,
        )
        value = NODES.encode(fresh)
        try:
            version = await self._rows.write_one(
                NODES.name, key, value, 0 if known is None else known.version
            )
        except ConflictError as error:
            raise _node_exists(row.node_id) from error
        return replace(fresh, version=version)

    async def renew_node_lease(
        self,
        node_id: NodeID,
        epoch: int,
        *,
        resources_available: Mapping[str, float] | None = None,
        report: NodeReport | None = None,
    ) -> float:
        """Renews the lease; call it at least three times within a lease.

        Args:
            node_id: The node.
            epoch: As ``register_node`` returned it.
            resources_available: What is free now; written when it changed. None: leave it.
            report: What waits there now; written when it changed. None: leave it.

        Returns:
            How long the lease now runs, seconds.

        Raises:
            NotFoundError: The node is unknown: register it again.
            InvalidArgumentError: A resource or a measure is out of bounds.
            FencedError: The node was found dead, or registered anew: it must stop.
        """
        request = gcs_pb2.RenewNodeLeaseRequest(
            node_id=node_id.binary(),
            epoch=epoch,
            has_resources=resources_available is not None,
            resources_available=resources_available or {},
            report=None if report is None else encode_report(report),
        )
        reply = await self._connection.call("RenewNodeLease", request, gcs_pb2.RenewNodeLeaseReply)
        return reply.lease_s

    async def get_node(self, node_id: NodeID) -> NodeRow | None:
        """The node, or None."""
        return await self._rows.get(NODES, node_id.binary())

    async def list_nodes(self) -> list[NodeRow]:
        """All nodes, dead ones included."""
        return await self._rows.scan(NODES)

    async def mark_node_dead(self, node_id: NodeID, cause: str) -> NodeRow:
        """Marks the node DEAD and fences it; of a dead node it changes nothing.

        Raises:
            NotFoundError: There is no such node.
        """

        def decide(row: NodeRow) -> NodeRow | None:
            if row.state is NodeState.DEAD:
                return None
            return replace(row, state=NodeState.DEAD, death_cause=cause, end_time_s=time.time())

        return await self._rows.change(NODES, node_id.binary(), decide)

    # --- Jobs --------------------------------------------------------------------------------

    async def add_job(self, row: JobRow) -> JobRow:
        """Adds a job, RUNNING since now.

        Raises:
            AlreadyExistsError: The job id exists.
        """
        fresh = replace(row, state=JobState.RUNNING, start_time_s=time.time(), end_time_s=0.0)
        key = JOBS.key_of(fresh)
        try:
            version = await self._rows.write_one(JOBS.name, key, JOBS.encode(fresh), 0)
        except ConflictError as error:
            raise AlreadyExistsError(
                f"job {row.job_id.hex()} exists already",
                hint="use a new job id",
                owner=row.job_id.hex(),
            ) from error
        return replace(fresh, version=version)

    async def finish_job(self, job_id: JobID) -> JobRow:
        """Marks the job FINISHED; of a finished job it changes nothing.

        Raises:
            NotFoundError: There is no such job.
        """

        def decide(row: JobRow) -> JobRow | None:
            if row.state is JobState.FINISHED:
                return None
            return replace(row, state=JobState.FINISHED, end_time_s=time.time())

        return await self._rows.change(JOBS, job_id.binary(), decide)

    async def get_job(self, job_id: JobID) -> JobRow | None:
        """The job, or None."""
        return await self._rows.get(JOBS, job_id.binary())

    async def list_jobs(self) -> list[JobRow]:
        """All jobs, finished ones included."""
        return await self._rows.scan(JOBS)

    # --- Functions ---------------------------------------------------------------------------

    async def put_function(self, function_id: FunctionID, name: str, blob: bytes) -> None:
        """Stores a function, once; the same bytes again are well.

        Args:
            function_id: Its id.
            name: Its qualified name, for people.
            blob: Opaque, up to 100 MB; large ones are stored in chunks.

        Raises:
            TooLargeError: The blob passes the limit.
            ImmutableError: The id is stored with other bytes.
        """
        chunks, header = encode_function(FunctionRow(function_id=function_id, name=name, blob=blob))
        for result in await self._rows.write(
            FUNCTION_CHUNKS, [(key, value, None) for key, value in chunks]
        ):
            if isinstance(result, GcsError):
                raise result
        await self._rows.write_one(FUNCTIONS, function_id.binary(), header)

    async def get_function(self, function_id: FunctionID) -> FunctionRow:
        """The function.

        Raises:
            NotFoundError: There is no such function.
        """
        rows = await self._rows.read(FUNCTIONS, [function_id.binary()])
        if not rows:
            raise NotFoundError(
                f"function {function_id.hex()} is not in the store",
                hint="its driver must export it first",
            )
        header = open_header(rows[0].value)
        keys = chunk_keys(function_id, header.chunk_count)
        chunks: list[bytes] = []
        for at in range(0, len(keys), _CHUNKS_PER_READ):
            part = await self._rows.read(FUNCTION_CHUNKS, keys[at : at + _CHUNKS_PER_READ])
            chunks.extend(row.value for row in part)
        return join_function(function_id, header, chunks)

    # --- Actors ------------------------------------------------------------------------------

    async def register_actor(self, row: ActorRow) -> ActorRow:
        """Adds an actor and claims its name, if it has one.

        Raises:
            AlreadyExistsError: The id exists, or a live actor has the name; ``owner`` tells it.
            InvalidArgumentError: The name has a slash or control characters.
        """
        return await actor_registry.register_actor(self._rows, row)

    async def update_actor(self, row: ActorRow) -> ActorRow:
        """Writes the row if it still has the version that ``row`` was read with.

        An actor that becomes DEAD gives its name back.

        Raises:
            ConflictError: Somebody else changed it; read it again.
        """
        version = await self._rows.write_one(
            ACTORS.name, ACTORS.key_of(row), ACTORS.encode(row), row.version
        )
        return await self._released(replace(row, version=version))

    async def change_actor(
        self, actor_id: ActorID, decide: Callable[[ActorRow], ActorRow | None]
    ) -> ActorRow:
        """Reads the row, writes what ``decide`` makes of it, and begins again on a conflict.

        Args:
            actor_id: The actor.
            decide: From the present row to the new one, or None to leave it. May be called often,
                so it must have no side effects.

        Raises:
            NotFoundError: There is no such actor.
        """
        row = await self._rows.change(ACTORS, actor_id.binary(), decide)
        return await self._released(row)

    async def get_actor(self, actor_id: ActorID) -> ActorRow | None:
        """The actor, or None."""
        return await self._rows.get(ACTORS, actor_id.binary())

    async def get_actor_by_name(self, name: str, *, namespace: str = "") -> ActorRow | None:
        """The actor of that name that is not DEAD, or None."""
        return await actor_registry.find_actor(self._rows, namespace, name)

    async def list_actors(self) -> list[ActorRow]:
        """All actors, dead ones included."""
        return await self._rows.scan(ACTORS)

    async def _released(self, row: ActorRow) -> ActorRow:
        if row.state is ActorState.DEAD:
            await actor_registry.release_actor_name(self._rows, row)
        return row

    # --- Key-value ---------------------------------------------------------------------------

    async def kv_put(
        self,
        key: bytes,
        value: bytes,
        *,
        namespace: str = "",
        expected_version: int | None = None,
    ) -> int:
        """Writes an entry and returns its version.

        Args:
            key: 1 byte to 1 KiB, namespace included.
            value: Up to 512 KiB.
            namespace: Free text without slash or control characters.
            expected_version: Write only if the entry has this version; 0: only if there is none.
                None: whatever it has.

        Raises:
            ConflictError: It has another version; ``current_version`` tells it.
            InvalidKeyError: The key is empty.
            TooLargeError: Key or value passes its limit.
        """
        return await self._rows.write_one(KV.name, kv_key(namespace, key), value, expected_version)

    async def kv_get(self, key: bytes, *, namespace: str = "") -> KvRow | None:
        """The entry with its version, or None."""
        return await self._rows.get(KV, kv_key(namespace, key))

    async def kv_delete(
        self, key: bytes, *, namespace: str = "", expected_version: int | None = None
    ) -> None:
        """Deletes the entry; one that is not there is well, unless a version is expected.

        Raises:
            ConflictError: It has another version.
        """
        await self._rows.write_one(KV.name, kv_key(namespace, key), None, expected_version)

    async def kv_keys(self, prefix: bytes = b"", *, namespace: str = "") -> list[bytes]:
        """All keys of the namespace that begin with the prefix, in order."""
        rows = await self._rows.scan(KV, kv_prefix(namespace, prefix))
        return [row.key for row in rows]

    # --- Shards ------------------------------------------------------------------------------

    async def add_shards(self, shard_count: int, *, timeout_s: float = 3600.0) -> GrowthSummary:
        """Adds shards to the store until there are so many; calls are served meanwhile.

        Rows that move are copied first; writes to them then wait for a moment (``blocked_s``),
        nothing else does. Watches begin again with RESYNC. With as many as there are, nothing is
        done. A compare-and-set whose answer is lost at that very moment may, when it is sent again,
        find its own write and raise ConflictError.

        Args:
            shard_count: How many there shall be, 256 at most.
            timeout_s: How long to wait. The server goes on when nobody waits any more.

        Raises:
            InvalidArgumentError: There are more, or the store is in Redis.
            StorageError: The disk is full or failed; the store is as it was.
        """
        reply = await self._connection.call(
            "AddShards",
            gcs_pb2.AddShardsRequest(shard_count=max(0, shard_count)),
            gcs_pb2.AddShardsReply,
            timeout_s=timeout_s,
        )
        return GrowthSummary(reply.shard_count, reply.moved_rows, reply.blocked_s)

    # --- Watches -----------------------------------------------------------------------------

    def watch(
        self,
        table: Table[RowT],
        *,
        prefix: bytes = b"",
        position: WatchPosition | None = None,
        resync: bool = True,
    ) -> AsyncGenerator[WatchEvent[RowT], None]:
        """Yields a snapshot of the table and then every change, across reconnects.

        Without a position: RESYNC, a PUT for each row, SYNCED, and then PUT and DELETE in the order
        of the writes of each shard. With one: changes from there on, none lost, none repeated. When
        the history has been trimmed past the position, it begins again with RESYNC. A slow reader
        slows nobody. Close it with ``aclose()`` or by cancelling the task that reads it.

        Args:
            table: NODES, JOBS, ACTORS, OBJECTS, PLACEMENT_GROUPS, CHECKPOINTS or KV.
            prefix: Only keys, as stored, that begin with it.
            position: Of the last event that the reader has dealt with.
            resync: False: raise instead of beginning again.

        Raises:
            ResyncRequiredError: The history was trimmed, and ``resync`` is False.
            OutOfRangeError: The position is in the future, and ``resync`` is False.
            GcsUnavailableError: Nothing answered for ``watch_timeout_s``.
        """
        return follow(
            self._connection,
            self._options,
            table,
            prefix=prefix,
            position=position,
            resync=resync,
        )


def _node_exists(node_id: NodeID) -> AlreadyExistsError:
    return AlreadyExistsError(
        f"a live node has the id {node_id.hex()}",
        hint="use a new node id, or wait until its lease has run out",
        owner=node_id.hex(),
    )
