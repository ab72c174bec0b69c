"""A node's part in the cluster's tasks: its parts put together, for the local scheduler.

This file owns their order of start and stop, and what the scheduler tells them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from rostral_gcs import AsyncGcsClient, NodeRow
from rostral_gcs.tls import TlsContexts
from rostral_gcs.tokens import Tokens
from rostral_scheduler.between.actor_calls import ActorCalls
from rostral_scheduler.between.actor_creation import ActorCreation
from rostral_scheduler.between.actor_host import ActorHost
from rostral_scheduler.between.actor_logs import ActorLogs
from rostral_scheduler.between.actor_pasts import ActorPasts
from rostral_scheduler.between.actor_recovery import ActorRecovery
from rostral_scheduler.between.forwarded import Forwarded, ForwardQueue
from rostral_scheduler.between.guest import OriginSession
from rostral_scheduler.between.hosted import Hosted
from rostral_scheduler.between.leaving import Leaving
from rostral_scheduler.between.living_nodes import LivingNodes
from rostral_scheduler.between.lost_jobs import LostJobs
from rostral_scheduler.between.messages import CreateActor, Push, Shape, Stub
from rostral_scheduler.between.messages import Job as JobMessage
from rostral_scheduler.between.peer_link import PeerIdentity
from rostral_scheduler.between.peer_server import PeerServer
from rostral_scheduler.between.recovery import Recovery
from rostral_scheduler.between.replays import Replays
from rostral_scheduler.between.transit_memory import TransitMemory
from rostral_scheduler.config import LocalSchedulerConfig
from rostral_scheduler.core.lanes import Rank
from rostral_scheduler.core.local import LocalPolicy
from rostral_scheduler.core.node_view import NodeLoad
from rostral_scheduler.core.records import Queue
from rostral_scheduler.core.resources import GROUP_MARK, ResourceSet
from rostral_scheduler.core.where import ANYWHERE, Where, refusal
from rostral_scheduler.local.actor_making import ActorMaking
from rostral_scheduler.local.actors import Actors
from rostral_scheduler.local.cancellations import Cancellations, Ladder
from rostral_scheduler.local.jobs import Job, Jobs
from rostral_scheduler.local.load import Load
from rostral_scheduler.local.node_memory import Body, NodeMemory

__all__ = ["Crossing"]

_SYNC_TIMEOUT_S = 2.0
_BRING_ANSWER_S = 0.25
"""So that one that asks can be interrupted."""


class Environments(Protocol):
    """How a runtime environment's text is known on this node."""

    def intern(self, text: str) -> bytes:
        """Its key."""


