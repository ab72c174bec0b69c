"""One seed, one cluster, one story of failures; and what must hold in all of them.

This file owns the scenario and its invariants. A driver submits a graph of tasks and two placement
groups to four nodes and two global schedulers, while messages are lost, doubled and late, nodes and
schedulers and the GCS crash, links are cut one way or both, nodes are declared dead that live, and
nodes leave in order.
Then the network calms down, and these must hold:

1. every future has a value or a typed error in bounded time;
2. a value is what a sequential run computes, and never changes once it was seen;
3. every placement group has its bundles, each on the node that its row says, and nowhere else;
4. when the driver is done, no node keeps anything for it: no task, object, bundle or reservation;
5. at every step the local policies' ledgers agree with their records;
6. a plan to make lost objects again makes what they need first, and leaves nothing out.
"""

from __future__ import annotations

import random
import traceback
from dataclasses import dataclass
from functools import partial

from rostral_scheduler.core.group_commit import GroupState, GroupView
from rostral_scheduler.core.group_nodes import GroupStrategy
from rostral_scheduler.core.resources import ResourceSet
from rostral_scheduler.sim.model_gcs import GcsCalls, ModelGcs, Row, Write
from rostral_scheduler.sim.model_global import ModelGlobal, versioned
from rostral_scheduler.sim.model_node import Forget, ModelNode
from rostral_scheduler.sim.model_owner import ModelOwner, TaskPlan
from rostral_scheduler.sim.network import Network, NetworkSettings

__all__ = ["Outcome", "ViolationError", "run_seed"]

TASKS = 24
NODES = 4
FAULTS = 6
FAULTS_UNTIL_S = 5.0
SETTLED_WITHIN_S = 60.0
QUIT_WITHIN_S = 40.0
_STRATEGIES: tuple[GroupStrategy, ...] = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")


class ViolationError(AssertionError):
    """Something that must hold did not; the message begins with the seed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened under one seed.

    Attributes:
        seed: It.
        settled_at_s: When every future had its result, in virtual time.
        messages: Sent in all.
        attempts: Of tasks, beyond the first of each.
        fenced: Nodes that were declared dead while they lived.
        failed: Futures that ended in an error.
    """

    seed: int
    settled_at_s: float
    messages: int
    attempts: int
    fenced: int
    failed: int


def compute(number: int, inputs: list[int]) -> int:
    """What a task returns: whatever depends on all that went into it."""
    value = number + 1
    for one in inputs:
        value = (value * 1_000_003 + one) % (1 << 61)
    return value


def run_seed(seed: int) -> Outcome:
    """Plays one seed.

    Raises:
        ViolationError: An invariant does not hold.
    """
    scenario = _Scenario(seed)
    try:
        return scenario.play()
    except ViolationError:
        raise
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise ViolationError(
            f"seed {seed}: {type(error).__name__}: {error} in {where.name}, line {where.lineno}"
        ) from error


