"""Placement groups in the policy: set aside together, used by members, given back."""

from __future__ import annotations

from rostral_scheduler.core.actions import Grant, GroupPlaced, KillWorker, StartWorker
from rostral_scheduler.core.bundles import Reservations, member_shape
from rostral_scheduler.core.events import (
    ActorWanted,
    GroupRemoved,
    GroupWanted,
    QueueOpened,
    WorkerGone,
    WorkerReady,
)
from rostral_scheduler.core.resources import UNITS, NodeResources, ResourceSet

from .test_core_local import JOB, QUEUE, Node

GROUP, OTHER_GROUP = b"g" * 16, b"h" * 16
CPU = ResourceSet.of({"CPU": 1})


def wanted(*cpus: float, group_id: bytes = GROUP) -> GroupWanted:
    bundles = tuple(ResourceSet.of({"CPU": amount}) for amount in cpus)
    return GroupWanted(group_id=group_id, job_id=JOB, bundles=bundles)


def member_at_work(node: Node, index: int | None = None, queue: int = QUEUE) -> int:
    """A worker that runs a task of one CPU in the group; returns its number."""
    node.tell(QueueOpened(queue=queue, job_id=JOB, shape=member_shape(CPU, GROUP, index)))
    node.lengths[queue] = 1
    starts = [order for order in node.look() if isinstance(order, StartWorker)]
    node.tell(WorkerReady(worker=starts[0].worker))
    assert Grant(starts[0].worker, queue) in node.look()
    node.lengths[queue] = 0
    node.work(starts[0].worker, queue)
    node.look()
    return starts[0].worker


def test_a_group_that_fits_is_placed_at_once() -> None:
    node = Node(cpus=2)
    assert node.tell(wanted(1, 1)) == [GroupPlaced(GROUP)]
    assert node.policy.available_floats() == {"CPU": 0.0}


def test_a_group_waits_until_all_its_bundles_fit() -> None:
    """1. One CPU of two is taken. 2. A group of two waits whole. 3. The CPU comes back."""
    node = Node(cpus=2)
    assert node.tell(wanted(1, group_id=OTHER_GROUP)) == [GroupPlaced(OTHER_GROUP)]
    assert node.tell(wanted(1, 1)) == []
    assert GroupPlaced(GROUP) not in node.look()
    assert node.policy.available_floats() == {"CPU": 1.0}
    node.tell(GroupRemoved(group_id=OTHER_GROUP))
    assert GroupPlaced(GROUP) in node.look()


def test_what_waits_longest_is_served_before_a_later_group() -> None:
    node = Node(cpus=2)
    node.tell(wanted(2, group_id=OTHER_GROUP))
    node.tell(wanted(2))
    node.look()
    late = b"l" * 16
    assert node.tell(wanted(1, group_id=late)) == []
    node.tell(GroupRemoved(group_id=OTHER_GROUP))
    assert [order for order in node.look() if isinstance(order, GroupPlaced)] == [
        GroupPlaced(GROUP)
    ]


def test_a_task_in_a_group_runs_with_what_was_set_aside() -> None:
    node = Node(cpus=1)
    node.tell(wanted(1))
    member_at_work(node)
    assert node.policy.available_floats() == {"CPU": 0.0}


def test_a_bundle_gives_no_more_than_it_has() -> None:
    """A member of bundle 0 uses it up: the next one waits, one of bundle 1 does not."""
    node = Node(cpus=2)
    node.tell(wanted(1, 1))
    member_at_work(node, index=0)
    second = QUEUE + 1
    node.tell(QueueOpened(queue=second, job_id=JOB, shape=member_shape(CPU, GROUP, 0)))
    node.lengths[second] = 1
    assert [order for order in node.look() if isinstance(order, StartWorker)] == []
    node.lengths[second] = 0
    member_at_work(node, index=1, queue=QUEUE + 2)


def test_a_blocked_member_lends_its_cpu_to_its_group_only() -> None:
    node = Node(cpus=1)
    node.tell(wanted(1))
    worker = member_at_work(node)
    node.work(worker, blocked=True)
    node.look()
    assert node.policy.available_floats() == {"CPU": 0.0}
    assert node.policy.resources.fits(member_shape(CPU, GROUP, None))


def test_removal_kills_members_and_gives_back_when_they_are_gone() -> None:
    node = Node(cpus=1)
    node.tell(wanted(1))
    worker = member_at_work(node)
    assert node.tell(GroupRemoved(group_id=GROUP)) == [KillWorker(worker)]
    assert node.policy.available_floats() == {"CPU": 0.0}
    node.seen.clear()
    node.tell(WorkerGone(worker=worker, now_s=1.0))
    assert node.policy.available_floats() == {"CPU": 1.0}
    assert node.policy.reservations.by_group == {}


def test_removal_takes_waiting_actors_and_groups_along() -> None:
    node = Node(cpus=1)
    node.tell(wanted(1, group_id=OTHER_GROUP))
    node.tell(wanted(1))
    shape = member_shape(CPU, GROUP, None)
    node.tell(ActorWanted(actor_id=b"a" * 16, job_id=JOB, placement=shape, held=shape))
    node.look()
    node.tell(GroupRemoved(group_id=GROUP))
    node.tell(GroupRemoved(group_id=OTHER_GROUP))
    assert [o for o in node.look() if isinstance(o, StartWorker | GroupPlaced)] == []
    assert node.policy.available_floats() == {"CPU": 1.0}


def test_an_actor_without_demands_is_a_member_all_the_same() -> None:
    node = Node(cpus=1)
    node.tell(wanted(1))
    shape = member_shape(ResourceSet(), GROUP, None)
    node.tell(ActorWanted(actor_id=b"a" * 16, job_id=JOB, placement=shape, held=shape))
    (start,) = [order for order in node.look() if isinstance(order, StartWorker)]
    node.tell(WorkerReady(worker=start.worker))
    assert node.tell(GroupRemoved(group_id=GROUP)) == [KillWorker(start.worker)]


def test_members_get_the_gpus_of_their_bundle() -> None:
    resources = NodeResources(ResourceSet.of({"GPU": 3}))
    outside = resources.acquire(ResourceSet.of({"GPU": 1}))
    reservations = Reservations(resources)
    one = ResourceSet.of({"GPU": 1})
    assert reservations.reserve(GROUP, [one, one])
    first = resources.acquire(member_shape(one, GROUP, 0))
    second = resources.acquire(member_shape(one, GROUP, None))
    assert len({*outside.gpu_indexes, *first.gpu_indexes, *second.gpu_indexes}) == 3
    assert not resources.fits(member_shape(ResourceSet.of({"GPU": 0.5}), GROUP, None))
    resources.check_invariants()
    for allocation in (first, second):
        resources.release(allocation)
    reservations.end(GROUP)
    resources.release(outside)
    resources.check_invariants()
    assert resources.available == {"GPU": 3 * UNITS}
