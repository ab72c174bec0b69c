"""The local scheduler of a node: its parts put together, and the loop that keeps looking.

This file owns the order of start and stop, the observation for the policy (``core/local.py``) and
the carrying out of what it orders. It decides nothing itself; requests from outside are
answered in ``requests.py`` (OSDI'18 §4.2.2).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rostral_gcs.errors import RostralError
from rostral_gcs.services.users import uid_of
from rostral_scheduler.config import LocalSchedulerConfig
from rostral_scheduler.core import actions as act
from rostral_scheduler.core.events import (
    Event,
    Observed,
    QueueSeen,
    WorkerGone,
    WorkerReady,
    WorkerSeen,
)
from rostral_scheduler.core.local import LocalPolicy, PolicyLimits
from rostral_scheduler.local.actor_making import ActorMaking
from rostral_scheduler.local.actor_record import ActorRecord, ActorStage
from rostral_scheduler.local.actors import Actors
from rostral_scheduler.local.cancellations import Cancellations, Ladder
from rostral_scheduler.local.deaths import Deaths
from rostral_scheduler.local.draining import Draining
from rostral_scheduler.local.inheritance import Inheritance
from rostral_scheduler.local.jobs import Job, Jobs
from rostral_scheduler.local.load import Load
from rostral_scheduler.local.logs import StreamName
from rostral_scheduler.local.memory_monitor import MemoryMonitor
from rostral_scheduler.local.node_memory import Body, ControlServer, NodeMemory, pickled
from rostral_scheduler.local.oom_retries import OomRetries
from rostral_scheduler.local.placement_groups import PlacementGroups
from rostral_scheduler.local.repair import TaskRepair
from rostral_scheduler.local.requests import Requests
from rostral_scheduler.local.worker_pool import WorkerPool, WorkerProcess
from rostral_scheduler.zygote_start import StartedZygote

if TYPE_CHECKING:
    # Not before it is known that there is a GCS: gRPC takes longer to import than all else here.
    from rostral_gcs import AsyncGcsClient
    from rostral_scheduler.between.crossing import Crossing
    from rostral_scheduler.local.gcs_link import GcsLink
    from rostral_scheduler.local.group_link import GroupLink

__all__ = ["LocalScheduler"]

logger = logging.getLogger("rostral.scheduler.local")

_LOOKS_IN_A_ROW_MAX = 8


class LocalScheduler:
    """One node's scheduler. ``start`` serves until ``stop``; both belong to the running event loop.

    Args:
        config: Checked here.
        gcs: A connected client to use, which stays the caller's; None: one is made when the
            configuration names a GCS.
        zygote: A zygote that was started for this configuration; it ends with the scheduler. None:
            one is started.

    Attributes:
        stopping: Set when a client, or the GCS, wants the node to stop. Whoever runs the scheduler
            waits for it and calls ``stop``.
        is_fenced: Whether that is because the cluster has taken the node for dead. It may come back
            as a new one, with another id.

    Raises:
        ConfigError: The configuration is wrong.
    """

    def __init__(
        self,
        config: LocalSchedulerConfig,
        *,
        gcs: AsyncGcsClient | None = None,
        zygote: StartedZygote | None = None,
    ) -> None:
        config.validate()
        self.config = config
        self.stopping = asyncio.Event()
        self.is_fenced = False
        self.policy = LocalPolicy(
            config.total(),
            PolicyLimits(
                workers_max=config.workers_max,
                starts_in_flight_max=config.starts_in_flight_max,
                prestart_count=config.ready_workers,
                idle_worker_timeout_s=config.idle_worker_timeout_s,
                grant_quantum_s=config.grant_quantum_s,
                idle_environment_timeout_s=config.idle_environment_timeout_s,
                blocked_workers_free=config.blocked_workers_free,
                blocked_growth_per_s=config.blocked_growth_per_s,
            ),
        )
        self._given_gcs = gcs
        self._given_zygote = zygote
        self._exit_stack = contextlib.AsyncExitStack()
        self._look_is_due = False
        self._telling = False
        self._stopped = False

    # ---- start and stop

    async def start(self) -> None:
        """Attaches to the store, starts the zygote, and listens.

        Raises:
            StoreUnavailableError: No store at ``store_socket``, or ``socket_path`` is taken.
            WorkerStartError: The zygote cannot be started.
            GcsError: The GCS cannot be reached, or refuses the node.
        """
        async with contextlib.AsyncExitStack() as stack:
            self.memory = await NodeMemory.connect(self.config.store_socket)
            stack.push_async_callback(self.memory.close)
            self._build()
            # Before the pool, so that at the end it closes after the last worker is gone.
            server = ControlServer(
                self.config.socket_path,
                Requests(self),
                worker_uid=uid_of(self.config.worker_user),
            )
            await server.start()
            stack.push_async_callback(server.stop)
            await self.pool.start()
            stack.push_async_callback(self.pool.stop)
            stack.push_async_callback(self.cancellations.stop)
            if self.gcs is not None:
                stack.push_async_callback(self.gcs.stop)
                if self.crossing is not None:
                    # Before the client that it uses is closed.
                    stack.push_async_callback(self.crossing.stop)
                await self.gcs.start()
                self.group_link = self._make_group_link(self.gcs)
                self.group_link.start()
                stack.push_async_callback(self.group_link.stop)
            if self.crossing is not None:
                self.crossing.start()
            self.memory.watch(self.look_soon, self.config.poke_interval_s)
            stack.push_async_callback(self.draining.stop)
            for looking in (self._tick(), self.monitor.run()):
                task = asyncio.get_running_loop().create_task(looking)
                stack.push_async_callback(_cancelled, task)
            self._exit_stack = stack.pop_all()
        self.look_soon()
        logger.info("local scheduler ready socket=%s", self.config.socket_path)

    def _build(self) -> None:
        """The parts, each knowing only what it needs of the others."""
        config, memory = self.config, self.memory
        self.inheritance = Inheritance(memory)
        self.repair = TaskRepair(memory)
        self.load = Load(self.policy, memory)
        self.pool = WorkerPool(
            config,
            memory.node_id,
            exited=self._worker_exited,
            tell=self.tell,
            shown=self._show_lines,
            started=self._given_zygote,
        )
        self.actors = Actors(
            config,
            memory,
            self.policy.resources,
            self.pool,
            self.repair,
            tell=self.tell,
            changed=self._actor_changed,
            forgotten=self._actor_forgotten,
        )
        self.groups = PlacementGroups(
            config,
            memory,
            self.policy.resources,
            self.repair,
            tell=self._tell_of_group,
            end_members=self.actors.end_group,
            retire_queues=lambda queues: self.jobs.retire(queues),
        )
        self.jobs = Jobs(
            config,
            memory,
            self.policy.resources,
            tell=self.tell,
            has_processes=self._job_has_processes,
            ended=self._job_ended,
            queue_freed=self.groups.queue_freed,
        )
        self.making = ActorMaking(self.jobs, self.actors, self.groups.demand_in, lambda: self.gcs)
        self.oom_retries = OomRetries(config, memory)
        self.monitor = MemoryMonitor(
            config, memory, self.pool, self.actors, killed=self._killed_for_memory
        )
        self.cancellations = Cancellations(memory, self.pool, self.actors)
        self.repair.on_cancelled(
            lambda task_id: self.cancellations.cancel_children(task_id, Ladder())
        )
        self.deaths = Deaths(
            memory,
            self.pool,
            self.actors,
            self.repair,
            self.oom_retries,
            self.monitor,
            report_timeout_s=config.death_report_timeout_s,
            removed=self._worker_removed,
        )
        client = self._gcs_client()
        self.crossing = None if client is None else self._make_crossing(client)
        self.gcs = None if client is None else self._make_gcs_link(client)
        self.draining = Draining(
            self.crossing,
            is_busy=self._has_tasks,
            report=lambda: None if self.gcs is None else self.gcs.renew_soon(),
            done=self.stopping.set,
        )

    def _gcs_client(self) -> AsyncGcsClient | None:
        if self._given_gcs is not None or self.config.gcs_address is None:
            return self._given_gcs
        from rostral_gcs import AsyncGcsClient
        from rostral_gcs.client_options import ClientOptions

        options = ClientOptions(tls=self.config.tls)
        return AsyncGcsClient(self.config.gcs_address, self.config.gcs_token, options=options)

    def _make_crossing(self, client: AsyncGcsClient) -> Crossing | None:
        if not self.config.may_cross:
            if self.config.cluster_token:
                logger.warning(
                    "no tasks come from or go to other nodes: %s is no loopback address, and there "
                    "are no TLS files",
                    self.config.address,
                )
            return None
        from rostral_scheduler.between.crossing import Crossing

        return Crossing(
            self.config,
            self.memory,
            self.policy,
            self.jobs,
            self.cancellations,
            self.actors,
            self.making,
            self.pool.environments,
            client,
            self.load,
            end_job=self.end_job,
            drain=lambda within_s: self.draining.begin(within_s),
            has_actors=lambda: bool(self.actors.by_id),
            confirm=self._confirm,
            is_registered=lambda actor_id: self.gcs is None or self.gcs.is_registered(actor_id),
        )

    async def _listen(self) -> str:
        return "" if self.crossing is None else await self.crossing.listen()

    def _make_gcs_link(self, client: AsyncGcsClient) -> GcsLink:
        from rostral_scheduler.local.gcs_link import GcsLink

        return GcsLink(
            client,
            owns_client=self._given_gcs is None,
            config=self.config,
            node_id=self.memory.node_id,
            available=self.policy.available_floats,
            load=self.load,
            listen=self._listen,
            is_draining=lambda: self.draining.is_draining,
            fenced=self._fenced,
        )

    async def _confirm(self) -> None:
        assert self.gcs is not None
        await self.gcs.confirm()

    def _fenced(self) -> None:
        self.is_fenced = True
        self.stopping.set()

    def _make_group_link(self, gcs: GcsLink) -> GroupLink:
        from rostral_scheduler.local.group_link import GroupLink

        return GroupLink(
            gcs.client,
            node_id=self.memory.node_id,
            policy=self.policy,
            tell=self.tell,
            hold_s=self.config.group_hold_s,
        )

    async def drain(self, within_s: float) -> None:
        """Has the node leave in order; returns when nothing runs any more, or the time is over.

        It takes no new tasks of other nodes, and gives what waits to them. Actors are not waited
        for: they live elsewhere again, or end with the node.
        """
        self.draining.begin(within_s)
        await self.stopping.wait()

    def _has_tasks(self) -> bool:
        running = any(
            worker.slot is not None and self.memory.work_words(worker.slot).running
            for worker in self.pool.for_tasks.values()
        )
        return running or any(self.memory.queue_length(queue) for queue in self.policy.queues)

    async def stop(self) -> None:
        """Ends every worker, and waits until they are gone. May be called twice."""
        self.stopping.set()
        self._stopped = True
        await self._exit_stack.aclose()

    # ---- looking

    def look_soon(self) -> None:
        """Looks at the node's memory in this turn of the event loop, once."""
        if not self._look_is_due and not self._stopped:
            self._look_is_due = True
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        self._look_is_due = False
        if self._stopped:
            return
        try:
            if self.deaths.look():
                self.jobs.finish_ended()
            if self.crossing is not None:
                self.crossing.look()
            self._observe(tick=False)
            self._see_to_environments()
        except Exception:
            # A defect in one look must not end the node: the next tick looks again.
            logger.exception("a look at the node failed")

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self.config.tick_interval_s)
            try:
                self.pool.kill_late_starters(time.monotonic())
                self.deaths.look()
                self.actors.tick()
                self.groups.tick()
                self.jobs.finish_ended()
                self.inheritance.tick()
                self.cancellations.tick()
                self.repair.tick()
                self.oom_retries.tick()
                if self.crossing is not None:
                    self.crossing.tick()
                self._observe(tick=True)
                self.load.tick(time.monotonic())
                self._see_to_environments()
                self._rest_environments()
            except Exception:
                logger.exception("a tick failed")

    def _observe(self, *, tick: bool) -> None:
        """Shows the policy what there is, until it has no more to order.

        Several times, because what an order does can be seen only afterwards: a push just before
        "wake me" was stored did not wake us.
        """
        for _ in range(_LOOKS_IN_A_ROW_MAX):
            orders = self.policy.handle(self._observation(tick=tick))
            self._carry_out(orders)
            if not orders:
                return
            tick = False
        self.look_soon()

    def _see_to_environments(self) -> None:
        """Has environments made that are wanted, and fails what wants one that cannot be made."""
        wanted = self.policy.environments_wanted()
        if not wanted:
            return
        environments = self.pool.environments
        environments.look(wanted)
        for queue in list(self.policy.queues.values()):
            if queue.length and (error := environments.error_of(queue.environment)) is not None:
                self.repair.fail(self.memory.drain_queue(queue.loc), pickled(error))
        for actor in list(self.policy.pending.values()):
            if (error := environments.error_of(actor.environment)) is not None:
                self.actors.environment_failed(actor.actor_id, error)

    def _rest_environments(self) -> None:
        used = {worker.environment for worker in self.pool.by_number.values()}
        named = {queue.environment for queue in self.policy.queues.values()}
        named |= {actor.environment for actor in self.actors.by_id.values()}
        self.pool.environments.tick(used | self.policy.environments_wanted(), named)

    def _observation(self, *, tick: bool) -> Observed:
        queues = tuple(
            QueueSeen(queue, *self.memory.queue_state(queue)) for queue in self.policy.queues
        )
        workers = []
        for number in self.policy.active:
            worker = self.pool.by_number.get(number)
            if worker is None or worker.slot is None:
                continue
            words = self.memory.work_words(worker.slot)
            workers.append(
                WorkerSeen(
                    worker=worker.number,
                    acknowledged=words.acknowledged,
                    running=bool(words.running),
                    blocked=words.blocked,
                    idle=words.idle,
                )
            )
        return Observed(
            now_s=time.monotonic(),
            queues=queues,
            workers=tuple(workers),
            tick=tick,
            memory_short=self.monitor.has_no_room,
        )

    # ---- telling the policy, and carrying out its orders

    def tell(self, event: Event) -> None:
        """Gives the policy an event; what it may order about it follows from the next look."""
        self._carry_out(self.policy.handle(event))
        self.look_soon()

    def _tell_of_group(self, event: Event) -> None:
        """Like ``tell``. A look that nobody waits for would take longer than the rest."""
        self._carry_out(self.policy.handle(event))
        if self.policy.has_waiting:
            self.look_soon()

    def _carry_out(self, orders: list[act.Action]) -> None:
        for order in orders:
            match order:
                case act.StartWorker():
                    self._start_worker(order)
                case act.Grant() | act.Withdraw() | act.KillWorker():
                    self._order_worker(order)
                case act.GroupPlaced():
                    self.groups.placed(order.group_id)
                case act.SetWanted():
                    self.memory.set_wanted(order.queue, wanted=order.wanted)
                case act.SetStarved():
                    self.memory.set_starved(starved=order.starved)
                case act.WakeQueue():
                    self.memory.wake_queue(order.queue)

    def _start_worker(self, order: act.StartWorker) -> None:
        job_id = None
        if order.actor_id is not None:
            job_id = self.actors.by_id[order.actor_id].job_id
        self.pool.start_worker(order.worker, order.actor_id, job_id, order.environment)
        if order.actor_id is not None:
            self.actors.started(order.actor_id, self.pool.by_number[order.worker])

    def _order_worker(self, order: act.Grant | act.Withdraw | act.KillWorker) -> None:
        worker = self.pool.by_number.get(order.worker)
        if worker is None:
            return
        match order:
            case act.Grant(queue=queue) if worker.slot is not None:
                worker.job_id = self.jobs.job_of_queue(queue)
                self.memory.grant(worker.slot, queue)
                if worker.output is not None:
                    worker.output.flush_waiting()
            case act.Withdraw() if worker.slot is not None:
                self.memory.grant(worker.slot, 0)
            case act.KillWorker():
                self.pool.kill(worker, "it was not needed any more")

    # ---- what the parts tell

    def _worker_exited(self, worker: WorkerProcess) -> None:
        logger.debug("worker exited pid=%s status=%s", worker.pid, worker.status)
        self.look_soon()

    def _worker_removed(self, worker: WorkerProcess) -> None:
        if worker.shows_progress:
            self.tell_driver(worker, "progress", {"pid": worker.pid, "bar": None})
        self.tell(WorkerGone(worker=worker.number, now_s=time.monotonic()))

    def worker_ready(self, worker: WorkerProcess) -> None:
        """A worker has registered."""
        self.tell(WorkerReady(worker=worker.number))
        if worker.output is not None:
            worker.output.flush_waiting()

    def _job_has_processes(self, job_id: bytes) -> bool:
        return any(worker.job_id == job_id for worker in self.pool.by_number.values())

    def end_job(self, job: Job) -> None:
        """The job's driver is gone, or done."""
        self.actors.end_job(job.job_id)
        self.groups.end_job(job.job_id)
        if self.crossing is not None:
            self.crossing.job_ended(job.job_id)
        self.jobs.end(job)
        self.jobs.finish_ended()
        self.look_soon()

    def _job_ended(self, job: Job) -> None:
        if self.gcs is not None and job.driver_slot is not None:
            self.gcs.job_ended(job)

    def _actor_changed(self, actor: ActorRecord) -> None:
        if self.gcs is None:
            return
        worker = None if actor.worker_id is None else self.pool.by_id.get(actor.worker_id)
        pid = worker.pid if worker is not None and actor.stage is ActorStage.ALIVE else 0
        self.gcs.actor_changed(actor, pid)

    def _actor_forgotten(self, actor: ActorRecord) -> None:
        job = self.jobs.by_id.get(actor.job_id)
        if actor.detached and job is not None:
            self.jobs.end(job)

    def _killed_for_memory(self, worker: WorkerProcess, reason: str) -> None:
        line = f"[rostral] this process is being killed: {reason}"
        self._show_lines(worker, "stderr", [line, *worker.memory_report.splitlines()])

    def _show_lines(self, worker: WorkerProcess, stream: StreamName, lines: Sequence[str]) -> bool:
        if worker.job_id is None:
            return False
        body = {"pid": worker.pid, "name": worker.name, "stream": stream, "lines": list(lines)}
        self.tell_driver(worker, "log", body)
        return True

    def tell_driver(self, worker: WorkerProcess, topic: str, body: Body) -> None:
        """Tells the driver whose job the worker works for, if there is one."""
        job = None if worker.job_id is None else self.jobs.by_id.get(worker.job_id)
        if job is not None and job.session is not None:
            job.session.push(topic, body)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, RostralError):
        await task
