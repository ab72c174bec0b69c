"""The local policy under random events: the ledger never lies, and all work gets done."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rostral_scheduler.core.actions import Action, Grant, KillWorker, StartWorker, Withdraw
from rostral_scheduler.core.bundles import member_shape
from rostral_scheduler.core.events import (
    ActorWanted,
    Event,
    GroupRemoved,
    GroupWanted,
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

JOBS = [bytes([n]) * 16 for n in range(2)]
SHAPES = [ResourceSet.of({"CPU": cpus}) for cpus in (0, 0.5, 1, 3)]
STEPS = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 1000)), min_size=1, max_size=150)


@dataclass
class Process:
    """What a worker's slot would show."""

    ready: bool = False
    granted: int = 0
    acknowledged: int = 0
    running: bool = False
    blocked: bool = False
    is_actor: bool = False


@dataclass
class World:
    """A node that does what the policy orders, and what chance says."""

    policy: LocalPolicy
    now_s: float = 0.0
    queues: dict[int, int] = field(default_factory=dict)
    job_of: dict[int, bytes] = field(default_factory=dict)
    processes: dict[int, Process] = field(default_factory=dict)
    served: dict[int, bytes] = field(default_factory=dict)
    groups: list[tuple[bytes, int]] = field(default_factory=list)

    def tell(self, event: Event) -> None:
        self.obey(self.policy.handle(event))
        self.policy.check_invariants()

    def obey(self, orders: list[Action]) -> None:
        for order in orders:
            match order:
                case StartWorker(worker=number, actor_id=actor_id):
                    self.processes[number] = Process(is_actor=actor_id is not None)
                case Grant(worker=number, queue=queue):
                    job = self.job_of[queue]
                    assert self.served.setdefault(number, job) == job, "two jobs, one process"
                    self.processes[number].granted = queue
                case Withdraw(worker=number):
                    self.processes[number].granted = 0
                case KillWorker(worker=number):
                    assert number in self.processes

    def want_group(self, choice: int) -> None:
        """A group of one or two bundles, and a queue of tasks that run in it."""
        number = len(self.job_of)
        group_id, queue = number.to_bytes(16, "big"), 1000 + number
        job_id = self.job_of[queue] = JOBS[choice % len(JOBS)]
        bundles = (SHAPES[1], SHAPES[2])[: 1 + choice % 2]
        self.tell(GroupWanted(group_id=group_id, job_id=job_id, bundles=bundles))
        shape = member_shape(SHAPES[1], group_id, 0 if choice % 3 else None)
        self.tell(QueueOpened(queue=queue, job_id=job_id, shape=shape))
        self.queues[queue] = 0
        self.groups.append((group_id, queue))

    def remove_group(self, group: tuple[bytes, int]) -> None:
        """Its queue is closed first, as the shell does."""
        group_id, queue = group
        self.queues.pop(queue, None)
        self.tell(QueueClosed(queue=queue))
        self.tell(GroupRemoved(group_id=group_id))

    def look(self, *, tick: bool) -> None:
        self.now_s += 0.1
        seen = tuple(
            WorkerSeen(
                worker=number,
                acknowledged=process.acknowledged,
                running=process.running,
                blocked=process.blocked,
                idle=not process.running,
            )
            for number, process in self.processes.items()
            if process.ready
        )
        queues = tuple(QueueSeen(q, n) for q, n in self.queues.items())
        self.tell(Observed(now_s=self.now_s, queues=queues, workers=seen, tick=tick))

    def pick(self, choice: int) -> int | None:
        numbers = sorted(self.processes)
        return numbers[choice % len(numbers)] if numbers else None

    def progress(self, number: int) -> None:
        """The worker looks at its slot, ends what it has, takes what it may."""
        process = self.processes[number]
        if not process.ready:
            process.ready = True
            self.tell(WorkerReady(worker=number))
            return
        process.running = process.blocked = False
        process.acknowledged = process.granted
        if self.queues.get(process.granted, 0):
            self.queues[process.granted] -= 1
            process.running = True

    def end(self, number: int) -> None:
        del self.processes[number]
        self.tell(WorkerGone(worker=number, now_s=self.now_s))


def step(world: World, kind: int, choice: int) -> None:
    """One thing that can happen."""
    number = world.pick(choice)
    if kind == 0:
        queue = 1000 + len(world.job_of)
        world.job_of[queue] = JOBS[choice % len(JOBS)]
        shape = SHAPES[choice % len(SHAPES)]
        world.queues[queue] = 0
        world.tell(QueueOpened(queue=queue, job_id=world.job_of[queue], shape=shape))
    elif kind in (1, 2) and world.queues:
        queue = sorted(world.queues)[choice % len(world.queues)]
        world.queues[queue] += 1 + choice % 5
    elif kind in (3, 4) and number is not None:
        world.progress(number)
    elif kind == 5 and number is not None:
        world.processes[number].blocked = world.processes[number].running
    elif kind == 6 and number is not None:
        world.end(number)
    elif kind == 7 and choice % 10 == 0:
        job = JOBS[choice % len(JOBS)]
        for queue in [q for q, owner in world.job_of.items() if owner == job]:
            if world.queues.pop(queue, None) is not None:
                world.tell(QueueClosed(queue=queue))
        world.tell(JobEnded(job_id=job))
    elif kind == 8:
        actor = ActorWanted(
            actor_id=choice.to_bytes(16, "little"),
            job_id=JOBS[0],
            placement=SHAPES[2],
            held=ResourceSet(),
        )
        world.tell(actor)
    elif kind == 10:
        world.want_group(choice)
    elif kind == 11 and world.groups:
        world.remove_group(world.groups.pop(choice % len(world.groups)))
    world.look(tick=kind == 9)


@settings(max_examples=150, deadline=None)
@given(STEPS, st.integers(1, 4), st.integers(2, 8))
@pytest.mark.slow
def test_invariants_hold_and_all_work_gets_done(
    steps: list[tuple[int, int]], cpus: int, workers_max: int
) -> None:
    """1. Anything happens, in any order. 2. Then everybody works on: every queue gets empty."""
    total = ResourceSet.of({"CPU": max(cpus, 3)})
    limits = PolicyLimits(
        workers_max=workers_max,
        starts_in_flight_max=2,
        prestart_count=1,
        idle_worker_timeout_s=1.0,
        grant_quantum_s=0.05,
    )
    world = World(LocalPolicy(total, limits))
    for kind, choice in steps:
        step(world, kind, choice)
    for number in [n for n, process in world.processes.items() if process.is_actor]:
        world.end(number)
    for turn in range(4000):
        if not any(world.queues.values()):
            break
        for number in list(world.processes):
            killed = world.policy.workers[number].stage.name == "KILLED"
            if killed or (world.processes[number].is_actor and world.processes[number].ready):
                world.end(number)
            else:
                world.progress(number)
        # What a group has set aside comes back only with its removal.
        for group in [g for g in world.groups if not world.queues.get(g[1])]:
            world.groups.remove(group)
            world.remove_group(group)
        world.look(tick=turn % 2 == 0)
    assert not any(world.queues.values()), world.policy.workers
