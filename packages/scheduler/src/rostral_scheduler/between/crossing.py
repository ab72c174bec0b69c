"""A node's part in the cluster's tasks: its parts put together, for the local scheduler.

This file owns their order of start and stop, and what the scheduler tells them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from rostral_gcs import AsyncGcsClient
from rostral_scheduler.between.forwarded import Forwarded, ForwardQueue
from rostral_scheduler.between.hosted import Hosted, OriginSession
from rostral_scheduler.between.messages import Job as JobMessage
from rostral_scheduler.between.messages import Push, Shape
from rostral_scheduler.between.node_view import NodeView
from rostral_scheduler.between.peer_server import PeerServer
from rostral_scheduler.between.transit_memory import TransitMemory
from rostral_scheduler.config import LocalSchedulerConfig
from rostral_scheduler.core.lanes import Rank
from rostral_scheduler.core.local import LocalPolicy
from rostral_scheduler.core.resources import ResourceSet
from rostral_scheduler.core.where import ANYWHERE, Where, refusal
from rostral_scheduler.local.cancellations import Cancellations
from rostral_scheduler.local.jobs import Job, Jobs
from rostral_scheduler.local.node_memory import NodeMemory

__all__ = ["Crossing"]

_SYNC_TIMEOUT_S = 2.0


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
        environments: The node's.
        client: Of the GCS, connected.
        end_job: Ends a job of this node.
    """

    def __init__(
        self,
        config: LocalSchedulerConfig,
        memory: NodeMemory,
        policy: LocalPolicy,
        jobs: Jobs,
        cancellations: Cancellations,
        environments: Environments,
        client: AsyncGcsClient,
        *,
        end_job: Callable[[Job], None],
    ) -> None:
        self._memory, self._policy, self._jobs = memory, policy, jobs
        self._environments, self._scheduler_end_job = environments, end_job
        transit = TransitMemory(memory)
        self.view = NodeView(client, changed=self._node_came, died=self._node_died)
        self.forwarded = Forwarded(
            config,
            transit,
            self.view,
            own_id=memory.node_id,
            token=config.cluster_token,
            queue_length=memory.queue_length,
            describe_job=self._describe_job,
            load_here=self._load_here,
            push=self._push,
        )
        self.hosted = Hosted(
            config,
            transit,
            cancellations,
            begin_job=self._begin_job,
            end_job=self._end_hosted,
            queue_for=self._queue_for,
        )
        cancellations.on_forwarded(memory.slot, self.forwarded.cancel)
        self.server = PeerServer(f"{config.address}:0", config.cluster_token, self.hosted)

    async def listen(self) -> str:
        """Begins to take tasks from others; returns where. Raises PortInUseError."""
        self.hosted.start()
        await self.server.start()
        return self.server.address

    def start(self) -> None:
        """Watches the other nodes, once the GCS knows of this one."""
        self.forwarded.start()
        self.view.start()

    async def stop(self) -> None:
        """Ends all streams."""
        await self.view.stop()
        await self.forwarded.stop()
        await self.server.stop()
        await self.hosted.stop()

    def look(self) -> None:
        """Something of the node has changed."""
        self.hosted.look()
        self.forwarded.look()

    def tick(self) -> None:
        """Some time has passed."""
        self.hosted.tick()
        self.forwarded.tick()

    # ---- where tasks of this node go

    async def queue_for(
        self, job_id: bytes, shape: ResourceSet, environment: str, rank: Rank, where: Where
    ) -> int | None:
        """The queue for tasks that other nodes may run; None: this node's own will do.

        Raises:
            UnschedulableError: No node can ever have the shape, or is one that is allowed.
            LimitReachedError, JobNotFoundError, ObjectStoreFullError: As for any queue.
        """
        fits_here = self._policy.resources.can_ever(shape)
        if where == ANYWHERE and fits_here:
            return None
        await self.view.synced(_SYNC_TIMEOUT_S)
        nodes = self.forwarded.nodes()
        alone = [node.node_id for node in where.among(nodes)] == [self._memory.node_id]
        if alone and (fits_here or len(nodes) == 1):
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

            self.forwarded.add_queue(ForwardQueue(loc, job_id, shape, wire, where, local_queue))
        return loc

    def _load_here(self) -> int:
        workers = self._policy.active.values()
        running = sum(1 for worker in workers if worker.running)
        return running + sum(self._memory.queue_length(queue) for queue in self._policy.queues)

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

    def _end_hosted(self, job_id: bytes) -> None:
        job = self._jobs.by_id.get(job_id)
        if job is not None and job.home is not None:
            self._scheduler_end_job(job)

    def job_ended(self, job_id: bytes) -> None:
        """The job has ended on this node, and so it has on those that run tasks for this one."""
        self.forwarded.job_ended(job_id)
        self.hosted.job_ended(job_id)

    def _queue_for(self, job_id: bytes, shape: Shape) -> int:
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

    def _node_came(self) -> None:
        asyncio.get_running_loop().call_soon(self.forwarded.look)

    def _node_died(self, node_id: bytes, cause: str) -> None:
        self.forwarded.host_died(node_id, cause)
        self.hosted.origin_died(node_id, cause)
        for job in [job for job in self._jobs.by_id.values() if job.home == node_id]:
            self._scheduler_end_job(job)
