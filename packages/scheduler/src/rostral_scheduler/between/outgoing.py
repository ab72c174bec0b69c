"""What the origin remembers of its queues, its tasks that are out, and the nodes that have them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from rostral_gcs.errors import RostralError
from rostral_scheduler.between.messages import (
    ActorFacts,
    ActorHeld,
    ActorMade,
    ActorMoved,
    ActorUsed,
    Cancel,
    Done,
    Input,
    Result,
    Shape,
    Stub,
    Submit,
)
from rostral_scheduler.between.peer_link import PeerLink
from rostral_scheduler.between.transit_memory import (
    CANCEL_CHILDREN,
    CANCELLED,
    LATE,
    ClaimedTask,
    Handle,
    Key,
    NotTransferableError,
    TransitMemory,
)
from rostral_scheduler.core.placement_request import Affinity, Constraints, Strategy
from rostral_scheduler.core.resources import ResourceSet
from rostral_scheduler.core.where import Where
from rostral_scheduler.errors import NodeDiedError, TaskCancelledError
from rostral_scheduler.local.cancellations import Ladder

__all__ = [
    "ActorTraffic",
    "Calls",
    "ForwardQueue",
    "Peer",
    "Sealed",
    "Sent",
    "cancel_of",
    "fail_for_sure",
    "located",
    "lost_error",
    "missing",
    "staying",
    "stream_error",
    "stubs_of",
]

logger = logging.getLogger("rostral.scheduler.forwarded")

_FAIL_RETRY_S = 0.1
_FAIL_TIMEOUT_S = 60.0


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
    to_actor: ActorTraffic | None = None
    """Of an actor's call: where it counts as being on its way."""
    given_back: int = 0
    """How often a host could not get its inputs."""
    watched: bool = False
    """Its host tells when it begins."""
    is_copy: bool = False
    """Its record may be a worker's, who runs it on this node at the same time."""
    held: list[Handle] = field(default_factory=list)
    """Of a copy: holds on its inputs, as its record may be gone before it is."""

    @classmethod
    def of(cls, claimed: ClaimedTask, queue: ForwardQueue, host: bytes) -> Sent:
        """One of the queue's."""
        return cls(claimed, queue.job_id, queue.shape, queue.wire, queue.loc, host)


class ActorTraffic(Protocol):
    """An actor elsewhere, as its calls on their way see it."""

    actor_id: bytes
    out: dict[bytes, Sent]
    """Its calls that are with its node, by their task ids, in the order in which they went."""


@dataclass(slots=True, eq=False)
class Sealed:
    """What became of the results of a task.

    Attributes:
        stayed: Those whose bytes stay at the host: their records here; None: not sealed by us.
        inputs: Holds on what the task needs, if any did.
    """

    stayed: dict[bytes, Key | None] = field(default_factory=dict)
    inputs: list[Handle] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Peer:
    """A host.

    Invariant: `outstanding` has exactly those of `Forwarded.by_id` whose host it is.
    """

    node_id: bytes
    link: PeerLink
    outstanding: dict[bytes, Sent] = field(default_factory=dict)
    copies: dict[bytes, Sent] = field(default_factory=dict)
    """Second runs of tasks that run elsewhere: `speculating.py`."""
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


class Calls(Protocol):
    """Who sees to calls of actors; `actor_calls.py`."""

    def connected(self, peer: Peer) -> None:
        """The stream to a node is open, for the first time or again."""

    def unknown(self, sent: Sent) -> None:
        """A call that was out has not come."""

    def answered(self, peer: Peer, message: ActorHeld | ActorMade | ActorFacts | ActorUsed) -> None:
        """A node has answered."""

    def moved(self, message: ActorMoved, host: bytes) -> ActorUsed:
        """An actor of a dead node lives on another one now."""

    def look_for_actors(self) -> None:
        """This node was given actors of a dead one."""

    def expect(self, stubs: Iterable[Stub]) -> None:
        """Values that stand for these actors are about to be sealed here."""

    def settled(self, stubs: Iterable[Stub], then: Callable[[], None]) -> None:
        """They are; calls back once the actors are held."""

    def lost(self, sent: Sent, cause: str) -> None:
        """A call that was out when its host died."""


def missing(message: Done, sent: Sent) -> list[tuple[bytes, tuple[str, ...], int]]:
    """What is to be fetched before a task has ended: (object, from which stores, size).

    That is what results refer to; and those of an actor's call, which could not be made again.
    """
    found = [
        (given.id, given.holders or (message.store,), given.size)
        for given in message.beside
        if given.data is None
    ]
    if sent.to_actor is not None:
        found += [
            (sent.claimed.result_id(index), (message.store,), result.size)
            for index, result in enumerate(message.results)
            if result.data is None
        ]
    return found


def staying(message: Done, count: int) -> Iterator[tuple[int, Result]]:
    """Of the first `count` results, those whose bytes do not come along, with their indexes."""
    for index, result in enumerate(message.results[:count]):
        if result.data is None:
            yield index, result


def stubs_of(message: Submit | Done) -> list[Stub]:
    """The actors that its values stand for."""
    inputs = message.inputs if isinstance(message, Submit) else []
    found = (given.stub for given in (*inputs, *message.beside))
    return [stub for stub in found if stub is not None]


def fail_for_sure(transit: TransitMemory, claimed: ClaimedTask, error: Exception | bytes) -> None:
    """Ends a task that nobody has with an error. Waits up to a minute for room in the store."""
    deadline_s = time.monotonic() + _FAIL_TIMEOUT_S
    while (flags := transit.flags_of(claimed)) is not None:
        if flags & CANCELLED:
            error = TaskCancelledError.of(claimed.task_id, is_late=bool(flags & LATE))
        try:
            transit.fail(claimed, error)
        except RostralError:
            # Not even an error finds room: whoever waits for it is better off waiting.
            if time.monotonic() > deadline_s:
                logger.exception("cannot end task=%s", claimed.task_id.hex())
                return
            time.sleep(_FAIL_RETRY_S)


def lost_error(sent: Sent, cause: str) -> NodeDiedError:
    """What became of a task whose host died, and that has no retries."""
    return NodeDiedError(
        f"task {sent.claimed.task_id.hex()} was lost with its node {sent.host.hex()}, and it has "
        f"no retries left: {cause}",
        hint="give the task more with max_retries, if running it again does no harm",
    )


def stream_error(claimed: ClaimedTask) -> NotTransferableError:
    """Why a task that yields stays on its node."""
    return NotTransferableError(
        f"task {claimed.task_id.hex()} yields its results as it runs, and those do not "
        "travel between nodes",
        hint="have it run where it is submitted, or collect in a list what it yields",
    )


def cancel_of(task_id: bytes, flags: int, ladder: Ladder) -> Cancel:
    """What ends a task on another node, which has these flags here."""
    grace_s = ladder.grace_s if math.isfinite(ladder.grace_s) else None
    return Cancel(task_id, flags, ladder.force, bool(flags & CANCEL_CHILDREN), grace_s)


def located(given: Input, holders: tuple[str, ...]) -> Input:
    """The input, and where it is to be fetched if its bytes do not come along."""
    if given.size and given.data is None:
        return Input(given.id, given.kind, given.flags, None, given.size, holders)
    return given
