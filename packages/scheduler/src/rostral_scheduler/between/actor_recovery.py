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
from rostral_gcs.errors import AlreadyExistsError, ConflictError, GcsError, RostralError
from rostral_gcs.ids import ActorID, JobID, NodeID
from rostral_scheduler.between.actor_calls import ActorCalls
from rostral_scheduler.between.actor_creation import ActorCreation
from rostral_scheduler.between.actor_host import ActorHost
from rostral_scheduler.between.actor_logs import GIVEN_AWAY, ActorLogs
from rostral_scheduler.between.actor_pasts import ActorPasts, Past
from rostral_scheduler.between.actor_recipes import ActorRecipes
from rostral_scheduler.between.forwarded import Forwarded
from rostral_scheduler.between.living_nodes import LivingNodes
from rostral_scheduler.between.messages import (
    ActorMoved,
    CreateActor,
    Job,
    LookForActors,
    Stub,
    YieldActors,
)
from rostral_scheduler.between.outgoing import stubs_of
from rostral_scheduler.between.remote_actor import forgotten
from rostral_scheduler.between.replays import Replays
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
_RECIPE_WAIT_S = 2.0
"""Before an actor ends of which nobody knows how it was made: its maker may be about to say."""
_UNSEEN_S = 3.0
"""Before an actor is taken for dead of which the cluster knows nothing."""


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
        logs: What those of them with checkpoints do.
        pasts: What actors with checkpoints have been through.
        replays: Calls that they ran on dead nodes.
        describe_job: What another node must know of a job.
        begin_job: Makes a job known here whose driver is elsewhere; False: it has ended.
        end_job: Ends the job of a detached actor that could not be made here.
        is_registered: Whether the cluster has heard of an actor of this node.
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
        logs: ActorLogs,
        pasts: ActorPasts,
        replays: Replays,
        *,
        describe_job: Callable[[bytes], Job],
        begin_job: Callable[[Job, CreateActor], bool],
        end_job: Callable[[bytes], None],
        is_registered: Callable[[bytes], bool],
    ) -> None:
        self._own_id, self._client, self._view = own_id, client, view
        self._forwarded, self._calls, self._host = forwarded, calls, host
        self._creation, self._actors = creation, actors
        self._logs, self._pasts, self._replays = logs, pasts, replays
        # To which nodes actors were given in this look, which do not report them yet.
        self._given: list[tuple[bytes, ResourceSet]] = []
        self._yielding: dict[bytes, asyncio.Future[None]] = {}
        self._describe_job = describe_job
        self._begin_job, self._end_job = begin_job, end_job
        self._is_registered = is_registered
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
        """An actor was made here: how is written down, if another node could ever make it again."""
        if actor.may_move:
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
                self._logs.end(actor_id)
                self._replays.end(actor_id)
                if await self._is_ours(actor_id):
                    await self._remove(actor_id)
                self._written.discard(actor_id)
            for actor_id, body in list(self._unwritten.items()):
                if await self._write_one(actor_id, body):
                    self._unwritten.pop(actor_id, None)
        except GcsError as error:
            logger.info("cannot write how actors are made: %s", error)

    async def _is_ours(self, actor_id: bytes) -> bool:
        """False: another node has the actor. Raises GcsError."""
        row = await self._client.get_actor(ActorID(actor_id))
        return row is None or row.node_id is None or row.node_id.binary() == self._own_id

    async def _remove(self, actor_id: bytes) -> None:
        """Nobody shall make the actor again. Raises GcsError."""
        await self._recipes.remove(actor_id)
        await self._pasts.remove(actor_id)

    async def _write_one(self, actor_id: bytes, body: Body) -> bool:
        """False: at a later tick. Raises GcsError."""
        actor = self._actors.by_id.get(actor_id)
        if actor is None or actor.stage is ActorStage.DEAD:
            return True
        if not self._is_registered(actor_id):
            return False  # What has no row is given to nobody, however it is made.
        try:
            message = self._creation.recipe(body)
            if message is None:
                self._logs.give_up(actor_id)
                return True
            await self._recipes.write(self._describe_job(actor.job_id), message)
        except NotSealedError:
            return False
        except JobNotFoundError:
            self._logs.give_up(actor_id)
            return True
        except GcsError:
            raise
        except RostralError as error:
            logger.warning("actor=%s cannot be made again elsewhere: %s", actor_id.hex(), error)
            self._logs.give_up(actor_id)
            return True
        self._written.add(actor_id)
        self._logs.begin(actor_id)
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
        self._given.clear()
        while is_left or passes < _PASSES_MIN:
            self._again.clear()
            passes += 1
            waited_s = asyncio.get_running_loop().time() - begun_at_s
            try:
                is_left = await self._pass(waited_s)
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

    async def _pass(self, waited_s: float) -> bool:
        """Does what is to be done after such a wait. True: something is left."""
        decides = waited_s >= _TURN_S * self._place_in_line()
        rows = {row.actor_id.binary(): row for row in await self._client.list_actors()}
        await self._make_known(rows)
        given: set[bytes] = set()
        adopted: list[ActorRow] = []
        is_left = False
        for actor_id, row in rows.items():
            if row.node_id is None or row.state is ActorState.DEAD:
                continue
            node_id = row.node_id.binary()
            if node_id == self._own_id:
                if actor_id not in self._actors.by_id and row.state is ActorState.RESTARTING:
                    adopted.append(row)
            elif self._view.death_cause(node_id) is not None:
                is_left = True
                if decides and (to := await self._give(row, node_id, waited_s)) is not None:
                    given.add(to)
        if decides:
            await self._remove_leftovers(rows)
        if adopted:
            # Whoever has heard of what their dead node did has told us so, or the log does.
            await self._have_yielded([row.actor_id.binary() for row in adopted])
            for row in adopted:
                await self._adopt(row)
        if self._own_id in given:
            given.discard(self._own_id)
            self._again.set()
        for node_id in given:
            self._spawn(self._say(node_id, LookForActors()))
        self._follow(rows)
        return is_left or any(actor.is_away for actor in self._calls.by_id.values())

    async def _remove_leftovers(self, rows: Mapping[bytes, ActorRow]) -> None:
        """Of actors that are dead, what a node that was dying as well has left or still written."""
        for actor_id in await self._recipes.actor_ids() | await self._pasts.actor_ids():
            if (row := rows.get(actor_id)) is not None and row.state is ActorState.DEAD:
                await self._remove(actor_id)

    def _follow(self, rows: Mapping[bytes, ActorRow]) -> None:
        """Looks for actors that are called from here, and of which it is not known where."""
        for actor in [actor for actor in self._calls.by_id.values() if actor.is_away]:
            row = rows.get(actor.actor_id)
            if row is None:
                now_s = asyncio.get_running_loop().time()
                if actor.unseen_since_s is None:
                    actor.unseen_since_s = now_s
                elif now_s - actor.unseen_since_s >= _UNSEEN_S:
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

    async def _make_known(self, rows: Mapping[bytes, ActorRow]) -> None:
        """Tells the cluster of actors that were made from here, whose nodes died before they had.

        A row says what the dead node would have said: from then on they are as all others are.
        """
        for actor in [actor for actor in self._calls.by_id.values() if actor.is_away]:
            row, body = rows.get(actor.actor_id), actor.body
            if body is None:
                continue
            if row is None or (row.restarts == 0 and row.state is not ActorState.DEAD):
                try:
                    await self._make_one_known(actor.job_id, body, actor.host, row)
                except NotSealedError:
                    continue
                except GcsError:
                    raise
                except RostralError as error:
                    logger.warning("actor=%s cannot be made again: %s", actor.actor_id.hex(), error)
            actor.body = None

    async def _make_one_known(
        self, job_id: bytes, body: Body, dead: bytes, row: ActorRow | None
    ) -> None:
        """Raises NotSealedError, GcsError, and what says that it can never be made again."""
        message = self._creation.recipe(body)
        if message is None:
            return
        if await self._recipes.read(message.actor_id) is None:
            await self._recipes.write(self._describe_job(job_id), message)
        if row is None:
            logger.info("actor=%s: its node died before it was known", message.actor_id.hex())
            with contextlib.suppress(AlreadyExistsError):
                await self._client.register_actor(
                    ActorRow(
                        actor_id=ActorID(message.actor_id),
                        job_id=JobID(job_id),
                        name=message.name,
                        namespace=message.namespace,
                        class_name=message.class_name,
                        node_id=NodeID(dead),
                        detached=message.is_detached,
                        max_restarts=message.max_restarts,
                    )
                )
        # Whoever ends it removes how it is made after that: maybe just before we wrote it.
        row = await self._client.get_actor(ActorID(message.actor_id))
        if row is not None and row.state is ActorState.DEAD:
            await self._remove(message.actor_id)
        self._again.set()

    async def _give(self, row: ActorRow, dead: bytes, waited_s: float) -> bytes | None:
        """Gives an actor of a dead node to a living one, or ends it. Returns to which one."""
        cause = self._view.death_cause(dead)
        actor_id, ending = row.actor_id.binary(), f"its node {dead.hex()} died: {cause}"
        to: bytes | None = None
        shape = ResourceSet.of({})
        if row.max_restarts < 0 or row.restarts < row.max_restarts:
            recipe = await self._recipes.read(actor_id)
            if recipe is None and waited_s < _RECIPE_WAIT_S:
                return None
            if recipe is None:
                ending += "; how it was made is not known elsewhere"
            else:
                try:
                    shape, where = _needs(recipe[1])
                    to = self._creation.choose(shape, where, self._given)
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
            await self._remove(actor_id)
        else:
            self._given.append((to, shape))
        return to

    async def _adopt(self, row: ActorRow) -> None:
        """Makes an actor here that was given to this node."""
        actor_id = row.actor_id.binary()
        recipe = await self._recipes.read(actor_id)
        ending = "how it was made is lost"
        if recipe is not None:
            if await self._hand_on(row, recipe[1]):
                return
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
            await self._remove(actor_id)

    async def _hand_on(self, row: ActorRow, message: CreateActor) -> bool:
        """Gives an actor to a node with room that would wait for some here. False: it stays.

        Who gave it here knew what this node had free when it last reported, which may be long ago,
        and not what others gave it meanwhile.
        """
        shape, where = _needs(message)
        # What was given to this node waits here by now, has its room, or comes behind this one.
        given = [(node_id, other) for node_id, other in self._given if node_id != self._own_id]
        to = self._creation.roomier(shape, where, given)
        if to is None:
            return False
        try:
            await self._client.update_actor(replace(row, node_id=NodeID(to)))
        except ConflictError:
            self._again.set()  # Its row says something else by now.
            return True
        # However old the reports are, what goes from here comes to an end: each is counted.
        self._given.append((to, shape))
        logger.info("no room for actor=%s: it goes on to %s", row.actor_id.hex(), to.hex())
        self._spawn(self._say(to, LookForActors()))
        return True

    async def _have_yielded(self, actor_ids: list[bytes]) -> None:
        """Returns when no living node hears of these actors but from us.

        What its callers have heard is then in the GCS, and what is there is all that they will.
        """
        others = [node.node_id.binary() for node in self._view]
        asked = [self._ask_to_yield(one, actor_ids) for one in others if one != self._own_id]
        await asyncio.gather(*asked)

    async def _ask_to_yield(self, node_id: bytes, actor_ids: list[bytes]) -> None:
        """Until it has answered, or is dead itself."""
        answer = self._yielding[node_id] = asyncio.get_running_loop().create_future()
        try:
            while node_id in self._view.by_id and not answer.done():
                peer = self._forwarded.open_peer(node_id)
                if peer is None:
                    await asyncio.sleep(_CONNECT_PAUSE_S)
                    continue
                peer.link.send(YieldActors(actor_ids))
                await asyncio.wait([answer], timeout=_PASS_S)
        finally:
            del self._yielding[node_id]

    def yielded(self, node_id: bytes, _: list[bytes]) -> None:
        """A node's answer."""
        answer = self._yielding.get(node_id)
        if answer is not None and not answer.done():
            answer.set_result(None)

    def yield_up(self, actor_ids: list[bytes], giver: bytes) -> None:
        """Another node was given these actors: nobody else is heard of them from here on."""
        for actor_id in actor_ids:
            actor = self._calls.by_id.get(actor_id)
            known = actor is not None and not actor.death
            if actor is not None and known and actor.host not in (giver, self._own_id):
                # The cluster knows better than we do by now.
                self._view.bury(actor.host, "its actors were given to other nodes")
            # We were taken for dead.
            self._actors.end_for(actor_id, GIVEN_AWAY)

    async def _begin(self, row: ActorRow, job: Job, message: CreateActor) -> bool:
        """Makes it, and tells the others. False: its job has ended."""
        if not self._begin_job(job, message):
            return False
        actor_id = row.actor_id.binary()
        nodes = {node.node_id.binary() for node in self._view}
        try:
            past = await self._pasts.take_over(actor_id) if message.is_checkpointed else None
            stubs = _stubs_of(message, past)
            self._calls.expect(stubs)
            try:
                await self._host.adopt(message, row.restarts, nodes, past, self._replays)
            finally:
                self._calls.settled(stubs, lambda: None)
        except BaseException:
            if message.is_detached:
                self._end_job(actor_id)
            raise
        self._written.add(actor_id)
        self._logs.begin(actor_id)
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


def _needs(message: CreateActor) -> tuple[ResourceSet, Where]:
    """What an actor needs of a node, and which ones it may live on."""
    shape = ResourceSet.of(message.placement_resources)
    return shape.maximum(ResourceSet.of(message.resources)), Where.of(message.where)


def _stubs_of(message: CreateActor, past: Past | None) -> list[Stub]:
    """The actors that it is made from handles of, or has been given handles of."""
    values = list(message.beside)
    if past is not None:
        values += past.saved.beside
        if past.saved.value is not None:
            values.append(past.saved.value)
    stubs = [given.stub for given in values if given.stub is not None]
    for call in () if past is None else past.calls:
        stubs += stubs_of(call.task)
    return stubs
