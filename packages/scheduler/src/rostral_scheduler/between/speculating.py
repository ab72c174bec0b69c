"""Second runs of stragglers on other nodes: `core/speculation.py`'s choice, carried out.

This file owns which tasks of this node are watched, where each runs, and whose result is taken: the
first. A task's record is what it was, the worker's who runs it here, or this scheduler's while it
is with a host; a second run is with a host in any case. Where no other node than this one can have
it, the record comes home, and what its host runs becomes the second.

A second run that fails says nothing, whatever it fails of: then the first goes on alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import msgspec

from rostral_gcs.errors import RostralError
from rostral_scheduler.between.choice import NodeChoice
from rostral_scheduler.between.messages import (
    Back,
    Begun,
    Cancel,
    Done,
    Message,
    Unfetched,
    Unknown,
)
from rostral_scheduler.between.outgoing import ForwardQueue, Peer, Sent
from rostral_scheduler.between.packing import Packing
from rostral_scheduler.between.transit_memory import (
    ERROR,
    ClaimedTask,
    Handle,
    HostedTask,
    NotSealedError,
    Stage,
    TransitMemory,
)
from rostral_scheduler.core.placement_request import Answer, TaskInput, TaskRequest
from rostral_scheduler.core.speculation import Speculation
from rostral_scheduler.errors import SchedulerError, TaskCancelledError
from rostral_scheduler.local.cancellations import GRACE_S

__all__ = ["Outs", "Speculating"]

logger = logging.getLogger("rostral.scheduler.speculating")

LOOK_S = 0.1
"""Between two looks. What has come and gone in between is taken to have run for so long."""
LOOKED_AT_MAX = 5_000
"""Tasks in one look: a few milliseconds."""


class Outs(Protocol):
    """The tasks of this node that others run; `forwarded.py`."""

    by_id: dict[bytes, Sent]

    def open_peer(self, node_id: bytes) -> Peer | None:
        """A living node whose stream is open."""

    def tell_job(self, peer: Peer, job_id: bytes) -> None:
        """Before its first task there."""

    def submit_later(self, peer: Peer, sent: Sent) -> None:
        """Finds out where others fetch from this node's store."""


@dataclass(slots=True, eq=False)
class _Watched:
    """One task that may get a second run.

    Attributes:
        inputs: Holds on what it needs: its record may end while it is made a message of.
        began_on: The node where its first run is seen to have begun; empty: nowhere yet.
        copy: Its second run, at a host.
    """

    claimed: ClaimedTask
    queue: ForwardQueue
    request: TaskRequest
    inputs: list[Handle]
    placed_at_s: float
    began_on: bytes = b""
    copy: Sent | None = None


