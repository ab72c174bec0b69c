"""The placement groups of the node: made, waited for, found by name, removed.

This file owns the groups' records and names, and the queues of their members' tasks once a group is
removed: what is in them, or still comes, fails. Setting resources aside is decided in the policy
(``core/bundles.py``). All bundles of a group lie on this node.
"""

from __future__ import annotations

import enum
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from rostral_scheduler.config import LocalSchedulerConfig
from rostral_scheduler.core.bundles import member_shape, sum_of
from rostral_scheduler.core.events import Event, GroupRemoved, GroupWanted
from rostral_scheduler.core.resources import UNITS, NodeResources, ResourceSet
from rostral_scheduler.errors import (
    LimitReachedError,
    PlacementGroupNotFoundError,
    RequestError,
    TaskPlacementGroupRemovedError,
    UnschedulableError,
)
from rostral_scheduler.local.fields import binary
from rostral_scheduler.local.node_memory import Body, NodeMemory, pickled
from rostral_scheduler.local.repair import TaskRepair

__all__ = ["GroupStage", "PlacementGroup", "PlacementGroups"]

logger = logging.getLogger("rostral.scheduler.placement_groups")

STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
_REMOVED_KEPT = 1000


# PENDING ──> CREATED ──> REMOVED
#    └───────────────────────┘
class GroupStage(enum.Enum):
    """Where a placement group is in its life; the drawing is above."""

    PENDING = "PENDING"
    """Waits for its bundles; members' tasks queue."""
    CREATED = "CREATED"
    """Has all its bundles."""
    REMOVED = "REMOVED"
    """For good: members have ended, what comes for it fails."""


@dataclass(slots=True, eq=False)
class PlacementGroup:
    """One group."""

    group_id: bytes
    job_id: bytes
    name: str | None
    bundles: tuple[ResourceSet, ...]
    strategy: str
    detached: bool
    stage: GroupStage = GroupStage.PENDING
    queues: list[int] = field(default_factory=list)
    """Of its members' tasks."""

    def describe(self, node_id: bytes) -> Body:
        """As it goes over the socket."""
        placed = self.stage is GroupStage.CREATED
        return {
            "group_id": self.group_id,
            "name": self.name or "",
            "bundles": [bundle.as_floats() for bundle in self.bundles],
            "strategy": self.strategy,
            "state": self.stage.value,
            "node_ids": [node_id if placed else b""] * len(self.bundles),
        }


