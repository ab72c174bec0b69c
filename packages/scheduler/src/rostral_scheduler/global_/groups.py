"""Placing groups from outside their nodes: the coordinators of all groups, kept by the GCS's rows.

This file owns following groups and votes, and carrying out what the coordinators order
(``core/group_commit.py``). It keeps nothing that the rows do not say: any number of these may run
at once, and each may die at any step.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

import msgspec

from rostral_gcs import (
    JOBS,
    KV,
    PLACEMENT_GROUPS,
    AsyncGcsClient,
    JobState,
    KvRow,
    PlacementGroupRow,
    PlacementGroupState,
    WatchKind,
)
from rostral_gcs.errors import ConflictError, GcsError
from rostral_gcs.ids import JobID
from rostral_gcs.tables.kv import kv_prefix
from rostral_scheduler.core.group_commit import (
    GroupAction,
    GroupCoordinator,
    GroupState,
    Release,
    WriteGroup,
)
from rostral_scheduler.core.group_nodes import NodeRoom
from rostral_scheduler.core.placement import PlacementPolicy
from rostral_scheduler.core.resources import ResourceSet
from rostral_scheduler.errors import RequestError
from rostral_scheduler.group_rows import VOTES, Vote, row_of, view_of, vote_key

__all__ = ["GroupPlacer"]

logger = logging.getLogger("rostral.scheduler.global")

_PAUSE_S = 0.5
_TICK_S = 0.1
_ID_SIZE = 16
_ENDED_JOBS_MAX = 10_000


class GroupPlacer:
    """Drives every group that the GCS has. On one event loop.

    Args:
        gcs: A connected client; stays the caller's.
        policy: Knows the nodes and their room; is told where groups are.
    """

    def __init__(self, gcs: AsyncGcsClient, policy: PlacementPolicy) -> None:
        self._gcs = gcs
        self._policy = policy
        self._coordinators: dict[bytes, GroupCoordinator] = {}
        self._rows: dict[bytes, PlacementGroupRow] = {}
        self._votes: dict[bytes, dict[bytes, Vote]] = {}
        # Of late: a group's row may come after the end of its job.
        self._ended_jobs: dict[JobID, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begins to follow the GCS."""
        for follow in (self._follow_groups, self._follow_votes, self._follow_jobs):
            self._spawn(self._repeat(follow))
        self._spawn(self._tick())

    async def stop(self) -> None:
        """Ends it. May be called twice."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _repeat(self, follow: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await follow()
            except GcsError as error:
                logger.warning("cannot follow placement groups; trying again error=%s", error)
            await asyncio.sleep(_PAUSE_S)

    # ---- what the GCS says

    async def _follow_groups(self) -> None:
        events = self._gcs.watch(PLACEMENT_GROUPS)
        async with contextlib.aclosing(events):
            async for event in events:
                if event.kind is WatchKind.PUT and event.row is not None:
                    self._take_row(event.row)
                elif event.kind is WatchKind.DELETE:
                    self._forget(event.key)

    def _take_row(self, row: PlacementGroupRow) -> None:
        group_id = row.group_id.binary()
        try:
            view = view_of(row)
        except RequestError as error:
            logger.warning("group=%s makes no sense error=%s", group_id.hex(), error)
            return
        self._rows[group_id] = row
        coordinator = self._coordinators.setdefault(group_id, GroupCoordinator())
        self._carry_out(coordinator.handle_row(view, self._now_s()))
        if view.state is GroupState.REMOVED:
            # Living nodes take their votes back; of dead ones somebody else has to.
            gone = self._votes.get(group_id, {}).keys() - self._policy.nodes.keys()
            self._spawn(self._drop_votes(group_id, gone))
            self._forget(group_id)
            return
        if view.state is GroupState.CREATED:
            placed: list[tuple[bytes, ResourceSet]] = [
                (node_id, bundle)
                for node_id, bundle in zip(view.nodes, view.bundles, strict=True)
                if node_id is not None
            ]
            self._policy.set_group(group_id, placed)
        else:
            self._policy.remove_group(group_id)
        if row.job_id in self._ended_jobs:
            self._end_with_job(row)
        # A vote may have come before the row that it answers.
        for node_id, vote in list(self._votes.get(group_id, {}).items()):
            self._take_vote(group_id, node_id, vote)

    async def _follow_jobs(self) -> None:
        events = self._gcs.watch(JOBS)
        async with contextlib.aclosing(events):
            async for event in events:
                job = event.row
                if job is None or job.state is not JobState.FINISHED:
                    continue
                if len(self._ended_jobs) >= _ENDED_JOBS_MAX:
                    del self._ended_jobs[next(iter(self._ended_jobs))]
                self._ended_jobs[job.job_id] = None
                for row in [one for one in self._rows.values() if one.job_id == job.job_id]:
                    self._end_with_job(row)

    def _end_with_job(self, row: PlacementGroupRow) -> None:
        if not row.detached and row.state is not PlacementGroupState.REMOVED:
            self._spawn(self._write(replace(row, state=PlacementGroupState.REMOVED)))

    def _forget(self, group_id: bytes) -> None:
        self._policy.remove_group(group_id)
        self._coordinators.pop(group_id, None)
        self._rows.pop(group_id, None)
        self._votes.pop(group_id, None)

    async def _follow_votes(self) -> None:
        events = self._gcs.watch(KV, prefix=kv_prefix(VOTES))
        async with contextlib.aclosing(events):
            async for event in events:
                if event.kind is WatchKind.PUT and event.row is not None:
                    self._read_vote(event.row)

    def _read_vote(self, row: KvRow) -> None:
        group_id, node_id = row.key[:_ID_SIZE], row.key[_ID_SIZE:]
        try:
            vote = msgspec.msgpack.decode(row.value, type=Vote)
        except msgspec.MsgspecError:
            logger.warning("a vote on group=%s cannot be read", group_id.hex())
            return
        self._votes.setdefault(group_id, {})[node_id] = vote
        self._take_vote(group_id, node_id, vote)

    def _take_vote(self, group_id: bytes, node_id: bytes, vote: Vote) -> None:
        coordinator = self._coordinators.get(group_id)
        if coordinator is None:
            return
        now_s = self._now_s()
        if vote.step == "prepare":
            actions = coordinator.handle_prepared(node_id, vote.version, now_s, accepted=vote.yes)
        else:
            actions = coordinator.handle_committed(node_id, vote.version, now_s, known=vote.yes)
        self._carry_out(actions)

    # ---- what is ordered

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            nodes = self._policy.nodes
            rooms = [NodeRoom(id_, node.room()) for id_, node in nodes.items() if node.is_open]
            alive = set(nodes)
            for coordinator in list(self._coordinators.values()):
                self._carry_out(coordinator.handle_tick(self._now_s(), rooms, alive))

    def _carry_out(self, actions: list[GroupAction]) -> None:
        for action in actions:
            match action:
                case WriteGroup(view=view):
                    row = row_of(view, self._rows[view.group_id])
                    self._spawn(self._write(row))
                case Release(node_id=node_id, group_id=group_id, version=version):
                    # The row does not name the node any more: that is all it has to know.
                    self._coordinators[group_id].handle_released(node_id, version)
                case _:
                    pass  # The row itself asks its nodes.

    async def _write(self, row: PlacementGroupRow) -> None:
        try:
            await self._gcs.update_placement_group(row)
        except ConflictError:
            pass  # Somebody else was first: the watch tells what they wrote.
        except GcsError as error:
            logger.warning("cannot write group=%s error=%s", row.group_id.hex(), error)

    async def _drop_votes(self, group_id: bytes, node_ids: set[bytes]) -> None:
        for node_id in node_ids:
            with contextlib.suppress(GcsError):
                await self._gcs.kv_delete(vote_key(group_id, node_id), namespace=VOTES)

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()
