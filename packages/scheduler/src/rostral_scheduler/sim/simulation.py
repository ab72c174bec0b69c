"""The simulated cluster: nodes, local queues, global schedulers, messages, reports and failures.

This file owns the virtual clock and the order of events. The global schedulers run the real policy
(``core/placement.py``), and take virtual time for each decision, so that too few of them are a
bottleneck as they would be. Bottom-up (OSDI'18 §4.2.2): a task stays where it was submitted unless
that node can never run it or expects it to wait for longer than the threshold.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

from rostral_scheduler.core.placement import PlacementLimits, PlacementPolicy
from rostral_scheduler.core.placement_request import (
    Constraints,
    Infeasible,
    Placed,
    TaskInput,
    TaskRequest,
)
from rostral_scheduler.sim.measures import Measures
from rostral_scheduler.sim.node import CPU_SHAPE, GPU_SHAPE, RunTimeTable, SimNode
from rostral_scheduler.sim.workload import SimTask, Workload, WorkloadSettings

__all__ = ["Simulation", "SimulationSettings"]

_CPU = Constraints(CPU_SHAPE)
_GPU = Constraints(GPU_SHAPE)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationSettings:
    """A simulated cluster.

    Attributes:
        node_count: Nodes.
        task_count: Tasks that are submitted in all.
        seed: Of everything that is drawn.
        cpus_per_node: CPUs of each.
        gpu_nodes_share: Part of the nodes that have GPUs,
        gpus_per_node: and how many.
        scheduler_count: Global schedulers.
        decision_s: Virtual time that a global scheduler takes for one decision.
        batch_max: Most tasks that it takes at once.
        latency_s: Of a message.
        forward_wait_s: A task that would wait longer where it was submitted goes up.
        report_interval_s: Between two reports of a node.
        failures_per_node_hour: How often a node dies.
        downtime_s: After which it is back, as a new one.
        detect_s: How long a death is not known.
        sample_every: One of so many placements is compared with all nodes.
        warm_up_s: What happens before is not measured: the cluster is empty at first.
        workload: The tasks.
    """

    node_count: int = 1000
    task_count: int = 100_000
    seed: int = 0
    cpus_per_node: int = 4
    gpu_nodes_share: float = 0.1
    gpus_per_node: int = 4
    scheduler_count: int = 2
    decision_s: float = 10e-6
    batch_max: int = 1000
    latency_s: float = 0.001
    forward_wait_s: float = 0.1
    report_interval_s: float = 1.0
    failures_per_node_hour: float = 0.1
    downtime_s: float = 10.0
    detect_s: float = 1.0
    sample_every: int = 2000
    warm_up_s: float = 2.0
    workload: WorkloadSettings = field(default_factory=WorkloadSettings)


@dataclass(slots=True)
class _Scheduler:
    """A global scheduler: the policy, and what waits for it."""

    policy: PlacementPolicy
    inbox: list[SimTask] = field(default_factory=list)
    busy_until_s: float = 0.0
    is_due: bool = False


# Kinds of events; what they carry follows the time and a number that keeps their order.
_END, _ARRIVE, _FETCHED, _PLACE, _REPORT, _DIE, _KNOWN_DEAD, _BACK = range(8)


class Simulation:
    """One run; ``run`` plays it to its end."""

    def __init__(self, settings: SimulationSettings) -> None:
        self.settings = settings
        rng = self._rng = random.Random(settings.seed)
        count = settings.node_count
        self.nodes = [
            SimNode(
                number,
                settings.cpus_per_node,
                settings.gpus_per_node if rng.random() < settings.gpu_nodes_share else 0,
                rng.uniform(0.8e9, 1.25e9),
            )
            for number in range(count)
        ]
        self.workload = Workload(
            settings.workload,
            node_count=count,
            cpu_count=count * settings.cpus_per_node,
            seed=settings.seed + 1,
        )
        limits = PlacementLimits(settle_s=4 * settings.latency_s, retry_s=0.1)
        self._schedulers = [
            _Scheduler(PlacementPolicy(limits, salt=rng.randbytes(16)))
            for _ in range(settings.scheduler_count)
        ]
        for one in self._schedulers:
            one.policy.scheduler_count = settings.scheduler_count
        self.measures = Measures(floor_s=10 * settings.latency_s)
        self._run_times = RunTimeTable(settings.workload.function_count, limits.run_time_s)
        self._running: dict[int, dict[int, SimTask]] = {number: {} for number in range(count)}
        # Of nodes whose death is not known yet: what they had.
        self._lost: dict[int, list[SimTask]] = {}
        self._events: list[tuple[float, int, int, object, int]] = []
        self._order = 0
        self.now_s = 0.0
        for node in self.nodes:
            self._report(node)
            self._at(rng.random() * settings.report_interval_s, _REPORT, node)
            self._plan_death(node)

    def run(self) -> Measures:
        """Plays until every task has ended, and says what was measured."""
        measures, events, task_count = self.measures, self._events, self.settings.task_count
        next_task_s = self.workload.next_gap_s()
        while measures.tasks_ended + measures.infeasible < task_count:
            if measures.tasks_submitted < task_count and next_task_s <= events[0][0]:
                self.now_s = next_task_s
                measures.tasks_submitted += 1
                measures.ended_while_submitting = measures.tasks_ended
                measures.submitting_s = self.now_s
                self._submit(self.workload.next_task())
                next_task_s += self.workload.next_gap_s()
                continue
            self.now_s, _, kind, what, detail = heapq.heappop(events)
            self._handle(kind, what, detail)
        measures.virtual_s = self.now_s
        return measures

    def _at(self, time_s: float, kind: int, what: object, detail: int = 0) -> None:
        self._order += 1
        heapq.heappush(self._events, (time_s, self._order, kind, what, detail))

    def _handle(self, kind: int, what: object, detail: int) -> None:
        if kind == _END:
            assert isinstance(what, SimTask)
            self._end(what, detail)
        elif kind == _ARRIVE:
            assert isinstance(what, SimTask)
            self._arrive(what, self.nodes[detail])
        elif kind == _FETCHED:
            assert isinstance(what, SimTask)
            self._fetched(what, detail)
        elif kind == _PLACE:
            assert isinstance(what, _Scheduler)
            self._place(what)
        else:
            assert isinstance(what, SimNode)
            if kind == _REPORT:
                if what.alive:
                    self._report(what)
                self._at(self.now_s + self.settings.report_interval_s, _REPORT, what)
            elif kind == _DIE:
                self._die(what)
            elif kind == _KNOWN_DEAD:
                self._known_dead(what)
            else:
                self._back(what)

    # ---- a task's way

    def _submit(self, task: SimTask) -> None:
        node = self.nodes[task.origin]
        estimate_s = self._run_times.of(task.function)
        if (
            node.alive
            and node.has(task)
            and node.expected_wait_s(task, estimate_s) <= self.settings.forward_wait_s
        ):
            self.measures.placed_locally += 1
            self._arrive(task, node)
            return
        self._forward(task)

    def _forward(self, task: SimTask) -> None:
        scheduler = self._schedulers[task.number % len(self._schedulers)]
        scheduler.inbox.append(task)
        self._call(scheduler)

    def _call(self, scheduler: _Scheduler) -> None:
        if scheduler.inbox and not scheduler.is_due:
            scheduler.is_due = True
            due_s = max(self.now_s + self.settings.latency_s, scheduler.busy_until_s)
            self._at(due_s, _PLACE, scheduler)

    def _place(self, scheduler: _Scheduler) -> None:
        settings, measures = self.settings, self.measures
        scheduler.is_due = False
        batch = scheduler.inbox[: settings.batch_max]
        del scheduler.inbox[: settings.batch_max]
        requests = [self._request(task) for task in batch]
        sampled = measures.decisions // settings.sample_every != (
            (measures.decisions + len(batch)) // settings.sample_every
        )
        best_s = self._best_wait_s(scheduler.policy, requests[0]) if sampled else 0.0
        measures.deciding.start()
        answers = scheduler.policy.place(requests, self.now_s)
        measures.deciding.stop(len(batch))
        measures.decisions += len(batch)
        if sampled and isinstance(answers[0], Placed):
            # What is less than a message's latency nobody can tell apart.
            least_s = settings.latency_s
            measures.quality.append((answers[0].wait_s + least_s) / (best_s + least_s))
        scheduler.busy_until_s = self.now_s + settings.decision_s * len(batch)
        arrives_s = scheduler.busy_until_s + settings.latency_s
        for task, answer in zip(batch, answers, strict=True):
            if isinstance(answer, Placed):
                number = int.from_bytes(answer.node_id, "big")
                task.placed_at_s, task.wait_s = self.now_s, answer.wait_s
                self._at(arrives_s, _ARRIVE, task, number)
            elif isinstance(answer, Infeasible):
                measures.infeasible += 1
            else:
                measures.retried += 1
                scheduler.inbox.append(task)
        self._call(scheduler)

    def _request(self, task: SimTask) -> TaskRequest:
        inputs: tuple[TaskInput, ...] = ()
        if task.input_bytes:
            holder = self.nodes[task.input_node].node_id
            inputs = (TaskInput(b"", task.input_bytes, (holder,)),)
        return TaskRequest(
            task.number.to_bytes(16, "big"),
            task.attempt,
            _GPU if task.needs_gpu else _CPU,
            task.function.to_bytes(4, "big"),
            inputs,
            self._run_times.mean_s,
        )

    def _arrive(self, task: SimTask, node: SimNode) -> None:
        if not node.alive:
            # Whoever sent it there notices, and asks again.
            task.attempt += 1
            self.measures.tasks_rerun += 1
            self._forward(task)
            return
        if task.input_bytes and task.input_node != node.number:
            node.expect(task, self._run_times.of(task.function))
            fetched_s = self.now_s + task.input_bytes / node.bandwidth
            self._at(fetched_s, _FETCHED, task, node.number | node.incarnation << 32)
            return
        self._enqueue(task, node)

    def _fetched(self, task: SimTask, where: int) -> None:
        node = self.nodes[where & 0xFFFFFFFF]
        if not node.alive or node.incarnation != where >> 32:
            task.attempt += 1
            self.measures.tasks_rerun += 1
            self._forward(task)
            return
        node.fetched(task, self._run_times.of(task.function))
        self._enqueue(task, node)

    def _enqueue(self, task: SimTask, node: SimNode) -> None:
        started = node.add(task, self._run_times.of(task.function))
        if started is not None:
            self._start(started, node)

    def _start(self, task: SimTask, node: SimNode) -> None:
        if task.placed_at_s >= max(0.0, self.settings.warm_up_s):
            self.measures.waited(task.wait_s, self.now_s - task.placed_at_s)
        self._running[node.number][task.number] = task
        self._at(self.now_s + task.length_s, _END, task, node.number | node.incarnation << 32)

    def _end(self, task: SimTask, where: int) -> None:
        node = self.nodes[where & 0xFFFFFFFF]
        if not node.alive or node.incarnation != where >> 32:
            return
        self.measures.tasks_ended += 1
        del self._running[node.number][task.number]
        self._run_times.add(task.function, task.length_s)
        following = node.end(task, self._run_times)
        if following is not None:
            self._start(following, node)

    # ---- nodes

    def _report(self, node: SimNode) -> None:
        load = node.report(self.now_s)
        self.measures.reporting.start()
        for scheduler in self._schedulers:
            scheduler.policy.update_node(load, self.now_s)
        self.measures.reporting.stop(len(self._schedulers))

    def _plan_death(self, node: SimNode) -> None:
        rate = self.settings.failures_per_node_hour / 3600
        if rate > 0:
            self._at(self.now_s + self._rng.expovariate(rate), _DIE, node)

    def _die(self, node: SimNode) -> None:
        running = self._running[node.number]
        lost = node.die(list(running.values()))
        running.clear()
        for task in lost:
            task.attempt += 1
        self.measures.tasks_rerun += len(lost)
        self._at(self.now_s + self.settings.detect_s, _KNOWN_DEAD, node)
        self._at(self.now_s + self.settings.downtime_s, _BACK, node)
        self._lost.setdefault(node.number, []).extend(lost)

    def _known_dead(self, node: SimNode) -> None:
        for scheduler in self._schedulers:
            scheduler.policy.remove_node(node.node_id)
        for task in self._lost.pop(node.number, ()):
            self._forward(task)

    def _back(self, node: SimNode) -> None:
        node.alive = True
        self._report(node)
        self._plan_death(node)

    # ---- quality

    def _best_wait_s(self, policy: PlacementPolicy, request: TaskRequest) -> float:
        """The shortest estimated wait of all nodes that may have the task."""
        shape = request.constraints.shape
        total = sum(one.size_bytes for one in request.inputs)
        holders = {node_id for one in request.inputs for node_id in one.node_ids}
        return min(
            max(0.0, node.start_s(shape, self.now_s) - self.now_s)
            + (0.0 if node.node_id in holders else total / node.bandwidth)
            for node in policy.nodes.values()
            if node.is_open and node.has(shape)
        )
