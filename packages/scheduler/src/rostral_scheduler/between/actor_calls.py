"""Calls of actors that live on other nodes: the origin's half, from a local mailbox to the stream.

Each such actor has a mailbox on this node for each job that calls it, into which callers push as
into the actor's own. This file owns those mailboxes, the order in which calls leave them, and for
which actors this node says that somebody here refers to them. How calls travel and how results come
back is `forwarded.py`'s affair: to it a call is a task whose host is not chosen.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from rostral_gcs.errors import RostralError
from rostral_scheduler.between.actor_questions import ActorQuestions
from rostral_scheduler.between.living_nodes import LivingNodes
from rostral_scheduler.between.messages import (
    SHAPELESS,
    ActorFacts,
    ActorHeld,
    ActorMade,
    ActorMoved,
    ActorUsed,
    Done,
    EndActor,
    HoldActor,
    ReleaseActor,
    Stub,
)
from rostral_scheduler.between.outgoing import Peer, Sent, stream_error
from rostral_scheduler.between.remote_actor import RemoteActor, died, forgotten, unavailable
from rostral_scheduler.between.transit_memory import (
    CANCELLED,
    LATE,
    RETRY_FOREVER,
    NotSealedError,
    TransitMemory,
)
from rostral_scheduler.core.resources import ResourceSet
from rostral_scheduler.errors import (
    ActorNotFoundError,
    ActorUnavailableError,
    TaskCancelledError,
)
from rostral_scheduler.local.actors import Actors
from rostral_scheduler.local.jobs import Jobs
from rostral_scheduler.local.node_memory import Body, NodeMemory, pickled

if TYPE_CHECKING:
    from rostral_scheduler.between.forwarded import Forwarded

__all__ = ["ActorCalls"]

logger = logging.getLogger("rostral.scheduler.actor_calls")

_NOTHING = ResourceSet.of({})
_ADOPT_S = 5.0
"""Between telling a process here where an actor's object lies, and its hold on that."""


