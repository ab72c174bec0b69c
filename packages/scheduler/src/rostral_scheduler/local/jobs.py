"""The jobs of the node: one for each driver, with its ready queues, from its start to its end.

This file owns the jobs' records and queues. A job ends with its driver's connection: its queues are
closed, its processes killed; when the last of them is gone, its tasks are dropped and its queues
freed. A detached actor is a job of its own, so that nothing of it ends with whoever made it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from rostral_scheduler.config import LocalSchedulerConfig
from rostral_scheduler.core.events import Event, JobEnded, QueueClosed, QueueOpened
from rostral_scheduler.core.lanes import Lanes, Rank
from rostral_scheduler.core.resources import NodeResources, ResourceSet
from rostral_scheduler.errors import JobNotFoundError, LimitReachedError, RequestError
from rostral_scheduler.local.fields import binary
from rostral_scheduler.local.node_memory import (
    QUEUE_MAILBOX,
    QUEUE_READY,
    Body,
    NodeMemory,
    Session,
)

__all__ = ["Job", "Jobs"]

logger = logging.getLogger("rostral.scheduler.jobs")

DRIVERS = Rank()
RETIRED_QUEUES_MAX = 4096
"""32 KB each."""


class DriverSession(Protocol):
    """The way to a job's driver."""

    state: dict[str, Any]

    def push(self, topic: str, body: Body) -> None:
        """Sends a one-way message. Never blocks."""


