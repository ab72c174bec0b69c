"""The local policy, event by event: no process, no memory, no clock."""

from __future__ import annotations

import pytest

from rostral_scheduler.core.actions import (
    Action,
    Grant,
    KillWorker,
    SetStarved,
    SetWanted,
    StartWorker,
    WakeQueue,
    Withdraw,
)
from rostral_scheduler.core.events import (
    ActorWanted,
    Event,
    JobEnded,
    Observed,
    QueueClosed,
    QueueOpened,
    QueueSeen,
    WorkerGone,
    WorkerReady,
    WorkerSeen,
)
from rostral_scheduler.core.local import LocalPolicy, PolicyLimits
from rostral_scheduler.core.resources import ResourceSet

JOB, OTHER_JOB = b"j" * 16, b"k" * 16
CPU = ResourceSet.of({"CPU": 1})
QUEUE, OTHER_QUEUE = 100, 200


class Node:
    """A policy with what its shell would show it: lengths and workers, changed by the tests."""

    def __init__(self, cpus: float = 2.0, **limits: float) -> None:
        settings = {
            "workers_max": 10,
            "starts_in_flight_max": 10,
            "prestart_count": 0,
            "idle_worker_timeout_s": 10.0,
            "grant_quantum_s": 0.05,
            **limits,
        }
        self.policy = LocalPolicy(
            ResourceSet.of({"CPU": cpus}),
            PolicyLimits(**settings),  # type: ignore[arg-type]
        )
        self.now_s = 0.0
        self.lengths: dict[int, int] = {}
        self.priorities: dict[int, int] = {}
        self.depths: dict[int, int] = {}
        self.seen: dict[int, WorkerSeen] = {}

    def tell(self, event: Event) -> list[Action]:
        """Handles one event and checks the invariants."""
        orders = self.policy.handle(event)
        self.policy.check_invariants()
        return orders

    def open(self, queue: int = QUEUE, job_id: bytes = JOB, shape: ResourceSet = CPU) -> None:
        self.tell(QueueOpened(queue=queue, job_id=job_id, shape=shape))
        self.lengths[queue] = 0

    def look(self, *, tick: bool = False, after_s: float = 0.0) -> list[Action]:
        """One observation."""
        self.now_s += after_s
        return self.tell(
            Observed(
                now_s=self.now_s,
                queues=tuple(
                    QueueSeen(q, n, self.priorities.get(q, 0), self.depths.get(q, 0))
                    for q, n in self.lengths.items()
                ),
                workers=tuple(self.seen.values()),
                tick=tick,
            )
        )

    def work(self, worker: int, queue: int = QUEUE, *, blocked: bool = False) -> None:
        """The worker has a task of the queue."""
        self.seen[worker] = WorkerSeen(
            worker=worker, acknowledged=queue, running=True, blocked=blocked
        )

    def rest(self, worker: int, queue: int = QUEUE) -> None:
        """The worker sleeps at the queue (0: has seen that it has none)."""
        self.seen[worker] = WorkerSeen(worker=worker, acknowledged=queue, idle=True)

    def start(self, *workers: int) -> None:
        """The workers register."""
        for worker in workers:
            self.tell(WorkerReady(worker=worker))
            self.rest(worker, 0)


def ready_node(cpus: float = 2.0, workers: int = 2, **limits: float) -> Node:
    """A node whose workers 1, 2, ... are ready, with one queue open and wanted."""
    node = Node(cpus, prestart_count=workers, **limits)
    node.look()
    node.start(*range(1, workers + 1))
    node.open()
    assert node.look() == [SetWanted(QUEUE, True)]
    return node


def test_first_look_starts_what_is_kept_ready() -> None:
    node = Node(prestart_count=2)
    assert node.look() == [StartWorker(1), StartWorker(2)]
    assert node.look() == []


def test_tasks_are_granted_workers_while_cpus_last() -> None:
    """1. Five tasks, two CPUs: two grants. 2. No push can help now, but whoever gets idle can."""
    node = ready_node(workers=3)
    node.lengths[QUEUE] = 5
    assert node.look() == [
        Grant(1, QUEUE),
        Grant(2, QUEUE),
        SetWanted(QUEUE, False),
        SetStarved(True),
    ]
    assert node.policy.resources.available["CPU"] == 0


