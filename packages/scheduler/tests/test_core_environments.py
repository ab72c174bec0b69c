"""Environments in the policy: who may run what, and what is kept; no process, no clock."""

from __future__ import annotations

from rostral_scheduler.core.actions import Grant, KillWorker, StartWorker, Withdraw
from rostral_scheduler.core.environments import CacheEntry, choose_removals
from rostral_scheduler.core.events import (
    ActorWanted,
    EnvironmentChanged,
    QueueOpened,
    WorkerReady,
)
from rostral_scheduler.core.resources import ResourceSet

from .test_core_local import CPU, JOB, OTHER_QUEUE, QUEUE, Node

ENVIRONMENT = b"e" * 16


def node_with_two_queues(**limits: float) -> Node:
    """One queue of plain tasks, one of tasks of an environment."""
    node = Node(**limits)
    node.open(QUEUE)
    node.tell(QueueOpened(queue=OTHER_QUEUE, job_id=JOB, shape=CPU, environment=ENVIRONMENT))
    node.lengths[OTHER_QUEUE] = 0
    return node


def test_work_of_an_environment_waits_until_it_is_ready() -> None:
    node = node_with_two_queues()
    node.lengths[OTHER_QUEUE] = 1
    assert not [order for order in node.look() if isinstance(order, StartWorker)]
    assert node.policy.environments_wanted() == {ENVIRONMENT}
    node.tell(EnvironmentChanged(environment=ENVIRONMENT, ready=True))
    assert StartWorker(1, None, ENVIRONMENT) in node.look()
    assert node.policy.environments_wanted() == set()


def test_an_environment_that_is_not_ready_keeps_nobody_from_working() -> None:
    node = node_with_two_queues(cpus=1)
    node.lengths[OTHER_QUEUE] = 5
    node.look()
    node.lengths[QUEUE] = 1
    assert StartWorker(1) in node.look()


def test_a_worker_serves_its_own_environment_alone() -> None:
    node = node_with_two_queues()
    node.lengths[QUEUE] = 1
    node.look()
    node.tell(WorkerReady(worker=1))
    node.lengths[QUEUE] = 0
    node.look()
    node.tell(EnvironmentChanged(environment=ENVIRONMENT, ready=True))
    node.lengths[OTHER_QUEUE] = 1
    orders = node.look()
    assert StartWorker(2, None, ENVIRONMENT) in orders
    assert Grant(1, OTHER_QUEUE) not in orders


def test_an_actor_waits_for_its_environment() -> None:
    node = Node()
    node.tell(
        ActorWanted(
            actor_id=b"a" * 16,
            job_id=JOB,
            placement=CPU,
            held=ResourceSet(),
            environment=ENVIRONMENT,
        )
    )
    assert node.look() == []
    assert node.policy.environments_wanted() == {ENVIRONMENT}
    node.tell(EnvironmentChanged(environment=ENVIRONMENT, ready=True))
    assert node.look() == [StartWorker(1, b"a" * 16, ENVIRONMENT)]


def test_an_idle_worker_of_an_environment_ends_though_a_cpu_is_free() -> None:
    node = node_with_two_queues(idle_environment_timeout_s=5.0)
    node.tell(EnvironmentChanged(environment=ENVIRONMENT, ready=True))
    node.lengths[OTHER_QUEUE] = 1
    node.look()
    node.tell(WorkerReady(worker=1))
    assert Grant(1, OTHER_QUEUE) in node.look()
    node.lengths[OTHER_QUEUE] = 0
    node.rest(1, OTHER_QUEUE)
    node.look(tick=True)
    assert Withdraw(1) not in node.look(tick=True, after_s=4.9)
    assert Withdraw(1) in node.look(tick=True, after_s=0.2)
    node.rest(1, 0)
    node.look()
    assert KillWorker(1) in node.look(tick=True, after_s=0.1)


def test_the_least_recently_used_go_first_until_the_rest_fits() -> None:
    entries = [CacheEntry(name, 10, used) for name, used in (("a", 3), ("b", 1), ("c", 2))]
    assert choose_removals(entries, count_max=3, size_max=30) == []
    assert choose_removals(entries, count_max=2, size_max=30) == ["b"]
    assert choose_removals(entries, count_max=3, size_max=15) == ["b", "c"]
    assert choose_removals(entries, count_max=3, size_max=5) == ["b", "c", "a"]
