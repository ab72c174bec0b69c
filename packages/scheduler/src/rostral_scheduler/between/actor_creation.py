"""Actors that this node has made on another: which one, and what is said to it.

This file owns the choice among living nodes and the message that makes an actor. From then on the
actor is one of `actor_calls.py`, which sends the message before any call.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from rostral_gcs.errors import RostralError
from rostral_scheduler.between.actor_calls import ActorCalls
from rostral_scheduler.between.actor_recipes import RECIPE_BYTES_MAX
from rostral_scheduler.between.living_nodes import LivingNodes
from rostral_scheduler.between.messages import ActorMade, CreateActor
from rostral_scheduler.between.outgoing import Peer, located
from rostral_scheduler.between.remote_actor import RemoteActor
from rostral_scheduler.between.transit_memory import Handle, NotSealedError, TransitMemory
from rostral_scheduler.core.resources import ResourceSet
from rostral_scheduler.core.where import NodeFacts, Where, refusal
from rostral_scheduler.errors import LimitReachedError, RequestError, UnschedulableError
from rostral_scheduler.local.actor_record import ActorStage
from rostral_scheduler.local.actors import Actors
from rostral_scheduler.local.fields import binary
from rostral_scheduler.local.node_memory import Body, pickled

if TYPE_CHECKING:
    from rostral_scheduler.between.forwarded import Forwarded

__all__ = ["ActorCreation"]


class ActorCreation:
    """Makes actors on other nodes, on the running event loop.

    Args:
        own_id: This node's.
        transit: The node's memory.
        view: The living nodes.
        forwarded: By which messages travel.
        calls: The actors of other nodes.
        actors: Those of this one.
        available: What this node has free.
    """

    def __init__(
        self,
        own_id: bytes,
        transit: TransitMemory,
        view: LivingNodes,
        forwarded: Forwarded,
        calls: ActorCalls,
        actors: Actors,
        *,
        available: Callable[[], Mapping[str, float]],
    ) -> None:
        self._own_id, self._transit, self._view = own_id, transit, view
        self._forwarded, self._calls, self._actors = forwarded, calls, actors
        self._available = available
        self._asked: dict[bytes, asyncio.Future[bytes]] = {}
        calls.on_made(self.made)

    # ---- which node

    def choose(
        self, shape: ResourceSet, where: Where, given: Sequence[tuple[bytes, ResourceSet]] = ()
    ) -> bytes:
        """The node for one more actor: one that has room for it now, if any, with the fewest.

        Args:
            shape: What it needs.
            where: Which nodes it may live on.
            given: Nodes to which other actors went just now, which they do not report yet.

        Raises UnschedulableError.
        """
        nodes = [node for node in self._forwarded.choice.facts() if not self._leaves(node)]
        if (error := refusal(nodes, shape, where)) is not None:
            raise error
        able = [node for node in where.among(nodes) if node.can_ever(shape)]
        if not able:  # Where it should be, it cannot be.
            able = [node for node in nodes if node.can_ever(shape)]
        free = [node for node in able if self._has_free(node.node_id, shape, given)]
        here = Counter(actor.host for actor in self._calls.by_id.values() if not actor.death)
        here[self._own_id] = len(self._actors.by_id)
        here.update(node_id for node_id, _ in given)
        return min(free or able, key=lambda node: (here[node.node_id], node.node_id)).node_id

    def roomier(
        self, shape: ResourceSet, where: Where, given: Sequence[tuple[bytes, ResourceSet]]
    ) -> bytes | None:
        """Another node that has room now for an actor for which this one has none; None: no.

        Args:
            shape: What it needs.
            where: Which nodes it may live on.
            given: Other nodes to which actors went just now, which they do not report yet.
        """
        waiting = (ActorStage.PENDING, ActorStage.RESTARTING)
        taken = [
            *given,
            *(
                (self._own_id, actor.placement.maximum(actor.held))
                for actor in self._actors.by_id.values()
                if actor.stage in waiting
            ),
        ]
        if self._has_free(self._own_id, shape, taken):
            return None
        try:
            to = self.choose(shape, where, taken)
        except UnschedulableError:
            return None
        return to if self._has_free(to, shape, taken) else None

    def _leaves(self, node: NodeFacts) -> bool:
        row = self._view.by_id.get(node.node_id)
        return row is not None and row.report.is_draining

    def _has_free(
        self, node_id: bytes, shape: ResourceSet, given: Sequence[tuple[bytes, ResourceSet]]
    ) -> bool:
        if node_id == self._own_id:
            available = self._available()
        else:
            row = self._view.by_id.get(node_id)
            available = {} if row is None else row.resources_available
        wanted = Counter(shape.as_floats())
        for other_id, other in given:
            if other_id == node_id:
                wanted.update(other.as_floats())
        return all(wanted[name] <= available.get(name, 0.0) + 1e-9 for name in shape.as_floats())

    # ---- making

    async def create(self, body: Body, node_id: bytes, creator: bytes) -> Body:
        """Makes an actor on a node; returns where calls of it go here, or the pickled `error`.

        With a name, when the name is its own; else at once: what goes wrong later, its calls say.

        Args:
            body: The request, as of an actor of this node.
            node_id: The node.
            creator: The actor of this node that it ends with; empty: none.

        Raises JobNotFoundError, LimitReachedError, ObjectStoreFullError.
        """
        actor_id, creation_id = binary(body, "actor_id"), binary(body["creation"], "id")
        known = self._calls.by_id.get(actor_id)
        job_id, in_order = binary(body, "job_id"), bool(body["in_order"])
        if known is None:
            creation = self._transit.find(creation_id)
            if creation is None:
                raise RequestError(f"what actor {actor_id.hex()} is made from is gone")
            self._calls.begin(
                RemoteActor(
                    actor_id,
                    node_id,
                    creation=creation,
                    creation_id=creation_id,
                    creator=creator,
                    job_id=job_id,
                    may_return=int(body["max_restarts"]) != 0,
                    is_asked=True,
                    is_held=True,
                    body=body if int(body["max_restarts"]) else None,
                    made_by=lambda actor, peer: self._send(actor, peer, body),
                )
            )
        mailbox = self._calls.mailbox(
            job_id,
            actor_id,
            node_id,
            in_order=in_order,
            may_return=int(body["max_restarts"]) != 0,
        )
        error = await self._made(actor_id) if body["name"] and known is None else b""
        if error:
            return {"error": error}
        return {"mailbox": mailbox, "home": node_id}

    async def _made(self, actor_id: bytes) -> bytes:
        """Waits until the node has made it. Returns what kept it from that, if anything did."""
        asked: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._asked[actor_id] = asked
        try:
            return await asked
        finally:
            self._asked.pop(actor_id, None)

    def _send(self, actor: RemoteActor, peer: Peer, body: Body) -> bool:
        """Sends what makes it. False: something of it is not there yet."""
        assert actor.creation is not None
        try:
            message = self._message(actor.creation, body, *self._forwarded.travel_terms)
            self._forwarded.tell_job(peer, actor.job_id)
        except NotSealedError:
            return False
        except RostralError as error:
            self.made(ActorMade(actor.actor_id, pickled(error)))
            return True
        if message is None:
            self._calls.find_store(
                lambda error: self.made(ActorMade(actor.actor_id, pickled(error)))
            )
            return False
        peer.link.send(message)
        return True

    def recipe(self, body: Body) -> CreateActor | None:
        """How an actor of this node is made once more, with all that this needs.

        None: nobody knows it any more. Raises NotSealedError, NotTransferableError, and
        LimitReachedError when some of that is too large to be kept, or not in this node's memory.
        """
        creation = self._transit.find(bytes(body["creation"]["id"]))
        if creation is None:
            return None
        message = self._message(creation, body, RECIPE_BYTES_MAX, "")
        if message is None:
            raise LimitReachedError(
                f"an argument of the constructor of actor {bytes(body['actor_id']).hex()} has more "
                f"than {RECIPE_BYTES_MAX} bytes, or is not in this node's memory",
                hint="have its constructor make or load what is large",
            )
        return message

    def _message(
        self, creation_handle: Handle, body: Body, inline_max: int, store: str
    ) -> CreateActor | None:
        creation = self._transit.whole(creation_handle, inline_max)
        beside = self._transit.beside([creation], inline_max)
        if any(given.size and given.data is None for given in beside):
            if not store:
                return None
            holders = self._forwarded.elsewhere.holders
            beside = [located(given, (*holders(given.id), store)) for given in beside]
        return CreateActor(
            actor_id=bytes(body["actor_id"]),
            job_id=bytes(body["job_id"]),
            class_name=str(body["class_name"]),
            name=body["name"] or "",
            namespace=str(body["namespace"]),
            environment=str(body["environment_text"]),
            resources=dict(body["resources"]),
            placement_resources=dict(body["placement_resources"]),
            max_restarts=int(body["max_restarts"]),
            is_detached=bool(body["detached"]),
            is_checkpointed=bool(body.get("checkpointed")),
            meta=binary(body, "meta"),
            mailbox_capacity=int(body["mailbox_capacity"]),
            creation=creation,
            beside=beside,
            where=body.get("where"),
        )

    def made(self, message: ActorMade) -> None:
        """The node's answer: it is there, or will never be."""
        actor = self._calls.by_id.get(message.actor_id)
        if actor is not None:
            actor.make, actor.made_by, actor.is_made = None, None, True
            if message.error:
                self._calls.bury(actor, message.error)
        asked = self._asked.get(message.actor_id)
        if asked is not None and not asked.done():
            asked.set_result(message.error)

    def node_died(self, node_id: bytes) -> None:
        """Whoever waits for an actor there need not wait any longer."""
        for actor_id, asked in list(self._asked.items()):
            actor = self._calls.by_id.get(actor_id)
            if actor is not None and actor.host == node_id and not asked.done():
                asked.set_result(actor.death)
