"""The client's methods for what is written in bulk: tasks, events, object locations.

This file owns these methods of ``AsyncGcsClient``, which has them as a base. None of the writes is
conditional, so they travel as columns; what callers write meanwhile goes together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rostral_gcs.ids import ActorID, BaseID, FunctionID, JobID, NodeID, ObjectID, TaskID
from rostral_gcs.row_client import RowClient
from rostral_gcs.tables.events import EVENTS, EventRow, EventSeverity, event_key
from rostral_gcs.tables.objects import OBJECTS, ObjectLocation, ObjectRow, join_locations
from rostral_gcs.tables.tasks import TASKS, TaskRow, TaskState

__all__ = ["LineageMethods"]


class LineageMethods:
    """Tasks, events and object locations."""

    _rows: RowClient

    # --- Tasks -------------------------------------------------------------------------------

    async def record_tasks(self, rows: Sequence[TaskRow]) -> None:
        """Writes tasks, whatever was known of them; to be called behind the hot path.

        Returns when the death of the GCS process cannot lose them. Call it with many at once, or
        often at the same time: what is written while a request is under way goes together.

        Args:
            rows: The tasks; of two rows of one task the later wins.

        Raises:
            InvalidArgumentError: A field is out of range; none was written.
            ControlPlaneFullError: Unfinished tasks fill the memory allowed for them.
            FencedError: The node on whose behalf this is written is dead.
        """
        await self._rows.write_columns(
            TASKS.name, [row.task_id.binary() for row in rows], [TASKS.encode(row) for row in rows]
        )

    async def get_tasks(self, task_ids: Iterable[TaskID]) -> dict[TaskID, TaskRow]:
        """The tasks that are known, by id; others are left out."""
        keys = [task_id.binary() for task_id in task_ids]
        found = await self._rows.read(TASKS.name, keys)
        rows = (TASKS.decode(row.key, row.value, row.version) for row in found)
        return {row.task_id: row for row in rows}

    async def get_producers(self, object_ids: Iterable[ObjectID]) -> dict[ObjectID, TaskRow]:
        """The task that makes each object, where it is known."""
        wanted = {object_id: object_id.task_id() for object_id in object_ids}
        found = await self.get_tasks(dict.fromkeys(wanted.values()))
        return {
            object_id: found[task_id] for object_id, task_id in wanted.items() if task_id in found
        }

    async def query_tasks(
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
        """A page of tasks, archived ones included, roughly in the order in which they were written.

        A page may have few rows, or none, though others follow: it ends when the token is empty. A
        task that is written or flushed between two pages may come twice.

        Args:
            job_id: Only tasks of this job; as the others, None for any.
            state: Only tasks in this state.
            name: Only tasks of this name.
            function_id: Only tasks that run this function.
            actor_id: Only calls of this actor.
            parent_id: Only tasks that this task submitted.
            node_id: Only tasks on this node.
            since_s: Only tasks submitted then or later, Unix time.
            until_s: Only tasks submitted before then, Unix time.
            limit: Most rows, 1 to 10,000.
            page_token: Of the page before; empty for the first.

        Returns:
            The rows, and the token of the next page, empty after the last.
        """
        return await self._rows.query(
            TASKS,
            [
                ("job_id", "=", _binary(job_id)),
                ("state", "=", state.name if state is not None else None),
                ("name", "=", name),
                ("function_id", "=", _binary(function_id)),
                ("actor_id", "=", _binary(actor_id)),
                ("parent_id", "=", _binary(parent_id)),
                ("node_id", "=", _binary(node_id)),
                ("submit_time_s", ">=", since_s),
                ("submit_time_s", "<", until_s),
            ],
            limit=limit,
            page_token=page_token,
        )

    # --- Events ------------------------------------------------------------------------------

    async def record_events(self, rows: Sequence[EventRow]) -> None:
        """Writes events, in bulk as ``record_tasks`` does.

        Raises:
            InvalidArgumentError: A field is out of range; none was written.
        """
        await self._rows.write_columns(
            EVENTS.name, [EVENTS.key_of(row) for row in rows], [EVENTS.encode(row) for row in rows]
        )

    async def list_events(self, since_s: float = 0.0, *, limit: int = 1000) -> list[EventRow]:
        """The oldest events since a time that are not archived yet, in their order.

        Args:
            since_s: Unix time.
            limit: Most events, 1 to 10,000. For more, ask again since the last one's time.
        """
        after_key = event_key(since_s, b"")
        rows, _ = await self._rows.scan_page(EVENTS, after_key=after_key, limit=limit)
        return rows

    async def query_events(
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
        """A page of events, archived ones included, as ``query_tasks`` gives tasks.

        Args:
            kind: Only events of this kind; as the others, None for any.
            severity: Only events of this severity.
            job_id: Only events of this job.
            node_id: Only events of this node.
            subject_id: Only events about this task, actor or object.
            since_s: Only events then or later, Unix time.
            until_s: Only events before then, Unix time.
            limit: Most rows, 1 to 10,000.
            page_token: Of the page before; empty for the first.

        Returns:
            The rows, and the token of the next page, empty after the last.
        """
        return await self._rows.query(
            EVENTS,
            [
                ("kind", "=", kind),
                ("severity", "=", severity.value if severity is not None else None),
                ("job_id", "=", _binary(job_id)),
                ("node_id", "=", _binary(node_id)),
                ("subject_id", "=", subject_id),
                ("time_s", ">=", since_s),
                ("time_s", "<", until_s),
            ],
            limit=limit,
            page_token=page_token,
        )

    # --- Objects -----------------------------------------------------------------------------

    async def add_object_locations(
        self, node_id: NodeID, sizes_bytes: Mapping[ObjectID, int]
    ) -> None:
        """Says that the node holds these objects, with their sizes; may be repeated."""
        locations = [
            ObjectLocation(object_id=object_id, node_id=node_id, size_bytes=size_bytes)
            for object_id, size_bytes in sizes_bytes.items()
        ]
        await self._rows.write_columns(
            OBJECTS.name,
            [OBJECTS.key_of(row) for row in locations],
            [OBJECTS.encode(row) for row in locations],
        )

    async def remove_object_locations(
        self, node_id: NodeID, object_ids: Iterable[ObjectID]
    ) -> None:
        """Says that the node no longer holds these objects; may be repeated."""
        suffix = node_id.binary()
        keys = [object_id.binary() + suffix for object_id in object_ids]
        await self._rows.write_columns(OBJECTS.name, keys, None)

    async def get_object_locations(
        self, object_ids: Iterable[ObjectID]
    ) -> dict[ObjectID, ObjectRow]:
        """The objects that some node holds, with their holders; others are left out."""
        prefixes = list(dict.fromkeys(object_id.binary() for object_id in object_ids))
        found = await self._rows.read_prefixes(OBJECTS.name, prefixes)
        return join_locations(OBJECTS.decode(row.key, row.value, row.version) for row in found)


def _binary(id_: BaseID | None) -> bytes | None:
    return None if id_ is None else id_.binary()
