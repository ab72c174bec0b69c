"""The local scheduler's policy: who may take from which queue, and which processes there are.

This file owns the decisions of one node (OSDI'18 §4.2.2, bottom-up: what is submitted here runs
here while it can). It takes events and returns actions; it must not know memory, processes or
clocks. Tasks themselves it never sees: workers claim them from the queues that it grants.

The rules, in the order in which an observation applies them:

1. A worker that waits for objects lends its CPU, and takes it again when it goes on.
2. A withdrawal is over when the worker has seen it and runs nothing.
3. Demands are served in turn: those with nobody working on them first, the longest-waiting of
   these first. One that cannot be served reserves what it needs, so that smaller ones that come
   later do not take it away piece by piece.
   Among the queues of one job those whose next task has the highest priority come first.
4. What an unserved demand lacks is withdrawn from workers that sleep, and if nobody at all works
   for it, or only tasks of lower priority wait where they work, after a quantum also from workers
   at work: they finish their task first.
5. What is taken beyond the node's CPUs (rule 1) is withdrawn likewise.
6. Idle processes beyond the node's CPUs end after a while; some are kept ready for the next job.
7. A process belongs to one environment for its life. A demand for one that is not ready waits, and
   keeps nobody from anything.

A placement group is a demand like an actor: its bundles are set aside together when they fit
(``bundles.py``), and who asks for a part of one is served by the same rules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rostral_scheduler.core import actions as act
from rostral_scheduler.core import events as ev
from rostral_scheduler.core.amounts import add, covers, subtract
from rostral_scheduler.core.bundles import Reservations, is_member, sum_of
from rostral_scheduler.core.demand import Demand, choose_free, in_order
from rostral_scheduler.core.growth import Growth
from rostral_scheduler.core.records import (
    PendingActor,
    PendingGroup,
    Queue,
    Worker,
    WorkerStage,
)
from rostral_scheduler.core.resources import CPU, NOTHING, UNITS, NodeResources, ResourceSet
from rostral_scheduler.core.victims import victims

__all__ = ["LocalPolicy", "PolicyLimits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLimits:
    """The bounds that the policy keeps; ``config.py`` has their reasons."""

    workers_max: int
    starts_in_flight_max: int
    prestart_count: int
    idle_worker_timeout_s: float
    grant_quantum_s: float
    idle_environment_timeout_s: float = 60.0
    blocked_workers_free: int = 64
    blocked_growth_per_s: float = 0.25
    start_backoff_s: float = 0.1
    start_backoff_s_max: float = 5.0


class LocalPolicy:
    """Events in, actions out. Not thread-safe."""

    def __init__(self, total: ResourceSet, limits: PolicyLimits) -> None:
        self.resources = NodeResources(total)
        self.limits = limits
        self.queues: dict[int, Queue] = {}
        self.workers: dict[int, Worker] = {}
        self.pending: dict[bytes, PendingActor] = {}
        self.reservations = Reservations(self.resources)
        self.pending_groups: dict[bytes, PendingGroup] = {}
        self.environments_ready: set[bytes] = {b""}
        self._next_worker = 1
        self._starved = False
        self._now_s = 0.0
        self._observations = 0
        # The workers that decisions are about, by number: all but actors that hold nothing, of
        # which there may be very many.
        self.active: dict[int, Worker] = {}
        self._start_failures = 0
        self._no_start_before_s = 0.0
        self._growth = Growth(
            workers_max=limits.workers_max,
            blocked_free=limits.blocked_workers_free,
            rate_per_s=limits.blocked_growth_per_s,
            cpu_count=total.get(CPU) // UNITS,
        )

    def handle(self, event: ev.Event) -> list[act.Action]:
        """Takes one event; returns what to do about it, in order."""
        match event:
            case ev.Observed():
                return self._handle_observed(event)
            case ev.QueueOpened():
                self.queues[event.queue] = Queue(
                    event.queue, event.job_id, event.shape, event.environment
                )
            case ev.QueueClosed():
                self.queues.pop(event.queue, None)
            case ev.WorkerReady():
                self._handle_worker_ready(event)
            case ev.GpusPreferred(worker=number, gpus=gpus):
                if (worker := self.workers.get(number)) is not None:
                    worker.allocation = self.resources.moved(worker.allocation, gpus)
            case ev.WorkerGone():
                return self._handle_worker_gone(event)
            case ev.ActorWanted():
                self.pending[event.actor_id] = PendingActor(
                    event.actor_id, event.job_id, event.placement, event.held, event.environment
                )
            case ev.EnvironmentChanged(environment=environment, ready=ready):
                change = self.environments_ready.add if ready else self.environments_ready.discard
                change(environment)
            case ev.ActorGone():
                self.pending.pop(event.actor_id, None)
            case ev.GroupWanted():
                return self._handle_group_wanted(event)
            case ev.GroupRemoved():
                return self._handle_group_removed(event)
            case ev.JobEnded():
                return self._handle_job_ended(event)
        return []

    @property
    def has_waiting(self) -> bool:
        """Whether anything waits for resources, as far as the last observation showed."""
        return self._starved or bool(self.pending_groups) or bool(self.pending)

    # ---- single events

    def _handle_worker_ready(self, event: ev.WorkerReady) -> None:
        worker = self.workers.get(event.worker)
        if worker is None or worker.stage is not WorkerStage.STARTING:
            return
        self._start_failures = 0
        if worker.actor_id is None:
            worker.stage = WorkerStage.FREE
            return
        worker.stage = WorkerStage.ACTOR
        if worker.is_settled:
            del self.active[worker.number]

    def _handle_worker_gone(self, event: ev.WorkerGone) -> list[act.Action]:
        worker = self.workers.pop(event.worker, None)
        if worker is None:
            return []
        self.active.pop(worker.number, None)
        if worker.stage is WorkerStage.STARTING:
            # A worker module that fails at once must not be forked in a hot loop.
            pause_s = self.limits.start_backoff_s * 2 ** min(self._start_failures, 10)
            self._start_failures += 1
            self._no_start_before_s = event.now_s + min(pause_s, self.limits.start_backoff_s_max)
        self._give_back(worker)
        if worker.queue in self.queues:
            return [act.WakeQueue(worker.queue)]
        return []

    def _handle_group_wanted(self, event: ev.GroupWanted) -> list[act.Action]:
        # One that fits has no need to wait for a look, unless others wait for the same.
        group = PendingGroup(event.group_id, event.job_id, event.bundles, event.indexes)
        if not self._starved and self.reservations.reserve(group.group_id, group.by_index()):
            return [act.GroupPlaced(event.group_id)]
        self.pending_groups[event.group_id] = group
        return []

    def _handle_group_removed(self, event: ev.GroupRemoved) -> list[act.Action]:
        self.pending_groups.pop(event.group_id, None)
        for actor in list(self.pending.values()):
            if is_member(actor.placement, event.group_id):
                del self.pending[actor.actor_id]
        orders: list[act.Action] = [
            self._kill(worker)
            for worker in self.workers.values()
            if is_member(worker.allocation.resources, event.group_id)
            and worker.stage is not WorkerStage.KILLED
        ]
        self.reservations.end(event.group_id)
        return orders

    def _handle_job_ended(self, event: ev.JobEnded) -> list[act.Action]:
        for actor in [a for a in self.pending.values() if a.job_id == event.job_id]:
            del self.pending[actor.actor_id]
        orders: list[act.Action] = []
        for worker in self.workers.values():
            if worker.job_id == event.job_id and worker.stage is not WorkerStage.KILLED:
                orders.append(self._kill(worker))
        return orders

    # ---- observations

    def _handle_observed(self, event: ev.Observed) -> list[act.Action]:
        self._now_s = event.now_s
        self._observations += 1
        orders: list[act.Action] = []
        for seen in event.workers:
            self._see_worker(seen, orders)
        for queue_seen in event.queues:
            queue = self.queues.get(queue_seen.queue)
            if queue is not None:
                queue.length = queue_seen.length
                queue.priority, queue.depth = queue_seen.priority, queue_seen.depth
        self._growth.see(event.now_s, self.active.values(), memory_short=event.memory_short)
        unserved = self._serve(self._demands(), orders)
        withdrawn = self._withdraw_for(unserved, orders)
        if event.tick:
            self._wake_suspicious(orders)
            self._trim(orders)
        self._keep_prestarted(orders)
        self._set_wanted(orders)
        withdrawing = any(w.stage is WorkerStage.WITHDRAWING for w in self.active.values())
        starved = bool(unserved) or withdrawn or withdrawing
        if starved != self._starved:
            self._starved = starved
            orders.append(act.SetStarved(starved))
        return orders

    def _see_worker(self, seen: ev.WorkerSeen, orders: list[act.Action]) -> None:
        worker = self.workers.get(seen.worker)
        if worker is None or worker.stage in (WorkerStage.STARTING, WorkerStage.KILLED):
            return
        worker.running, worker.idle = seen.running, seen.idle and not seen.running
        if not worker.idle:
            worker.idle_since_s = None
        elif worker.idle_since_s is None:
            worker.idle_since_s = self._now_s
        if worker.stage is WorkerStage.GRANTED and seen.acknowledged == worker.queue:
            worker.acknowledged = True
        finished = not seen.acknowledged and not seen.running
        if worker.stage is WorkerStage.WITHDRAWING and finished:
            # A wake-up that the worker got for its former queue must reach another one.
            if worker.queue in self.queues:
                orders.append(act.WakeQueue(worker.queue))
            self._give_back(worker)
            worker.queue, worker.stage = 0, WorkerStage.FREE
            return
        blocked = seen.blocked and (seen.running or worker.stage is WorkerStage.ACTOR)
        if blocked != worker.lent and worker.allocation is not NOTHING:
            worker.lent = blocked
            if blocked:
                self.resources.lend_cpu(worker.allocation)
            else:
                self.resources.reclaim_cpu(worker.allocation)

    def _demands(self) -> list[Demand]:
        """Who needs one more process, in the order of rule 3."""
        served, soon = self._workers_by_queue()
        demands = []
        for queue in self.queues.values():
            served_by = served.get(queue.loc, 0)
            if served_by or not queue.length:
                queue.alone_since = None
            elif queue.alone_since is None:
                queue.alone_since = self._observations
            count = queue.length - soon.get(queue.loc, 0)
            if count <= 0 or queue.environment not in self.environments_ready:
                continue
            since = self._observations if queue.alone_since is None else queue.alone_since
            demands.append(
                Demand(
                    *(queue.job_id, queue.shape, count, served_by, since, queue.environment),
                    queue=queue,
                )
            )
        alike: Counter[tuple[object, ...]] = Counter()
        for actor in self.pending.values():
            if actor.environment not in self.environments_ready:
                continue
            if actor.since is None:
                actor.since = self._observations
            # Of thousands that need the same, more than can be started now change no decision.
            kind = (actor.placement, actor.held, actor.environment, actor.job_id)
            alike[kind] += 1
            if alike[kind] > self.limits.starts_in_flight_max:
                continue
            shape = actor.placement.maximum(actor.held)
            demands.append(
                Demand(actor.job_id, shape, 1, 0, actor.since, actor.environment, actor=actor)
            )
        for group in self.pending_groups.values():
            if group.since is None:
                group.since = self._observations
            shape = sum_of(group.bundles)
            demands.append(Demand(group.job_id, shape, 1, 0, group.since, group=group))
        return in_order(demands, nested_first=self._growth.nested_first)

    def _workers_by_queue(self) -> tuple[dict[int, int], dict[int, int]]:
        """How many workers serve each queue, and how many of them will look at it by themselves."""
        served: dict[int, int] = {}
        soon: dict[int, int] = {}
        for worker in self.active.values():
            if worker.queue and worker.stage is not WorkerStage.KILLED and not worker.lent:
                served[worker.queue] = served.get(worker.queue, 0) + 1
                if worker.available_soon:
                    soon[worker.queue] = soon.get(worker.queue, 0) + 1
        return served, soon

    # ---- rule 3: serving

    def _serve(self, demands: list[Demand], orders: list[act.Action]) -> list[Demand]:
        """Grants and starts what fits. Returns the demands that lack resources or a process."""
        unserved = []
        reserved: dict[str, int] = {}
        free = [w for w in self.active.values() if w.stage is WorkerStage.FREE]
        starting = Counter(
            worker.environment
            for worker in self.active.values()
            if worker.stage is WorkerStage.STARTING and not worker.actor_id
        )
        for demand in demands:
            while demand.count > 0 and self._fits(demand, reserved):
                if demand.group is not None:
                    self._place_group(demand.group, orders)
                elif demand.actor is not None:
                    if not self._start_actor(demand.actor, orders):
                        break
                elif (worker := choose_free(free, demand)) is not None:
                    free.remove(worker)
                    self._grant(worker, demand, orders)
                elif starting[demand.environment] > 0:
                    starting[demand.environment] -= 1
                    add(reserved, demand.shape)
                elif self._start_worker(orders, demand.environment, demand.queue):
                    add(reserved, demand.shape)
                else:
                    break
                demand.count -= 1
            if demand.count > 0:
                demand.lacks_process = self._fits(demand, reserved)
                unserved.append(demand)
                if demand.served_by == 0:
                    add(reserved, demand.shape)
        return unserved

    def _fits(self, demand: Demand, reserved: dict[str, int]) -> bool:
        available = self.resources.available
        for name, units in demand.shape:
            if available.get(name, 0) - reserved.get(name, 0) < units:
                return False
        if demand.group is not None:
            return self.reservations.fits(demand.group.bundles)
        return self.resources.fits(demand.shape)

    def _place_group(self, group: PendingGroup, orders: list[act.Action]) -> None:
        self.reservations.reserve(group.group_id, group.by_index())
        del self.pending_groups[group.group_id]
        orders.append(act.GroupPlaced(group.group_id))

    def _grant(self, worker: Worker, demand: Demand, orders: list[act.Action]) -> None:
        assert demand.queue is not None
        worker.allocation = self.resources.acquire(demand.shape)
        worker.job_id, worker.queue = demand.job_id, demand.queue.loc
        worker.stage, worker.acknowledged = WorkerStage.GRANTED, False
        worker.granted_at_s, worker.idle_since_s = self._now_s, None
        demand.served_by += 1
        orders.append(act.Grant(worker.number, worker.queue))

    def _start_actor(self, actor: PendingActor, orders: list[act.Action]) -> bool:
        # What placing takes beyond what it holds must be free, and is not taken: starting a process
        # is short, and of many that start together each waits less for the others.
        if not self._may_start(orders):
            return False
        worker = self._new_worker(actor.environment)
        worker.actor_id, worker.job_id = actor.actor_id, actor.job_id
        worker.allocation = self.resources.acquire(actor.held)
        del self.pending[actor.actor_id]
        orders.append(act.StartWorker(worker.number, actor.actor_id, actor.environment))
        return True

    def _start_worker(
        self, orders: list[act.Action], environment: bytes = b"", queue: Queue | None = None
    ) -> bool:
        if not self._may_start(orders):
            return False
        if queue is not None and not self._growth.allows(len(self.workers), queue.depth):
            return False
        number = self._new_worker(environment).number
        orders.append(act.StartWorker(number, None, environment))
        return True

    def _may_start(self, orders: list[act.Action]) -> bool:
        if self._now_s < self._no_start_before_s:
            return False
        starting = self._count(lambda w: w.stage is WorkerStage.STARTING)
        if starting >= self.limits.starts_in_flight_max:
            return False
        if len(self.workers) < self.limits.workers_max:
            return True
        # Full: a process that idles for another job, or for none, makes room.
        for worker in self.active.values():
            if worker.stage is WorkerStage.FREE:
                orders.append(self._kill(worker))
                break
        return False

    def _new_worker(self, environment: bytes) -> Worker:
        worker = Worker(self._next_worker, environment=environment)
        self._next_worker += 1
        self.workers[worker.number] = worker
        self.active[worker.number] = worker
        return worker

    # ---- rules 4 and 5: withdrawing

    def _withdraw_for(self, unserved: list[Demand], orders: list[act.Action]) -> bool:
        """Withdraws what the unserved, and the ledger, lack. True if the CPU is overdrawn."""
        coming = dict(self.resources.available)
        for worker in self.active.values():
            if worker.stage in (WorkerStage.WITHDRAWING, WorkerStage.KILLED) and not worker.lent:
                add(coming, worker.allocation.resources)
        overdrawn = self.resources.available.get(CPU, 0) < 0
        if coming.get(CPU, 0) < 0:
            lacking = ResourceSet(((CPU, -coming[CPU]),))
            self._withdraw_until(lacking, {CPU: 0}, self._victims(None, 0), coming, orders)
            coming[CPU] = min(coming[CPU], 0)
        for demand in unserved:
            if demand.lacks_process:
                self._withdraw_process(demand, orders)
                continue
            if covers(coming, demand.shape):
                subtract(coming, demand.shape)
                continue
            victims = self._victims(demand.queue, demand.served_by)
            if self._withdraw_until(demand.shape, coming, victims, coming, orders):
                subtract(coming, demand.shape)
        return overdrawn

    def _withdraw_process(self, demand: Demand, orders: list[act.Action]) -> None:
        """The pool is full: a sleeper, or who has worked long enough, shall serve the demand."""
        changing = (WorkerStage.STARTING, WorkerStage.WITHDRAWING, WorkerStage.KILLED)
        full = len(self.workers) >= self.limits.workers_max
        if not full or self._count(lambda worker: worker.stage in changing):
            return
        for worker in self._victims(demand.queue, demand.served_by)[:1]:
            worker.stage = WorkerStage.WITHDRAWING
            orders.append(act.Withdraw(worker.number))

    def _withdraw_until(
        self,
        shape: ResourceSet,
        base: dict[str, int],
        victims: Iterable[Worker],
        coming: dict[str, int],
        orders: list[act.Action],
    ) -> bool:
        """Withdraws from the fewest victims, in order, that bring ``base`` up to the shape."""
        gathered = dict(base)
        chosen = []
        for worker in victims:
            if covers(gathered, shape):
                break
            lacking = [name for name, units in shape if gathered.get(name, 0) < units]
            if any(worker.allocation.resources.get(name) for name in lacking):
                add(gathered, worker.allocation.resources)
                chosen.append(worker)
        if not covers(gathered, shape) and base is coming:
            return False  # It would not help: leave them at their work.
        for worker in chosen:
            worker.stage = WorkerStage.WITHDRAWING
            add(coming, worker.allocation.resources)
            orders.append(act.Withdraw(worker.number))
        return True

    def _victims(self, wanting: Queue | None, served_by: int) -> list[Worker]:
        served, _ = self._workers_by_queue()
        before_s = self._now_s - self.limits.grant_quantum_s
        return victims(self.active.values(), self.queues, served, wanting, served_by, before_s)

    def _has_tasks(self, queue: int) -> bool:
        return queue in self.queues and self.queues[queue].length > 0

    # ---- flags, wake-ups, rule 6

    def _set_wanted(self, orders: list[act.Action]) -> None:
        """A push is worth a wake-up of the scheduler where it could do something about it."""
        served, _ = self._workers_by_queue()
        room = self._count(lambda w: w.stage is WorkerStage.FREE) > 0 or (
            len(self.workers) < self.limits.workers_max
        )
        for queue in self.queues.values():
            nobody = served.get(queue.loc, 0) == 0
            wanted = nobody or (room and self.resources.fits(queue.shape))
            if wanted != queue.wanted:
                queue.wanted = wanted
                orders.append(act.SetWanted(queue.loc, wanted))

    def _wake_suspicious(self, orders: list[act.Action]) -> None:
        """Tasks, and all workers asleep, at two ticks in a row: a wake-up was lost."""
        awake = {
            w.queue for w in self.active.values() if w.stage is WorkerStage.GRANTED and not w.idle
        }
        served, _ = self._workers_by_queue()
        for queue in self.queues.values():
            stuck = queue.length > 0 and queue.loc in served and queue.loc not in awake
            if stuck and queue.suspicious:
                orders.append(act.WakeQueue(queue.loc))
            queue.suspicious = stuck

    def _trim(self, orders: list[act.Action]) -> None:
        """Ends processes that idle, beyond one for each CPU; withdraws from those that hold one."""
        keep = max(self.resources.total.get(CPU) // UNITS, self.limits.prestart_count)
        tasks = [w for w in self.active.values() if w.actor_id is None]
        surplus = len([w for w in tasks if w.stage is not WorkerStage.KILLED]) - keep
        tasks.sort(key=lambda w: w.idle_since_s if w.idle_since_s is not None else self._now_s)
        for worker in tasks:
            if worker.idle_since_s is None:
                return
            limits, idle_s = self.limits, self._now_s - worker.idle_since_s
            # One of an environment keeps that environment on disk, and maybe a zygote, in use.
            unused = worker.environment and idle_s >= limits.idle_environment_timeout_s
            if not unused and (surplus <= 0 or idle_s < limits.idle_worker_timeout_s):
                continue
            if worker.stage is WorkerStage.FREE:
                orders.append(self._kill(worker))
                surplus -= 1
            elif self._is_spare(worker):
                worker.stage = WorkerStage.WITHDRAWING
                orders.append(act.Withdraw(worker.number))
                surplus -= 1

    def _is_spare(self, worker: Worker) -> bool:
        granted = worker.stage is WorkerStage.GRANTED and worker.acknowledged
        return granted and not self._has_tasks(worker.queue)

    def _keep_prestarted(self, orders: list[act.Action]) -> None:
        have = self._count(lambda w: w.actor_id is None and w.stage is not WorkerStage.KILLED)
        while have < self.limits.prestart_count and self._start_worker(orders):
            have += 1

    # ---- small change

    def _kill(self, worker: Worker) -> act.KillWorker:
        worker.stage = WorkerStage.KILLED
        self.active[worker.number] = worker
        return act.KillWorker(worker.number)

    def _give_back(self, worker: Worker) -> None:
        if worker.allocation is NOTHING:
            return
        if worker.lent:
            self.resources.reclaim_cpu(worker.allocation)
        self.resources.release(worker.allocation)
        worker.allocation, worker.lent = NOTHING, False
        self.reservations.settle()

    def _count(self, condition: Callable[[Worker], bool]) -> int:
        return sum(1 for worker in self.active.values() if condition(worker))

    def environments_wanted(self) -> set[bytes]:
        """Environments for which tasks or actors wait that no worker can be started for."""
        queued = {queue.environment for queue in self.queues.values() if queue.length}
        placed = {actor.environment for actor in self.pending.values()}
        return (queued | placed) - self.environments_ready

    def available_floats(self) -> dict[str, float]:
        """What a new demand would find free, as people write it.

        An idle worker keeps its grant, to take the next task without asking; whoever wants its
        resources gets them, so they count as free.
        """
        available = dict(self.resources.available)
        for worker in self.workers.values():
            if worker.idle and worker.queue and not worker.lent:
                add(available, worker.allocation.resources)
        return {name: max(available[name], 0) / UNITS for name, _ in self.resources.total}

    def check_invariants(self) -> None:
        """Raises AssertionError when the ledger and the records do not agree."""
        self.resources.check_invariants()
        taken: dict[str, int] = {}
        lent = 0
        for reservation in self.reservations.by_group.values():
            for allocation in reservation.taken:
                add(taken, allocation.resources)
        for worker in self.workers.values():
            add(taken, worker.allocation.resources)
            lent += worker.allocation.resources.get(CPU) if worker.lent else 0
            assert worker.queue == 0 or worker.stage in (
                WorkerStage.GRANTED,
                WorkerStage.WITHDRAWING,
                WorkerStage.KILLED,
            ), worker
            assert worker.stage is not WorkerStage.FREE or worker.allocation is NOTHING, worker
        for name, total in self.resources.total:
            expected = total - taken.get(name, 0) + (lent if name == CPU else 0)
            assert self.resources.available[name] == expected, (name, expected)
        assert len(self.workers) <= self.limits.workers_max
        settled = {number for number, worker in self.workers.items() if worker.is_settled}
        assert self.active.keys() == self.workers.keys() - settled