class ActorCalls:
    """The actors of other nodes that this one knows of, on the running event loop.

    Args:
        memory: The node's.
        transit: The same, for what crosses.
        view: The living nodes.
        jobs: The node's, who own the mailboxes.
        actors: Those of this node: an actor may come here.
        window: How many calls of one actor may be out at a time.
        actors_max: How many actors of other nodes may be known at a time.
    """

    def __init__(
        self,
        memory: NodeMemory,
        transit: TransitMemory,
        view: LivingNodes,
        jobs: Jobs,
        actors: Actors,
        *,
        window: int,
        actors_max: int,
    ) -> None:
        self._memory, self._transit, self._view, self._jobs = memory, transit, view, jobs
        self._actors, self._window, self._actors_max = actors, window, actors_max
        self.by_id: dict[bytes, RemoteActor] = {}
        self._by_creation: dict[bytes, RemoteActor] = {}
        self._forwarded: Forwarded
        self.questions: ActorQuestions
        self._finding_store: asyncio.Task[None] | None = None
        # What could not be sent again after a stream broke.
        self._stuck: set[bytes] = set()
        # Of actors whose host has just died: calls that are made again.
        self._again: dict[bytes, list[Sent]] = {}
        self._made: Callable[[ActorMade], None]
        self.look_for_actors: Callable[[], None] = lambda: None
        """Finds out where actors of dead nodes live on."""
        self.ask_replays: Callable[[Sent, Callable[[Done], None]], bool] = lambda _, __: False
        """Calls back with the results of a call that its actor ran before it came to this node."""

    @property
    def held_count(self) -> int:
        """How many actors of other nodes somebody here refers to, or has just called."""
        return sum(actor.is_asked or bool(actor.late or actor.out) for actor in self.by_id.values())

    def attach(self, forwarded: Forwarded) -> None:
        """Says by what calls travel."""
        self._forwarded = forwarded
        self.questions = ActorQuestions(self._view, forwarded)

    # ---- callers

    def mailbox(
        self, job_id: bytes, actor_id: bytes, host: bytes, *, in_order: bool, may_return: bool
    ) -> int:
        """Where a job of this node pushes calls of an actor that lives, or lived, on a host.

        Raises JobNotFoundError, LimitReachedError, ObjectStoreFullError.
        """
        actor = self._known(actor_id, host)
        actor.in_order, actor.may_return = in_order, may_return
        mailbox = actor.mailboxes.get(job_id)
        if mailbox is None:
            mailbox = self._jobs.add_proxy(job_id, actor_id, limit=self._actors_max)
            actor.mailboxes[job_id] = mailbox
            self._memory.set_wanted(mailbox, wanted=True)
        self._look_after(actor)
        if actor.death:
            self._memory.close_queue(mailbox)
        return mailbox

    def _look_after(self, actor: RemoteActor) -> None:
        """Sees to it that its host is known to live, or to be dead."""
        cause = self._view.death_cause(actor.host)
        if actor.death or actor.is_away:
            return
        if actor.host == self._memory.node_id:
            if actor.actor_id not in self._actors.by_id:
                self.bury(actor, pickled(forgotten(actor.actor_id)))
        elif cause is not None:
            self._lose(actor, cause)
        else:
            self._forwarded.open_peer(actor.host)

    def keep(self, actor_id: bytes) -> None:
        """A handle knows its mailboxes that does not keep the actor alive."""
        self.by_id[actor_id].is_kept = True

    def begin(self, actor: RemoteActor) -> None:
        """One that is being made."""
        self._transit.watch()
        actor.is_made, actor.make = False, actor.made_by
        self.by_id[actor.actor_id] = self._by_creation[actor.creation_id] = actor

    def _known(self, actor_id: bytes, host: bytes) -> RemoteActor:
        actor = self.by_id.get(actor_id)
        if actor is None:
            self._transit.watch()
            actor = self.by_id[actor_id] = RemoteActor(actor_id, host)
        return actor

    # ---- sending

    def look(self) -> None:
        """Sends what can be sent."""
        for actor in list(self.by_id.values()):
            waits = any(map(self._memory.queue_length, actor.mailboxes.values()))
            if waits or actor.late or not actor.is_made:
                self._pump(actor)

    def _pump(self, actor: RemoteActor) -> None:
        if actor.death:
            self._drain(actor, actor.death)
            return
        if actor.is_away:
            return
        if actor.host == self._memory.node_id:
            self._hand_over(actor)
            return
        peer = self._forwarded.open_peer(actor.host)
        if peer is None:
            refused = self._forwarded.refusal_of(actor.host)
            if refused is not None:
                self._drain(actor, pickled(refused))
            return
        if actor.make is not None:
            if not actor.make(actor, peer):
                return
            actor.make = None
            self._send_again(actor, peer)
        if actor.late:
            self._look_at_late(actor, peer)
        for job_id, mailbox in list(actor.mailboxes.items()):
            room = self._window - len(actor.out) - sum(map(len, actor.late.values()))
            if room <= 0:
                return
            for task in self._transit.claim(mailbox, room):
                claimed = self._transit.describe(task)
                sent = Sent(claimed, job_id, _NOTHING, SHAPELESS, mailbox, actor.host, actor)
                if actor.is_late(sent) or not self._send(actor, peer, sent):
                    actor.put_late(sent)

    def _hand_over(self, actor: RemoteActor) -> None:
        """It lives here now: its calls go into its own mailbox."""
        record = self._actors.by_id.get(actor.actor_id)
        if record is None or record.death is not None:
            death = None if record is None else record.death
            self.bury(actor, death or pickled(forgotten(actor.actor_id)))
            return
        late, actor.late = actor.late, {}
        actor.watched.clear()
        waiting = [sent for calls in late.values() for sent in calls]
        for job_id, mailbox in actor.mailboxes.items():
            for task in self._transit.claim(mailbox, self._memory.queue_length(mailbox)):
                claimed = self._transit.describe(task)
                waiting.append(
                    Sent(claimed, job_id, _NOTHING, SHAPELESS, mailbox, actor.host, actor)
                )
        for sent in waiting:
            claimed = sent.claimed
            if self.ask_replays(sent, partial(self._forwarded.arrive_here, sent)):
                continue
            if actor.is_late(sent):
                actor.put_late(sent)
            elif self._transit.requeue(claimed, record.mailbox, claimed.retries):
                continue
            elif not self._is_cancelled(sent):
                actor.put_late(sent)  # It is full.

    def _is_cancelled(self, sent: Sent) -> bool:
        """Whether a call is over; one that is flagged as cancelled ends."""
        flags = self._transit.flags_of(sent.claimed)
        if flags is not None and flags & CANCELLED:
            error = TaskCancelledError.of(sent.claimed.task_id, is_late=bool(flags & LATE))
            self._forwarded.end(sent, error)
        return flags is None or bool(flags & CANCELLED)

    def _look_at_late(self, actor: RemoteActor, peer: Peer) -> None:
        actor.watched.clear()
        for caller, calls in list(actor.late.items()):
            while calls and self._send(actor, peer, calls[0]):
                calls.popleft()
            if not calls:
                del actor.late[caller]

    def _send(self, actor: RemoteActor, peer: Peer, sent: Sent) -> bool:
        """False: something of it is not there yet, and it stays the first of its caller."""
        claimed = sent.claimed
        sent.host = actor.host
        if self._is_cancelled(sent):
            return True
        if claimed.is_stream:
            self._forwarded.end(sent, stream_error(claimed))
            return True
        missing = self._transit.missing(claimed)
        if missing:
            actor.watched += missing  # Who seals what we hold pokes us.
            return False
        try:
            is_sent = self._forwarded.send_call(peer, sent)
        except NotSealedError:
            return False
        except RostralError as error:
            self._forwarded.end(sent, error)
            return True
        if not is_sent:
            self.find_store(lambda error: self._give_up(sent, error))
        return is_sent

    def find_store(self, failed: Callable[[RostralError], None]) -> None:
        """Finds out where others fetch from this node; then looks again, or says why not."""
        if self._finding_store is None:
            self._finding_store = asyncio.create_task(self._find_store(failed))

    async def _find_store(self, failed: Callable[[RostralError], None]) -> None:
        try:
            await self._forwarded.find_store()
        except RostralError as error:
            failed(error)
        finally:
            self._finding_store = None
        self.look()

    def _give_up(self, sent: Sent, error: Exception) -> None:
        """A late call ends; what comes behind it goes on."""
        actor = self.by_id.get(sent.to_actor.actor_id) if sent.to_actor is not None else None
        if actor is not None and actor.take_back(sent):
            self._forwarded.end(sent, error)

    def cancel(self, task_id: bytes) -> None:
        """Ends a call that is flagged as cancelled, if it has not been sent."""
        for actor in self.by_id.values():
            for calls in actor.late.values():
                for sent in calls:
                    if sent.claimed.task_id == task_id:
                        self._give_up(sent, TaskCancelledError.of(task_id, is_late=False))
                        return

    # ---- the stream (the Calls protocol of outgoing.py)

    def connected(self, peer: Peer) -> None:
        """Sends what was out once more, in its order, before anything new."""
        for actor in self.by_id.values():
            if actor.host != peer.node_id:
                continue
            job = self._jobs.by_id.get(actor.job_id)
            if job is not None and not job.ending:
                self._forwarded.tell_job(peer, actor.job_id)  # So that it hears of its end.
            if not actor.is_made:
                actor.make = actor.made_by
                continue
            if actor.is_asked:
                peer.link.send(HoldActor(actor.actor_id))
            self._send_again(actor, peer)
        asyncio.get_running_loop().call_soon(self.look)

    def _send_again(self, actor: RemoteActor, peer: Peer) -> None:
        for sent in list(actor.out.values()):
            with contextlib.suppress(RostralError):
                if self._forwarded.send_call(peer, sent, resent=True):
                    self._stuck.discard(sent.claimed.task_id)
                    continue
            self._stuck.add(sent.claimed.task_id)

    def unknown(self, sent: Sent) -> None:
        """A call that was out has not come: the host said so before it read what is sent again."""
        task_id = sent.claimed.task_id
        if task_id in self._stuck:
            self._stuck.discard(task_id)
            error = ActorUnavailableError(
                f"call {task_id.hex()} was lost with the connection between two nodes, and what it "
                "needs is gone",
                hint="make the call again",
            )
            self._forwarded.end(sent, error)

    def _held(self, message: ActorHeld) -> None:
        """The host's answer to HoldActor."""
        actor = self.by_id.get(message.actor_id)
        if actor is None:
            return
        actor.is_held = True
        if message.death:
            self.bury(actor, message.death)
        self._go_on(actor)

    def answered(self, peer: Peer, message: ActorHeld | ActorMade | ActorFacts | ActorUsed) -> None:
        """A host's answer."""
        if isinstance(message, ActorUsed):
            self._used(peer.node_id, message)
        elif isinstance(message, ActorHeld):
            self._held(message)
        elif isinstance(message, ActorMade):
            self._made(message)
        else:
            self.questions.answered(message)

    def _used(self, node_id: bytes, message: ActorUsed) -> None:
        """Of an actor that has come here from a dead node."""
        record = self._actors.by_id.get(message.actor_id)
        if record is not None and not message.is_used:
            record.holders.discard(node_id)
        if message.is_over:
            self._actors.end_for(message.actor_id, "the job that made it has ended")

    def on_made(self, made: Callable[[ActorMade], None]) -> None:
        """Says who hears of actors that this node has made elsewhere."""
        self._made = made

    def _go_on(self, actor: RemoteActor) -> None:
        waiting, actor.waiting = actor.waiting, []
        for then in waiting:
            then()

    # ---- who refers to it

    def stub_of(self, object_id: bytes) -> Stub | None:
        """Of an object that stands for an actor of another node."""
        actor = self._by_creation.get(object_id)
        return None if actor is None else Stub(actor.actor_id, actor.host, object_id)

    def expect(self, stubs: Iterable[Stub]) -> None:
        """Values that stand for these actors are about to be sealed here."""
        for stub in stubs:
            if stub.node == self._memory.node_id:
                continue
            actor = self._known(stub.actor_id, stub.node)
            actor.expected += 1
            actor.creation_id = stub.creation_id
            self._by_creation[stub.creation_id] = actor
            if not actor.is_asked:
                self._ask(actor)

    def _ask(self, actor: RemoteActor) -> None:
        actor.is_asked, actor.is_held = True, False
        self._look_after(actor)
        peer = None if actor.is_away else self._forwarded.open_peer(actor.host)
        if peer is not None:
            peer.link.send(HoldActor(actor.actor_id))

    def settled(self, stubs: Iterable[Stub], then: Callable[[], None]) -> None:
        """They are sealed, or will not be; calls back once all that somebody refers to are held."""
        waits = 1

        def one_less() -> None:
            nonlocal waits
            waits -= 1
            if not waits:
                then()

        for stub in stubs:
            actor = self._by_creation.get(stub.creation_id)
            if stub.node == self._memory.node_id or actor is None:
                continue
            actor.expected -= 1
            if self._is_referenced(actor) and not actor.is_held and not actor.death:
                waits += 1
                actor.waiting.append(one_less)
        one_less()

    def _is_referenced(self, actor: RemoteActor) -> bool:
        if actor.creation is None and actor.creation_id:
            actor.creation = self._transit.find(actor.creation_id)
        return actor.creation is not None and self._transit.held_elsewhere(actor.creation)

    def tick(self) -> None:
        """Says of which actors nobody here knows any more."""
        for actor in list(self.by_id.values()):
            if actor.orders:
                self._give_orders(actor)
            busy = actor.expected or actor.waiting or actor.late or actor.out or actor.orders
            busy = busy or not (actor.is_made or actor.death)
            if not busy and not self._is_referenced(actor):
                self._release(actor)
        self.look()

    def _release(self, actor: RemoteActor) -> None:
        if actor.is_asked:
            actor.is_asked = actor.is_held = False
            peer = None if actor.is_away else self._forwarded.open_peer(actor.host)
            if peer is not None and not actor.death:
                peer.link.send(ReleaseActor(actor.actor_id))
        self._by_creation.pop(actor.creation_id, None)
        actor.creation, actor.creation_id = None, b""
        if actor.is_kept and actor.mailboxes:
            return
        for job_id, mailbox in actor.mailboxes.items():
            self._jobs.drop_proxy(job_id, mailbox)
        del self.by_id[actor.actor_id]

    # ---- finding and ending

    async def hold(self, facts: ActorFacts, node_id: bytes) -> Body | None:
        """Makes the object that stands for an actor, for a process here that is about to take it.

        Returns where it lies; None: the actor is dead.
        """
        stub = Stub(facts.actor_id, node_id, facts.creation_id)
        self.expect([stub])
        actor = self.by_id[facts.actor_id]
        actor.creation = self._transit.hold_stub(facts.creation_id)
        held = asyncio.get_running_loop().create_future()
        if actor.is_held or actor.death:
            held.set_result(None)
        else:
            actor.waiting.append(partial(held.set_result, None))
        await held
        # By then it has taken it, or is gone.
        asyncio.get_running_loop().call_later(_ADOPT_S, self.settled, [stub], lambda: None)
        if actor.death:
            return None
        return self._transit.place_of(actor.creation)

    def kill(self, actor_id: bytes, host: bytes, *, no_restart: bool) -> None:
        """Ends an actor of another node. Raises ActorNotFoundError."""
        actor = self.by_id.get(actor_id)
        if actor is None and host in self._view.by_id and host != self._memory.node_id:
            actor = self._known(actor_id, host)
        if actor is None:
            raise ActorNotFoundError(f"this node knows no actor {actor_id.hex()}")
        actor.orders.append(EndActor(actor_id, no_restart))
        self._give_orders(actor)

    def _give_orders(self, actor: RemoteActor) -> None:
        peer = self._forwarded.open_peer(actor.host)
        if peer is None or actor.make is not None:
            return
        orders, actor.orders = actor.orders, []
        for order in orders:
            peer.link.send(order)

    def end_children(self, creator: bytes, reason: str) -> None:
        """What an actor of this node has made elsewhere shares its fate."""
        for actor in list(self.by_id.values()):
            if actor.creator == creator and not actor.death:
                actor.orders.append(EndActor(actor.actor_id, no_restart=True, reason=reason))
                self._give_orders(actor)

    # ---- the end

    def death_of(self, actor_id: bytes) -> bytes | None:
        """Why an actor of another node is dead, pickled; empty: it lives. None: it is unknown."""
        actor = self.by_id.get(actor_id)
        return None if actor is None else actor.death

    def lost(self, sent: Sent, cause: str) -> None:
        """A call that was out when its host died: it is made again if it may be."""
        assert sent.to_actor is not None
        actor, claimed = self.by_id.get(sent.to_actor.actor_id), sent.claimed
        if actor is None or not actor.may_return or actor.death:
            self._forwarded.end(sent, died(sent.to_actor.actor_id, sent.host, cause))
        elif claimed.retries == 0:
            self._forwarded.end(sent, unavailable(actor.actor_id, sent.host, cause))
        else:
            if claimed.retries != RETRY_FOREVER:
                claimed.retries -= 1
            self._again.setdefault(actor.actor_id, []).append(sent)

    def host_died(self, node_id: bytes, cause: str) -> None:
        """Its actors are dead, or come back elsewhere."""
        for actor in list(self.by_id.values()):
            if actor.host == node_id and not actor.death and not actor.is_away:
                self._lose(actor, cause)

    def _lose(self, actor: RemoteActor, cause: str) -> None:
        again = self._again.pop(actor.actor_id, [])
        if not actor.may_return:
            self.bury(actor, pickled(died(actor.actor_id, actor.host, cause)))
            return
        actor.is_away, actor.is_held, actor.unseen_since_s = True, False, None
        actor.made_by, actor.make, actor.is_made = None, None, True
        for sent in reversed(again):
            actor.put_first(sent)  # Before what waited for them.
        self.look_for_actors()

    def moved(self, message: ActorMoved, host: bytes) -> ActorUsed:
        """An actor of a dead node lives on another now, maybe on this one."""
        actor_id, own = message.actor_id, self._memory.node_id
        job = self._jobs.by_id.get(message.job_id)
        is_over = message.home == own and (job is None or job.ending)
        actor = self.by_id.get(actor_id)
        if actor is None or actor.death:
            return ActorUsed(actor_id, is_used=False, is_over=is_over)
        if actor.host != host and actor.host in self._view.by_id:
            # The cluster knows better than we do by now.
            self._view.bury(actor.host, "its actors were given to other nodes")
        if message.home == own:
            actor.job_id = message.job_id
        self.go_on_at(actor, host)
        return ActorUsed(actor_id, is_used=True, is_over=is_over)

    def go_on_at(self, actor: RemoteActor, host: bytes) -> None:
        """It is known where it lives on."""
        actor.host, actor.is_away = host, False
        actor.is_asked = actor.is_held = True
        job = self._jobs.by_id.get(actor.job_id)
        peer = None if host == self._memory.node_id else self._forwarded.open_peer(host)
        if peer is not None:
            peer.link.send(HoldActor(actor.actor_id))
            if job is not None and not job.ending:
                self._forwarded.tell_job(peer, actor.job_id)  # So that it hears of its end.
        self._go_on(actor)
        asyncio.get_running_loop().call_soon(self.look)

    def bury(self, actor: RemoteActor, death: bytes) -> None:
        """It is dead; `death` is the pickled error of its calls."""
        actor.death, actor.is_away = death, False
        for mailbox in actor.mailboxes.values():
            self._memory.close_queue(mailbox)
        self._drain(actor, actor.death)
        self._go_on(actor)

    def _drain(self, actor: RemoteActor, error: bytes) -> None:
        """Ends all that waits; a caller that looked before the mailbox was closed may push yet."""
        for calls in actor.late.values():
            for sent in calls:
                self._forwarded.end(sent, error)
        actor.late.clear()
        actor.watched.clear()
        for job_id, mailbox in actor.mailboxes.items():
            for task in self._transit.claim(mailbox, self._memory.queue_length(mailbox)):
                claimed = self._transit.describe(task)
                sent = Sent(claimed, job_id, _NOTHING, SHAPELESS, mailbox, actor.host, actor)
                self._forwarded.end(sent, error)

    def job_ended(self, job_id: bytes) -> None:
        """Its calls are not sent any more; its mailboxes are the job's to free."""
        for actor in self.by_id.values():
            actor.forget_job(job_id)
