"""Second copies of tasks that take much longer than others of their kind, on other nodes.

This file owns the decision who is a straggler, how many may have a second copy, and whose result
counts. It knows only tasks that ask for it (``speculate=True``), since only their author knows that
running twice does no harm. Where a copy goes is the placement policy's answer, asked with the first
node as one to avoid.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from rostral_scheduler.core.placement_request import Answer, Placed, TaskRequest

__all__ = ["CancelCopy", "Speculation", "SpeculationLimits", "StartCopy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeculationLimits:
    """When a second copy is worth it.

    Attributes:
        factor: A task is late after so many times the smoothed run time of its function,
        deviations: and that time plus so many smoothed deviations, whichever is more.
        late_s_min: And not before this: shorter delays are over before a copy has begun.
        samples_min: Tasks of a function that must have ended before any can be late.
        share_max: Copies at once, as a share of the tasks that run; always at least one.
        copies_max: Copies at once in any case.
        smoothing: Share of a new run time in the smoothed one.
        functions_max: Functions whose run time is remembered.
    """

    factor: float = 2.0
    deviations: float = 4.0
    late_s_min: float = 0.5
    samples_min: int = 3
    share_max: float = 0.1
    copies_max: int = 100
    smoothing: float = 0.2
    functions_max: int = 10_000


@dataclass(frozen=True, slots=True)
class StartCopy:
    """Run the task a second time, there."""

    task_id: bytes
    node_id: bytes


@dataclass(frozen=True, slots=True)
class CancelCopy:
    """The task has ended elsewhere: end this run of it, and drop what it returns."""

    task_id: bytes
    node_id: bytes


@dataclass(slots=True)
class _RunTime:
    """Of one function; the deviation is the smoothed absolute difference from the mean."""

    mean_s: float = 0.0
    deviation_s: float = 0.0
    samples: int = 0

    def add(self, run_time_s: float, smoothing: float) -> None:
        self.samples += 1
        # The first few count alike.
        share = max(smoothing, 1 / self.samples)
        self.deviation_s += share * (abs(run_time_s - self.mean_s) - self.deviation_s)
        if self.samples == 1:
            self.deviation_s = 0.0
        self.mean_s += share * (run_time_s - self.mean_s)


@dataclass(slots=True)
class _Running:
    request: TaskRequest
    started_at_s: dict[bytes, float] = field(default_factory=dict)
    had_copy: bool = False


class Speculation:
    """Starts, ends and ticks in; copies to start and to cancel out."""

    def __init__(self, limits: SpeculationLimits | None = None) -> None:
        self.limits = limits if limits is not None else SpeculationLimits()
        self._running: dict[bytes, _Running] = {}
        self._run_times: dict[bytes, _RunTime] = {}
        self._copies = 0

    def handle_started(self, request: TaskRequest, node_id: bytes, now_s: float) -> None:
        """A run of the task has begun, the first or a copy."""
        running = self._running.setdefault(request.task_id, _Running(request))
        if node_id not in running.started_at_s:
            running.started_at_s[node_id] = now_s

    def handle_ended(self, task_id: bytes, node_id: bytes, now_s: float) -> list[CancelCopy]:
        """A run has returned or raised: its result counts; of the other, nothing does."""
        running = self._running.pop(task_id, None)
        if running is None:
            return []
        started_at_s = running.started_at_s.pop(node_id, None)
        if started_at_s is not None:
            self._learn(running.request.function_id, now_s - started_at_s)
        self._copies -= running.had_copy
        return [CancelCopy(task_id, other) for other in running.started_at_s]

    def handle_lost(self, task_id: bytes, node_id: bytes) -> bool:
        """A run is gone with its process or node; whether the other one goes on.

        If it does not, whoever runs tasks again does that, and says so by ``handle_started``.
        """
        running = self._running.get(task_id)
        if running is None:
            return False
        running.started_at_s.pop(node_id, None)
        if running.had_copy:
            running.had_copy = False
            self._copies -= 1
        if not running.started_at_s:
            del self._running[task_id]
            return False
        return True

    def handle_tick(self, now_s: float, place: Callable[[TaskRequest], Answer]) -> list[StartCopy]:
        """Looks who is late, the latest first.

        Args:
            now_s: The time.
            place: Answers where a copy would run, and how long it would wait there.
        """
        room = self._room()
        if room <= 0:
            return []
        late = []
        for running in self._running.values():
            if running.had_copy or len(running.started_at_s) != 1:
                continue
            ((node_id, started_at_s),) = running.started_at_s.items()
            limit_s = self.late_after_s(running.request.function_id)
            if now_s - started_at_s > limit_s:
                late.append(((now_s - started_at_s) / limit_s, node_id, running))
        late.sort(key=lambda one: one[0], reverse=True)
        orders = []
        for _, node_id, running in late[:room]:
            order = self._copy_of(running, node_id, now_s, place)
            if order is not None:
                orders.append(order)
        return orders

    def late_after_s(self, function_id: bytes) -> float:
        """From when on a task of the function is late; infinite while too little is known."""
        limits, known = self.limits, self._run_times.get(function_id)
        if known is None or known.samples < limits.samples_min:
            return math.inf
        return max(
            limits.late_s_min,
            limits.factor * known.mean_s,
            known.mean_s + limits.deviations * known.deviation_s,
        )

    def _copy_of(
        self,
        running: _Running,
        node_id: bytes,
        now_s: float,
        place: Callable[[TaskRequest], Answer],
    ) -> StartCopy | None:
        request = running.request
        answer = place(request._replace(attempt=request.attempt + 1, avoid=node_id))
        if not isinstance(answer, Placed) or answer.node_id == node_id:
            return None
        # What has run for so long is expected to run on for as long again: a heavy tail.
        expected_left_s = now_s - running.started_at_s[node_id]
        known = self._run_times[request.function_id]
        if answer.wait_s + known.mean_s >= expected_left_s:
            return None
        running.had_copy = True
        self._copies += 1
        return StartCopy(request.task_id, answer.node_id)

    def _room(self) -> int:
        limits = self.limits
        share = max(1, int(limits.share_max * len(self._running)))
        return min(share, limits.copies_max) - self._copies

    def _learn(self, function_id: bytes, run_time_s: float) -> None:
        known = self._run_times.pop(function_id, None) or _RunTime()
        if len(self._run_times) >= self.limits.functions_max:
            del self._run_times[next(iter(self._run_times))]
        known.add(run_time_s, self.limits.smoothing)
        self._run_times[function_id] = known