class _Scenario:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        settings = NetworkSettings(
            loss=self.rng.choice([0.0, 0.05, 0.2]), late=self.rng.choice([0.0, 0.02, 0.1])
        )
        self.network = Network(self.rng, settings)
        self.gcs = ModelGcs(self.network)
        crash_rate = self.rng.choice([0.0, 0.1])
        self.nodes = [
            ModelNode(self.network, number, compute, crash_rate) for number in range(1, NODES + 1)
        ]
        self.globals = [ModelGlobal(self.network, f"global{number}") for number in range(2)]
        self.plans = self._plans()
        names = [one.name for one in self.globals]
        self.owner = ModelOwner(self.network, "owner", names, self.plans, self._violated)
        self.groups = self._groups()
        self.calls = GcsCalls(self.network, "maker", lambda: True)
        self.network.attach("maker", self._answered)

    def _answered(self, _: str, message: object) -> None:
        self.calls.handle(message)

    def _plans(self) -> list[TaskPlan]:
        rng = self.rng
        plans = []
        for number in range(TASKS):
            count = min(number, rng.choice([0, 1, 1, 2, 3]))
            inputs = tuple(sorted(rng.sample(range(number), count)))
            plans.append(TaskPlan(number, inputs, rng.uniform(0.01, 0.4), rng.random() < 0.4))
        return plans

    def _groups(self) -> list[GroupView]:
        one = ResourceSet.of({"CPU": 1})
        return [
            GroupView(
                group_id=bytes([number]) * 16,
                version=0,
                state=GroupState.PENDING,
                strategy=self.rng.choice(_STRATEGIES),
                bundles=(one, one),
                nodes=(None, None),
            )
            for number in range(2)
        ]

    def _violated(self, what: str) -> None:
        raise ViolationError(f"seed {self.seed}: at {self.network.now_s:.3f} s: {what}")

    # ---- the story

    def play(self) -> Outcome:
        network = self.network
        for group in self.groups:
            delay_s = self.rng.uniform(0.0, FAULTS_UNTIL_S)
            network.after(delay_s, partial(self._write_group, group, 0))
        for _ in range(self.rng.randrange(FAULTS + 1)):
            network.after(self.rng.uniform(0.0, FAULTS_UNTIL_S), self._fault)
        network.run(FAULTS_UNTIL_S + 4.0, lambda: False)
        network.calm = True
        network.cut.clear()
        if not network.run(network.now_s + SETTLED_WITHIN_S, self._is_settled):
            self._violated(f"no end: {self._unsettled()}")
        settled_at_s = network.now_s
        self._check_values()
        self._end()
        if not network.run(network.now_s + QUIT_WITHIN_S, self._is_clean):
            self._violated(f"left behind: {self._left()}")
        return Outcome(
            self.seed,
            settled_at_s,
            network.messages,
            sum(task.attempt for task in self.owner.tasks.values()),
            sum(node.fenced_lives for node in self.nodes),
            sum(task.state == "failed" for task in self.owner.tasks.values()),
        )

    def _write_group(self, view: GroupView, expected_version: int) -> None:
        self.calls.call(Write("groups", view.group_id, view, expected_version), lambda _: None)

    def _fault(self) -> None:
        rng = self.rng
        node = rng.choice(self.nodes)
        lasts_s = rng.choice([0.1, 0.5, 2.0, 3.5])
        match rng.randrange(7):
            case 0:
                self._crash(node, lasts_s)
            case 1:
                self._crash(rng.choice(self.globals), lasts_s)
            case 2:
                self.gcs.crash()
                self.network.after(min(lasts_s, 2.0), self.gcs.start)
            case 3:
                self._cut([(node.name, "gcs"), ("gcs", node.name)], lasts_s)
            case 4:
                other = rng.choice([one.name for one in self.nodes] + self.owner.schedulers)
                self._cut([(node.name, other)], lasts_s)
            case 5:
                # As if the process was stopped: nothing comes, nothing goes.
                names = ["gcs", "owner", *(one.name for one in self.nodes), *self.owner.schedulers]
                pairs = [(node.name, other) for other in names]
                self._cut([*pairs, *((b, a) for a, b in pairs)], lasts_s)

            case 6:
                node.drain(lasts_s)
                self._back_later(node, lasts_s + rng.choice([0.0, 1.0]))

    def _crash(self, process: ModelNode | ModelGlobal, lasts_s: float) -> None:
        process.crash()
        life = process._life

        def back() -> None:
            if process._life == life:
                process.start()

        self.network.after(lasts_s, back)

    def _back_later(self, node: ModelNode, after_s: float) -> None:
        """A node that has left by then, and was not started by anybody else, comes again."""

        def back() -> None:
            if not node.is_up:
                node.start()

        self.network.after(after_s, back)

    def _cut(self, pairs: list[tuple[str, str]], lasts_s: float) -> None:
        self.network.cut.update(pairs)
        self.network.after(lasts_s, lambda: self.network.cut.difference_update(pairs))

    def _end(self) -> None:
        """The driver is done: its groups are removed, its objects dropped everywhere."""
        self.owner.is_ending = True
        self._remove_groups()
        self._drop_objects()

    def _remove_groups(self) -> None:
        for group in self.groups:
            row = self.gcs.rows[("groups", group.group_id)]
            view = versioned(row)
            if view.state is not GroupState.REMOVED:
                removed = GroupView(
                    group_id=view.group_id,
                    version=view.version,
                    state=GroupState.REMOVED,
                    strategy=view.strategy,
                    bundles=view.bundles,
                    nodes=view.nodes,
                )
                self._write_group(removed, view.version)
        self.network.after(0.5, self._remove_groups)

    def _drop_objects(self) -> None:
        for node in self.nodes:
            for plan in self.plans:
                if plan.is_large:
                    forget = Forget((plan.number, -1), drop=True)
                    self.network.send("owner", node.name, forget)
        self.network.after(1.0, self._drop_objects)

    # ---- what must hold

    def _is_settled(self) -> bool:
        return self.owner.is_settled and not self._unsettled_groups()

    def _unsettled(self) -> list[str]:
        tasks = [
            f"task {number} {task.state} attempt {task.attempt}"
            for number, task in self.owner.tasks.items()
            if task.state not in ("done", "failed") or (task.state == "done" and not task.value)
        ]
        return [*tasks, *self._unsettled_groups()]

    def _unsettled_groups(self) -> list[str]:
        wrong = []
        for group in self.groups:
            row: Row | None = self.gcs.rows.get(("groups", group.group_id))
            if row is None:
                wrong.append("a group has no row")
                continue
            view = versioned(row)
            if view.state is not GroupState.CREATED:
                wrong.append(f"group {view.group_id[0]} {view.strategy} is {view.state.value}")
                continue
            for node in self.nodes:
                part = node.member.parts.get(view.group_id)
                has = {} if part is None else part.bundles
                if has != view.bundles_on(node.node_id) or (part and not part.committed):
                    wrong.append(f"{node.name} has {has} of group {view.group_id[0]}")
        return wrong

    def _check_values(self) -> None:
        values: dict[int, int] = {}
        for plan in self.plans:
            values[plan.number] = compute(plan.number, [values[one] for one in plan.inputs])
            task = self.owner.tasks[plan.number]
            if task.state == "done" and task.value != values[plan.number]:
                self._violated(
                    f"task {plan.number} is {task.value}: {values[plan.number]} is right"
                )
            if task.state == "failed" and task.error != "WorkerCrashedError":
                self._violated(f"task {plan.number} has failed: {task.error}")

    def _is_clean(self) -> bool:
        return not self._left()

    def _left(self) -> list[str]:
        left = []
        for node in self.nodes:
            for what, things in (
                ("tasks", node.hosted),
                ("objects", node.objects),
                ("bundles", node.member.parts),
                ("reservations", node.policy.reservations.by_group),
                ("waiting groups", node.policy.pending_groups),
            ):
                if things:
                    left.append(f"{node.name} has {what} {list(things)}")
            if node.policy.available_floats() != {"CPU": 2.0}:
                left.append(f"{node.name} has free {node.policy.available_floats()}")
        return left
