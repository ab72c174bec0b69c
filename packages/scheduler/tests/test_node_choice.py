"""Which node a task of this one goes to, from reports and from what is known here to the task."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from rostral_gcs import NodeReport, NodeRow, QueueReport
from rostral_gcs.ids import NodeID
from rostral_scheduler.between.choice import NodeChoice
from rostral_scheduler.between.leaving import excess
from rostral_scheduler.between.messages import Shape
from rostral_scheduler.between.outgoing import ForwardQueue
from rostral_scheduler.core.node_view import NodeLoad, QueueLoad
from rostral_scheduler.core.own_share import with_own_share
from rostral_scheduler.core.placement_request import TaskInput
from rostral_scheduler.core.resources import ResourceSet
from rostral_scheduler.core.where import ANYWHERE, Where

OWN, A, B = (bytes([i]) * 16 for i in (1, 2, 3))
ONE = ResourceSet.of({"CPU": 1})
WINDOW = 100


def report(available: float, *queues: QueueLoad) -> NodeLoad:
    return NodeLoad(
        node_id=A,
        total=ResourceSet.of({"CPU": 4}),
        available=ResourceSet.of({"CPU": available}),
        queues=queues,
    )


def test_what_was_ours_in_a_report_is_taken_out_and_what_is_ours_now_put_in() -> None:
    busy = report(0, QueueLoad(ONE, 6, 0.5))
    # Of ten of ours then four ran, and six waited.
    assert with_own_share(busy, {ONE: 10}, {}) == report(4)
    assert with_own_share(busy, {ONE: 10}, {ONE: 3}) == report(1)
    assert with_own_share(busy, {ONE: 10}, {ONE: 9}) == report(0, QueueLoad(ONE, 5, 0.5))
    # What is not ours stays.
    assert with_own_share(busy, {ONE: 2}, {}) == report(0, QueueLoad(ONE, 4, 0.5))
    assert with_own_share(busy, {}, {}) is busy


def row(node_id: bytes, cpus: float = 1, *, waiting: int = 0, **more: Any) -> NodeRow:
    queues = (QueueReport(resources={"CPU": 1.0}, length=waiting, run_time_s=0.1),)
    fields: dict[str, Any] = {
        "node_id": NodeID(node_id),
        "address": "127.0.0.1",
        "scheduler_address": "127.0.0.1:1",
        "resources_total": {"CPU": cpus},
        "resources_available": {"CPU": 0 if waiting else cpus},
        "report": NodeReport(queues=queues if waiting else ()),
    }
    return NodeRow(**fields | more)


def queue_of(where: Where = ANYWHERE, shape: ResourceSet = ONE) -> ForwardQueue:
    wire = Shape(shape.as_floats(), "", 0, 0)
    return ForwardQueue(1, b"j" * 16, shape, wire, where, lambda: 2)


@pytest.fixture
def choice() -> NodeChoice:
    """Of two nodes beside this one, which is busy for long."""

    def own_load() -> NodeLoad:
        return NodeLoad(
            node_id=OWN,
            total=ResourceSet.of({"CPU": 1}),
            available=ResourceSet(),
            queues=(QueueLoad(ONE, 1000, 1.0),),
        )

    made = NodeChoice(OWN, own_load, WINDOW)
    made.see(row(OWN))
    made.see(row(A))
    made.see(row(B))
    return made


def chosen(choice: NodeChoice, count: int, queue: ForwardQueue | None = None) -> Counter[Any]:
    queue = queue or queue_of()
    found = choice.choose(queue, [()] * count)
    for node_id in found:
        if node_id is not None:
            choice.sent(node_id, queue.shape)
    return Counter(found)


def test_a_burst_spreads_by_what_each_node_can_run(choice: NodeChoice) -> None:
    choice.see(row(B, 3))
    found = chosen(choice, 80)
    assert set(found) == {A, B}
    assert 2.5 < found[B] / found[A] < 3.5


def test_what_is_done_makes_room_before_the_next_report(choice: NodeChoice) -> None:
    assert chosen(choice, 20) == {A: 10, B: 10}
    for _ in range(10):
        choice.came_back(A, ONE)
    assert chosen(choice, 10) == {A: 10}


def test_no_node_gets_more_than_the_window(choice: NodeChoice) -> None:
    choice.lose(OWN)
    assert choice.room([A, B]) == 2 * WINDOW
    assert chosen(choice, 2 * WINDOW) == {A: WINDOW, B: WINDOW}
    assert choice.room([A, B]) == 0
    assert chosen(choice, 3) == {None: 3}
    choice.came_back(B, ONE)
    assert chosen(choice, 3) == {B: 1, None: 2}


def test_a_node_where_others_wait_long_gets_less(choice: NodeChoice) -> None:
    choice.see(row(A, waiting=10))
    assert chosen(choice, 8) == {B: 8}
    assert set(chosen(choice, 40)) == {A, B}


def test_a_node_that_refuses_drains_or_dies_gets_nothing(choice: NodeChoice) -> None:
    choice.close(A)
    assert chosen(choice, 4) == {B: 4}
    choice.close(A, is_closed=False)
    choice.see(row(B, report=NodeReport(is_draining=True)))
    assert chosen(choice, 4) == {A: 4}
    choice.lose(A)
    assert chosen(choice, 4) == {OWN: 4}
    assert choice.able(queue_of(Where(node_id=A))) == []


def test_large_inputs_draw_a_task_to_where_they_are(choice: NodeChoice) -> None:
    choice.lose(OWN)
    large = (TaskInput(b"o" * 20, 1 << 30, (B,)),)
    assert choice.choose(queue_of(), [large, large, ()]) == [B, B, A]


def test_affinity_and_labels_are_kept(choice: NodeChoice) -> None:
    choice.see(row(B, labels={"zone": "b"}))
    assert chosen(choice, 5, queue_of(Where(node_id=A))) == {A: 5}
    zone = queue_of(Where.of({"selectors": [{"zone": "b"}]}))
    assert chosen(choice, 5, zone) == {B: 5}
    assert choice.able(zone) == [B]
    gone = queue_of(Where(node_id=b"x" * 16, soft=True))
    assert sorted(choice.able(gone)) == [OWN, A, B]


def test_spread_tasks_go_to_every_node_in_turn(choice: NodeChoice) -> None:
    choice.lose(OWN)
    for node_id in (A, B):
        choice.see(row(node_id, 100))
    assert chosen(choice, 10, queue_of(Where(spread=True))) == {A: 5, B: 5}


def test_a_report_that_makes_no_sense_is_left_out(choice: NodeChoice) -> None:
    choice.see(row(A, resources_available={"CPU": -1.0}))
    assert chosen(choice, 2) == {A: 1, B: 1}
    half_a_gpu = {"GPU": 1.5, "CPU": 1.0}
    total = {"GPU": 2.0, "CPU": 1.0}
    choice.see(row(A, resources_total=total, resources_available=half_a_gpu))
    gpu = ResourceSet.of({"GPU": 1})
    assert chosen(choice, 1, queue_of(shape=gpu)) == {A: 1}


def test_a_node_that_gave_tasks_back_is_passed_over_until_it_reports(choice: NodeChoice) -> None:
    choice.pass_over(A)
    assert chosen(choice, 3) == {B: 3}
    # It says what is held there: nothing begins before that is given up.
    held = NodeReport(resources_held={"CPU": 1.0})
    choice.see(row(A, resources_available={}, report=held))
    assert chosen(choice, 3) == {B: 3}
    choice.see(row(A))
    assert chosen(choice, 2) == {A: 2}


@pytest.mark.parametrize(
    ("length", "run_time_s", "at_once", "threshold_s", "leaving"),
    [
        (100, 0.1, 1.0, 1.0, 90),
        (100, 0.1, 4.0, 1.0, 60),
        (10, 0.1, 1.0, 1.0, 0),
        (100, 0.0, 1.0, 1.0, 0),
        (3, 60.0, 1.0, 1.0, 3),
    ],
)
def test_what_would_wait_longer_than_the_threshold_may_leave(
    length: int, run_time_s: float, at_once: float, threshold_s: float, leaving: int
) -> None:
    assert excess(length, run_time_s, at_once, threshold_s) == leaving
