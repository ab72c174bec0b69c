"""One simulated node: its CPUs and GPUs, what waits for them, and what it would report.

This file owns the node's truth. Tasks of one shape are served first come, first served, as by the
local scheduler's queues; what is known of run times is learned from tasks that ended, as there.
"""

from __future__ import annotations

from collections import deque

from rostral_scheduler.core.node_view import NodeLoad, QueueLoad
from rostral_scheduler.core.resources import UNITS, ResourceSet
from rostral_scheduler.core.run_times import QueueUse, RunTimes
from rostral_scheduler.sim.workload import SimTask

__all__ = ["CPU_SHAPE", "GPU_SHAPE", "RunTimeTable", "SimNode"]

CPU_SHAPE = ResourceSet.of({"CPU": 1})
GPU_SHAPE = ResourceSet.of({"GPU": 1})

_SMOOTHING = 0.2


class RunTimeTable:
    """What the nodes know together of how long functions take: nothing, until one has ended.

    Args:
        function_count: Functions that there are.
        first_s: For a function before any task has ended.

    Attributes:
        mean_s: Of all tasks, smoothed: what is assumed of a function that is not known.
    """

    def __init__(self, function_count: int, first_s: float) -> None:
        self.mean_s = first_s
        self._known_s: list[float | None] = [None] * function_count

    def of(self, function: int) -> float:
        """The smoothed run time of a function, in seconds."""
        known_s = self._known_s[function]
        return self.mean_s if known_s is None else known_s

    def add(self, function: int, run_time_s: float) -> None:
        """A task of the function has ended."""
        self.mean_s += 0.01 * (run_time_s - self.mean_s)
        known_s = self._known_s[function]
        if known_s is None:
            known_s = run_time_s
        self._known_s[function] = known_s + _SMOOTHING * (run_time_s - known_s)


class _Pool:
    """The CPUs or the GPUs of a node, and the queue for them."""

    __slots__ = (
        "coming",
        "coming_s",
        "count",
        "estimated_s",
        "free",
        "queue",
        "run_time_s",
        "taken",
    )

    def __init__(self, count: int) -> None:
        self.count = self.free = count
        self.queue: deque[SimTask] = deque()
        self.run_time_s = 0.0
        self.taken = 0
        self.estimated_s = 0.0
        # Tasks that wait for their inputs, and what they are expected to take.
        self.coming = 0
        self.coming_s = 0.0


class SimNode:
    """A node.

    Args:
        number: Its place among the nodes; its id follows from it.
        cpus: How many tasks run on CPUs at once.
        gpus: The same of GPUs.
        bandwidth: At which it fetches objects, bytes per second.
    """

    __slots__ = (
        "alive",
        "bandwidth",
        "cpus",
        "ended_functions",
        "gpus",
        "incarnation",
        "node_id",
        "number",
        "run_times",
        "total",
    )

    def __init__(self, number: int, cpus: int, gpus: int, bandwidth: float) -> None:
        self.number = number
        self.node_id = number.to_bytes(16, "big")
        self.cpus, self.gpus = _Pool(cpus), _Pool(gpus)
        self.bandwidth = bandwidth
        self.alive = True
        self.incarnation = 0
        self.total = ResourceSet.of({"CPU": cpus, "GPU": gpus})
        self.ended_functions: dict[bytes, float] = {}
        self.run_times = RunTimes()

    def has(self, task: SimTask) -> bool:
        """Whether it can ever run the task."""
        return not task.needs_gpu or self.gpus.count > 0

    def expected_wait_s(self, task: SimTask, estimate_s: float) -> float:
        """How long the task would wait here, as its local scheduler estimates it."""
        pool = self.gpus if task.needs_gpu else self.cpus
        if pool.free:
            return 0.0
        return (pool.estimated_s + (pool.run_time_s or estimate_s)) / pool.count

    def expect(self, task: SimTask, estimate_s: float) -> None:
        """A task has come whose input is being fetched."""
        pool = self.gpus if task.needs_gpu else self.cpus
        pool.coming += 1
        pool.coming_s += estimate_s

    def fetched(self, task: SimTask, estimate_s: float) -> None:
        """Its input is there; ``add`` follows."""
        pool = self.gpus if task.needs_gpu else self.cpus
        pool.coming -= 1
        pool.coming_s = max(0.0, pool.coming_s - estimate_s) if pool.coming else 0.0

    def add(self, task: SimTask, estimate_s: float) -> SimTask | None:
        """A task comes; it starts at once if there is room, and is then returned."""
        pool = self.gpus if task.needs_gpu else self.cpus
        if pool.free:
            pool.free -= 1
            pool.taken += 1
            return task
        pool.queue.append(task)
        pool.estimated_s += estimate_s
        return None

    def end(self, task: SimTask, run_times: RunTimeTable) -> SimTask | None:
        """A task ends; the next one that starts in its place, if any."""
        pool = self.gpus if task.needs_gpu else self.cpus
        known_s = pool.run_time_s or task.length_s
        pool.run_time_s = known_s + _SMOOTHING * (task.length_s - known_s)
        name = task.function.to_bytes(4, "big")
        known_s = self.ended_functions.get(name, task.length_s)
        self.ended_functions[name] = known_s + _SMOOTHING * (task.length_s - known_s)
        if pool.queue:
            following = pool.queue.popleft()
            pool.taken += 1
            pool.estimated_s = max(0.0, pool.estimated_s - run_times.of(following.function))
            return following
        pool.free += 1
        pool.estimated_s = 0.0
        return None

    def report(self, now_s: float) -> NodeLoad:
        """What it says of itself; functions that ended since the last report are told once."""
        self.run_times.see(
            (
                QueueUse(number, pool.taken, pool.count - pool.free)
                for number, pool in enumerate((self.cpus, self.gpus))
            ),
            now_s,
        )
        functions, self.ended_functions = self.ended_functions, {}
        queues, available = [], []
        for name, shape, pool in (
            ("CPU", CPU_SHAPE, self.cpus),
            ("GPU", GPU_SHAPE, self.gpus),
        ):
            # What waits for inputs takes what is free, and queues for the rest.
            free = max(0, pool.free - pool.coming)
            waiting = len(pool.queue) + max(0, pool.coming - pool.free)
            if free:
                available.append((name, free * UNITS))
            if waiting:
                work_s = pool.estimated_s + pool.coming_s
                each_s = work_s / (len(pool.queue) + pool.coming)
                queues.append(QueueLoad(shape, waiting, each_s))
        return NodeLoad(
            node_id=self.node_id,
            total=self.total,
            available=ResourceSet(tuple(available)),
            queues=tuple(queues),
            run_time_s=self.run_times.of(0),
            run_times_s=functions,
            bandwidth_bytes_per_s=self.bandwidth,
        )

    def die(self, running: list[SimTask]) -> list[SimTask]:
        """Everything on it is lost; the tasks that are."""
        lost = [*running, *self.cpus.queue, *self.gpus.queue]
        self.alive = False
        self.incarnation += 1
        self.cpus, self.gpus = _Pool(self.cpus.count), _Pool(self.gpus.count)
        self.run_times = RunTimes()
        self.ended_functions = {}
        return lost