def test_worker_that_will_look_by_itself_needs_no_other() -> None:
    """One task, and one granted worker that has nothing to do: nothing to order."""
    node = ready_node()
    node.lengths[QUEUE] = 1
    assert node.look() == [Grant(1, QUEUE)]
    node.rest(1)
    assert node.look() == []


def test_missing_worker_is_started_once() -> None:
    node = Node()
    node.open()
    node.lengths[QUEUE] = 1
    assert node.look() == [StartWorker(1), SetWanted(QUEUE, True)]
    assert node.look() == []
    node.start(1)
    assert node.look() == [Grant(1, QUEUE)]


def test_blocked_worker_lends_its_cpu_and_takes_it_again() -> None:
    """1. The only CPU's task waits for a child. 2. The child is granted. 3. The parent goes on."""
    node = ready_node(cpus=1.0)
    node.lengths[QUEUE] = 1
    node.look()
    node.work(1, blocked=True)
    assert node.look() == [Grant(2, QUEUE)]
    node.work(1)
    node.work(2)
    node.lengths[QUEUE] = 0
    assert SetStarved(True) in node.look()
    assert node.policy.resources.available["CPU"] == -10_000
    node.rest(2)
    assert node.look() == [Withdraw(2)]
    node.rest(2, 0)
    assert node.look() == [WakeQueue(QUEUE), SetStarved(False)]
    assert node.policy.resources.available["CPU"] == 0


def test_unneeded_grant_moves_to_who_needs_it() -> None:
    """1. A sleeper of one queue is withdrawn for another. 2. Granted once it has seen that."""
    node = ready_node(cpus=1.0, workers=1)
    node.open(OTHER_QUEUE)
    node.lengths[QUEUE] = 1
    node.look()
    node.lengths[QUEUE] = 0
    node.rest(1)
    node.lengths[OTHER_QUEUE] = 1
    assert node.look() == [Withdraw(1), SetStarved(True)]
    assert node.look() == []
    node.rest(1, 0)
    assert node.look() == [
        WakeQueue(QUEUE),
        Grant(1, OTHER_QUEUE),
        SetWanted(QUEUE, True),
        SetWanted(OTHER_QUEUE, False),
        SetStarved(False),
    ]


def test_grant_not_yet_seen_is_not_withdrawn() -> None:
    """Else "has seen the withdrawal" would look the same as "has not seen the grant"."""
    node = ready_node(cpus=1.0, workers=1)
    node.open(OTHER_QUEUE)
    node.lengths[QUEUE] = 1
    assert Grant(1, QUEUE) in node.look()
    node.lengths = {QUEUE: 0, OTHER_QUEUE: 1}
    node.rest(1, 0)
    assert not [order for order in node.look() if isinstance(order, Withdraw)]


def test_busy_worker_is_withdrawn_after_a_quantum_for_who_has_nobody() -> None:
    node = ready_node(cpus=1.0, workers=1)
    node.open(OTHER_QUEUE)
    node.lengths[QUEUE] = 1000
    node.look()
    node.work(1)
    node.lengths[OTHER_QUEUE] = 1
    assert not [order for order in node.look() if isinstance(order, Withdraw)]
    assert Withdraw(1) in node.look(after_s=0.05)
    node.work(1, 0)
    assert not [order for order in node.look() if isinstance(order, Grant)]
    node.rest(1, 0)
    assert Grant(1, OTHER_QUEUE) in node.look()


def test_large_shape_is_not_starved_by_small_ones() -> None:
    """1. A two-CPU task waits. 2. A CPU gets free, with small tasks queued: it is kept for it."""
    node = ready_node()
    node.open(OTHER_QUEUE, shape=ResourceSet.of({"CPU": 2}))
    node.lengths[QUEUE] = 1000
    node.look()
    node.work(1)
    node.work(2)
    node.lengths[OTHER_QUEUE] = 1
    orders = node.look(after_s=1.0)
    assert [o for o in orders if isinstance(o, Withdraw)] == [Withdraw(1), Withdraw(2)]
    node.rest(1, 0)
    assert not [o for o in node.look() if isinstance(o, Grant)]
    node.rest(2, 0)
    assert Grant(1, OTHER_QUEUE) in node.look()


def test_worker_of_one_job_never_serves_another() -> None:
    node = ready_node(cpus=1.0, workers=1)
    node.open(OTHER_QUEUE, OTHER_JOB)
    node.lengths[QUEUE] = 1
    node.look()
    node.lengths = {QUEUE: 0, OTHER_QUEUE: 1}
    node.rest(1)
    assert Withdraw(1) in node.look()
    node.rest(1, 0)
    assert StartWorker(2) in node.look()
    node.start(2)
    assert Grant(2, OTHER_QUEUE) in node.look()