class Crossing:
    """What crosses between this node and the others, on the running event loop.

    Args:
        config: Of the scheduler; its ``cluster_token`` is shown and asked for.
        memory: The node's.
        policy: The node's, for what it has and does.
        jobs: The node's.
        cancellations: The node's.
        actors: The node's.
        making: Makes actors here.
        environments: The node's.
        client: Of the GCS, connected.
        load: What waits on the node.
        end_job: Ends a job of this node.
        drain: Has this node leave, within so many seconds.
        has_actors: Whether there is any actor on this node.
        confirm: Renews this node's lease. Raises FencedError, GcsError.
        is_registered: Whether the cluster has heard of an actor of this node.
    """

    def __init__(
        self,
        config: LocalSchedulerConfig,
        memory: NodeMemory,
        policy: LocalPolicy,
        jobs: Jobs,
        cancellations: Cancellations,
        actors: Actors,
        making: ActorMaking,
        environments: Environments,
        client: AsyncGcsClient,
        load: Load,
        *,
        end_job: Callable[[Job], None],
        drain: Callable[[float], None],
        has_actors: Callable[[], bool],
        confirm: Callable[[], Awaitable[None]],
        is_registered: Callable[[bytes], bool],
    ) -> None:
        self._memory, self._policy, self._jobs = memory, policy, jobs
        self._client = client
        self._environments, self._scheduler_end_job = environments, end_job
        transit = self._transit = TransitMemory(memory)
        identity = PeerIdentity(
            node_id=memory.node_id,
            tokens=Tokens.of(config.cluster_token),
            tls=TlsContexts(config.tls),
        )
        self._load = load
        self._lane_of: dict[bytes, dict[object, int]] = {}
        """By job, the lanes of shapes that other nodes have asked for, as they name them."""
        self.view = LivingNodes(
            client,
            came=self._node_came,
            reported=self._node_reported,
            died=self._node_died,
            confirm=confirm,
        )
        self.lost_jobs = LostJobs(
            memory.node_id, client, self.view, lambda job_id: job_id in jobs.by_id
        )
        self.recovery = Recovery(config, transit)
        self.actor_calls = ActorCalls(
            memory,
            transit,
            self.view,
            jobs,
            actors,
            window=config.forwarded_per_node_max,
            actors_max=config.actors_max,
        )
        actors.end_elsewhere = self.actor_calls.end_children
        pasts = ActorPasts(memory.node_id, client)
        self.actor_logs = ActorLogs(pasts, transit, memory, actors)
        self.actor_host = ActorHost(
            memory.node_id, transit, actors, making, self.actor_logs, environments.intern
        )
        transit.stub_of = self._stub_of
        self.forwarded = Forwarded(
            config,
            transit,
            self.view,
            self.actor_calls,
            self.recovery,
            identity=identity,
            queue_length=memory.queue_length,
            describe_job=self._describe_job,
            own_load=self._own_load,
            push=self._push,
            interrupt=lambda task, task_id: cancellations.climb(task, task_id, Ladder()),
        )
        self.actor_calls.attach(self.forwarded)
        self.actor_creation = ActorCreation(
            memory.node_id,
            transit,
            self.view,
            self.forwarded,
            self.actor_calls,
            actors,
            available=policy.available_floats,
        )
        self.hosted = Hosted(
            config,
            transit,
            cancellations,
            self.actor_host,
            self.actor_calls,
            begin_job=self._begin_job,
            end_job=self._end_hosted,
            queue_for=self._queue_for,
            drain=drain,
            holders=self.forwarded.elsewhere.holders,
        )
        replays = Replays(memory.node_id, self.hosted, memory, transit, config.peer_grace_s)
        self.actor_calls.ask_replays = replays.ask
        self.actor_logs.answers_of = replays.answers_of
        self.leaving = Leaving(
            transit,
            self.forwarded.choice,
            self.forwarded.placing,
            self.hosted,
            own_id=memory.node_id,
            total=policy.resources.total,
            threshold_s=config.overflow_wait_s,
            lanes=self._lanes,
            starved_lanes=self._starved_lanes,
            has_actors=has_actors,
            queue_length=memory.queue_length,
            run_time_s=load.run_times.of,
        )
        self.actor_recovery = ActorRecovery(
            memory.node_id,
            client,
            self.view,
            self.forwarded,
            self.actor_calls,
            self.actor_host,
            self.actor_creation,
            actors,
            self.actor_logs,
            pasts,
            replays,
            describe_job=self._describe_job,
            begin_job=self._begin_again,
            end_job=self._end_detached,
            is_registered=is_registered,
        )
        making.on_made = self.actor_recovery.made
        self.hosted.yield_actors = self.actor_recovery.yield_up
        self.forwarded.on_yielded = self.actor_recovery.yielded
        self.actor_calls.look_for_actors = self.actor_recovery.look
        cancellations.on_forwarded(memory.slot, self._cancel)
        self.server = PeerServer(
            f"{config.address}:0",
            memory.node_id,
            identity.tokens,
            identity.tls,
            self.hosted,
        )

    async def listen(self) -> str:
        """Begins to take tasks from others; returns where. Raises PortInUseError."""
        self.hosted.start()
        await self.server.start()
        return self.server.address

    def start(self) -> None:
        """Watches the other nodes, once the GCS knows of this one."""
        self.forwarded.start()
        self.view.start()
        self.lost_jobs.look()

    async def stop(self) -> None:
        """Ends all streams."""
        await self.view.stop()
        await self.lost_jobs.stop()
        await self.actor_recovery.stop()
        await self.actor_logs.stop()
        await self.forwarded.stop()
        await self.recovery.stop()
        await self.server.stop()
        await self.hosted.stop()
        await self.actor_host.stop()

    def look(self) -> None:
        """Something of the node has changed."""
        self.hosted.look()
        self.forwarded.look()
        self.actor_calls.look()

    def tick(self) -> None:
        """Some time has passed."""
        self.hosted.tick()
        self.forwarded.tick()
        self.actor_calls.tick()
        self.recovery.tick()
        self.actor_recovery.tick()
        self.actor_logs.tick()
        self.leaving.tick(time.monotonic())
        self._watch_neighbour()

    # ---- leaving

    def begin_drain(self) -> None:
        """This node takes nothing new from here on, and gives away what waits."""
        self.hosted.is_draining = self.leaving.is_draining = True
        self.leaving.tick(time.monotonic())

    def drain(self, node_id: bytes, within_s: float) -> bool:
        """Asks another node to leave. False: it is not known to live."""
        row = self.view.by_id.get(node_id)
        if row is None or not row.scheduler_address:
            return False
        self.forwarded.drain(node_id, within_s)
        return True

    @property
    def has_work(self) -> bool:
        """Whether anything of this node is elsewhere, or of others here, results too."""
        return bool(self.forwarded.by_id or self.hosted.by_id or self.hosted.keeps_results)

    def _watch_neighbour(self) -> None:
        """Keeps a stream to the next living node by id, tasks or none: so each is watched by one.

        A cluster of any size learns of a death so, at the price of a stream for each node.
        """
        own_id = self._memory.node_id
        others = [row.node_id.binary() for row in self.view if row.scheduler_address]
        after = [node_id for node_id in others if node_id > own_id]
        before = [node_id for node_id in others if node_id < own_id]
        if after or before:
            self.forwarded.keep_in_touch(min(after or before))

    def _cancel(self, task_id: bytes, ladder: Ladder) -> None:
        self.forwarded.cancel(task_id, ladder)
        self.actor_calls.cancel(task_id)

    def _stub_of(self, object_id: bytes) -> Stub | None:
        return self.actor_host.stub_of(object_id) or self.actor_calls.stub_of(object_id)

    # ---- what is elsewhere

    def facts(self) -> dict[str, int]:
        """How much is on its way between nodes, and remembered to be made again."""
        return {
            "forwarded": len(self.forwarded.by_id),
            "hosted": len(self.hosted.by_id),
            "remote_actors": self.actor_calls.held_count,
            "elsewhere": len(self.forwarded.elsewhere.by_id),
            "remembered": self.recovery.remembered_count,
            "run_again": self.recovery.again_count,
            "second_runs": self.forwarded.speculating.copies_count,
        }

    async def bring(self, objects: list[bytes]) -> bool:
        """Has objects brought that processes of this node read; False: not yet, ask again.

        What is nowhere any more is made again. True: it is worth to look at the first of them.

        Raises ObjectNotFoundError, ObjectLostError, ObjectStoreFullError.
        """
        handles = [self._transit.adopt(packed) for packed in objects]
        brought = [self.forwarded.elsewhere.bring(handle) for handle in handles]
        del handles
        done, _ = await asyncio.wait(brought[:1], timeout=_BRING_ANSWER_S)
        for task in done:
            if not task.cancelled():
                task.result()
        return bool(done)

    # ---- where tasks of this node go

    async def queue_for(
        self, job_id: bytes, shape: ResourceSet, environment: str, rank: Rank, where: Where
    ) -> int | None:
        """The queue for tasks that other nodes may run; None: for this node's alone will do.

        Raises:
            UnschedulableError: No node can ever have the shape, or is one that is allowed.
            LimitReachedError, JobNotFoundError, ObjectStoreFullError: As for any queue.
        """
        fits_here = self._policy.resources.can_ever(shape)
        if environment:
            where = replace(where, speculate=False)  # Its packages do not travel.
        if where == ANYWHERE and fits_here:
            return self._own_queue(job_id, shape, environment, rank)
        await self.view.synced(_SYNC_TIMEOUT_S)
        nodes = self.forwarded.choice.facts()
        alone = [node.node_id for node in where.among(nodes)] == [self._memory.node_id]
        is_enough = fits_here and not where.speculate  # Others may come.
        if alone and (is_enough or (len(nodes) == 1 and not fits_here)):
            return None  # This node's ledger says best what it lacks.
        if (error := refusal(nodes, shape, where)) is not None:
            raise error
        wire = Shape(shape.as_floats(), environment, rank.priority, rank.depth)
        key = repr((shape.items, environment, rank, where)).encode()
        loc, is_new = self._jobs.forward_queue(job_id, key, rank)
        if is_new:
            self._memory.set_wanted(loc, wanted=True)

            def local_queue() -> int:
                intern = self._environments.intern
                _, lane = self._jobs.queue_for(
                    job_id, shape, environment=intern(environment), rank=rank
                )
                return lane

            queue = ForwardQueue(loc, job_id, shape, wire, where, local_queue)
            self.forwarded.placing.add_queue(queue)
        return loc

    def _own_queue(
        self, job_id: bytes, shape: ResourceSet, environment: str, rank: Rank
    ) -> int | None:
        """A queue of this node's that tasks may leave; None: they may not."""
        if environment:
            return None  # Its packages do not travel.
        key = self._environments.intern(environment)
        first_lane, lane = self._jobs.queue_for(job_id, shape, environment=key, rank=rank)
        wire = Shape(shape.as_floats(), environment, rank.priority, rank.depth)
        queue = ForwardQueue(lane, job_id, shape, wire, ANYWHERE, lambda: lane)
        self.leaving.may_leave(queue, first_lane)
        return lane

    def _lanes(self) -> list[tuple[int, bytes]]:
        """This node's own queues, but for those of placement groups, which are bound to it."""
        return self._lanes_of(lambda queue: True)

    def _starved_lanes(self) -> list[tuple[int, bytes]]:
        """Those of them whose tasks no end of another task makes room for."""
        held = ResourceSet.measured(self._load.held())
        total = self._policy.resources.total

        def is_starved(queue: Queue) -> bool:
            return queue.length > 0 and any(
                total.get(name) - held.get(name) < units for name, units in queue.shape
            )

        return self._lanes_of(is_starved) if held else []

    def _lanes_of(self, meant: Callable[[Queue], bool]) -> list[tuple[int, bytes]]:
        queues = {
            queue.loc
            for queue in self._policy.queues.values()
            if not any(GROUP_MARK in name for name, _ in queue.shape) and meant(queue)
        }
        return [(lane, job_id) for queue, lane, job_id in self._jobs.lanes() if queue in queues]

    def _own_load(self) -> NodeLoad:
        resources = self._policy.resources
        return NodeLoad(
            node_id=self._memory.node_id,
            total=resources.total,
            available=ResourceSet.measured(
                {name: max(0.0, free) for name, free in self._policy.available_floats().items()}
            ),
            held=ResourceSet.measured(self._load.held()),
            queues=self._load.queues(),
            run_time_s=self._load.run_time_s(),
            is_draining=self.leaving.is_draining,
        )

    async def node_for_actor(self, shape: ResourceSet, where: Where) -> bytes:
        """The node that an actor is to be made on, maybe this one. Raises UnschedulableError."""
        fits_here = self._policy.resources.can_ever(shape)
        if where == ANYWHERE and fits_here:
            return self._memory.node_id
        await self.view.synced(_SYNC_TIMEOUT_S)
        nodes = self.forwarded.choice.facts()
        if where == ANYWHERE and len(nodes) == 1:
            return self._memory.node_id  # This node's ledger says best what it lacks.
        return self.actor_creation.choose(shape, where)

    async def find_actor(self, name: str, namespace: str, *, counted: bool) -> Body | None:
        """What a handle is made of, of a living actor of that name on another node.

        Counted, its creation object lies here, for the caller to take at once. Raises GcsError.
        """
        row = await self._client.get_actor_by_name(name, namespace=namespace)
        if row is None or row.node_id is None or row.node_id.binary() == self._memory.node_id:
            return None
        node_id = row.node_id.binary()
        facts = await self.actor_calls.questions.ask(row.actor_id.binary(), node_id)
        if facts is None or not facts.meta:
            return None
        creation = await self.actor_calls.hold(facts, node_id) if counted else {}
        if creation is None:
            return None
        return {
            "actor_id": facts.actor_id,
            "mailbox": 0,
            "home": node_id,
            "meta": facts.meta,
            "creation": creation,
            "job_id": facts.job_id,
        }

    # ---- jobs

    def _describe_job(self, job_id: bytes) -> JobMessage:
        job = self._jobs.get(job_id)
        return JobMessage(
            job_id=job_id,
            home=job.home or self._memory.node_id,
            namespace=job.namespace,
            entrypoint=job.entrypoint,
            sys_path=job.sys_path,
            cwd=job.cwd,
            logging_config=job.logging_config,
        )

    def _begin_job(self, message: JobMessage, session: OriginSession) -> None:
        self._jobs.add_hosted(
            Job(
                job_id=message.job_id,
                namespace=message.namespace,
                entrypoint=message.entrypoint,
                sys_path=message.sys_path,
                cwd=message.cwd,
                logging_config=message.logging_config,
                session=session,
                home=message.home,
            )
        )

    def _begin_again(self, message: JobMessage, actor: CreateActor) -> bool:
        """The job of an actor that comes here from a dead node. False: it has ended."""
        job_id, home = message.job_id, message.home
        if actor.is_detached:
            # Which is a job of its own.
            job_id, home = actor.actor_id, self._memory.node_id
        elif home == self._memory.node_id:
            job = self._jobs.by_id.get(job_id)
            return job is not None and not job.ending
        elif self.view.death_cause(home) is not None:
            return False
        self._jobs.add_hosted(
            Job(
                job_id=job_id,
                namespace=message.namespace,
                entrypoint=message.entrypoint,
                sys_path=message.sys_path,
                cwd=message.cwd,
                logging_config=message.logging_config,
                session=None
                if actor.is_detached
                else OriginSession(self.hosted.push, home, job_id),
                home=None if actor.is_detached else home,
            )
        )
        return True

    def _end_detached(self, actor_id: bytes) -> None:
        job = self._jobs.by_id.get(actor_id)
        if job is not None:
            self._scheduler_end_job(job)

    def _end_hosted(self, job_id: bytes) -> None:
        job = self._jobs.by_id.get(job_id)
        if job is not None and job.home is not None:
            self._scheduler_end_job(job)

    def job_ended(self, job_id: bytes) -> None:
        """The job has ended on this node, and so it has on those that run tasks for this one."""
        self.actor_calls.job_ended(job_id)
        self.forwarded.job_ended(job_id)
        self.leaving.job_ended(job_id)
        self._lane_of.pop(job_id, None)
        self.hosted.job_ended(job_id)

    def _queue_for(self, job_id: bytes, shape: Shape) -> int:
        key = (*shape.resources.items(), shape.environment, shape.priority, shape.depth)
        lane = self._lane_of.get(job_id, {}).get(key)
        if lane is None:
            lane = self._find_lane(job_id, shape)
            self._lane_of.setdefault(job_id, {})[key] = lane
        return lane

    def _find_lane(self, job_id: bytes, shape: Shape) -> int:
        _, lane = self._jobs.queue_for(
            job_id,
            ResourceSet.of(shape.resources),
            environment=self._environments.intern(shape.environment),
            rank=Rank(shape.priority, shape.depth),
        )
        return lane

    def _push(self, message: Push) -> None:
        job = self._jobs.by_id.get(message.job_id)
        if job is not None and job.session is not None:
            job.session.push(message.topic, message.body)

    # ---- nodes

    def _node_reported(self, row: NodeRow) -> None:
        self.forwarded.choice.see(row)
        if row.report.is_draining:
            self.forwarded.elsewhere.host_leaves(row.node_id.binary())

    def _node_came(self) -> None:
        asyncio.get_running_loop().call_soon(self.forwarded.look)

    def _node_died(self, node_id: bytes, cause: str) -> None:
        self.forwarded.choice.lose(node_id)
        self.forwarded.elsewhere.host_died(node_id)
        self.forwarded.host_died(node_id, cause)
        self.actor_calls.host_died(node_id, cause)
        self.actor_creation.node_died(node_id)
        self.actor_recovery.node_died(node_id)
        self.lost_jobs.look()
        self.hosted.origin_died(node_id, cause)
        for job in [job for job in self._jobs.by_id.values() if job.home == node_id]:
            self._scheduler_end_job(job)
