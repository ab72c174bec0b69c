"""Second copies of stragglers: who gets one, where, how many, and whose result counts."""

from __future__ import annotations

import math

import pytest

from rostral_scheduler.core.placement import PlacementPolicy
from rostral_scheduler.core.placement_request import Answer, Constraints, Later, TaskRequest
from rostral_scheduler.core.speculation import (
    CancelCopy,
    Speculation,
    SpeculationLimits,
    StartCopy,
)

from .test_core_placement import NODES, load, policy_of

ONE_CPU = Constraints.of({"CPU": 1})
A, B, C = NODES[:3]


def task(number: int, function: bytes = b"f") -> TaskRequest:
    return TaskRequest(bytes([number]) * 16, 0, ONE_CPU, function_id=function)


def knowing(*run_times_s: float, limits: SpeculationLimits | None = None) -> Speculation:
    """One that has seen tasks of function `f` end after these times."""
    speculation = Speculation(limits)
    for number, run_time_s in enumerate(run_times_s):
        speculation.handle_started(task(200 + number), A, 0.0)
        speculation.handle_ended(task(200 + number).task_id, A, run_time_s)
    return speculation


class Places:
    """Where copies go: by the real policy, on three idle nodes."""

    def __init__(self, policy: PlacementPolicy | None = None, now_s: float = 0.0) -> None:
        self.policy = policy if policy is not None else policy_of(load(0), load(1), load(2))
        self.now_s = now_s

    def __call__(self, request: TaskRequest) -> Answer:
        (answer,) = self.policy.place([request], self.now_s)
        return answer


def test_a_late_task_gets_a_copy_on_another_node_and_the_first_result_counts() -> None:
    """1. Ten take a second. 2. One takes three: a copy. 3. The copy ends: the first is ended."""
    speculation = knowing(*[1.0] * 10)
    speculation.handle_started(task(1), A, 100.0)
    assert speculation.handle_tick(101.9, Places()) == []
    assert speculation.handle_tick(103.0, Places()) == [StartCopy(task(1).task_id, B)]
    speculation.handle_started(task(1), B, 103.1)
    assert speculation.handle_tick(109.0, Places()) == [], "one copy, not two"
    assert speculation.handle_ended(task(1).task_id, B, 104.0) == [CancelCopy(task(1).task_id, A)]
    assert speculation.handle_ended(task(1).task_id, A, 105.0) == []


def test_the_first_run_may_win_too() -> None:
    speculation = knowing(*[1.0] * 10)
    speculation.handle_started(task(1), A, 0.0)
    speculation.handle_tick(3.0, Places())
    speculation.handle_started(task(1), B, 3.0)
    assert speculation.handle_ended(task(1).task_id, A, 3.1) == [CancelCopy(task(1).task_id, B)]


def test_of_a_function_that_is_hardly_known_nobody_is_late() -> None:
    speculation = knowing(1.0, 1.0)
    assert speculation.late_after_s(b"f") == math.inf
    speculation.handle_started(task(1), A, 0.0)
    assert speculation.handle_tick(1e6, Places()) == []


def test_what_varies_much_is_given_more_time() -> None:
    steady, varied = knowing(*[1.0] * 20), knowing(*[0.2, 1.8] * 10)
    assert steady.late_after_s(b"f") == pytest.approx(2.0)
    assert varied.late_after_s(b"f") > 3.0


def test_short_tasks_are_not_late_at_once() -> None:
    assert knowing(*[0.001] * 20).late_after_s(b"f") == 0.5


def test_copies_are_few_and_the_latest_come_first() -> None:
    """Of twenty that run, two may have a copy at a time."""
    speculation = knowing(*[1.0] * 10)
    for number in range(20):
        speculation.handle_started(task(number), A, 0.1 * number)
    places = Places(policy_of(load(1, cpus=100)))
    orders = speculation.handle_tick(10.0, places)
    assert orders == [StartCopy(task(number).task_id, B) for number in (0, 1)]
    assert speculation.handle_tick(11.0, places) == []
    speculation.handle_started(task(0), B, 10.0)
    speculation.handle_ended(task(0).task_id, B, 11.0)
    speculation.handle_started(task(20), A, 11.0)
    assert speculation.handle_tick(12.0, places) == [StartCopy(task(2).task_id, B)]


def test_a_copy_that_would_wait_longer_than_the_task_may_take_is_not_made() -> None:
    speculation = knowing(*[1.0] * 10)
    speculation.handle_started(task(1), A, 0.0)
    busy = Places(policy_of(load(1, free=0, queued=100)), now_s=3.0)
    assert speculation.handle_tick(3.0, busy) == []
    assert speculation.handle_tick(3.0, lambda _: Later(1.0, "no")) == []
    assert speculation.handle_tick(3.0, Places(policy_of(load(0)))) == [], "only its own node"


def test_a_run_that_is_lost_leaves_the_other() -> None:
    speculation = knowing(*[1.0] * 10)
    speculation.handle_started(task(1), A, 0.0)
    speculation.handle_tick(3.0, Places())
    speculation.handle_started(task(1), B, 3.0)
    assert speculation.handle_lost(task(1).task_id, A)
    assert speculation.handle_ended(task(1).task_id, B, 4.0) == []
    speculation.handle_started(task(2), A, 0.0)
    assert not speculation.handle_lost(task(2).task_id, A)
    assert not speculation.handle_lost(task(3).task_id, A)
    assert speculation._copies == 0