class Speculating:
    """The tasks with ``speculate=True`` of this node; on the event loop's thread.

    Args:
        transit: The node's memory.
        choice: Among the nodes.
        packing: Makes messages of tasks.
        outs: Those that are with hosts.
        peers: The living hosts.
        own_id: This node's id.
        inputs_of: What a task needs that is large, and which nodes have it.
        interrupt: Makes a task end that runs on this node and was flagged as cancelled.
    """

    def __init__(
        self,
        transit: TransitMemory,
        choice: NodeChoice,
        packing: Packing,
        outs: Outs,
        peers: Mapping[bytes, Peer],
        *,
        own_id: bytes,
        inputs_of: Callable[[ClaimedTask], tuple[TaskInput, ...]],
        interrupt: Callable[[int, bytes], None],
    ) -> None:
        self._transit, self._choice, self._packing = transit, choice, packing
        self._outs, self._peers, self._own_id = outs, peers, own_id
        self._inputs_of, self._interrupt = inputs_of, interrupt
        self._policy = Speculation()
        self._watched: dict[bytes, _Watched] = {}
        self.copies_count = 0
        """Second runs that were begun, ever."""

    def __contains__(self, task_id: bytes) -> bool:
        return task_id in self._watched

    # ---- the first run

    def placed(self, claimed: ClaimedTask, queue: ForwardQueue) -> None:
        """A task of the queue is about to go to a node, maybe not for the first time."""
        known = self._watched.get(claimed.task_id)
        if known is not None:
            known.claimed = claimed
            return
        if claimed.is_stream:
            return
        function = claimed.function.to_bytes(8, "little")
        self._watched[claimed.task_id] = _Watched(
            claimed,
            queue,
            TaskRequest(claimed.task_id, 0, queue.constraints, function),
            self._transit.hold_inputs(claimed.inputs),
            time.monotonic(),
        )

    def ended(self, task_id: bytes, node_id: bytes) -> None:
        """A run at the node has the result that counts."""
        watched = self._watched.pop(task_id, None)
        if watched is None:
            return
        now_s = time.monotonic()
        if not watched.began_on and watched.copy is None:
            began_s = max(watched.placed_at_s, now_s - LOOK_S)
            self._policy.handle_started(watched.request, node_id, began_s)
        self._policy.handle_ended(task_id, node_id, now_s)
        if watched.copy is not None:
            self._end_copy(watched.copy)

    def goes_on(self, sent: Sent) -> bool:
        """The host of a task is dead: whether its second run is the one from here on."""
        watched = self._watched.get(sent.claimed.task_id)
        if watched is None:
            return False
        self._policy.handle_lost(sent.claimed.task_id, sent.host)
        watched.began_on = b""
        copy = watched.copy
        peer = None if copy is None else self._peers.get(copy.host)
        if copy is None or peer is None:
            return False
        self._be_the_one(watched, peer, copy)
        watched.began_on = copy.host
        return True

    # ---- looking

    def tick(self) -> None:
        """Sees what has begun and ended on this node, and who is late."""
        if not self._watched:
            return
        out = self._outs.by_id
        here = (item for item in self._watched.items() if item[0] not in out)
        # The oldest first: what is behind them waits for them.
        for task_id, watched in list(islice(here, LOOKED_AT_MAX)):
            self._look(task_id, watched)
        for order in self._policy.handle_tick(time.monotonic(), self._place):
            self._begin_copy(self._watched[order.task_id], order.node_id)

    def _look(self, task_id: bytes, watched: _Watched) -> None:
        stage = self._transit.stage(watched.claimed.task, task_id)
        if stage is Stage.OVER:
            self.ended(task_id, self._own_id)
        elif stage is Stage.RUNS and not watched.began_on:
            watched.began_on = self._own_id
            self._policy.handle_started(watched.request, self._own_id, time.monotonic())
        elif stage is not Stage.RUNS and watched.began_on == self._own_id:
            # Its worker has died, and it is to run again.
            watched.began_on = b""
            self._policy.handle_lost(task_id, self._own_id)

    def heard(self, peer: Peer, message: Message) -> None:
        """A host says something of tasks that it has."""
        match message:
            case Begun(task_ids=task_ids):
                for task_id in task_ids:
                    self._began(task_id, peer)
            case Back(task_ids=task_ids) | Unknown(task_ids=task_ids):
                for task_id in task_ids:
                    self._first_returns(task_id, peer)
                    self._lose_copy(peer, task_id)
            case Unfetched(task_id=task_id):
                self._first_returns(task_id, peer)
                self._lose_copy(peer, task_id)

    def _began(self, task_id: bytes, peer: Peer) -> None:
        watched = self._watched.get(task_id)
        if watched is None:
            return
        if task_id in peer.outstanding:
            watched.began_on = peer.node_id
        elif task_id not in peer.copies:
            return
        self._policy.handle_started(watched.request, peer.node_id, time.monotonic())

    def _first_returns(self, task_id: bytes, peer: Peer) -> None:
        """The first run is over at the host, which did not do it."""
        watched = self._watched.get(task_id)
        if watched is not None and task_id in peer.outstanding and watched.began_on:
            watched.began_on = b""
            self._policy.handle_lost(task_id, peer.node_id)

    # ---- the second run

    def _place(self, request: TaskRequest) -> Answer:
        watched = self._watched[request.task_id]
        request = request._replace(inputs=self._inputs_of(watched.claimed))
        return self._choice.choose_for_copy(watched.queue, request)

    def _begin_copy(self, watched: _Watched, node_id: bytes) -> None:
        task_id = watched.claimed.task_id
        is_begun = (
            self._come_home(watched) if node_id == self._own_id else self._send(watched, node_id)
        )
        if not is_begun:
            self._policy.handle_lost(task_id, node_id)
            return
        self.copies_count += 1
        logger.info("a second run task=%s node=%s", task_id.hex(), node_id.hex())

    def _send(self, watched: _Watched, node_id: bytes) -> bool:
        """To a host. False: not now, or not at all."""
        peer = self._outs.open_peer(node_id)
        if peer is None:
            return False
        claimed = watched.claimed
        copy = Sent.of(claimed, watched.queue, node_id)
        copy.watched, copy.is_copy, copy.held = True, True, watched.inputs
        try:
            message = self._packing.message(peer, copy)
            if message is None:
                self._outs.submit_later(peer, copy)
                return False
            self._outs.tell_job(peer, copy.job_id)
        except NotSealedError:
            return False  # An input is being made again.
        except RostralError as error:
            logger.info("no second run task=%s: %s", claimed.task_id.hex(), error)
            return False
        # What it dies of there, the first run need not.
        peer.link.send(msgspec.structs.replace(message, retries=0))
        peer.functions.add((copy.job_id, message.inputs[message.function].id))
        watched.copy = peer.copies[claimed.task_id] = copy
        self._choice.sent(node_id, copy.shape)
        return True

    def _come_home(self, watched: _Watched) -> bool:
        """The record goes to this node's workers, and its host's run is the second. False: no."""
        claimed = watched.claimed
        first = self._outs.by_id.get(claimed.task_id)
        if first is None or (peer := self._outs.open_peer(first.host)) is None:
            return False
        try:
            queue = watched.queue.local_queue()
        except SchedulerError:
            return False
        if not self._transit.requeue(claimed, queue, first.claimed.retries):
            return False
        del self._outs.by_id[claimed.task_id], peer.outstanding[claimed.task_id]
        first.is_copy, first.held = True, watched.inputs
        watched.copy = peer.copies[claimed.task_id] = first
        watched.began_on = b""
        return True

    def done(self, peer: Peer, message: Done) -> Sent | None:
        """A host has ended what is no first run: the task, if its result is taken."""
        copy = peer.copies.get(message.task_id)
        watched = self._watched.get(message.task_id)
        failed = any(result.flags & ERROR for result in message.results)
        if copy is None or watched is None or failed:
            self._lose_copy(peer, message.task_id)
            return None
        first = self._outs.by_id.get(message.task_id)
        if first is not None:
            self._take_back(first)
        self._be_the_one(watched, peer, copy)
        return copy

    def _be_the_one(self, watched: _Watched, peer: Peer, copy: Sent) -> None:
        """A second run takes the place of the first among those that are out."""
        task_id = copy.claimed.task_id
        del peer.copies[task_id]
        self._outs.by_id[task_id] = peer.outstanding[task_id] = copy
        watched.copy = None

    def _take_back(self, first: Sent) -> None:
        """From its host, which is told, and whose answer nobody waits for."""
        task_id = first.claimed.task_id
        del self._outs.by_id[task_id]
        peer = self._peers.get(first.host)
        if peer is not None:
            peer.outstanding.pop(task_id, None)
            self._end_run(peer, first)

    def taken_in(self, sent: Sent) -> None:
        """The results of a second run are sealed: the first, if it runs on this node, may end."""
        claimed = sent.claimed
        if not sent.is_copy or not self._transit.is_made(claimed):
            return
        if self._transit.stage(claimed.task, claimed.task_id) in (Stage.RUNS, Stage.WAITS):
            first = HostedTask(claimed.task, claimed.task_id, [])
            error = TaskCancelledError.of(claimed.task_id, is_late=False)
            if self._transit.cancel(first, 0, error):
                self._interrupt(claimed.task, claimed.task_id)

    # ---- the end of second runs

    def _end_copy(self, copy: Sent) -> None:
        peer = self._peers.get(copy.host)
        if peer is not None and peer.copies.pop(copy.claimed.task_id, None) is not None:
            self._end_run(peer, copy)

    def _end_run(self, peer: Peer, sent: Sent) -> None:
        """If its stream is down, it is told what is outstanding when that is up again."""
        self._choice.came_back(peer.node_id, sent.shape)
        peer.link.send(Cancel(sent.claimed.task_id, 0, False, False, GRACE_S))

    def _lose_copy(self, peer: Peer, task_id: bytes) -> None:
        copy = peer.copies.pop(task_id, None)
        if copy is None:
            return
        self._choice.came_back(peer.node_id, copy.shape)
        watched = self._watched.get(task_id)
        if watched is not None and watched.copy is copy:
            watched.copy = None
            self._policy.handle_lost(task_id, peer.node_id)

    def lose_copies(self, peer: Peer) -> None:
        """The node is dead, or takes nothing of us."""
        for task_id in list(peer.copies):
            self._lose_copy(peer, task_id)

    def job_ended(self, job_id: bytes) -> None:
        """Nothing of it is watched; its second runs end with it on their hosts."""
        for peer in self._peers.values():
            for task_id in [id for id, copy in peer.copies.items() if copy.job_id == job_id]:
                self._lose_copy(peer, task_id)
        for task_id in [id for id, one in self._watched.items() if one.queue.job_id == job_id]:
            del self._watched[task_id]
            self._policy.handle_ended(task_id, b"", time.monotonic())
