"""What processes of the node may ask of the local scheduler, on its control socket.

This file owns the methods' names, bodies and answers, and who may call which. The work is done by
the part whose noun it is about.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, Protocol

from rostral_objectstore.errors import ObjectLostError
from rostral_scheduler.config import LocalSchedulerConfig
from rostral_scheduler.core.events import GpusPreferred
from rostral_scheduler.core.lanes import Rank
from rostral_scheduler.core.local import LocalPolicy
from rostral_scheduler.core.records import WorkerStage
from rostral_scheduler.core.resources import GPU, UNITS, ResourceSet
from rostral_scheduler.core.where import NodeFacts, Where, check_here
from rostral_scheduler.errors import RequestError, RuntimeEnvSetupError
from rostral_scheduler.local.actor_making import ActorMaking
from rostral_scheduler.local.actor_record import ActorRecord
from rostral_scheduler.local.actor_requests import ActorRequests
from rostral_scheduler.local.actors import Actors
from rostral_scheduler.local.cancellations import Cancellations, Ladder
from rostral_scheduler.local.draining import Draining
from rostral_scheduler.local.fields import binaries, binary
from rostral_scheduler.local.jobs import Job, Jobs
from rostral_scheduler.local.node_memory import Body, NodeMemory, Session, gpus_with
from rostral_scheduler.local.placement_groups import PlacementGroups
from rostral_scheduler.local.task_list import list_tasks
from rostral_scheduler.local.worker_pool import WorkerPool, WorkerProcess
from rostral_scheduler.zygote_start import THREAD_LIMITS

if TYPE_CHECKING:
    # A node without a GCS does not wait for gRPC's import.
    from rostral_scheduler.between.crossing import Crossing
    from rostral_scheduler.local.gcs_link import GcsLink

__all__ = ["Requests", "Scheduler"]

_END_WAIT_S = 2.0
BRING_MAX = 1000
"""Objects that one request may have brought."""

Method = Callable[[Session, Body], Awaitable[Body]]


class Scheduler(Protocol):
    """What requests are about: the parts of a running local scheduler."""

    config: LocalSchedulerConfig
    memory: NodeMemory
    policy: LocalPolicy
    pool: WorkerPool
    jobs: Jobs
    actors: Actors
    making: ActorMaking
    groups: PlacementGroups
    cancellations: Cancellations
    gcs: GcsLink | None
    crossing: Crossing | None
    draining: Draining
    stopping: asyncio.Event

    def worker_ready(self, worker: WorkerProcess) -> None:
        """A worker has registered."""

    def tell_driver(self, worker: WorkerProcess, topic: str, body: Body) -> None:
        """Tells the driver whose job the worker works for, if there is one."""

    def end_job(self, job: Job) -> None:
        """The job's driver is gone, or done."""

    def look_soon(self) -> None:
        """Something may be there to decide."""


