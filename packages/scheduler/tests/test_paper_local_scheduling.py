"""Claims of the paper (OSDI'18) about scheduling within a node, one test for each."""

from __future__ import annotations

from rostral_scheduler.core.actions import Grant, StartWorker
from rostral_scheduler.core.events import ActorWanted
from rostral_scheduler.core.resources import ResourceSet

from .test_core_local import CPU, JOB, OTHER_QUEUE, QUEUE, ready_node


def test_4_1_workers_are_started_and_assigned_by_the_system_layer() -> None:
    """§4.1: "Workers are started automatically and assigned tasks by the system layer."."""
    node = ready_node(workers=0)
    node.lengths[QUEUE] = 1
    assert [o for o in node.look() if isinstance(o, StartWorker)] == [StartWorker(1)]
    node.start(1)
    assert Grant(1, QUEUE) in node.look()


def test_4_1_a_worker_executes_tasks_serially() -> None:
    """§4.1: "A worker executes tasks serially": one with a task is granted no second queue."""
    node = ready_node(cpus=4.0, workers=1, workers_max=1)
    node.open(OTHER_QUEUE)
    node.lengths[QUEUE] = 1
    node.look()
    node.work(1)
    node.lengths[OTHER_QUEUE] = 1
    for _ in range(3):
        assert not [o for o in node.look(after_s=1.0) if isinstance(o, Grant)]


def test_4_1_an_actor_s_process_serves_that_actor_alone() -> None:
    """§4.1: "an actor [...] executes only the methods it exposes": no queue is granted to it."""
    node = ready_node(workers=0, workers_max=1)
    node.tell(ActorWanted(actor_id=b"a" * 16, job_id=JOB, placement=CPU, held=ResourceSet()))
    assert StartWorker(1, b"a" * 16) in node.look()
    node.start(1)
    node.lengths[QUEUE] = 5
    assert not [o for o in node.look() if isinstance(o, Grant)]


def test_3_1_resources_are_respected_whatever_their_kind() -> None:
    """§3.1: "resource requirements": a task never runs without what it asked for."""
    node = ready_node(cpus=2.0, workers=2)
    node.open(OTHER_QUEUE, shape=ResourceSet.of({"CPU": 1.5}))
    node.lengths = {QUEUE: 0, OTHER_QUEUE: 2}
    assert [o for o in node.look() if isinstance(o, Grant)] == [Grant(1, OTHER_QUEUE)]
    node.work(1, OTHER_QUEUE)
    node.lengths[QUEUE] = 1
    assert not [o for o in node.look() if isinstance(o, Grant)]


def test_4_2_2_what_is_submitted_on_a_node_runs_there_while_it_can() -> None:
    """§4.2.2: "tasks created at a node are submitted first to the node's local scheduler"."""
    node = ready_node(cpus=8.0, workers=8)
    node.lengths[QUEUE] = 8
    grants = [o for o in node.look() if isinstance(o, Grant)]
    assert grants == [Grant(number, QUEUE) for number in range(1, 9)]