class PlacementGroups:
    """All groups of the node, on one event loop.

    Args:
        config: Of the scheduler.
        memory: The node's.
        resources: The ledger, to refuse what can never be had.
        repair: Fails the tasks of removed groups.
        tell: Gives an event to the policy and carries out what it orders.
        end_members: Ends the actors of a group.
        retire_queues: Ends the use of queues whose group is removed.
    """

    def __init__(
        self,
        config: LocalSchedulerConfig,
        memory: NodeMemory,
        resources: NodeResources,
        repair: TaskRepair,
        *,
        tell: Callable[[Event], None],
        end_members: Callable[[bytes], None],
        retire_queues: Callable[[list[int]], None],
    ) -> None:
        self._config = config
        self._memory = memory
        self._resources = resources
        self._repair = repair
        self._tell = tell
        self._end_members = end_members
        self._retire_queues = retire_queues
        self.by_id: dict[bytes, PlacementGroup] = {}
        self._by_name: dict[str, PlacementGroup] = {}
        self._removed: deque[PlacementGroup] = deque()

    def create(self, body: Body) -> PlacementGroup:
        """Takes a group on. It has its bundles at once if they are free, else some time later.

        Raises:
            UnschedulableError: The node can never have the bundles together.
            RequestError: The name is taken, or the body makes no sense.
            LimitReachedError: There are ``placement_groups_max`` groups.
        """
        group = PlacementGroup(
            group_id=binary(body, "group_id"),
            job_id=binary(body, "job_id"),
            name=body["name"] or None,
            bundles=tuple(ResourceSet.of(bundle) for bundle in body["bundles"]),
            strategy=str(body["strategy"]),
            detached=bool(body["detached"]),
        )
        self._check_new(group)
        self.by_id[group.group_id] = group
        if group.name is not None:
            self._by_name[group.name] = group
        self._tell(GroupWanted(group_id=group.group_id, job_id=group.job_id, bundles=group.bundles))
        return group

    def _check_new(self, group: PlacementGroup) -> None:
        if len(group.group_id) != 16 or group.group_id in self.by_id:
            raise RequestError(f"{group.group_id.hex()!r} is not a new placement group id")
        if not group.bundles or not all(group.bundles) or group.strategy not in STRATEGIES:
            raise RequestError("a placement group has bundles, none empty, and a known strategy")
        if group.name in self._by_name:
            raise RequestError(
                f"the name {group.name!r} belongs to another placement group",
                hint="choose another name, or get that group by its name",
            )
        living = len(self.by_id) - len(self._removed)
        if living >= self._config.placement_groups_max:
            raise LimitReachedError(
                f"the node has {living} placement groups, as many as it may (placement_groups_max)",
                hint="remove groups that are no longer needed",
            )
        if group.strategy == "STRICT_SPREAD" and len(group.bundles) > 1:
            raise UnschedulableError(
                f"STRICT_SPREAD puts its {len(group.bundles)} bundles on as many nodes: there is 1",
                hint="use SPREAD, or one bundle",
            )
        self._resources.check_feasible(sum_of(group.bundles))

    def placed(self, group_id: bytes) -> None:
        """The policy has set its bundles aside."""
        group = self.by_id.get(group_id)
        # Else it is one that lies on several nodes, which this node is part of (``group_link.py``).
        if group is not None:
            group.stage = GroupStage.CREATED

    def get(self, group_id: bytes) -> PlacementGroup:
        """The group, removed or not. Raises PlacementGroupNotFoundError."""
        group = self.by_id.get(group_id)
        if group is None:
            raise PlacementGroupNotFoundError(
                f"this node knows no placement group {group_id.hex()}",
                hint="it was removed long ago, or belongs to another cluster",
            )
        return group

    def find(self, name: str) -> PlacementGroup:
        """The group of that name. Raises PlacementGroupNotFoundError."""
        group = self._by_name.get(name)
        if group is None:
            raise PlacementGroupNotFoundError(
                f"no placement group is called {name!r}",
                hint="names are given to placement_group(name=...); they end with the group",
            )
        return group

    # ---- members

    def demand_in(self, bundle: Body, shape: ResourceSet) -> ResourceSet:
        """What a member asks the ledger for.

        Raises:
            TaskPlacementGroupRemovedError: The group is gone.
            UnschedulableError: No bundle, or not the chosen one, can ever meet the shape.
        """
        group = self.get(binary(bundle, "group_id"))
        index = None if bundle["index"] < 0 else int(bundle["index"])
        if group.stage is GroupStage.REMOVED:
            raise _removed_error(group)
        if index is not None and index >= len(group.bundles):
            raise RequestError(
                f"bundle {index} of placement group {group.group_id.hex()}: it has "
                f"{len(group.bundles)}",
                hint="count from 0",
            )
        candidates = group.bundles if index is None else (group.bundles[index],)
        if not any(_covers(candidate, shape) for candidate in candidates):
            offered = "; ".join(str(candidate.as_floats()) for candidate in candidates)
            name, units = next(iter(shape))
            raise UnschedulableError(
                f"{shape.as_floats()} fits into no bundle of placement group "
                f"{group.group_id.hex()}: {offered}",
                hint="ask for less, or make the bundles larger",
                resource=name,
                requested=units / UNITS,
                total=max(candidate.get(name) for candidate in candidates) / UNITS,
            )
        return member_shape(shape, group.group_id, index)

    def joined(self, group_id: bytes, queue: int) -> None:
        """Tasks of members go into this queue."""
        queues = self.by_id[group_id].queues
        if queue not in queues:
            queues.append(queue)

    # ---- the end

    def remove(self, group_id: bytes) -> None:
        """Ends the members and gives the bundles back. Of a removed group: nothing."""
        group = self.get(group_id)
        if group.stage is GroupStage.REMOVED:
            return
        group.stage = GroupStage.REMOVED
        if group.name is not None:
            del self._by_name[group.name]
        self._retire_queues(group.queues)
        self._end_members(group_id)
        self._tell(GroupRemoved(group_id=group_id))
        self._fail_tasks(group)
        self._removed.append(group)
        self._forget_some()
        logger.debug("placement group is removed group=%s", group_id.hex())

    def end_job(self, job_id: bytes) -> None:
        """The job's groups end with it; detached ones stay, without queues of the job."""
        for group in [g for g in self.by_id.values() if g.job_id == job_id]:
            if not group.detached:
                self.remove(group.group_id)

    def queue_freed(self, queue: int) -> None:
        """The queue is gone with its job."""
        for group in self.by_id.values():
            if queue in group.queues:
                group.queues.remove(queue)

    def tick(self) -> None:
        """Fails what was submitted to removed groups since the last look."""
        for group in self._removed:
            self._fail_tasks(group)

    def _fail_tasks(self, group: PlacementGroup) -> None:
        for queue in group.queues:
            if self._memory.queue_length(queue):
                error = pickled(_removed_error(group))
                self._repair.fail(self._memory.drain_queue(queue), error)

    def _forget_some(self) -> None:
        # One with queues stays: whoever knows them may still submit.
        while len(self._removed) > _REMOVED_KEPT and not self._removed[0].queues:
            del self.by_id[self._removed.popleft().group_id]


def _removed_error(group: PlacementGroup) -> TaskPlacementGroupRemovedError:
    return TaskPlacementGroupRemovedError(
        f"the placement group {group.group_id.hex()} of the task was removed",
        hint="wait for its tasks before remove_placement_group",
    )


def _covers(bundle: ResourceSet, shape: ResourceSet) -> bool:
    return all(bundle.get(name) >= units for name, units in shape)
