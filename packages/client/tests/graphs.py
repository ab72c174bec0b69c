"""Random task graphs: what one consists of, how a cluster runs it, and what may come out.

A graph is a list of steps; each makes one reference and takes its inputs from steps before it. What
may come out of a step is a set of outcomes, worked out in sequence: more than one where errors race
each other, or where a step was cancelled and may have been done before that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import rostral
from rostral.exceptions import ActorDiedError, TaskCancelledError, WorkerCrashedError

Kind = Literal[
    "put", "add", "first", "second", "gather", "nest", "forward", "fail", "call", "call_fails"
]
KINDS: tuple[Kind, ...] = (
    "put",
    "add",
    "add",
    "first",
    "second",
    "gather",
    "nest",
    "forward",
    "fail",
    "call",
    "call",
    "call_fails",
)
ACTORS = 2
MODULUS = 1_000_003

# ("value", it), ("raised", the step that did), ("cancelled", 0) or ("died", 0).
Outcome = tuple[str, int]
Outcomes = frozenset[Outcome]


class ZorkError(Exception):
    """What a failing step raises."""


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        inputs: Steps before this one.
        actor: Of a call.
    """

    number: int
    kind: Kind
    inputs: tuple[int, ...]
    actor: int = 0

    @property
    def is_task(self) -> bool:
        """Whether a task makes it, which can be cancelled."""
        return self.kind not in ("put", "call", "call_fails")


@dataclass
class Graph:
    """Steps, and what is done to them once all are submitted."""

    steps: list[Step] = field(default_factory=list)
    cancelled: set[int] = field(default_factory=set)
    killed: set[int] = field(default_factory=set)


def graph_of(draws: Sequence[tuple[int, int, int]], cancels: Sequence[int], kills: int) -> Graph:
    """The graph that some numbers stand for; any numbers stand for one."""
    graph = Graph()
    for number, (kind, a, b) in enumerate(draws):
        inputs = tuple(sorted({a % number, b % number})) if number else ()
        chosen = KINDS[kind % len(KINDS)] if number else "put"
        graph.steps.append(Step(number, chosen, inputs, actor=(a + b) % ACTORS))
    tasks = [step.number for step in graph.steps if step.is_task]
    if tasks:
        graph.cancelled = {tasks[cancel % len(tasks)] for cancel in cancels}
    # Calls whose inputs may come out in several ways would make the actor's state a guess.
    results = outcomes_of(graph)
    for step in graph.steps:
        if step.kind == "call" and any(len(results[i]) > 1 for i in step.inputs):
            graph.steps[step.number] = Step(step.number, "add", step.inputs)
            results = outcomes_of(graph)
    graph.killed = {actor for actor in range(ACTORS) if kills >> actor & 1}
    return graph


# ---- in sequence


def outcomes_of(graph: Graph) -> list[Outcomes]:
    """What each step may come out as."""
    results: list[Outcomes] = []
    totals = [0] * ACTORS
    for step in graph.steps:
        results.append(_outcomes(graph, step, [results[i] for i in step.inputs], totals))
    return results


def _outcomes(graph: Graph, step: Step, inputs: list[Outcomes], totals: list[int]) -> Outcomes:
    errors = {o for outcomes in inputs for o in outcomes if o[0] != "value"}
    values = [value for outcomes in inputs for kind, value in outcomes if kind == "value"]
    found = set(errors)
    if step.kind == "put":
        return frozenset({("value", step.number)})
    if len(values) == len(inputs):
        found.add(_done(step, values, totals))
    if step.number in graph.cancelled:
        found.add(("cancelled", 0))
    if step.actor in graph.killed and step.kind in ("call", "call_fails"):
        found.add(("died", 0))
    return frozenset(found)


def _done(step: Step, values: list[int], totals: list[int]) -> Outcome:
    """What a step whose inputs are all there comes out as."""
    total = sum(values) % MODULUS
    match step.kind:
        case "fail" | "call_fails":
            return "raised", step.number
        case "first":
            return "value", total + 1
        case "second":
            return "value", total * 2
        case "nest":
            return "value", total + len(values) + 3
        case "call":
            totals[step.actor] = (totals[step.actor] + total) % MODULUS
            return "value", totals[step.actor]
    return "value", total


# ---- in a cluster


class Program:
    """The remote functions and the actor class of all graphs: exported once."""

    def __init__(self) -> None:
        @rostral.remote
        def add(*values: int) -> int:
            return sum(values) % MODULUS

        @rostral.remote(num_returns=2)
        def pair(*values: int) -> tuple[int, int]:
            total = sum(values) % MODULUS
            return total + 1, total * 2

        @rostral.remote
        def gather(refs: list[Any]) -> Any:
            return sum(rostral.get(refs)) % MODULUS

        @rostral.remote
        def nest(depth: int, *values: int) -> int:
            if depth == 0:
                return sum(values) % MODULUS + len(values)
            return 1 + int(rostral.get(nest.remote(depth - 1, *values)))

        @rostral.remote
        def forward(refs: list[Any]) -> list[Any]:
            return refs

        @rostral.remote
        def fail(number: int, *values: int) -> None:
            raise ZorkError(number)

        class Total:
            def __init__(self) -> None:
                self.total = 0

            def call(self, *values: int) -> int:
                self.total = (self.total + sum(values) % MODULUS) % MODULUS
                return self.total

            def call_fails(self, number: int, *values: int) -> None:
                raise ZorkError(number)

        self.add: Any = add
        self.pair: Any = pair
        self.gather: Any = gather
        self.nest: Any = nest
        self.forward: Any = forward
        self.fail: Any = fail
        self.actors: Any = rostral.remote(Total)

    def run(self, graph: Graph) -> list[Outcome]:
        """Submits every step at once, then cancels and kills, then waits for all."""
        actors: dict[int, Any] = {}
        refs: list[Any] = []
        for step in graph.steps:
            refs.append(self._submit(step, [refs[i] for i in step.inputs], actors))
        for number in graph.cancelled:
            rostral.cancel(refs[number])
        for actor in graph.killed & actors.keys():
            rostral.kill(actors[actor])
        return [outcome(ref) for ref in refs]

    def _submit(self, step: Step, inputs: list[Any], actors: dict[int, Any]) -> Any:
        match step.kind:
            case "put":
                return rostral.put(step.number)
            case "first":
                return self.pair.remote(*inputs)[0]
            case "second":
                return self.pair.remote(*inputs)[1]
            case "gather":
                return self.gather.remote(inputs)
            case "nest":
                return self.nest.remote(3, *inputs)
            case "forward":
                # A reference in a value that is itself an input.
                return self.gather.remote(self.forward.remote(inputs))
            case "fail":
                return self.fail.remote(step.number, *inputs)
            case "add":
                return self.add.remote(*inputs)
        actor = actors.setdefault(step.actor, None) or self.actors.remote()
        actors[step.actor] = actor
        if step.kind == "call":
            return actor.call.remote(*inputs)
        return actor.call_fails.remote(step.number, *inputs)


def outcome(ref: Any) -> Outcome:
    """What came out; what hangs is an error of the test's."""
    try:
        return "value", rostral.get(ref, timeout=60)
    except ZorkError as error:
        cause: Any = error
        return "raised", cause.cause.args[0]
    except (TaskCancelledError, WorkerCrashedError):
        return "cancelled", 0
    except ActorDiedError:
        return "died", 0