def test_the_shape_whose_next_task_has_the_highest_priority_is_served_first() -> None:
    """Both wait as long; the second one's tasks are more urgent."""
    node = ready_node(workers=2)
    node.open(OTHER_QUEUE, shape=ResourceSet.of({"CPU": 2}))
    node.lengths |= {QUEUE: 9, OTHER_QUEUE: 9}
    node.priorities[OTHER_QUEUE] = 1
    assert [o for o in node.look() if isinstance(o, Grant)] == [Grant(1, OTHER_QUEUE)]


def test_a_higher_priority_takes_workers_of_another_shape_after_a_quantum() -> None:
    """1. It has one already, and gets the other. 2. The lower one takes none back."""
    node = ready_node()
    node.open(OTHER_QUEUE, shape=ResourceSet.of({"CPU": 0.9}))
    node.lengths[QUEUE] = 1000
    node.look()
    node.work(1)
    node.work(2)
    node.lengths[OTHER_QUEUE] = 1000
    node.priorities[OTHER_QUEUE] = 1
    assert not [o for o in node.look() if isinstance(o, Withdraw)]
    first = [o for o in node.look(after_s=0.05) if isinstance(o, Withdraw)]
    assert first == [Withdraw(1)]
    node.rest(1, 0)
    orders = node.look(after_s=0.05)
    assert Grant(1, OTHER_QUEUE) in orders
    assert Withdraw(2) in [*orders, *node.look()]
    node.rest(2, 0)
    node.work(1, OTHER_QUEUE)
    assert Grant(2, OTHER_QUEUE) in node.look()
    node.work(2, OTHER_QUEUE)
    assert not [o for o in node.look(after_s=1.0) if isinstance(o, Withdraw)]


def test_one_jobs_priorities_take_nothing_from_another_job() -> None:
    node = ready_node(cpus=1.0, workers=1)
    node.open(OTHER_QUEUE, OTHER_JOB)
    node.lengths[QUEUE] = 9
    node.priorities[OTHER_QUEUE] = 1000
    node.look()
    node.lengths[OTHER_QUEUE] = 9
    node.work(1)
    node.look()
    assert Withdraw(1) in node.look(after_s=0.05)
    node.rest(1, 0)
    assert StartWorker(2) in node.look()
    node.start(2)
    assert Grant(2, OTHER_QUEUE) in node.look()
    node.work(2, OTHER_QUEUE)
    assert Withdraw(2) in node.look(after_s=0.05)


def test_with_much_blocked_what_is_nested_is_served_before_what_a_driver_submitted() -> None:
    """Parents that wait for children keep their processes: more of them come after those."""
    node = ready_node(workers=3)
    node.open(OTHER_QUEUE)
    node.depths[OTHER_QUEUE] = 1
    node.lengths |= {QUEUE: 9, OTHER_QUEUE: 0}
    assert [o for o in node.look() if isinstance(o, Grant)] == [Grant(1, QUEUE), Grant(2, QUEUE)]
    for worker in (1, 2):
        node.work(worker, blocked=True)
    node.lengths |= {QUEUE: 7, OTHER_QUEUE: 1}
    grants = [o for o in node.look() if isinstance(o, Grant)]
    assert grants == [Grant(3, OTHER_QUEUE)]


def test_full_pool_makes_room_by_ending_an_idle_worker() -> None:
    node = ready_node(cpus=1.0, workers=1, workers_max=1)
    node.policy.workers[1].job_id = OTHER_JOB
    node.lengths[QUEUE] = 1
    assert KillWorker(1) in node.look()
    del node.seen[1]
    node.tell(WorkerGone(worker=1, now_s=node.now_s))
    assert StartWorker(2) in node.look()


def actor_of(number: int, held: ResourceSet) -> ActorWanted:
    return ActorWanted(actor_id=bytes([number]) * 16, job_id=JOB, placement=CPU, held=held)


