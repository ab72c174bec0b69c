"""The deterministic simulation: what must hold does, whatever fails; and its failures are seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from rostral_scheduler.core.group_member import GroupMember
from rostral_scheduler.core.lineage import Lineage
from rostral_scheduler.core.placement_request import Placed
from rostral_scheduler.sim.model_node import ModelNode
from rostral_scheduler.sim.seeds import ViolationError, run_seed

SEEDS = 200
PART = 20


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, SEEDS, PART))
def test_every_future_resolves_and_nothing_is_left_whatever_fails(first: int) -> None:
    outcomes = [run_seed(seed) for seed in range(first, first + PART)]
    assert [one.seed for one in outcomes] == list(range(first, first + PART))
    assert sum(one.attempts + one.fenced for one in outcomes), "nothing failed: no test"


def test_a_seed_tells_the_same_story_each_time() -> None:
    assert run_seed(7) == run_seed(7)


def test_a_wrong_value_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    real = ModelNode._finish

    def wrong(self: ModelNode, number: int) -> None:
        compute = self._compute
        self._compute = lambda task, inputs: compute(task, inputs) + (task == 3)
        real(self, number)
        self._compute = compute

    monkeypatch.setattr(ModelNode, "_finish", wrong)
    with pytest.raises(ViolationError, match=r"seed 1: .*task 3 is \d+"):
        run_seed(1)


def test_bundles_that_are_not_given_back_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GroupMember, "handle_release", lambda *_: None)
    monkeypatch.setattr(GroupMember, "handle_tick", lambda *_: [])
    with pytest.raises(ViolationError, match=r"seed 1: .*(bundles|of group)"):
        run_seed(1)


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (lambda _: [], "leaves it out"),
        (lambda again: again[::-1], "is to run before"),
    ],
    ids=["nothing", "inputs last"],
)
def test_a_wrong_plan_to_make_lost_objects_again_is_seen(
    monkeypatch: pytest.MonkeyPatch, wrong: Callable[[list[Any]], list[Any]], what: str
) -> None:
    real = Lineage.plan

    def plan(self: Lineage[object], *arguments: Any) -> object:
        found = real(self, *arguments)
        return replace(found, again=wrong(list(found.again)))

    monkeypatch.setattr(Lineage, "plan", plan)
    with pytest.raises(ViolationError, match=what):
        for seed in range(100):
            run_seed(seed)


def test_tasks_that_are_placed_nowhere_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from rostral_scheduler.core.placement import PlacementPolicy

    nowhere = Placed(b"\xff" * 16, "", 0.0)
    monkeypatch.setattr(PlacementPolicy, "place", lambda *_: [nowhere])
    with pytest.raises(ViolationError, match=r"seed 1: .*no end: "):
        run_seed(1)
