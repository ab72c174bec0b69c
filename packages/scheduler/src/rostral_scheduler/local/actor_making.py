"""How an actor comes to be on this node, whoever asks for it: a process here, or another node.

This file owns the order of the steps: its job, its record, its name in the whole cluster, and its
place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from rostral_scheduler.local.actor_record import ActorRecord, ActorStage
from rostral_scheduler.local.actors import Actors, DemandInGroup
from rostral_scheduler.local.jobs import Job, Jobs
from rostral_scheduler.local.node_memory import Body

__all__ = ["ActorMaking", "ActorRegistry"]


class ActorRegistry(Protocol):
    """What the cluster knows of actors; `gcs_link.py`."""

    def actor_made(self, actor: ActorRecord) -> None:
        """Registers an actor without a name, later."""

    async def claim_name(self, actor: ActorRecord) -> None:
        """Registers one with a name, now. Raises ActorAlreadyExistsError."""


class ActorMaking:
    """Makes actors on the running event loop.

    Args:
        jobs: The node's.
        actors: The node's.
        in_group: What a member of a placement group asks the ledger for.
        registry: The GCS's, if there is one by now.
    """

    def __init__(
        self,
        jobs: Jobs,
        actors: Actors,
        in_group: DemandInGroup,
        registry: Callable[[], ActorRegistry | None],
    ) -> None:
        self._jobs, self._actors, self._in_group = jobs, actors, in_group
        self._registry = registry
        self.on_made: Callable[[ActorRecord, Body], None] = lambda _, __: None
        """Told of each new actor, with what was asked for."""

    async def make(self, body: Body, creator: bytes | None) -> ActorRecord:
        """An actor as `create_actor` asks for it; returns before any process of it runs.

        Waits for the GCS if it has a name. Raises what `Actors.create` does; JobNotFoundError,
        LimitReachedError.
        """
        job, made_job = self._jobs.get(body["job_id"]), None
        if body["detached"]:
            job = made_job = self._jobs.add_detached(body["actor_id"], job)
        try:
            actor = self._actors.create(job, body, creator, self._in_group)
        except BaseException:
            self._undo(made_job)
            raise
        await self._announce(actor)
        self.on_made(actor, body)
        if actor.stage is ActorStage.PENDING and actor.actor_id in self._actors.by_id:
            self._actors.place(actor)
        return actor

    def adopt(self, body: Body) -> None:
        """Goes on with an actor whose node is dead. Raises as `make`, but waits for nothing."""
        job_id = body["actor_id"] if body["detached"] else body["job_id"]
        actor = self._actors.create(self._jobs.get(job_id), body, None, self._in_group)
        actor.restarts = int(body["restarts"])
        self._actors.place(actor)

    def _undo(self, made_job: Job | None) -> None:
        if made_job is not None:
            self._jobs.end(made_job)

    async def _announce(self, actor: ActorRecord) -> None:
        """To the GCS: a name must be free in the whole cluster, all else can be written behind."""
        registry = self._registry()
        if registry is None:
            return
        if actor.name is None:
            registry.actor_made(actor)
            return
        try:
            await registry.claim_name(actor)
        except BaseException:
            self._actors.withdraw(actor)
            raise
