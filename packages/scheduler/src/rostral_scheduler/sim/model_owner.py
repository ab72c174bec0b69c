"""A driver in the deterministic simulation: what it owns, where that runs, and who is told.

This file owns the ownership rules that are tried: a task has one attempt that counts; its result
is accepted once; a lost object is made again from its lineage, as deep as it must be; and whoever
keeps something for the driver is told when it no longer has to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from rostral_gcs.tables.nodes import NodeRow, NodeState
from rostral_scheduler.core.lineage import RETRY_FOREVER, Lineage, Remembered
from rostral_scheduler.core.placement_request import Constraints, Placed, TaskInput, TaskRequest
from rostral_scheduler.sim.model_gcs import Follower, GcsCalls, Row
from rostral_scheduler.sim.model_global import PlaceAnswer, PlaceAsked, name_of
from rostral_scheduler.sim.model_node import (
    Done,
    Fetch,
    Fetched,
    Forget,
    InputLost,
    Returned,
    Submit,
    TaskKey,
)
from rostral_scheduler.sim.network import Network

__all__ = ["ModelOwner", "OwnedTask", "TaskPlan"]

_TICK_S = 0.2
_ASK_AGAIN_S = 0.5
ATTEMPTS_MAX = 200
_JOB = b"j" * 16
_LINEAGE_BYTES = 1 << 20
"""More than all tasks of a story take: what is cut is tried elsewhere."""
_ONE_CPU = Constraints.of({"CPU": 1})


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """One task: what it needs of others, and how it behaves."""

    number: int
    inputs: tuple[int, ...]
    length_s: float
    is_large: bool


@dataclass(slots=True)
class OwnedTask:
    """What the driver knows of one task.

    Attributes:
        plan: The task; its lineage.
        attempt: The one that counts.
        host: Where that runs, and in which life of that node; None: nowhere yet.
        value: Of a small result, or of a large one that the driver has read.
        holder: Where a large result lies; None: nowhere, or not there yet.
        state: waits, asks, out, done or failed.
        asked_at_s: When a placement was last asked for, or the task last sent.
        wanted: Somebody needs the result again, though it was done.
    """

    plan: TaskPlan
    attempt: int = 0
    host: tuple[bytes, int] | None = None
    value: int | None = None
    holder: tuple[bytes, int] | None = None
    state: str = "waits"
    error: str = ""
    asked_at_s: float = -1e9
    values_seen: set[int] = field(default_factory=set)


class ModelOwner:
    """One driver; it lives as long as its node is not declared dead.

    Args:
        network: Where.
        name: Its own.
        schedulers: The names of the global schedulers.
        plans: What it submits, each task after its inputs.
        violated: Is told of what must not be.
    """

    def __init__(
        self,
        network: Network,
        name: str,
        schedulers: list[str],
        plans: list[TaskPlan],
        violated: Callable[[str], None],
    ) -> None:
        self._network = network
        self.name = name
        self.schedulers = schedulers
        self._violated = violated
        self.tasks = {plan.number: OwnedTask(plan) for plan in plans}
        self._nodes: dict[bytes, int] = {}
        self._asked: dict[int, TaskKey] = {}
        self._number = 0
        self.is_ending = False
        self._lineage: Lineage[OwnedTask] = Lineage(_LINEAGE_BYTES)
        self.owed: dict[tuple[str, TaskKey], None] = {}
        self._calls = GcsCalls(network, name, lambda: True)
        network.attach(name, self.handle)
        Follower(network, self._calls, lambda: True, self._row_changed)
        self._tick()

    @property
    def is_settled(self) -> bool:
        """Every future has a value that was read, or an error."""
        return all(
            task.state == "failed" or (task.state == "done" and task.value is not None)
            for task in self.tasks.values()
        )

    @property
    def is_quit(self) -> bool:
        """Nobody keeps anything for it any more."""
        return self.is_ending and all(t.holder is None for t in self.tasks.values())

    # ---- the course of a task

    def _tick(self) -> None:
        for task in self.tasks.values():
            self._advance(task)
        self._network.after(_TICK_S, self._tick)

    def _advance(self, task: OwnedTask) -> None:
        now_s = self._network.now_s
        if self.is_ending:
            self._let_go(task)
        elif task.state == "waits":
            self._advance_waiting(task)
        elif task.state in ("asks", "out") and now_s - task.asked_at_s > _ASK_AGAIN_S:
            task.asked_at_s = now_s
            if task.state == "asks":
                self._ask(task)
            else:
                self._submit(task)
        elif task.state == "done" and task.value is None:
            self._read(task)

    def _advance_waiting(self, task: OwnedTask) -> None:
        inputs = [self.tasks[number] for number in task.plan.inputs]
        failed = next((one for one in inputs if one.state == "failed"), None)
        if failed is not None:
            task.state, task.error = "failed", failed.error
            return
        for one in inputs:
            if one.state == "done" and one.plan.is_large and one.holder is None:
                self._make_again(one)
        if all(one.state == "done" for one in inputs):
            task.state, task.asked_at_s = "asks", self._network.now_s
            self._ask(task)

    def _ask(self, task: OwnedTask) -> None:
        self._number += 1
        key = task.plan.number, task.attempt
        self._asked[self._number] = key
        inputs = tuple(
            TaskInput(b"", 1000, (one.holder[0],))
            for one in (self.tasks[number] for number in task.plan.inputs)
            if one.holder is not None
        )
        request = TaskRequest(key[0].to_bytes(16, "big"), key[1], _ONE_CPU, inputs=inputs)
        scheduler = self._network.rng.choice(self.schedulers)
        self._network.send(self.name, scheduler, PlaceAsked(self._number, request))

    def _placed(self, message: PlaceAnswer) -> None:
        key = self._asked.pop(message.number, None)
        if key is None or not isinstance(message.answer, Placed):
            return
        task = self.tasks[key[0]]
        epoch = self._nodes.get(message.answer.node_id)
        if task.state == "asks" and task.attempt == key[1] and epoch is not None:
            task.host = message.answer.node_id, epoch
            task.state, task.asked_at_s = "out", self._network.now_s
            self._submit(task)

    def _submit(self, task: OwnedTask) -> None:
        assert task.host is not None
        node_id, epoch = task.host
        inputs = []
        for number in task.plan.inputs:
            one = self.tasks[number]
            if one.plan.is_large and one.holder is None:
                # Lost since it was placed: it is made again first.
                self._retry(task)
                return
            value = None if one.plan.is_large else one.value
            inputs.append((number, value, b"" if one.holder is None else one.holder[0]))
        plan = task.plan
        submit = Submit(
            (plan.number, task.attempt), epoch, plan.length_s, plan.is_large, tuple(inputs)
        )
        self._network.send(self.name, name_of(node_id), submit)

    def _retry(self, task: OwnedTask) -> None:
        """The attempt is over without a result; the next one counts."""
        task.attempt += 1
        task.host, task.state = None, "waits"
        if task.attempt > ATTEMPTS_MAX:
            task.state, task.error = "failed", "attempts"

    def _make_again(self, task: OwnedTask) -> None:
        """Its result is lost and somebody needs it: it runs again, after what it needs itself."""
        task.holder = None
        plan = self._lineage.plan([_result_of(task.plan.number)], self._is_lost)
        if plan.hopeless:
            self._violated(f"nothing makes {list(plan.hopeless)} again")
        made: set[int] = set()
        for again in plan.again:
            lost = {n for n in again.spec.plan.inputs if self._is_lost(_result_of(n))}
            if not lost <= made:
                self._violated(f"task {again.spec.plan.number} is to run before {lost - made}")
            made.add(again.spec.plan.number)
        if task.plan.number not in made:
            self._violated(f"a plan to make task {task.plan.number} again leaves it out")
        for again in plan.again:
            again.spec.holder = None
            self._retry(again.spec)

    def _is_lost(self, object_id: bytes) -> bool:
        """Whether its bytes are nowhere, and nobody is making it."""
        task = self.tasks[int.from_bytes(object_id[:16], "big")]
        return task.state == "done" and task.plan.is_large and task.holder is None

    def _read(self, task: OwnedTask) -> None:
        """The driver wants the value of a large result."""
        if task.holder is None:
            self._make_again(task)
        else:
            self._network.send(self.name, name_of(task.holder[0]), Fetch(task.plan.number))

    # ---- messages

    def handle(self, source: str, message: object) -> None:
        """Takes a message."""
        match message:
            case PlaceAnswer():
                self._placed(message)
            case Done():
                self._done(source, message)
            case InputLost():
                self._input_lost(source, message)
            case Returned():
                task = self.tasks[message.key[0]]
                if self._counts(task, message.key, message.node_id, message.epoch):
                    self._retry(task)
                self._network.send(self.name, source, Forget(message.key, drop=True))
            case Fetched():
                self._fetched(source, message)
            case _:
                self._calls.handle(message)

    def _counts(self, task: OwnedTask, key: TaskKey, node_id: bytes, epoch: int) -> bool:
        is_host = task.host == (node_id, epoch)
        return task.state == "out" and task.attempt == key[1] and is_host

    def _done(self, source: str, done: Done) -> None:
        task = self.tasks[done.key[0]]
        where = done.node_id, done.epoch
        if self._counts(task, done.key, *where):
            if done.error:
                task.state, task.error = "failed", done.error
            else:
                task.state = "done"
                if task.plan.is_large:
                    task.holder = where
                    self._remember(task)
                else:
                    self._learn(task, done.value)
        # A second telling of what was accepted must not drop it.
        is_kept = task.holder == where and task.attempt == done.key[1]
        self._network.send(self.name, source, Forget(done.key, drop=not is_kept))

    def _remember(self, task: OwnedTask) -> None:
        self._lineage.add(
            Remembered(
                task_id=task.plan.number.to_bytes(16, "big"),
                job_id=_JOB,
                inputs=tuple(_result_of(number) for number in task.plan.inputs),
                spec=task,
                payload_bytes=100,
                retries=RETRY_FOREVER,
            )
        )

    def _input_lost(self, source: str, lost: InputLost) -> None:
        task = self.tasks[lost.key[0]]
        if self._counts(task, lost.key, lost.node_id, lost.epoch):
            gone = self.tasks[lost.object_id]
            if gone.holder is not None:
                self._let_go(gone)
            gone.holder = None
            self._retry(task)
        self._network.send(self.name, source, Forget(lost.key, drop=True))

    def _fetched(self, source: str, message: Fetched) -> None:
        task = self.tasks[message.object_id]
        if task.state != "done" or task.holder is None or name_of(task.holder[0]) != source:
            return
        if message.value is not None:
            self._learn(task, message.value)
        elif task.value is None:
            self._make_again(task)

    def _learn(self, task: OwnedTask, value: int | None) -> None:
        assert value is not None
        task.values_seen.add(value)
        if len(task.values_seen) > 1:
            self._violated(f"task {task.plan.number} has had the values {task.values_seen}")
        task.value = value

    def _let_go(self, task: OwnedTask) -> None:
        """Tells the holder to drop the result; again, until it is known to be gone."""
        if task.holder is not None:
            forget = Forget((task.plan.number, task.attempt), drop=True)
            self._network.send(self.name, name_of(task.holder[0]), forget)

    def _row_changed(self, row: Row) -> None:
        if not isinstance(row.value, NodeRow):
            return
        node_id, node = row.value.node_id.binary(), row.value
        if node.state is NodeState.ALIVE:
            self._nodes[node_id] = node.epoch
        else:
            self._nodes.pop(node_id, None)
        for task in self.tasks.values():
            if task.holder is not None and self._is_over(task.holder):
                task.holder = None
            if task.state == "out" and task.host is not None and self._is_over(task.host):
                self._retry(task)

    def _is_over(self, life: tuple[bytes, int]) -> bool:
        return self._nodes.get(life[0]) != life[1]


def _result_of(number: int) -> bytes:
    """The id of a task's result."""
    return number.to_bytes(16, "big") + bytes(4)
