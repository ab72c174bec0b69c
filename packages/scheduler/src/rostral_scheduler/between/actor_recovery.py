"""Actors whose node is dead: where each lives on, decided by one compare-and-set in the GCS.

This file owns what a node does about the death of another: it looks through the actors' rows. One
on a dead node, which may be restarted, is given to a living one, by whoever comes first: the row
names the node that has the actor, and only that one makes it. So however many look, and whoever of
them dies meanwhile, an actor has one node. What is found there is done again until nothing is left
to do: every step may be repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace

from rostral_gcs import ActorRow, ActorState, AsyncGcsClient
from rostral_gcs.errors import ConflictError, GcsError, RostralError
from rostral_gcs.ids import NodeID
from rostral_scheduler.between.actor_calls import ActorCalls
from rostral_scheduler.between.actor_creation import ActorCreation
from rostral_scheduler.between.actor_host import ActorHost
from rostral_scheduler.between.actor_recipes import ActorRecipes
from rostral_scheduler.between.forwarded import Forwarded
from rostral_scheduler.between.living_nodes import LivingNodes
from rostral_scheduler.between.messages import ActorMoved, CreateActor, Job, LookForActors
from rostral_scheduler.between.remote_actor import forgotten
from rostral_scheduler.between.transit_memory import NotSealedError
from rostral_scheduler.core.resources import ResourceSet
from rostral_scheduler.core.where import Where
from rostral_scheduler.errors import ActorDiedError, JobNotFoundError, UnschedulableError
from rostral_scheduler.local.actor_record import ActorRecord, ActorStage
from rostral_scheduler.local.actors import Actors
from rostral_scheduler.local.node_memory import Body, pickled

__all__ = ["ActorRecovery"]

logger = logging.getLogger("rostral.scheduler.actor_recovery")

_TURN_S = 1.0
"""How long each node waits for the one before it in line, before it decides itself."""
_PASS_S = 1.0
_PASSES_MIN = 5
_CONNECT_PAUSE_S = 0.01
_UNSEEN_MAX = 3


class ActorRecovery:
    """One node's part, on the running event loop.

    Args:
        own_id: This node's.
        client: Of the GCS.
        view: The living nodes.
        forwarded: By which messages travel.
        calls: The actors of other nodes, for callers here.
        host: The actors of this node, for others.
        creation: Chooses nodes, and says how an actor is made.
        actors: Those of this node.
        describe_job: What another node must know of a job.
        begin_job: Makes a job known here whose driver is elsewhere; False: it has ended.
        end_job: Ends the job of a detached actor that could not be made here.
    """

    def __init__(
        self,
        own_id: bytes,
        client: AsyncGcsClient,
        view: LivingNodes,
        forwarded: Forwarded,
        calls: ActorCalls,
        host: ActorHost,
        creation: ActorCreation,
        actors: Actors,
        *,
        describe_job: Callable[[bytes], Job],
        begin_job: Callable[[Job, CreateActor], bool],
        end_job: Callable[[bytes], None],
    ) -> None:
        self._own_id, self._client, self._view = own_id, client, view
        self._forwarded, self._calls, self._host = forwarded, calls, host
        self._creation, self._actors = creation, actors
        self._describe_job = describe_job
        self._begin_job, self._end_job = begin_job, end_job
        self._recipes = ActorRecipes(client)
        self._unwritten: dict[bytes, Body] = {}
        self._written: set[bytes] = set()
        self._writing: asyncio.Task[None] | None = None
        self._passes: asyncio.Task[None] | None = None
        self._again = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """Does no more."""
        running = [task for task in (self._writing, self._passes, *self._tasks) if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- while all live

    def made(self, actor: ActorRecord, body: Body) -> None:
        """An actor was made here: how is written down, if another node could ever make it again.

        What another actor here has made ends with that one, and a bundle is this node's.
        """
        if actor.max_restarts != 0 and actor.group_id is None and actor.creator is None:
            self._unwritten[actor.actor_id] = body

    def tick(self) -> None:
        """Writes what is to be written, once there is a node that could need it."""
        ended = [
            actor_id
            for actor_id in self._written
            if (actor := self._actors.by_id.get(actor_id)) is None or actor.stage is ActorStage.DEAD
        ]
        wanted = ended or (self._unwritten and len(self._view.by_id) > 1)
        if wanted and (self._writing is None or self._writing.done()):
            self._writing = asyncio.create_task(self._write(ended))

    async def _write(self, ended: list[bytes]) -> None:
        try:
            for actor_id in ended:
                await self._recipes.remove(actor_id)
                self._written.discard(actor_id)
            for actor_id, body in list(self._unwritten.items()):
                if await self._write_one(actor_id, body):
                    self._unwritten.pop(actor_id, None)
        except GcsError as error:
            logger.info("cannot write how actors are made: %s", error)

    async def _write_one(self, actor_id: bytes, body: Body) -> bool:
        """False: at a later tick. Raises GcsError."""
        actor = self._actors.by_id.get(actor_id)
        if actor is None or actor.stage is ActorStage.DEAD:
            return True
        try:
            message = self._creation.recipe(body)
            if message is None:
                return True
            await self._recipes.write(self._describe_job(actor.job_id), message)
        except NotSealedError:
            return False
        except JobNotFoundError:
            return True
        except GcsError:
            raise
        except RostralError as error:
            logger.warning("actor=%s cannot be made again elsewhere: %s", actor_id.hex(), error)
            return True
        self._written.add(actor_id)
        return True

    # ---- after a death

    def node_died(self, node_id: bytes) -> None:
        """Looks after its actors, for as long as there is anything to do."""
        logger.debug("looks for actors of node=%s", node_id.hex())
        self.look()

    def look(self) -> None:
        """Looks through the rows now, and some more times."""
        self._again.set()
        if self._passes is None or self._passes.done():
            self._passes = asyncio.create_task(self._look())

    async def _look(self) -> None:
        passes, begun_at_s = 0, asyncio.get_running_loop().time()
        is_left = True
        while is_left or passes < _PASSES_MIN:
            self._again.clear()
            passes += 1
            waited_s = asyncio.get_running_loop().time() - begun_at_s
            try:
                is_left = await self._pass(decides=waited_s >= _TURN_S * self._place_in_line())
            except GcsError as error:
                logger.info("cannot look for actors of dead nodes: %s", error)
                is_left = True
            try:
                async with asyncio.timeout(_PASS_S):
                    await self._again.wait()
                passes, begun_at_s = 0, asyncio.get_running_loop().time()
            except TimeoutError:
                pass

    def _place_in_line(self) -> int:
        return sum(1 for node_id in self._view.by_id if node_id < self._own_id)

    async def _pass(self, *, decides: bool) -> bool:
        """Does what is to be done. True: something is left."""
        rows = {row.actor_id.binary(): row for row in await self._client.list_actors()}
        given: set[bytes] = set()
        is_left = False
        for actor_id, row in rows.items():
            if row.node_id is None or row.state is ActorState.DEAD:
                continue
            node_id = row.node_id.binary()
            if node_id == self._own_id:
                if actor_id not in self._actors.by_id and row.state is ActorState.RESTARTING:
                    await self._adopt(row)
            elif self._view.death_cause(node_id) is not None:
                is_left = True
                if decides and (to := await self._give(row, node_id)) is not None:
                    given.add(to)
        if self._own_id in given:
            given.discard(self._own_id)
            self._again.set()
        for node_id in given:
            self._spawn(self._say(node_id, LookForActors()))
        self._follow(rows)
        return is_left or any(actor.is_away for actor in self._calls.by_id.values())

    def _follow(self, rows: Mapping[bytes, ActorRow]) -> None:
        """Looks for actors that are called from here, and of which it is not known where."""
        for actor in [actor for actor in self._calls.by_id.values() if actor.is_away]:
            row = rows.get(actor.actor_id)
            if row is None:
                actor.unseen += 1
                if actor.unseen >= _UNSEEN_MAX:
                    self._calls.bury(actor, pickled(forgotten(actor.actor_id)))
            elif row.state is ActorState.DEAD:
                error = ActorDiedError(
                    f"actor {actor.actor_id.hex()} died: {row.death_cause}",
                    actor_id=actor.actor_id,
                )
                self._calls.bury(actor, pickled(error))
            elif row.node_id is not None and row.state is ActorState.ALIVE:
                host = row.node_id.binary()
                if self._view.death_cause(host) is None:
                    self._calls.go_on_at(actor, host)

    async def _give(self, row: ActorRow, dead: bytes) -> bytes | None:
        """Gives an actor of a dead node to a living one, or ends it. Returns to which one."""
        cause = self._view.death_cause(dead)
        actor_id, ending = row.actor_id.binary(), f"its node {dead.hex()} died: {cause}"
        to: bytes | None = None
        if row.max_restarts < 0 or row.restarts < row.max_restarts:
            recipe = await self._recipes.read(actor_id)
            if recipe is None:
                ending += "; how it was made is not known elsewhere"
            else:
                try:
                    to = self._choose(recipe[1])
                except UnschedulableError as error:
                    ending += f"; {error.message}"
        elif row.max_restarts:
            ending += f" (restarted {row.restarts} of {row.max_restarts} times)"
        if to is None:
            new = replace(row, state=ActorState.DEAD, death_cause=ending)
        else:
            new = replace(
                row,
                node_id=NodeID(to),
                state=ActorState.RESTARTING,
                death_cause=ending,
                restarts=row.restarts + 1,
                worker_pid=0,
            )
        try:
            await self._client.update_actor(new)
        except ConflictError:
            return None  # Somebody else was first.
        logger.info("actor=%s of a dead node goes to %s", actor_id.hex(), to and to.hex())
        if to is None:
            await self._recipes.remove(actor_id)
        return to

    def _choose(self, message: CreateActor) -> bytes:
        shape = ResourceSet.of(message.placement_resources)
        shape = shape.maximum(ResourceSet.of(message.resources))
        return self._creation.choose(shape, Where.of(message.where))

    async def _adopt(self, row: ActorRow) -> None:
        """Makes an actor here that was given to this node."""
        actor_id = row.actor_id.binary()
        recipe = await self._recipes.read(actor_id)
        ending = "how it was made is lost"
        if recipe is not None:
            try:
                if await self._begin(row, *recipe):
                    return
                ending = "the job that made it has ended"
            except GcsError:
                raise
            except RostralError as error:
                ending = str(error)
        new = replace(row, state=ActorState.DEAD, death_cause=ending)
        with contextlib.suppress(ConflictError):
            await self._client.update_actor(new)
            await self._recipes.remove(actor_id)

    async def _begin(self, row: ActorRow, job: Job, message: CreateActor) -> bool:
        """Makes it, and tells the others. False: its job has ended."""
        if not self._begin_job(job, message):
            return False
        actor_id = row.actor_id.binary()
        nodes = {node.node_id.binary() for node in self._view}
        try:
            await self._host.adopt(message, row.restarts, nodes)
        except BaseException:
            if message.is_detached:
                self._end_job(actor_id)
            raise
        self._written.add(actor_id)
        logger.info("actor=%s goes on here", actor_id.hex())
        moved = ActorMoved(actor_id, job.job_id, job.home)
        self._calls.moved(moved, self._own_id)
        for node_id in nodes - {self._own_id}:
            self._spawn(self._say(node_id, moved))
        return True

    async def _say(self, node_id: bytes, message: ActorMoved | LookForActors) -> None:
        while node_id in self._view.by_id:
            peer = self._forwarded.open_peer(node_id)
            if peer is not None:
                peer.link.send(message)
                return
            await asyncio.sleep(_CONNECT_PAUSE_S)
