"""What a global scheduler is asked about a task, and what it answers.

This file owns the requests and answers of ``placement.py``. Whoever makes many requests with the
same constraints makes one Constraints object for them: it is compared by identity first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from rostral_scheduler.core.labels import Selector, selector_of
from rostral_scheduler.core.resources import ResourceSet

__all__ = [
    "Affinity",
    "Answer",
    "Constraints",
    "InBundle",
    "Infeasible",
    "Later",
    "Placed",
    "Strategy",
    "TaskInput",
    "TaskRequest",
]


@dataclass(frozen=True, slots=True)
class Affinity:
    """To run on one node; ``soft``: elsewhere if that node cannot ever have the task."""

    node_id: bytes
    soft: bool = False


@dataclass(frozen=True, slots=True)
class InBundle:
    """To run in a placement group; ``index`` below 0: in any of its bundles."""

    group_id: bytes
    index: int = -1


Strategy = Literal["DEFAULT", "SPREAD"] | Affinity | InBundle


@dataclass(frozen=True, slots=True)
class Constraints:
    """Which nodes a task may run on.

    Attributes:
        shape: What it needs of a node while it runs.
        selectors: Selectors of labels, best first: the first that any node meets counts. Empty:
            any node.
        strategy: How to choose among these nodes.
    """

    shape: ResourceSet
    selectors: tuple[Selector, ...] = ()
    strategy: Strategy = "DEFAULT"
    _hash: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        made = hash((self.shape.items, self.selectors, self.strategy))
        object.__setattr__(self, "_hash", made)

    def __hash__(self) -> int:
        return self._hash

    @classmethod
    def of(
        cls,
        resources: Mapping[str, float],
        *,
        selector: Mapping[str, str] | None = None,
        fallbacks: Sequence[Mapping[str, str]] = (),
        strategy: Strategy = "DEFAULT",
    ) -> Constraints:
        """From amounts and selectors as people write them.

        Raises:
            RequestError: An amount is out of range.
        """
        selectors = [] if selector is None else [selector]
        return cls(
            ResourceSet.of(resources),
            tuple(selector_of(one) for one in (*selectors, *fallbacks)),
            strategy,
        )


class TaskInput(NamedTuple):
    """One object that the task needs.

    Attributes:
        object_id: Its id.
        size_bytes: What has to be moved where it is not.
        node_ids: The nodes that have it.
    """

    object_id: bytes
    size_bytes: int
    node_ids: tuple[bytes, ...]


class TaskRequest(NamedTuple):
    """One task to place.

    Attributes:
        task_id: Its id.
        attempt: Which run of it: the same attempt is placed once.
        constraints: Where it may run.
        function_id: What it runs, to look up how long that takes; empty: not known.
        inputs: The objects it needs that are worth moving it for.
        run_time_s: How long such tasks take where it was submitted; 0: not known.
        avoid: A node that it shall not run on, unless its strategy names that one; empty: none.
    """

    task_id: bytes
    attempt: int
    constraints: Constraints
    function_id: bytes = b""
    inputs: tuple[TaskInput, ...] = ()
    run_time_s: float = 0.0
    avoid: bytes = b""


class Placed(NamedTuple):
    """The task shall run there.

    Attributes:
        node_id: The node.
        address: The host at which others reach it.
        wait_s: The estimated wait: in the node's queue, and for inputs that are not there.
    """

    node_id: bytes
    address: str
    wait_s: float


class Infeasible(NamedTuple):
    """No node that is known can ever run the task.

    Attributes:
        message: What was asked for and what the best node has.
        hint: What to do about it.
        requested: The resources asked for.
        best: All that the node has that comes closest; empty when no node has the labels.
    """

    message: str
    hint: str
    requested: ResourceSet
    best: ResourceSet


class Later(NamedTuple):
    """Nothing can be said now; ask again.

    Attributes:
        retry_after_s: Not before this.
        reason: Why.
    """

    retry_after_s: float
    reason: str


Answer = Placed | Infeasible | Later