def test_an_actor_starts_when_its_placement_is_free_and_holds_what_it_said() -> None:
    """1. The only CPU is taken. 2. It is free: the actor starts, and takes nothing of it."""
    node = Node(cpus=1.0)
    node.tell(actor_of(1, held=CPU))
    assert node.look() == [StartWorker(1, b"\1" * 16)]
    node.tell(actor_of(2, held=ResourceSet()))
    assert not [order for order in node.look() if isinstance(order, StartWorker)]
    node.tell(WorkerGone(worker=1, now_s=node.now_s))
    assert StartWorker(2, b"\2" * 16) in node.look(after_s=1.0)
    assert node.policy.resources.available["CPU"] == 10_000


def test_actors_that_hold_nothing_start_together() -> None:
    node = Node(cpus=1.0)
    for number in range(1, 5):
        node.tell(actor_of(number, held=ResourceSet()))
    assert [type(order) for order in node.look()] == [StartWorker] * 4


def test_actor_that_waits_is_served_before_queues_that_have_workers() -> None:
    node = ready_node(cpus=1.0, workers=1)
    node.lengths[QUEUE] = 1000
    node.look()
    node.work(1)
    node.tell(ActorWanted(actor_id=b"a" * 16, job_id=JOB, placement=CPU, held=CPU))
    assert Withdraw(1) in node.look(after_s=1.0)
    node.rest(1, 0)
    assert StartWorker(2, b"a" * 16) in node.look()


def test_ended_job_loses_its_workers_and_its_actors() -> None:
    node = ready_node()
    node.lengths[QUEUE] = 1
    node.look()
    node.tell(ActorWanted(actor_id=b"a" * 16, job_id=JOB, placement=CPU, held=CPU))
    node.tell(QueueClosed(queue=QUEUE))
    del node.lengths[QUEUE]
    assert node.tell(JobEnded(job_id=JOB)) == [KillWorker(1)]
    assert node.tell(WorkerGone(worker=1, now_s=0.0)) == []
    del node.seen[1]
    assert node.policy.resources.available == {"CPU": 20_000}
    assert node.look() == [StartWorker(3)]
    assert not node.policy.pending


def test_dead_worker_s_queue_is_woken() -> None:
    """A wake-up that the dead one was given for a push must reach another worker."""
    node = ready_node()
    node.lengths[QUEUE] = 1
    node.look()
    assert node.tell(WorkerGone(worker=1, now_s=0.0)) == [WakeQueue(QUEUE)]


def test_lost_wake_up_is_made_good_at_the_second_tick() -> None:
    node = ready_node(cpus=1.0, workers=1)
    node.lengths[QUEUE] = 1
    node.look()
    node.rest(1)
    assert WakeQueue(QUEUE) not in node.look(tick=True)
    assert WakeQueue(QUEUE) in node.look(tick=True)


def test_idle_workers_beyond_the_cpus_end() -> None:
    node = ready_node(cpus=1.0, workers=3)
    node.policy.limits = PolicyLimits(
        workers_max=10,
        starts_in_flight_max=10,
        prestart_count=1,
        idle_worker_timeout_s=10.0,
        grant_quantum_s=0.05,
    )
    assert node.look(tick=True, after_s=1.0) == []
    assert node.look(tick=True, after_s=10.0) == [KillWorker(1), KillWorker(2)]


def test_failing_starts_are_spaced_out() -> None:
    node = Node(prestart_count=1)
    assert node.look() == [StartWorker(1)]
    node.tell(WorkerGone(worker=1, now_s=node.now_s))
    assert node.look(after_s=0.05) == []
    assert node.look(after_s=0.1) == [StartWorker(2)]
    node.tell(WorkerGone(worker=2, now_s=node.now_s))
    assert node.look(after_s=0.15) == []
    assert node.look(after_s=0.1) == [StartWorker(3)]


@pytest.mark.parametrize("count", [1, 3])
def test_starts_in_flight_are_bounded(count: int) -> None:
    node = Node(cpus=8.0, starts_in_flight_max=count)
    node.open()
    node.lengths[QUEUE] = 8
    starts = [order for order in node.look() if isinstance(order, StartWorker)]
    assert len(starts) == count


def test_an_idle_grant_counts_as_available_and_a_busy_one_does_not() -> None:
    node = ready_node(cpus=2.0, workers=1)
    node.lengths[QUEUE] = 1
    node.look()
    node.work(1)
    node.lengths[QUEUE] = 0
    node.look()
    assert node.policy.available_floats() == {"CPU": 1.0}
    node.rest(1)
    node.look()
    assert node.policy.available_floats() == {"CPU": 2.0}
