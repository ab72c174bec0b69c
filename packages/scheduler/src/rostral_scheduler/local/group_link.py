"""A node's part in placement groups that lie on many nodes: prepared, committed, given back.

This file owns following the groups' rows and voting on them; what to do is decided in
``core/group_member.py``, and what is set aside is in the policy's ledger, as for groups of this
node alone. A coordinator that dies between the phases leaves nothing: what it had prepared is taken
back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

import msgspec

from rostral_gcs import PLACEMENT_GROUPS, AsyncGcsClient, PlacementGroupRow, WatchKind
from rostral_gcs.errors import ConflictError, GcsError
from rostral_gcs.ids import PlacementGroupID
from rostral_scheduler.core.events import Event
from rostral_scheduler.core.group_commit import GroupState, GroupView
from rostral_scheduler.core.group_member import GroupMember, PolicyLedger, TakeBack
from rostral_scheduler.core.local import LocalPolicy
from rostral_scheduler.errors import RequestError
from rostral_scheduler.group_rows import VOTES, Vote, row_of, view_of, vote_key

__all__ = ["GroupLink"]

logger = logging.getLogger("rostral.scheduler.groups")

_PAUSE_S = 0.5
_TICK_S = 0.1


class GroupLink:
    """One node's part, on the running event loop.

    Args:
        gcs: A connected client; stays the caller's.
        node_id: The node.
        policy: Of the node; its ledger holds the bundles.
        tell: Gives the policy an event, and carries out what it orders.
        hold_s: How long what was prepared is kept before the group's row is asked.
    """

    def __init__(
        self,
        gcs: AsyncGcsClient,
        *,
        node_id: bytes,
        policy: LocalPolicy,
        tell: Callable[[Event], None],
        hold_s: float,
    ) -> None:
        self._gcs = gcs
        self._node_id = node_id
        self.member = GroupMember(node_id, PolicyLedger(policy, tell), hold_s=hold_s)
        # Rows that ask for what is not free yet: they are looked at again at each tick.
        self._unanswered: dict[bytes, GroupView] = {}
        # Of each group the vote that is being written, and those on which there is a vote.
        self._votes: dict[bytes, Vote | None] = {}
        self._voted: set[bytes] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begins to follow the groups' rows."""
        self._spawn(self._follow())
        self._spawn(self._tick())

    async def stop(self) -> None:
        """Ends it; what the node has of groups ends with the node. May be called twice."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self) -> None:
        while True:
            events = self._gcs.watch(PLACEMENT_GROUPS)
            try:
                async with contextlib.aclosing(events):
                    async for event in events:
                        if event.kind is WatchKind.PUT and event.row is not None:
                            self._take_row(event.row)
                        elif event.kind is WatchKind.DELETE:
                            self._unanswered.pop(event.key, None)
                            self.member.handle_row(event.key, None)
            except GcsError as error:
                logger.warning("cannot follow placement groups; trying again error=%s", error)
            await asyncio.sleep(_PAUSE_S)

    def _take_row(self, row: PlacementGroupRow) -> None:
        try:
            view = view_of(row)
        except RequestError as error:
            logger.warning("group=%s makes no sense error=%s", row.group_id.hex(), error)
            return
        self._unanswered.pop(view.group_id, None)
        if view.state is GroupState.REMOVED and view.group_id in self._voted:
            self._voted.discard(view.group_id)
            self._vote(view, None)
        if view.state is GroupState.REMOVED or not view.bundles_on(self._node_id):
            self.member.handle_release(view.group_id, view.version)
        elif view.state is GroupState.CREATED:
            known = self.member.handle_commit(view.group_id, view.version)
            self._vote(view, Vote(view.version, "commit", known))
        elif view.state is not GroupState.PENDING:
            self._prepare(view)

    def _prepare(self, view: GroupView) -> None:
        now_s = asyncio.get_running_loop().time()
        accepted = self.member.handle_prepare(
            view.group_id, view.version, view.bundles_on(self._node_id), now_s
        )
        if accepted is None:
            self._unanswered[view.group_id] = view
            return
        self._unanswered.pop(view.group_id, None)
        self._vote(view, Vote(view.version, "prepare", accepted))

    def _vote(self, view: GroupView, vote: Vote | None) -> None:
        """Votes; None: takes back what it said, since the group is gone."""
        if vote is not None:
            self._voted.add(view.group_id)
        key = vote_key(view.group_id, self._node_id)
        is_writing = key in self._votes
        self._votes[key] = vote
        if not is_writing:
            self._spawn(self._write_votes(key))

    async def _write_votes(self, key: bytes) -> None:
        """Writes the latest vote on a group, and only one at a time: no older one comes after."""
        while True:
            vote = self._votes[key]
            try:
                if vote is None:
                    await self._gcs.kv_delete(key, namespace=VOTES)
                else:
                    await self._gcs.kv_put(key, msgspec.msgpack.encode(vote), namespace=VOTES)
            except GcsError as error:
                logger.warning("cannot vote on group=%s error=%s", key[:16].hex(), error)
                await asyncio.sleep(_PAUSE_S)
            else:
                if self._votes[key] is vote:
                    del self._votes[key]
                    return

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            for view in list(self._unanswered.values()):
                self._prepare(view)
            for action in self.member.handle_tick(asyncio.get_running_loop().time()):
                self._spawn(self._compare(action.group_id))

    async def _compare(self, group_id: bytes) -> None:
        """Reads the row of what is held, and does what follows from it."""
        try:
            row = await self._gcs.get_placement_group(PlacementGroupID(group_id))
            view = None if row is None else view_of(row)
            for action in self.member.handle_row(group_id, view):
                assert isinstance(action, TakeBack)
                assert row is not None
                with contextlib.suppress(ConflictError):
                    row = await self._gcs.update_placement_group(row_of(action.view, row))
                    self.member.handle_row(group_id, view_of(row))
        except (GcsError, RequestError) as error:
            # The next tick asks again; until then the bundles are kept.
            logger.warning("cannot read group=%s error=%s", group_id.hex(), error)
