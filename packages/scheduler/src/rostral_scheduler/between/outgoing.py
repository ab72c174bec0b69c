"""What the origin remembers of its queues, its tasks that are out, and the nodes that have them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from rostral_gcs.errors import RostralError
from rostral_scheduler.between.messages import Done, Input, Shape, parts_of
from rostral_scheduler.between.peer_link import PeerLink
from rostral_scheduler.between.transit_memory import ClaimedTask
from rostral_scheduler.core.placement_request import Affinity, Constraints, Strategy
from rostral_scheduler.core.resources import ResourceSet
from rostral_scheduler.core.where import Where

__all__ = ["ForwardQueue", "Peer", "Sent", "is_whole", "located"]


@dataclass(frozen=True, slots=True)
class ForwardQueue:
    """A ready queue that no worker is granted: what is in it, the scheduler places."""

    loc: int
    job_id: bytes
    shape: ResourceSet
    wire: Shape
    where: Where
    local_queue: Callable[[], int]
    """The ready queue for the same tasks on this node. Raises UnschedulableError."""
    constraints: Constraints = field(init=False)
    """What the choice of a node goes by."""

    def __post_init__(self) -> None:
        where = self.where
        strategy: Strategy = "SPREAD" if where.spread else "DEFAULT"
        if where.node_id:
            strategy = Affinity(where.node_id, where.soft)
        constraints = Constraints(self.shape, where.selectors, strategy)
        object.__setattr__(self, "constraints", constraints)


@dataclass(slots=True, eq=False)
class Sent:
    """A task that is a host's, or on its way there."""

    claimed: ClaimedTask
    job_id: bytes
    shape: ResourceSet
    wire: Shape
    queue: int
    """Where it goes back to."""
    host: bytes

    @classmethod
    def of(cls, claimed: ClaimedTask, queue: ForwardQueue, host: bytes) -> Sent:
        """One of the queue's."""
        return cls(claimed, queue.job_id, queue.shape, queue.wire, queue.loc, host)


@dataclass(slots=True, eq=False)
class Peer:
    """A host.

    Invariant: `outstanding` has exactly those of `Forwarded.by_id` whose host it is.
    """

    node_id: bytes
    link: PeerLink
    outstanding: dict[bytes, Sent] = field(default_factory=dict)
    is_open: bool = False
    refused: RostralError | None = None
    """Why it does not let us in, though it lives."""
    drain_within_s: float | None = None
    """It is to be told to leave, once there is a stream."""
    jobs: set[bytes] = field(default_factory=set)
    """Those that it was told of, on this stream."""
    ended: set[bytes] = field(default_factory=set)
    """Those of which it does not know that they ended."""
    functions: set[tuple[bytes, bytes]] = field(default_factory=set)
    """(job, object) of the code that it has, on this stream."""


def is_whole(message: Done) -> bool:
    """Whether all that it speaks of came along."""
    return all(part.data is not None for part in parts_of(message))


def located(given: Input, holders: tuple[str, ...]) -> Input:
    """The input, and where it is to be fetched if its bytes do not come along."""
    if given.size and given.data is None:
        return Input(given.id, given.kind, given.flags, None, given.size, holders)
    return given
