"""What processes of the node may ask about actors: made here or elsewhere, found, called, killed.

This file owns those methods of the control socket that are about actors on any node; `requests.py`
has the others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from rostral_scheduler.config import LocalSchedulerConfig
from rostral_scheduler.core.local import LocalPolicy
from rostral_scheduler.core.resources import ResourceSet
from rostral_scheduler.core.where import NodeFacts, Where, check_here
from rostral_scheduler.errors import ActorNotFoundError
from rostral_scheduler.local.actor_making import ActorMaking
from rostral_scheduler.local.actor_record import ActorStage
from rostral_scheduler.local.actors import Actors
from rostral_scheduler.local.fields import binary
from rostral_scheduler.local.jobs import Jobs
from rostral_scheduler.local.node_memory import Body, NodeMemory, Session
from rostral_scheduler.local.worker_pool import WorkerPool, WorkerProcess

if TYPE_CHECKING:
    # A node without a GCS does not wait for gRPC's import.
    from rostral_scheduler.between.crossing import Crossing
    from rostral_scheduler.local.gcs_link import GcsLink

__all__ = ["ActorRequests"]


class Scheduler(Protocol):
    """The parts of a running local scheduler that have to do with actors."""

    config: LocalSchedulerConfig
    memory: NodeMemory
    policy: LocalPolicy
    pool: WorkerPool
    jobs: Jobs
    actors: Actors
    making: ActorMaking
    gcs: GcsLink | None
    crossing: Crossing | None


class ActorRequests:
    """Answers them.

    Attributes:
        methods: By the names that they are asked for by.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._jobs, self._actors, self._pool = scheduler.jobs, scheduler.actors, scheduler.pool
        self._making = scheduler.making
        self.methods: dict[str, Callable[[Session, Body], Awaitable[Body]]] = {
            "create_actor": self._create_actor,
            "get_actor": self._get_actor,
            "actor_mailbox": self._actor_mailbox,
            "actor_info": self._actor_info,
            "named_actors": self._named_actors,
            "kill_actor": self._kill_actor,
        }

    async def _create_actor(self, session: Session, body: Body) -> Body:
        job = self._jobs.get(body["job_id"])
        known = self._actors.by_id.get(binary(body, "actor_id"))
        if known is not None and known.is_remade_by(job.job_id):
            return {"mailbox": 0 if known.stage is ActorStage.DEAD else known.mailbox}
        asker: WorkerProcess | None = session.state.get("worker")
        creator = None if asker is None else asker.actor_id
        body["environment_text"] = environment = str(body.get("environment", ""))
        if body.get("bundle") is None:
            node_id = await self._node_for(body)
            if node_id != self._scheduler.memory.node_id:
                crossing = self._scheduler.crossing
                assert crossing is not None
                made_for = b"" if creator is None or body["detached"] else creator
                return await crossing.actor_creation.create(body, node_id, made_for)
        body["environment"] = self._pool.environments.intern(environment)
        return {"mailbox": (await self._making.make(body, creator)).mailbox}

    async def _node_for(self, body: Body) -> bytes:
        """The node that an actor is to be made on. Raises UnschedulableError."""
        shape = ResourceSet.of(body["placement_resources"])
        shape = shape.maximum(ResourceSet.of(body["resources"]))
        where, crossing = Where.of(body.get("where")), self._scheduler.crossing
        if crossing is not None:
            return await crossing.node_for_actor(shape, where)
        total = self._scheduler.policy.resources.total
        labels, own_id = self._scheduler.config.labels, self._scheduler.memory.node_id
        check_here(where, NodeFacts(node_id=own_id, total=total, labels=labels), shape)
        return self._scheduler.memory.node_id

    async def _get_actor(self, _: Session, body: Body) -> Body:
        name, namespace = str(body["name"]), str(body["namespace"])
        crossing = self._scheduler.crossing
        try:
            actor = self._actors.find(name, namespace)
        except ActorNotFoundError:
            found = None
            if crossing is not None:
                found = await crossing.find_actor(name, namespace, counted=body["counted"])
            if found is None:
                raise
            return found
        return {
            "actor_id": actor.actor_id,
            "mailbox": actor.mailbox,
            "meta": actor.meta,
            "creation": actor.stub,
            "job_id": actor.job_id,
        }

    async def _actor_mailbox(self, _: Session, body: Body) -> Body:
        """Where the caller's calls go of an actor that is, or was, on the node `home`."""
        actor_id = binary(body, "actor_id")
        crossing = self._scheduler.crossing
        if actor_id in self._actors.by_id or crossing is None:
            return {"mailbox": self._actors.get(actor_id).mailbox}
        mailbox = crossing.actor_calls.mailbox(
            binary(body, "job_id"),
            actor_id,
            binary(body, "home"),
            in_order=bool(body["in_order"]),
            may_return=bool(body["may_return"]),
        )
        if not body["counted"]:
            crossing.actor_calls.keep(actor_id)
        return {"mailbox": mailbox}

    async def _actor_info(self, _: Session, body: Body) -> Body:
        crossing = self._scheduler.crossing
        death = None if crossing is None else crossing.actor_calls.death_of(body["actor_id"])
        if death:
            return {"death": death}
        actor = self._actors.get(body["actor_id"])
        return {
            "state": actor.stage.value,
            "mailbox": actor.mailbox,
            "meta": actor.meta,
            "death": actor.death,
            "creation": actor.stub,
            "restarts": actor.restarts,
        }

    async def _named_actors(self, _: Session, __: Body) -> Body:
        gcs = self._scheduler.gcs
        here = [
            {"name": actor.name, "namespace": actor.namespace}
            for actor in self._actors.by_id.values()
            if actor.name and actor.stage is not ActorStage.DEAD
        ]
        return {"actors": here if gcs is None else here + await gcs.names_elsewhere()}

    async def _kill_actor(self, _: Session, body: Body) -> Body:
        actor_id, no_restart = binary(body, "actor_id"), bool(body["no_restart"])
        crossing = self._scheduler.crossing
        if actor_id in self._actors.by_id or crossing is None:
            self._actors.kill(actor_id, no_restart=no_restart)
        else:
            home = binary(body, "home") if "home" in body else b""
            crossing.actor_calls.kill(actor_id, home, no_restart=no_restart)
        return {}
