"""Actors of this node that others call: the host's half of what crosses for them.

This file owns how another node's actor is made here, which calls wait for room in their actor's
mailbox, and which nodes hold which actors. A call that is in the mailbox is a hosted task like any
other (`hosted.py`).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from msgspec import structs

from rostral_gcs.errors import RostralError
from rostral_scheduler.between.actor_logs import ActorLogs
from rostral_scheduler.between.actor_pasts import Past
from rostral_scheduler.between.messages import (
    ActorFacts,
    ActorHeld,
    ActorMade,
    AskActor,
    Call,
    CreateActor,
    EndActor,
    HoldActor,
    Input,
    ReleaseActor,
    Stub,
)
from rostral_scheduler.between.transit_memory import Handle, TransitMemory
from rostral_scheduler.errors import ActorDiedError, ActorUnavailableError, RequestError
from rostral_scheduler.local.actor_making import ActorMaking
from rostral_scheduler.local.actor_record import ActorRecord, ActorStage
from rostral_scheduler.local.actors import Actors
from rostral_scheduler.local.node_memory import Body, pickled

if TYPE_CHECKING:
    from rostral_scheduler.between.guest import Guest, Origin
    from rostral_scheduler.between.replays import Replays

__all__ = ["ActorHost"]

_FETCHES_MAX = 4
_HOLD_GRACE_S = 5.0


class ActorHost:
    """This node's actors, as other nodes see them.

    Args:
        node_id: This node's.
        transit: The node's memory.
        actors: The node's.
        making: Makes one more.
        logs: What those with checkpoints do.
        environment: How a runtime environment's text is known here.
    """

    def __init__(
        self,
        node_id: bytes,
        transit: TransitMemory,
        actors: Actors,
        making: ActorMaking,
        logs: ActorLogs,
        environment: Callable[[str], bytes],
    ) -> None:
        self._node_id, self._transit, self._actors = node_id, transit, actors
        self._making, self._environment = making, environment
        self.logs = logs
        self._crowded: dict[bytes, deque[Guest]] = {}
        self._fetching: set[asyncio.Task[None]] = set()
        self._thread = ThreadPoolExecutor(1, "rostral-actors")
        self._fetchers = ThreadPoolExecutor(_FETCHES_MAX, "rostral-fetch")

    async def stop(self) -> None:
        """Begins nothing any more."""
        for task in self._fetching:
            task.cancel()
        await asyncio.gather(*self._fetching, return_exceptions=True)
        for threads in (self._thread, self._fetchers):
            threads.shutdown(wait=False, cancel_futures=True)

    # ---- making

    async def create(self, origin: Origin, message: CreateActor) -> None:
        """Makes an actor that another node asks for, and answers."""
        error = b""
        try:
            actor = self._actors.by_id.get(message.actor_id)
            if actor is None or not actor.is_remade_by(message.job_id):
                actor = await self._create(origin, message)
            actor.holders.add(origin.node_id)
        except RostralError as failure:
            error = pickled(failure)
        origin.outbox.send(ActorMade(message.actor_id, error))

    async def adopt(
        self,
        message: CreateActor,
        restarts: int,
        nodes: set[bytes],
        past: Past | None,
        replays: Replays,
    ) -> None:
        """Makes an actor again whose node is dead; each of the nodes may refer to it.

        With what it has been through, if it has checkpoints.

        Raises what making an actor does, and RequestError when what it is made from is lost.
        """
        if any(given.data is None for given in message.beside):
            raise RequestError("an argument of its constructor is lost, which was large")
        stub_id = message.creation.id
        # Somebody here may refer to it by that, and what it is made from is not what is there.
        again = hashlib.blake2b(message.actor_id, digest_size=20, person=b"again").digest()
        creation = structs.replace(message.creation, id=again)
        loop = asyncio.get_running_loop()
        held = await loop.run_in_executor(
            self._thread, self._take_in, structs.replace(message, creation=creation)
        )
        stub = self._transit.hold_stub(stub_id)
        body = self._body(message, held[-1])
        body |= {
            "holders": nodes - {self._node_id},
            "stub": self._transit.place_of(stub),
            "restarts": restarts,
        }
        if past is None:
            self._making.adopt(body)
            return
        body |= await loop.run_in_executor(self._thread, self._checkpoint, past)
        job_id = message.actor_id if message.is_detached else message.job_id
        capacity = max(message.mailbox_capacity, len(past.calls) + 1)
        mailbox = self._actors.make_mailbox(job_id, message.actor_id, capacity)
        try:
            guests = await replays.submit(past, mailbox)
            self.logs.resume(message.actor_id, past)
            replays.begin(message.actor_id, past, guests)
            self._making.adopt(body | {"mailbox": mailbox})
        except BaseException as error:
            self._actors.drop_mailbox(mailbox, pickled(RequestError(f"it is not made: {error}")))
            raise

    def _checkpoint(self, past: Past) -> Body:
        """In a thread that may wait for room: what its process restores, held."""
        value = past.saved.value
        if value is None:
            return {}
        beside = [self._transit.hold(given) for given in past.saved.beside]
        hold = self._transit.hold(value)
        del beside
        at = {**self._transit.place_of(hold), "covers": past.covers}
        return {"checkpoint": at, "checkpoint_hold": hold}

    async def _create(self, origin: Origin, message: CreateActor) -> ActorRecord:
        loop = asyncio.get_running_loop()
        held = await loop.run_in_executor(self._thread, self._take_in, message)
        for given, handle in zip(message.beside, held[:-1], strict=True):
            if given.holders and not self._transit.is_here(handle):
                self._bring(message.actor_id, given, handle)
        body = self._body(message, held[-1])
        body["holders"] = {origin.node_id}
        return await self._making.make(body, None)

    def _body(self, message: CreateActor, creation: Handle) -> Body:
        return {
            "job_id": message.job_id,
            "actor_id": message.actor_id,
            "name": message.name or None,
            "namespace": message.namespace,
            "class_name": message.class_name,
            "environment": self._environment(message.environment),
            "environment_text": message.environment,
            "where": message.where,
            "resources": message.resources,
            "placement_resources": message.placement_resources,
            "bundle": None,
            "max_restarts": message.max_restarts,
            "detached": message.is_detached,
            "checkpointed": message.is_checkpointed,
            "creation": self._transit.place_of(creation),
            "meta": message.meta,
            "mailbox_capacity": message.mailbox_capacity,
        }

    def _take_in(self, message: CreateActor) -> list[Handle]:
        """In a thread that may wait for room: holds on what it is made from, itself the last."""
        return [self._transit.hold(given) for given in (*message.beside, message.creation)]

    def _bring(self, actor_id: bytes, given: Input, handle: Handle) -> None:
        fetch = asyncio.create_task(self._fetch(actor_id, given, handle))
        self._fetching.add(fetch)
        fetch.add_done_callback(self._fetching.discard)

    async def _fetch(self, actor_id: bytes, given: Input, handle: Handle) -> None:
        """Its constructor waits for it as for any value; it is held until it is here."""
        loop = asyncio.get_running_loop()
        for store in given.holders:
            try:
                await loop.run_in_executor(
                    self._fetchers, self._transit.fetch, given.id, (store,), given.size
                )
                return
            except RostralError as error:
                reason = f"an argument of its constructor, {handle.hex()}, is lost: {error}"
        self._actors.end_for(actor_id, reason)

    def end(self, message: EndActor) -> None:
        """Kills an actor for another node; one that is dead stays so."""
        if message.reason:
            self._actors.end_for(message.actor_id, message.reason)
        elif message.actor_id in self._actors.by_id:
            self._actors.kill(message.actor_id, no_restart=message.no_restart)

    def tell(self, origin: Origin, message: AskActor) -> None:
        """Answers what a handle is made of."""
        actor = self._actors.by_id.get(message.actor_id)
        if actor is None or actor.stage is ActorStage.DEAD:
            answer = ActorFacts(message.actor_id, bytes(16), bytes(20))
        else:
            creation_id = bytes(actor.stub["id"])
            answer = ActorFacts(actor.actor_id, actor.job_id, creation_id, actor.meta)
        origin.outbox.send(answer)

    # ---- calls

    def mailbox_of(self, call: Call, origin: Origin) -> int | bytes:
        """Where the call goes; or the pickled error that is its result."""
        actor = self._actors.by_id.get(call.actor_id)
        if actor is None or actor.stage is ActorStage.DEAD:
            return self.death_of(call.actor_id)
        if call.resent and origin.was_dropped and not call.task.retries:
            return pickled(
                ActorUnavailableError(
                    f"{actor.title}: the connection between its node and the caller's was lost "
                    "for long, and the call may have run",
                    hint="make the call again, or give the actor max_task_retries, if running it "
                    "twice does no harm",
                    actor_id=actor.actor_id,
                )
            )
        return actor.mailbox

    def death_of(self, actor_id: bytes) -> bytes:
        """The pickled error of calls of an actor that is dead."""
        actor = self._actors.by_id.get(actor_id)
        if actor is not None and actor.death is not None:
            return actor.death
        return pickled(
            ActorDiedError(
                f"actor {actor_id.hex()} is dead, and its node has forgotten why",
                hint="create it again, or give it max_restarts",
                actor_id=actor_id,
            )
        )

    def is_logged(self, call: Call) -> bool:
        """Whether the call's record stays, its results sealed, until a checkpoint covers it."""
        actor = self._actors.by_id.get(call.actor_id)
        return actor is not None and actor.is_checkpointed

    # ---- what waits for room in a mailbox

    def wait_for_room(self, guest: Guest) -> None:
        """The mailbox is full: the call, and all that come after it, wait in their order."""
        assert guest.call is not None
        self._crowded.setdefault(guest.call.actor_id, deque()).append(guest)

    @property
    def has_waiting(self) -> bool:
        """Whether any call waits for room."""
        return bool(self._crowded)

    def take_waiting(self) -> list[Guest]:
        """All that wait, each actor's in their order, to be tried before what has come since."""
        crowded, self._crowded = self._crowded, {}
        return [guest for guests in crowded.values() for guest in guests]

    # ---- who holds which actor

    def hold(self, origin: Origin, message: HoldActor) -> None:
        """Somebody on another node refers to the actor."""
        actor = self._actors.by_id.get(message.actor_id)
        death = b""
        if actor is None or actor.stage is ActorStage.DEAD:
            death = self.death_of(message.actor_id)
        if actor is not None:
            actor.holders.add(origin.node_id)
        origin.outbox.send(ActorHeld(message.actor_id, death))

    def release(self, origin: Origin, message: ReleaseActor) -> None:
        """Nobody does any more."""
        actor = self._actors.by_id.get(message.actor_id)
        if actor is not None:
            actor.holders.discard(origin.node_id)

    def origin_died(self, node_id: bytes) -> None:
        """Soon nobody of that node refers to anything.

        Not at once: actors of that node that have handles of ours may come to life elsewhere.
        """
        loop = asyncio.get_running_loop()
        loop.call_later(_HOLD_GRACE_S, self._let_go, node_id)

    def _let_go(self, node_id: bytes) -> None:
        for actor in self._actors.by_id.values():
            actor.holders.discard(node_id)

    def stub_of(self, object_id: bytes) -> Stub | None:
        """Of an object that says how to build an actor of this node."""
        actor: ActorRecord | None = self._actors.by_creation.get(object_id)
        return None if actor is None else Stub(actor.actor_id, self._node_id, object_id)
