"""What is remembered of tasks, so that what they have made can be made again (OSDI'18 §4.2.3).

Pure: which tasks are remembered, within a bound, and which of them must run, in what order, to
have lost objects back. It knows objects by their ids alone: an object's id names its task.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

__all__ = ["RETRY_FOREVER", "Lineage", "NoMaker", "Plan", "Remembered", "no_maker_of", "task_of"]

RETRY_FOREVER = 0xFFFFFFFF
_ID_BYTES = 16
_PUT_INDEX = 1 << 31
_FLAT_BYTES = 512
"""A record's own, and its places in tables."""
_INPUT_BYTES = 128
"""An input's record in the store, and a hold on it."""

S = TypeVar("S")


class NoMaker(Enum):
    """Why an object cannot be made again."""

    PUT = "it was put, and no task makes it"
    CUT = "its task is not remembered"
    SPENT = "its task has no retries left"


@dataclass(slots=True, eq=False)
class Remembered(Generic[S]):
    """One task.

    Attributes:
        inputs: Ids of what it needs.
        spec: All else, as whoever runs it again needs it.
        payload_bytes: Of the spec.
        retries: How often it may still run again.
    """

    task_id: bytes
    job_id: bytes
    inputs: tuple[bytes, ...]
    spec: S
    payload_bytes: int
    retries: int

    @property
    def cost_bytes(self) -> int:
        """What remembering it takes, about."""
        return _FLAT_BYTES + self.payload_bytes + _INPUT_BYTES * len(self.inputs)


@dataclass(slots=True)
class Plan(Generic[S]):
    """How lost objects come back.

    Attributes:
        again: Tasks to run, each after those that make its lost inputs.
        hopeless: Objects that no task will make, and why.
    """

    again: list[Remembered[S]] = field(default_factory=list)
    hopeless: dict[bytes, NoMaker] = field(default_factory=dict)


def task_of(object_id: bytes) -> bytes:
    """The id of the task that makes the object."""
    return object_id[:_ID_BYTES]


def no_maker_of(object_id: bytes) -> NoMaker:
    """Why an object of no remembered task cannot be made again."""
    is_put = int.from_bytes(object_id[_ID_BYTES:], "little") >= _PUT_INDEX
    return NoMaker.PUT if is_put else NoMaker.CUT


class Lineage(Generic[S]):
    """Tasks that may have to run again, the oldest first.

    Args:
        bytes_max: What they may take; the oldest are forgotten beyond it.

    Invariant: `size_bytes` is the sum of their costs.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._by_id: OrderedDict[bytes, Remembered[S]] = OrderedDict()
        self.size_bytes = 0
        self.cut_count = 0
        """How many were forgotten for want of room."""

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Remembered[S]]:
        return iter(self._by_id.values())

    def get(self, task_id: bytes) -> Remembered[S] | None:
        """The task, if it is remembered."""
        return self._by_id.get(task_id)

    def add(self, task: Remembered[S]) -> list[Remembered[S]]:
        """Remembers a task; returns those that are forgotten for it."""
        self.forget(task.task_id)
        self._by_id[task.task_id] = task
        self.size_bytes += task.cost_bytes
        cut = []
        while self.size_bytes > self._bytes_max:
            _, oldest = self._by_id.popitem(last=False)
            self.size_bytes -= oldest.cost_bytes
            cut.append(oldest)
        self.cut_count += len(cut)
        return cut

    def forget(self, task_id: bytes) -> Remembered[S] | None:
        """Nothing that it has made can be lost any more."""
        task = self._by_id.pop(task_id, None)
        if task is not None:
            self.size_bytes -= task.cost_bytes
        return task

    def forget_job(self, job_id: bytes) -> list[Remembered[S]]:
        """The job is over."""
        ended = [task for task in self if task.job_id == job_id]
        for task in ended:
            self.forget(task.task_id)
        return ended

    def plan(self, lost: Iterable[bytes], is_lost: Callable[[bytes], bool]) -> Plan[S]:
        """What must run to have lost objects back, and with them what those are made from.

        Args:
            lost: The objects that are wanted.
            is_lost: Whether an object has no bytes anywhere, and nobody is making it.
        """
        plan: Plan[S] = Plan()
        seen: set[bytes] = set()
        # A chain may be longer than a stack is deep.
        todo: list[Remembered[S] | bytes] = [*lost]
        todo.reverse()
        while todo:
            item = todo.pop()
            if isinstance(item, Remembered):
                plan.again.append(item)
                continue
            task = self._by_id.get(task_of(item))
            if task is None:
                plan.hopeless[item] = no_maker_of(item)
            elif task.retries == 0:
                plan.hopeless[item] = NoMaker.SPENT
            elif task.task_id not in seen:
                seen.add(task.task_id)
                todo.append(task)
                todo += [one for one in task.inputs if is_lost(one)]
        return plan
