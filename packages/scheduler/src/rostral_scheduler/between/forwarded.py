"""Tasks of this node that run on others: the origin's half of docs/across-nodes.md.

This file owns which tasks are where, from the claim to the sealed results, and what becomes of them
when their host dies. Where they go says `placing.py`; how they get there is the links' affair.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from rostral_gcs.errors import RostralError
from rostral_scheduler.between.arrivals import Arrivals, Arrived
from rostral_scheduler.between.bring_inputs import bring_inputs
from rostral_scheduler.between.choice import NodeChoice
from rostral_scheduler.between.elsewhere import Elsewhere
from rostral_scheduler.between.living_nodes import LivingNodes
from rostral_scheduler.between.messages import (
    ActorFacts,
    ActorHeld,
    ActorMade,
    ActorsYielded,
    ActorUsed,
    Back,
    Call,
    Done,
    Drain,
    EndJob,
    Gone,
    Job,
    Message,
    Outstanding,
    Push,
    Release,
    Taken,
    Unfetched,
    Unknown,
)
from rostral_scheduler.between.outgoing import (
    Calls,
    ForwardQueue,
    Peer,
    Sent,
    cancel_of,
    fail_for_sure,
    lost_error,
    missing,
    stream_error,
    stubs_of,
)
from rostral_scheduler.between.packing import Packing
from rostral_scheduler.between.peer_link import PeerIdentity, PeerLink
from rostral_scheduler.between.placing import Placing
from rostral_scheduler.between.recovery import Recovery
from rostral_scheduler.between.speculating import Speculating
from rostral_scheduler.between.store_address import StoreAddress
from rostral_scheduler.between.transit_memory import (
    CANCELLED,
    LATE,
    RETRY_FOREVER,
    ClaimedTask,
    NotSealedError,
    TransitMemory,
)
from rostral_scheduler.config import LocalSchedulerConfig
from rostral_scheduler.core.node_view import NodeLoad
from rostral_scheduler.errors import SchedulerError, TaskCancelledError
from rostral_scheduler.local.cancellations import Ladder

__all__ = ["ForwardQueue", "Forwarded"]

logger = logging.getLogger("rostral.scheduler.forwarded")

_FETCHES_MAX = 16


class Forwarded:
    """The tasks that this node has forwarded, on the running event loop.

    Args:
        config: Of the scheduler.
        transit: The node's memory.
        queue_length: Of a queue.
        view: The living nodes.
        calls: Who sees to calls of actors.
        recovery: Remembers tasks whose results stay where they were made.
        identity: This node's.
        describe_job: What a host must know of a job.
        own_load: What this node has, and what waits on it.
        push: Hands what a host says to the job's driver.
        interrupt: Makes a cancelled task end that runs on this node.
    """

    def __init__(
        self,
        config: LocalSchedulerConfig,
        transit: TransitMemory,
        view: LivingNodes,
        calls: Calls,
        recovery: Recovery,
        *,
        identity: PeerIdentity,
        queue_length: Callable[[int], int],
        describe_job: Callable[[bytes], Job],
        own_load: Callable[[], NodeLoad],
        push: Callable[[Push], None],
        interrupt: Callable[[int, bytes], None],
    ) -> None:
        self._config, self._transit, self._view = config, transit, view
        self._identity, self._own_id = identity, identity.node_id
        self._describe_job, self._push = describe_job, push
        self.choice = NodeChoice(self._own_id, own_load, config.forwarded_per_node_max)
        self.placing = Placing(
            transit,
            self.choice,
            self,
            own_id=self._own_id,
            queue_length=queue_length,
            death_cause=view.death_cause,
            nodes_with=lambda object_id: self.elsewhere.nodes(object_id),
            watch=lambda claimed, queue: self.speculating.placed(claimed, queue),
        )
        self._recovery = recovery
        self.elsewhere = Elsewhere(
            transit,
            patience_s=1.5 * config.peer_silence_s,
            release=self._release,
            lost=recovery.lost,
            recover=recovery.recover,
            gone=recovery.gone,
        )
        recovery.begin(self.elsewhere)
        self._arrivals = Arrivals(transit, view, self.elsewhere, recovery)
        self._fetchers = ThreadPoolExecutor(_FETCHES_MAX, "rostral-fetch")
        self._store = StoreAddress(config, transit, self._fetchers)
        self.find_store = self._store.find
        self.by_id: dict[bytes, Sent] = {}
        self._peers: dict[bytes, Peer] = {}
        self._packing = Packing(config, transit, self._store, self.elsewhere, recovery)
        self.speculating = Speculating(
            transit,
            self.choice,
            self._packing,
            self,
            self._peers,
            own_id=self._own_id,
            inputs_of=self.placing.inputs_of,
            interrupt=interrupt,
        )
        self._waiting: list[Sent] = []
        self._unsealed: list[Sent] = []
        self._fetched: dict[bytes, object] = {}
        self._arrived: deque[Arrived] = deque()
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "rostral-forwarded")
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls = calls
        self.on_yielded: Callable[[bytes, list[bytes]], None] = lambda _, __: None
        """A node answers that it waits for nothing of these actors from elsewhere."""

    def start(self) -> None:
        """Takes in results from here on."""
        self._spawn(self._take_in())

    async def stop(self) -> None:
        """Ends all streams. What is outstanding stays claimed."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(peer.link.close() for peer in self._peers.values()))
        await self.elsewhere.stop()
        for threads in (self._thread, self._fetchers):
            threads.shutdown(wait=False, cancel_futures=True)

    def _spawn(self, work: object) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- placing

    def look(self) -> None:
        """Places what can be placed."""
        self.placing.look()

    def tick(self) -> None:
        """Does what had to wait."""
        waiting, self._waiting = self._waiting, []
        for sent in waiting:
            self._put_back(sent, sent.claimed.retries)
        unsealed, self._unsealed = self._unsealed, []
        for sent in unsealed:
            if self._is_out(sent):
                self._submit(self._peers[sent.host], sent)
        self.elsewhere.tick()
        self.speculating.tick()
        self.look()

    def run_here(self, claimed: ClaimedTask, queue: ForwardQueue) -> None:
        """The Carrier protocol of placing.py."""
        sent = Sent.of(claimed, queue, self._own_id)
        try:
            sent.queue = queue.local_queue()
        except SchedulerError as error:
            self.end(sent, error)
            return
        self._put_back(sent, claimed.retries)

    def put_back(self, claimed: ClaimedTask, queue: ForwardQueue) -> None:
        """The Carrier protocol."""
        self._put_back(Sent.of(claimed, queue, self._own_id), claimed.retries)

    def fail(self, claimed: ClaimedTask, queue: ForwardQueue, error: Exception) -> None:
        """The Carrier protocol."""
        self.end(Sent.of(claimed, queue, self._own_id), error)

    def refusal_of(self, node_id: bytes) -> RostralError | None:
        """The Carrier protocol."""
        peer = self._peers.get(node_id)
        return None if peer is None else peer.refused

    def drain(self, node_id: bytes, deadline_s: float) -> None:
        """Asks another node, which lives, to leave."""
        peer = self._peer(node_id)
        if peer.is_open:
            peer.link.send(Drain(deadline_s))
        else:
            peer.drain_within_s = deadline_s

    def keep_in_touch(self, node_id: bytes) -> None:
        """Has a stream to a living node, though it may have no task of ours."""
        self._peer(node_id)

    # ---- sending

    def forward(self, claimed: ClaimedTask, queue: ForwardQueue, node_id: bytes) -> None:
        """Has a host run a task that was claimed; should that fail, it goes back to its queue."""
        sent = Sent.of(claimed, queue, node_id)
        if claimed.is_stream:
            self.end(sent, stream_error(claimed))
            return
        peer, sent.watched = self._peer(node_id), claimed.task_id in self.speculating
        self.by_id[claimed.task_id] = peer.outstanding[claimed.task_id] = sent
        self.choice.sent(node_id, sent.shape)
        if peer.is_open:
            self._submit(peer, sent)

    def _peer(self, node_id: bytes) -> Peer:
        known = self._peers.get(node_id)
        if known is not None:
            return known
        link = PeerLink(
            self._view.by_id[node_id].scheduler_address,
            node_id,
            self._identity,
            silence_s=self._config.peer_silence_s,
            handle=lambda message: self._handle(peer, message),
            connected=lambda: self._connected(peer),
            refused=lambda error: self._refused(peer, error),
            lost=lambda cause: self._view.bury(node_id, cause),
        )
        peer = self._peers[node_id] = Peer(node_id, link)
        return peer

    def _submit(self, peer: Peer, sent: Sent) -> None:
        try:
            message = self._packing.message(peer, sent)
            if message is not None:
                self.tell_job(peer, sent.job_id)
        except NotSealedError:
            self._unsealed.append(sent)
            return
        except RostralError as error:
            self.end(sent, error)
            return
        if message is None:
            self.submit_later(peer, sent)
            return
        peer.functions.add((sent.job_id, message.inputs[message.function].id))
        peer.link.send(message)

    def submit_later(self, peer: Peer, sent: Sent) -> None:
        """Once it is known where others fetch from this node's store; if it is out by then."""
        self._spawn(self._submit_later(peer, sent))

    async def _submit_later(self, peer: Peer, sent: Sent) -> None:
        try:
            await self.find_store()
        except RostralError as error:
            if self._is_out(sent):
                self.end(sent, error)
            return
        if self._is_out(sent):
            self._submit(peer, sent)

    # ---- actors

    @property
    def travel_terms(self) -> tuple[int, str]:
        """Up to what size values travel in messages, and where others fetch, if that is known."""
        return self._store.inline_bytes, self._store.address

    def tell_job(self, peer: Peer, job_id: bytes) -> None:
        """Before its first task or actor there. Raises JobNotFoundError."""
        if job_id not in peer.jobs:
            peer.link.send(self._describe_job(job_id))
            peer.jobs.add(job_id)

    def open_peer(self, node_id: bytes) -> Peer | None:
        """A living node whose stream is open; None: not yet, `Calls.connected` will say."""
        if node_id not in self._view.by_id:
            return None
        peer = self._peer(node_id)
        return peer if peer.is_open else None

    def send_call(self, peer: Peer, sent: Sent, *, resent: bool = False) -> bool:
        """Sends a call after all that was sent before. False: `find_store` must come first.

        Raises NotSealedError, NotTransferableError.
        """
        actor, task_id = sent.to_actor, sent.claimed.task_id
        message = self._packing.message(peer, sent)
        if actor is None or message is None:
            return False
        self.by_id[task_id] = peer.outstanding[task_id] = actor.out[task_id] = sent
        peer.link.send(Call(actor.actor_id, sent.claimed.function, message, resent))
        return True

    # ---- what hosts say

    def _connected(self, peer: Peer) -> None:
        peer.is_open, peer.refused = True, None
        self.choice.close(peer.node_id, is_closed=False)
        peer.jobs.clear()
        peer.functions.clear()
        for job_id in peer.ended:
            peer.link.send(EndJob(job_id))
        peer.ended.clear()
        if peer.drain_within_s is not None:
            peer.link.send(Drain(peer.drain_within_s))
            peer.drain_within_s = None
        kept = self.elsewhere.kept_by(peer.node_id)
        peer.link.send(Outstanding([*peer.outstanding, *peer.copies], kept))
        self._calls.connected(peer)

    def _refused(self, peer: Peer, error: RostralError) -> None:
        """It lives and does not let us in: what was meant for it goes elsewhere, or fails."""
        peer.is_open, peer.refused = False, error
        self.choice.close(peer.node_id)
        self.speculating.lose_copies(peer)
        for sent in list(peer.outstanding.values()):
            if sent.to_actor is not None:
                self.end(sent, error)
                continue
            self._forget(sent)
            self._put_back(sent, sent.claimed.retries)
        self.look()

    def _handle(self, peer: Peer, message: Message) -> None:
        if not isinstance(message, Done):
            self.speculating.heard(peer, message)
        match message:
            case Done():
                sent = peer.outstanding.get(message.task_id) or self.speculating.done(peer, message)
                if sent is not None and missing(message, sent):
                    self._spawn(self._fetch(peer, sent, message))
                    return
                self._arrive(peer, sent, message)
            case Gone(object_ids=object_ids):
                self.elsewhere.not_there(peer.node_id, object_ids)
            case Unfetched(task_id=task_id, object_ids=object_ids):
                if (sent := peer.outstanding.get(task_id)) is not None:
                    self._forget(sent)
                    self._spawn(self._bring_inputs(sent, object_ids))
            case Back(task_ids=task_ids):
                self.choice.pass_over(peer.node_id)
                for task_id in task_ids:
                    if (sent := peer.outstanding.get(task_id)) is not None:
                        self._forget(sent)
                        self._put_back(sent, sent.claimed.retries)
                self.look()
            case Unknown(task_ids=task_ids):
                for task_id in task_ids:
                    sent = peer.outstanding.get(task_id)
                    if sent is not None and sent.to_actor is None:
                        self._submit(peer, sent)
                    elif sent is not None:
                        self._calls.unknown(sent)
            case ActorsYielded(actor_ids=actor_ids):
                self.on_yielded(peer.node_id, actor_ids)
            case ActorHeld() | ActorMade() | ActorFacts() | ActorUsed():
                self._calls.answered(peer, message)
            case Push():
                self._push(message)

    def _arrive(self, peer: Peer, sent: Sent | None, message: Done) -> None:
        if sent is not None:
            self._forget(sent)
            self.speculating.ended(message.task_id, peer.node_id)
            self._arrivals.expect(sent, message)
        self._arrived.append((sent, message, peer.node_id))
        self._wake.set()

    def arrive_here(self, sent: Sent, message: Done) -> None:
        """A call of an actor that has come to this node: it was made before, and ended so."""
        self._arrived.append((sent, message, self._own_id))
        self._wake.set()

    async def _take_in(self) -> None:
        """Seals results as they arrive, many at once, in a thread that may wait for room."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            # In a frame of its own, which keeps no hold on anything while this one waits.
            await self._take_in_batch()
            self.look()

    async def _take_in_batch(self) -> None:
        batch = list(self._arrived)
        self._arrived.clear()
        for _, message, _ in batch:
            self._calls.expect(stubs_of(message))
        seal_all = self._arrivals.seal_all
        sealed = await asyncio.get_running_loop().run_in_executor(self._thread, seal_all, batch)
        taken: dict[bytes, Taken] = {}
        for arrived, outcome in zip(batch, sealed, strict=True):
            sent, message, node_id = arrived
            self._fetched.pop(message.task_id, None)
            kept = self._arrivals.settle(arrived, outcome)
            if sent is not None and sent.is_copy:
                self.speculating.taken_in(sent)
            if stubs := stubs_of(message):
                # Until they are held for this node, the host holds them.
                to_send = Taken([message.task_id], kept)
                self._calls.settled(stubs, partial(self._take, node_id, to_send))
                continue
            to_send = taken.setdefault(node_id, Taken([], []))
            to_send.task_ids.append(message.task_id)
            to_send.kept.extend(kept)
        for node_id, to_send in taken.items():
            self._take(node_id, to_send)

    def _take(self, node_id: bytes, to_send: Taken) -> None:
        if (peer := self._peers.get(node_id)) is not None:
            peer.link.send(to_send)

    async def _fetch(self, peer: Peer, sent: Sent, message: Done) -> None:
        """Brings what must be here; then the rest is as where nothing is to be fetched."""
        loop = asyncio.get_running_loop()
        fetches = [
            loop.run_in_executor(self._fetchers, self._transit.fetch, *what)
            for what in missing(message, sent)
        ]
        try:
            # Held until it is known that all came: a task that runs again makes them anew.
            fetched = await asyncio.gather(*fetches)
        except RostralError as error:
            await self._fetch_failed(peer, sent, error)
            return
        if self._is_out(sent):
            self._fetched[sent.claimed.task_id] = fetched
            self._arrive(peer, sent, message)

    async def _fetch_failed(self, peer: Peer, sent: Sent, error: RostralError) -> None:
        """If its host is dead, that is soon known, and the task runs again."""
        await asyncio.sleep(1.5 * self._config.peer_silence_s)
        if self._is_out(sent):
            self.end(sent, error)
            peer.link.send(Taken([sent.claimed.task_id]))

    async def _bring_inputs(self, sent: Sent, object_ids: list[bytes]) -> None:
        """A host could not get inputs of a task: once they are here, or expected, it goes again."""
        try:
            await bring_inputs(self._transit, self.elsewhere, sent, object_ids)
        except RostralError as error:
            self.end(sent, error)
        else:
            self._put_back(sent, sent.claimed.retries)

    def _release(self, node_id: bytes, object_ids: list[bytes]) -> None:
        peer = self._peers.get(node_id)
        if peer is not None:
            # If its stream is down, it is told what is kept when that is up again.
            peer.link.send(Release(object_ids))

    # ---- the end of tasks

    def _is_out(self, sent: Sent) -> bool:
        return self.by_id.get(sent.claimed.task_id) is sent

    def _forget(self, sent: Sent) -> None:
        self.by_id.pop(sent.claimed.task_id, None)
        peer = self._peers.get(sent.host)
        was_out = peer is not None and peer.outstanding.pop(sent.claimed.task_id, None) is not None
        if sent.to_actor is not None:
            sent.to_actor.out.pop(sent.claimed.task_id, None)
        elif was_out:
            self.choice.came_back(sent.host, sent.shape)

    def end(self, sent: Sent, error: Exception | bytes) -> None:
        """Ends a task that no host has, or shall have, in the thread that may wait for room."""
        self._forget(sent)
        self._recovery.forget(sent.claimed.task_id)
        self._thread.submit(fail_for_sure, self._transit, sent.claimed, error)

    def _put_back(self, sent: Sent, retries: int) -> None:
        """Into its queue on this node; at a later tick, if that is full."""
        claimed = sent.claimed
        if self._transit.requeue(claimed, sent.queue, retries):
            return
        flags = self._transit.flags_of(claimed)
        if flags is None:
            return
        if flags & CANCELLED:
            error = TaskCancelledError.of(claimed.task_id, is_late=bool(flags & LATE))
            self.end(sent, error)
            return
        claimed.retries = retries
        self._waiting.append(sent)

    def cancel(self, task_id: bytes, ladder: Ladder) -> None:
        """Makes a task end that is flagged as cancelled, if it is on another node."""
        sent = self.by_id.get(task_id)
        if sent is None:
            return
        flags = self._transit.flags_of(sent.claimed)
        peer = self._peers[sent.host]
        if flags is None:
            return
        if not peer.is_open:
            self.end(sent, TaskCancelledError.of(task_id, is_late=bool(flags & LATE)))
            return
        peer.link.send(cancel_of(task_id, flags, ladder))

    def host_died(self, node_id: bytes, cause: str) -> None:
        """Each task that the node had runs again elsewhere, if it may."""
        peer = self._peers.pop(node_id, None)
        if peer is None:
            return
        self._spawn(peer.link.close())
        self.speculating.lose_copies(peer)
        for sent in peer.outstanding.values():
            self._forget(sent)
            if self.speculating.goes_on(sent):
                continue
            if sent.to_actor is not None:
                self._calls.lost(sent, cause)
                continue
            retries = sent.claimed.retries
            if retries == 0:
                self.end(sent, lost_error(sent, cause))
                continue
            self._put_back(sent, retries if retries == RETRY_FOREVER else retries - 1)
        peer.outstanding.clear()  # What it still says is heard by nobody.
        self.look()

    def job_ended(self, job_id: bytes) -> None:
        """The job's queues go, and nothing of it is taken in any more."""
        self.placing.job_ended(job_id)
        self.elsewhere.job_ended(job_id)
        self._recovery.job_ended(job_id)
        self.speculating.job_ended(job_id)
        for sent in [sent for sent in self.by_id.values() if sent.job_id == job_id]:
            self._forget(sent)
            if sent.to_actor is not None:
                # Its actor may be another job's, and live on.
                self._take(sent.host, Taken([sent.claimed.task_id]))
        self._waiting = [sent for sent in self._waiting if sent.job_id != job_id]
        for peer in self._peers.values():
            if job_id not in peer.jobs:
                continue
            peer.jobs.discard(job_id)
            peer.functions = {key for key in peer.functions if key[0] != job_id}
            if peer.is_open:
                peer.link.send(EndJob(job_id))
            else:
                peer.ended.add(job_id)