class Requests:
    """The Handler of the scheduler's control socket."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._jobs = scheduler.jobs
        self._actors = scheduler.actors
        self._groups = scheduler.groups
        self._pool = scheduler.pool
        self._cancellations = scheduler.cancellations
        self._methods: Final[dict[str, Method]] = {
            "register_driver": self._register_driver,
            "unregister_driver": self._unregister_driver,
            "register_worker": self._register_worker,
            "worker_name": self._worker_name,
            "progress": self._progress,
            "worker_assignment": self._worker_assignment,
            "worker_resources": self._worker_resources,
            "job_info": self._job_info,
            "get_queue": self._get_queue,
            "bring": self._bring,
            "package_dir": self._package_dir,
            "prepare_environment": self._prepare_environment,
            "environment_failed": self._environment_failed,
            "actor_ready": self._actor_ready,
            "actor_failed": self._actor_failed,
            "checkpoint_actor": self._checkpoint_actor,
            "list_actors": self._list_actors,
            "exit_actor": self._exit_actor,
            "create_group": self._create_group,
            "remove_group": self._remove_group,
            "get_group": self._get_group,
            "list_groups": self._list_groups,
            "export_function": self._export_function,
            "cancel_task": self._cancel_task,
            "cancel_children": self._cancel_children,
            "nodes": self._nodes,
            "cluster_resources": self._cluster_resources,
            "available_resources": self._available_resources,
            "status": self._status,
            "list_tasks": self._list_tasks,
            "drain": self._drain,
            "shutdown": self._shutdown,
            **ActorRequests(scheduler).methods,
        }

    async def handle(self, session: Session, method: str, body: Body) -> Body:
        """Answers one request."""
        handler = self._methods.get(method)
        if handler is None:
            raise RequestError(
                f"the local scheduler has no method {method!r:.80}",
                hint="both sides must have the same version",
            )
        return await handler(session, body)

    def disconnected(self, session: Session) -> None:
        """A peer is gone: a driver takes its job with it; a worker has died, or must."""
        job: Job | None = session.state.get("job")
        if job is not None:
            self._scheduler.end_job(job)
        worker: WorkerProcess | None = session.state.get("worker")
        if worker is not None and worker.status is None:
            self._pool.lost(worker)

    # ---- drivers and jobs

    async def _register_driver(self, session: Session, body: Body) -> Body:
        job = self._jobs.register_driver(session, body)
        if self._scheduler.gcs is not None:
            self._scheduler.gcs.job_began(job, session.pid)
        self._scheduler.look_soon()
        config = self._scheduler.config
        return {
            "node_id": self._scheduler.memory.node_id,
            "session_dir": str(config.session_dir),
            "num_cpus": config.num_cpus,
        }

    async def _unregister_driver(self, session: Session, _: Body) -> Body:
        job: Job | None = session.state.get("job")
        if job is not None:
            self._scheduler.end_job(job)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_END_WAIT_S):
                    await job.gone.wait()
        return {}

    async def _job_info(self, session: Session, body: Body) -> Body:
        return self._job_facts(body["job_id"], session.state.get("worker"))

    def _job_facts(self, job_id: bytes, worker: WorkerProcess | None) -> Body:
        job = self._jobs.get(job_id)
        gcs = self._scheduler.gcs
        cpus = 0.0 if worker is None else self._held_by(worker)["resources"].get("CPU", 0.0)
        given = {**os.environ, **self._scheduler.config.worker_environment}
        return {
            # Whoever set one of these for the node wants it so.
            "thread_variables": [name for name in THREAD_LIMITS if name not in given],
            "thread_count": max(1, int(cpus)),
            "sys_path": job.sys_path,
            "cwd": job.cwd,
            "logging_config": job.logging_config,
            "namespace": job.namespace,
            "entrypoint": job.entrypoint,
            "gcs_address": gcs.client.address if gcs is not None else "",
        }

    async def _get_queue(self, session: Session, body: Body) -> Body:
        # Of a process that does not say how deep its tasks are, a worker's are at least children.
        depth = int(body.get("depth", "worker" in session.state))
        rank = Rank(int(body.get("priority", 0)), depth)
        text = body.get("environment", "")
        shape = ResourceSet.of(body["resources"])
        bundle = body.get("bundle")
        if bundle is None:
            where = Where.of(body.get("where"))
            crossing = self._scheduler.crossing
            if crossing is None:
                check_here(where, self._facts(), shape)
            elif queue := await crossing.queue_for(body["job_id"], shape, text, rank, where):
                return {"queue": queue}
        environment = self._pool.environments.intern(text)
        if bundle is None:
            _, lane = self._jobs.queue_for(
                body["job_id"], shape, environment=environment, rank=rank
            )
            return {"queue": lane}
        shape = self._groups.demand_in(bundle, shape)
        queue, lane = self._jobs.queue_for(
            body["job_id"], shape, in_group=True, environment=environment, rank=rank
        )
        self._groups.joined(binary(bundle, "group_id"), queue)
        return {"queue": lane}

    async def _bring(self, _: Session, body: Body) -> Body:
        """Whether the bytes of an object may be here now; what follows it will be asked for."""
        objects = binaries(body, "objects", BRING_MAX)
        crossing = self._scheduler.crossing
        if crossing is None or not objects:
            raise ObjectLostError(
                "an object was spilled, and the disk has lost it",
                hint="the store's log says what is wrong",
                object_ref_hex=objects[0][:20].hex() if objects else "",
            )
        return {"here": await crossing.bring(objects)}

    def _facts(self) -> NodeFacts:
        """This node, as one that may have to do alone."""
        scheduler = self._scheduler
        total, labels = scheduler.policy.resources.total, scheduler.config.labels
        return NodeFacts(node_id=scheduler.memory.node_id, total=total, labels=labels)

    async def _package_dir(self, _: Session, __: Body) -> Body:
        """Where a process of this user puts the packages of environments, by name."""
        return {"path": str(self._pool.environments.files)}

    async def _prepare_environment(self, _: Session, body: Body) -> Body:
        environments = self._pool.environments
        environments.prepare(environments.intern(body["environment"]))
        return {}

    async def _environment_failed(self, session: Session, body: Body) -> Body:
        environment = self._worker_of(session).environment
        self._pool.environments.worker_failed(environment, RuntimeEnvSetupError(body["message"]))
        return {}

    # ---- workers

    async def _register_worker(self, session: Session, body: Body) -> Body:
        worker = self._pool.register(session, body["worker_id"], body["pid"], body["slot"])
        session.state["worker"] = worker
        self._scheduler.worker_ready(worker)
        node_gpu_count = self._scheduler.policy.resources.total.as_floats().get(GPU, 0.0)
        if worker.actor_id is None:
            return {"node_gpu_count": node_gpu_count}
        actor = self._actors.get(worker.actor_id)
        # All at once: each question more that an actor asks at its start delays its first answer.
        return {
            "node_gpu_count": node_gpu_count,
            "assignment": self._assignment(actor, worker),
            "job": self._job_facts(actor.job_id, worker),
        }

    async def _worker_name(self, session: Session, body: Body) -> Body:
        self._worker_of(session).name = str(body["name"])[:200]
        return {}

    async def _progress(self, session: Session, body: Body) -> Body:
        worker = self._worker_of(session)
        worker.shows_progress = True
        self._scheduler.tell_driver(
            worker,
            "progress",
            {
                "bar": int(body["bar"]),
                "pid": worker.pid,
                "name": str(body["name"])[:200],
                "desc": str(body["desc"])[:200],
                "unit": str(body["unit"])[:20],
                "total": None if body["total"] is None else float(body["total"]),
                "done": float(body["done"]),
                "ended": bool(body["ended"]),
            },
        )
        return {}

    def _assignment(self, actor: ActorRecord, worker: WorkerProcess) -> Body:
        return {
            "actor_id": actor.actor_id,
            "mailbox": actor.mailbox,
            "creation": actor.creation,
            "job_id": actor.job_id,
            "restarts": actor.restarts,
            "checkpoint": actor.checkpoint,
            "retaken": actor.retaken,
            "name": actor.name,
            "namespace": actor.namespace,
            "class_name": actor.class_name,
            "meta": actor.meta,
            **self._held_by(worker),
        }

    async def _worker_assignment(self, session: Session, _: Body) -> Body:
        worker = self._worker_of(session)
        if worker.actor_id is None:
            raise RequestError(f"process {session.pid} is not the process of an actor")
        return self._assignment(self._actors.get(worker.actor_id), worker)

    async def _worker_resources(self, session: Session, body: Body) -> Body:
        """What the worker holds: of GPUs, if it says what its arguments are near to, such ones."""
        worker = self._worker_of(session)
        if "near" in body:
            policy = self._scheduler.policy
            gpu_count = policy.resources.total.get(GPU) // UNITS
            gpus = gpus_with(binaries(body, "near", gpu_count), gpu_count)
            policy.handle(GpusPreferred(worker=worker.number, gpus=gpus))
        return self._held_by(worker)

    def _held_by(self, worker: WorkerProcess) -> Body:
        allocation = self._scheduler.policy.workers[worker.number].allocation
        return {
            "resources": allocation.resources.as_floats(),
            "gpu_ids": list(allocation.gpu_indexes),
        }

    def _worker_of(self, session: Session) -> WorkerProcess:
        worker: WorkerProcess | None = session.state.get("worker")
        if worker is None:
            raise RequestError(
                f"process {session.pid} has not registered as a worker",
                hint="register_worker first",
            )
        return worker

    # ---- actors

    async def _actor_ready(self, session: Session, body: Body) -> Body:
        worker, is_serial = self._worker_of(session), bool(body.get("is_serial"))
        waiting = self._actors.ready(body["actor_id"], worker, is_serial=is_serial)
        return {"waiting": waiting}

    async def _checkpoint_actor(self, session: Session, body: Body) -> Body:
        at = {name: body[name] for name in ("loc", "version", "id", "covers")}
        self._actors.checkpointed(body["actor_id"], self._worker_of(session), at)
        return {}

    async def _actor_failed(self, session: Session, body: Body) -> Body:
        self._actors.failed(body["actor_id"], self._worker_of(session), body["error"])
        return {}

    async def _list_actors(self, _: Session, __: Body) -> Body:
        return {"actors": [self._describe(actor) for actor in self._actors.by_id.values()]}

    def _describe(self, actor: ActorRecord) -> Body:
        worker = None if actor.worker_id is None else self._pool.by_id.get(actor.worker_id)
        return {
            "actor_id": actor.actor_id,
            "job_id": actor.job_id,
            "name": actor.name,
            "namespace": actor.namespace,
            "class_name": actor.class_name,
            "state": actor.stage.value,
            "pid": 0 if worker is None else worker.pid,
            "restarts": actor.restarts,
            "death_cause": actor.death_cause,
            "detached": actor.detached,
            "queued": self._scheduler.memory.queue_length(actor.mailbox),
        }

    async def _exit_actor(self, session: Session, body: Body) -> Body:
        self._actors.exit(body["actor_id"], self._worker_of(session))
        return {}

    # ---- placement groups

    async def _create_group(self, _: Session, body: Body) -> Body:
        self._jobs.get(body["job_id"])
        group = self._groups.create(body)
        return {"state": group.stage.value}

    async def _remove_group(self, _: Session, body: Body) -> Body:
        self._groups.remove(body["group_id"])
        return {}

    async def _get_group(self, _: Session, body: Body) -> Body:
        name = body.get("name")
        group = self._groups.get(body["group_id"]) if name is None else self._groups.find(name)
        return group.describe(self._scheduler.memory.node_id)

    async def _list_groups(self, _: Session, __: Body) -> Body:
        node_id = self._scheduler.memory.node_id
        return {"groups": [group.describe(node_id) for group in self._groups.by_id.values()]}

    async def _export_function(self, _: Session, body: Body) -> Body:
        if self._scheduler.gcs is not None:
            self._scheduler.gcs.export_function(body["function_id"], body["name"], body["blob"])
        return {}

    # ---- cancelling

    async def _cancel_task(self, _: Session, body: Body) -> Body:
        ladder = Ladder(force=bool(body["force"]), grace_s=float(body["grace_s"]))
        self._cancellations.climb(int(body["task"]), binary(body, "task_id"), ladder)
        if body["recursive"]:
            self._cancellations.cancel_children(binary(body, "task_id"), ladder)
        return {}

    async def _cancel_children(self, _: Session, body: Body) -> Body:
        self._cancellations.cancel_children(binary(body, "task_id"), Ladder())
        return {}

    # ---- the node and the cluster

    async def _nodes(self, _: Session, __: Body) -> Body:
        gcs = self._scheduler.gcs
        if gcs is None:
            return {"nodes": [self._this_node()]}
        return {
            "nodes": [
                {
                    "node_id": row.node_id.binary(),
                    "alive": row.state.value == "ALIVE",
                    "address": row.address,
                    "hostname": row.hostname,
                    "store_socket": row.store_socket,
                    "scheduler_socket": row.scheduler_socket,
                    "resources": dict(row.resources_total),
                    "available": dict(row.resources_available),
                    "labels": dict(row.labels),
                    "death_cause": row.death_cause,
                }
                for row in await gcs.client.list_nodes()
            ]
        }

    def _this_node(self) -> Body:
        config = self._scheduler.config
        return {
            "node_id": self._scheduler.memory.node_id,
            "alive": True,
            "address": config.address,
            "hostname": "",
            "store_socket": config.store_socket,
            "scheduler_socket": config.socket_path,
            "resources": config.total().as_floats(),
            "available": self._scheduler.policy.available_floats(),
            "labels": dict(config.labels),
            "death_cause": "",
        }

    async def _cluster_resources(self, session: Session, body: Body) -> Body:
        return {"resources": await self._sum_of("resources", session, body)}

    async def _available_resources(self, session: Session, body: Body) -> Body:
        return {"resources": await self._sum_of("available", session, body)}

    async def _sum_of(self, what: str, session: Session, body: Body) -> dict[str, float]:
        total: dict[str, float] = {}
        own = self._scheduler.memory.node_id
        for node in (await self._nodes(session, body))["nodes"]:
            if not node["alive"]:
                continue
            # Of this node we know better than its last report.
            amounts = (self._this_node() if node["node_id"] == own else node)[what]
            for name, amount in amounts.items():
                total[name] = total.get(name, 0.0) + amount
        return total

    async def _status(self, _: Session, __: Body) -> Body:
        scheduler, crossing = self._scheduler, self._scheduler.crossing
        policy, memory = scheduler.policy, scheduler.memory
        workers = []
        for number, process in self._pool.by_number.items():
            known = policy.workers.get(number)
            workers.append(
                {
                    "worker_id": process.worker_id,
                    "pid": process.pid,
                    "job_id": process.job_id,
                    "actor_id": process.actor_id,
                    "name": process.name,
                    "stage": (known.stage if known is not None else WorkerStage.KILLED).name,
                    "queue": 0 if known is None else known.queue,
                    "blocked": known is not None and known.lent,
                }
            )
        queues = [
            {
                "queue": queue.loc,
                "job_id": queue.job_id,
                "resources": queue.shape.as_floats(),
                "length": memory.queue_length(queue.loc),
            }
            for queue in policy.queues.values()
        ]
        return {
            "node_id": memory.node_id,
            "zygote_pid": self._pool.zygote_pid,
            "environments": self._pool.environments.describe(),
            "resources": policy.resources.total.as_floats(),
            "available": policy.available_floats(),
            "workers": workers,
            "queues": queues,
            "jobs": [
                {"job_id": job.job_id, "entrypoint": job.entrypoint, "ending": job.ending}
                for job in self._jobs.by_id.values()
            ],
            "actors": [self._describe(actor) for actor in self._actors.by_id.values()],
            "store": await memory.store_stats(),
            **({} if crossing is None else crossing.facts()),
            "gcs_writes_dropped": 0 if scheduler.gcs is None else scheduler.gcs.writes_dropped,
        }

    async def _list_tasks(self, _: Session, body: Body) -> Body:
        return {"tasks": list_tasks(self._scheduler, int(body["limit"]))}

    async def _drain(self, _: Session, body: Body) -> Body:
        """Has this node, or another one of the cluster, leave in order."""
        scheduler = self._scheduler
        node_id, within_s = binary(body, "node_id"), float(body["within_s"])
        if not 0 <= within_s < math.inf:
            raise RequestError(
                f"within_s is {within_s}", hint="a finite number of seconds, 0 or more"
            )
        if node_id == scheduler.memory.node_id:
            scheduler.draining.begin(within_s)
            return {}
        if scheduler.crossing is None or not scheduler.crossing.drain(node_id, within_s):
            raise RequestError(
                f"node {node_id.hex()} is not known to live",
                hint="rostral nodes lists the nodes of the cluster",
            )
        return {}

    async def _shutdown(self, _: Session, __: Body) -> Body:
        if not self._scheduler.config.allow_shutdown:
            raise RequestError(
                "this node does not stop by request", hint="stop it where it was started"
            )
        self._scheduler.stopping.set()
        return {}
