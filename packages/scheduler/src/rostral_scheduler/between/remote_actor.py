"""An actor of another node as this one's scheduler knows it, and why calls of one fail."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from rostral_scheduler.between.messages import EndActor
from rostral_scheduler.between.outgoing import Peer, Sent
from rostral_scheduler.between.transit_memory import Handle
from rostral_scheduler.errors import ActorDiedError, ActorUnavailableError
from rostral_scheduler.local.node_memory import Body

__all__ = ["RemoteActor", "died", "forgotten", "unavailable"]


@dataclass(slots=True, eq=False)
class RemoteActor:
    """An actor on another node, as this one's callers see it.

    Invariant: a call that was claimed is in `late`, in `out`, or ended.
    """

    actor_id: bytes
    host: bytes
    in_order: bool = True
    """Whether a call waits for the earlier ones of its caller."""
    mailboxes: dict[bytes, int] = field(default_factory=dict)
    """By the job that calls."""
    late: dict[int, deque[Sent]] = field(default_factory=dict)
    """Calls that cannot be sent yet, by caller, and what comes behind them."""
    watched: list[Handle] = field(default_factory=list)
    """Inputs that the first of the late ones wait for."""
    out: dict[bytes, Sent] = field(default_factory=dict)
    death: bytes = b""
    """Pickled, once it is known to be dead."""
    creation: Handle | None = None
    """The object that stands for it here: who holds that refers to the actor."""
    creation_id: bytes = b""
    expected: int = 0
    """Values that are on their way into this node's store and stand for it."""
    job_id: bytes = b""
    """Of one that this node has made there."""
    creator: bytes = b""
    """The actor of this node that it ends with."""
    made_by: Callable[[RemoteActor, Peer], bool] | None = None
    """Sends what makes it. False: that is not all there yet."""
    make: Callable[[RemoteActor, Peer], bool] | None = None
    """The same, while it must be done before any call is sent."""
    is_made: bool = True
    """Its host has answered to that."""
    may_return: bool = True
    """It may be restarted elsewhere when its host dies, as far as is known."""
    is_away: bool = False
    """Its host is dead, and it is not known where it lives on, if it does."""
    unseen_since_s: float | None = None
    """While it is away, and the cluster knows nothing of it: since when, by the loop's clock."""
    body: Body | None = None
    """The request that made it, where that was asked, until the cluster must know how itself."""
    is_asked: bool = False
    """Its host was told that somebody here refers to it."""
    is_held: bool = False
    """And has answered."""
    is_kept: bool = False
    """A handle that does not count knows its mailboxes: they stay."""
    orders: list[EndActor] = field(default_factory=list)
    """What its host is to be told."""
    waiting: list[Callable[[], object]] = field(default_factory=list)
    """What goes on when it is held."""

    def _caller_of(self, sent: Sent) -> int:
        return sent.claimed.submitter if self.in_order else sent.claimed.task

    def is_late(self, sent: Sent) -> bool:
        """Whether a call has to wait behind another one."""
        return self._caller_of(sent) in self.late

    def put_late(self, sent: Sent) -> None:
        """A call waits, behind all of its caller."""
        self.late.setdefault(self._caller_of(sent), deque()).append(sent)

    def put_first(self, sent: Sent) -> None:
        """A call waits, before all of its caller."""
        self.late.setdefault(self._caller_of(sent), deque()).appendleft(sent)

    def take_back(self, sent: Sent) -> bool:
        """A call does not wait any more. False: it did not."""
        for caller, calls in self.late.items():
            if sent in calls:
                calls.remove(sent)
                if not calls:
                    del self.late[caller]
                return True
        return False

    def forget_job(self, job_id: bytes) -> None:
        """A job's calls and mailbox are no longer this node's affair."""
        self.mailboxes.pop(job_id, None)
        for caller, calls in list(self.late.items()):
            left = deque(sent for sent in calls if sent.job_id != job_id)
            if left:
                self.late[caller] = left
            else:
                del self.late[caller]


def forgotten(actor_id: bytes) -> ActorDiedError:
    """What is known of an actor that nobody knows."""
    return ActorDiedError(
        f"actor {actor_id.hex()} is dead, and its node has forgotten why", actor_id=actor_id
    )


def unavailable(actor_id: bytes, node_id: bytes, cause: str) -> ActorUnavailableError:
    """The error of a call that was out when the node died, and may not be made twice."""
    return ActorUnavailableError(
        f"actor {actor_id.hex()} is being restarted: its node {node_id.hex()} died, and the call "
        f"may have run: {cause}",
        hint="make the call again, or give the actor max_task_retries, if running it twice does no "
        "harm",
        actor_id=actor_id,
    )


def died(actor_id: bytes, node_id: bytes, cause: str) -> ActorDiedError:
    """The error of calls of an actor that died with its node."""
    return ActorDiedError(
        f"actor {actor_id.hex()} died: its node {node_id.hex()} died: {cause}", actor_id=actor_id
    )