@dataclass(slots=True, eq=False)
class Job:
    """One job.

    Invariant: once ``ending``, no queue is opened and no worker granted to it.
    """

    job_id: bytes
    namespace: str
    entrypoint: str
    sys_path: list[str]
    cwd: str
    logging_config: str = ""
    """How its workers log, as the client understands it; empty: as they like."""
    session: DriverSession | None = None
    home: bytes | None = None
    """The node of its driver, where that is another one."""
    driver_slot: int | None = None
    driver_generation: int = 0
    queues: dict[bytes, int] = field(default_factory=dict)
    """Without their lanes."""
    retired_queues: list[int] = field(default_factory=list)
    """Of removed placement groups: not served any more, but a submitter may still know them."""
    proxies: set[int] = field(default_factory=set)
    """Mailboxes here of actors on other nodes."""
    ending: bool = False
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when all its processes but the driver are gone."""


class Jobs:
    """All jobs of the node.

    Args:
        config: Of the scheduler.
        memory: The node's.
        resources: The ledger, to refuse what can never be had.
        tell: Gives an event to the policy and carries out what it orders.
        has_processes: Whether any worker of the job is left.
        ended: Called with a job when nothing is left of it.
        queue_freed: Called with a queue before it is freed.
    """

    def __init__(
        self,
        config: LocalSchedulerConfig,
        memory: NodeMemory,
        resources: NodeResources,
        *,
        tell: Callable[[Event], None],
        has_processes: Callable[[bytes], bool],
        ended: Callable[[Job], None],
        queue_freed: Callable[[int], None],
    ) -> None:
        self._config = config
        self._memory = memory
        self._resources = resources
        self._tell = tell
        self._has_processes = has_processes
        self._ended = ended
        self._queue_freed = queue_freed
        self.by_id: dict[bytes, Job] = {}
        self._job_of_queue: dict[int, bytes] = {}
        self._lanes: dict[int, Lanes] = {}

    def register_driver(self, session: Session, body: Body) -> Job:
        """A driver begins its job.

        Raises:
            RequestError: The slot is not the caller's, or the job or connection is in use.
            LimitReachedError: There are ``jobs_max`` jobs.
        """
        job_id, slot = binary(body, "job_id"), int(body["slot"])
        info = self._memory.slot_info(slot)
        if not info.is_live or info.pid != session.pid:
            raise RequestError(
                f"slot {slot} of the store does not belong to process {session.pid}",
                hint="attach to this node's store first",
            )
        if "job" in session.state:
            raise RequestError("this connection has registered a driver already")
        job = self._add(
            Job(
                job_id=job_id,
                namespace=str(body["namespace"]),
                entrypoint=str(body["entrypoint"]),
                sys_path=[str(path) for path in body["sys_path"]],
                cwd=str(body["cwd"]),
                logging_config=str(body.get("logging_config", "")),
                session=session,
                driver_slot=slot,
                driver_generation=info.generation,
            )
        )
        session.state["job"] = job
        return job

    def add_detached(self, job_id: bytes, maker: Job) -> Job:
        """The job of a detached actor, with the code search path of the job that made it."""
        return self._add(
            Job(
                job_id=job_id,
                namespace=maker.namespace,
                entrypoint=maker.entrypoint,
                sys_path=maker.sys_path,
                cwd=maker.cwd,
                logging_config=maker.logging_config,
                session=maker.session,
            )
        )

    def add_hosted(self, job: Job) -> None:
        """A job whose driver is on another node; nothing happens if it is known. LimitReachedError.

        It ends when that node says so, or is dead.
        """
        if job.job_id not in self.by_id:
            self._add(job)

    def _add(self, job: Job) -> Job:
        if len(job.job_id) != 16:
            raise RequestError(f"a job id has 16 bytes, not {len(job.job_id)}")
        if job.job_id in self.by_id:
            raise RequestError(f"job {job.job_id.hex()} exists already", hint="use a new job id")
        if len(self.by_id) >= self._config.jobs_max:
            raise LimitReachedError(
                f"the node has {len(self.by_id)} jobs, as many as it may (jobs_max)",
                hint="wait for one to end",
            )
        self.by_id[job.job_id] = job
        logger.debug("job begins job=%s", job.job_id.hex())
        return job

    def get(self, job_id: bytes) -> Job:
        """The running job. Raises JobNotFoundError."""
        job = self.by_id.get(job_id)
        if job is None or job.ending:
            raise JobNotFoundError(
                f"job {job_id.hex()} is not running on this node", hint="its driver has ended"
            )
        return job

    def queue_for(
        self,
        job_id: bytes,
        shape: ResourceSet,
        *,
        in_group: bool = False,
        environment: bytes = b"",
        rank: Rank = DRIVERS,
    ) -> tuple[int, int]:
        """The job's ready queue for tasks with these needs, and its lane for them.

        Both are made at first use, and may be the same. A shape of a placement group's is known to
        be feasible.

        Raises:
            JobNotFoundError: The job is not running.
            UnschedulableError: The node can never have the resources.
            LimitReachedError: The job has ``queues_per_job_max`` shapes, or its tasks of this shape
                ``priorities_max`` priorities.
            ObjectStoreFullError: No memory for a queue.
        """
        job = self.get(job_id)
        # What tasks submit has a queue of its own, so that workers can be kept for that.
        origin = b"nested" if rank.depth else b""
        key = hashlib.blake2b(shape.key() + environment, digest_size=16, person=origin).digest()
        queue = job.queues.get(key)
        if queue is None:
            queue = self._make_queue(
                job, key, shape, in_group=in_group, environment=environment, rank=rank
            )
        return queue, self._lane_for(job, queue, rank)

    def _lane_for(self, job: Job, queue: int, wanted: Rank) -> int:
        lanes = self._lanes[queue]
        may_add = self._queue_count(job) < self._config.queues_per_job_max
        rank = lanes.choose(wanted, may_add=may_add)
        if rank not in lanes.queues:
            before, after = lanes.neighbours(rank)
            lanes.queues[rank] = self._memory.make_lane(
                queue,
                self._memory.fitting_capacity(self._config.lane_capacity),
                number=lanes.lane_count,
                rank=rank,
                before=before,
                after=after,
            )
        return lanes.queues[rank]

    def _queue_count(self, job: Job) -> int:
        return sum(1 + self._lanes[queue].lane_count for queue in job.queues.values())

    def _make_queue(
        self,
        job: Job,
        key: bytes,
        shape: ResourceSet,
        *,
        in_group: bool,
        environment: bytes,
        rank: Rank,
    ) -> int:
        if not in_group:
            self._resources.check_feasible(shape)
        if len(job.retired_queues) >= RETIRED_QUEUES_MAX:
            raise LimitReachedError(
                f"job {job.job_id.hex()} has removed placement groups with tasks in "
                f"{RETIRED_QUEUES_MAX} queues, as many as it may",
                hint="use placement groups again instead of making new ones",
            )
        if self._queue_count(job) >= self._config.queues_per_job_max:
            raise self._too_many_queues(job)
        config = self._config
        wanted = config.group_queue_capacity if in_group else config.ready_queue_capacity
        capacity = self._memory.fitting_capacity(wanted)
        queue = self._memory.make_queue(QUEUE_READY, job.job_id, key, capacity, rank)
        job.queues[key] = queue
        self._job_of_queue[queue] = job.job_id
        self._lanes[queue] = Lanes(queue, rank, self._config.priorities_max)
        self._tell(
            QueueOpened(queue=queue, job_id=job.job_id, shape=shape, environment=environment)
        )
        return queue

    def forward_queue(self, job_id: bytes, key: bytes, rank: Rank) -> tuple[int, bool]:
        """The job's queue for tasks that this node does not grant its workers, and if it is new.

        `key` names what they have in common. Raises JobNotFoundError, LimitReachedError,
        ObjectStoreFullError.
        """
        job = self.get(job_id)
        name = hashlib.blake2b(key, digest_size=16, person=b"forwarded").digest()
        queue = job.queues.get(name)
        if queue is not None:
            return queue, False
        if self._queue_count(job) >= self._config.queues_per_job_max:
            raise self._too_many_queues(job)
        capacity = self._memory.fitting_capacity(self._config.ready_queue_capacity)
        queue = self._memory.make_queue(QUEUE_READY, job.job_id, name, capacity, rank)
        job.queues[name] = queue
        self._job_of_queue[queue] = job.job_id
        self._lanes[queue] = Lanes(queue, rank, self._config.priorities_max)
        return queue, True

    def add_proxy(self, job_id: bytes, actor_id: bytes, *, limit: int) -> int:
        """A mailbox in which the job's processes here leave calls of an actor on another node.

        It is freed with the job, or by `drop_proxy`. Raises JobNotFoundError, LimitReachedError,
        ObjectStoreFullError.
        """
        job = self.get(job_id)
        if sum(len(other.proxies) for other in self.by_id.values()) >= limit:
            raise LimitReachedError(
                f"processes of this node call {limit} actors of other nodes, as many as they may "
                "(actors_max)",
                hint="drop references to actors that are no longer needed",
            )
        capacity = self._memory.fitting_capacity(self._config.proxy_capacity)
        mailbox = self._memory.make_queue(QUEUE_MAILBOX, job_id, actor_id, capacity)
        job.proxies.add(mailbox)
        return mailbox

    def drop_proxy(self, job_id: bytes, mailbox: int) -> None:
        """Frees one before its job ends: nobody knows it any more."""
        job = self.by_id.get(job_id)
        if job is not None and mailbox in job.proxies:
            job.proxies.remove(mailbox)
            self._memory.close_queue(mailbox)
            self._memory.free_queue(mailbox)

    def _too_many_queues(self, job: Job) -> LimitReachedError:
        return LimitReachedError(
            f"job {job.job_id.hex()} has {self._queue_count(job)} queues for combinations of "
            "resources and priorities, as many as it may (queues_per_job_max)",
            hint="round the amounts that tasks ask for",
        )

    def retire(self, queues: list[int]) -> None:
        """Has these served no more; they stay as they are until their job's end."""
        for queue in queues:
            job = self.by_id[self._job_of_queue[queue]]
            job.queues = {key: other for key, other in job.queues.items() if other != queue}
            job.retired_queues.append(queue)
            self._tell(QueueClosed(queue=queue))

    def lanes(self) -> list[tuple[int, int, bytes]]:
        """Every lane of every queue: the queue, the lane, and whose job it is of."""
        return [
            (queue, lane, self._job_of_queue[queue])
            for queue, lanes in self._lanes.items()
            for lane in lanes.queues.values()
        ]

    def job_of_queue(self, queue: int) -> bytes:
        """Whose ready queue it is."""
        return self._job_of_queue[queue]

    def end(self, job: Job) -> None:
        """Closes the job's queues and kills its workers; ``finish_ended`` does the rest."""
        if job.ending:
            return
        logger.debug("job ends job=%s", job.job_id.hex())
        job.ending = True
        if job.session is not None:
            job.session.state.pop("job", None)
            for other in self.by_id.values():
                # Its own workers' last lines are still shown: the driver waits for them.
                if other is not job and other.session is job.session:
                    other.session = None  # Detached actors write to the log files alone now.
        for queue in (*job.queues.values(), *job.retired_queues):
            self._memory.close_queue(queue)
            self._tell(QueueClosed(queue=queue))
        for mailbox in job.proxies:
            self._memory.close_queue(mailbox)
        self._tell(JobEnded(job_id=job.job_id))

    def finish_ended(self) -> None:
        """Drops what is left of jobs whose processes are all gone."""
        for job in [job for job in self.by_id.values() if job.ending]:
            if self._has_processes(job.job_id):
                continue
            job.gone.set()
            if self._driver_is_attached(job):
                continue
            dropped = self._memory.end_tasks(job.job_id)
            for queue in (*job.queues.values(), *job.retired_queues):
                self._queue_freed(queue)
                self._memory.free_queue(queue)
                del self._job_of_queue[queue], self._lanes[queue]
            for mailbox in job.proxies:
                self._memory.free_queue(mailbox)
            del self.by_id[job.job_id]
            logger.debug("job is gone job=%s tasks_dropped=%s", job.job_id.hex(), dropped)
            self._ended(job)

    def _driver_is_attached(self, job: Job) -> bool:
        """Whether the driver could still touch its queues, or its tasks are not taken over yet."""
        if job.driver_slot is None:
            return False
        info = self._memory.slot_info(job.driver_slot)
        return (info.is_live or info.is_dead) and info.generation == job.driver_generation
