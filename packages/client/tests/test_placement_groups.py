"""Placement groups: bundles set aside together, for tasks and actors that name the group."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rostral
from rostral.exceptions import (
    ActorPlacementGroupRemovedError,
    PlacementGroupNotFoundError,
    TaskPlacementGroupRemovedError,
    UnschedulableError,
    WorkerCrashedError,
)
from rostral.util.placement_group import (
    PlacementGroup,
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from rostral.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from .actors import get
from .waiting import until

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(autouse=True)
def gives_all_back() -> Iterator[None]:
    """Removes the groups of a test; the node's CPUs must be free then."""
    yield
    table: Any = placement_group_table()
    for found in table.values():
        if found["state"] != "REMOVED":
            group_id = bytes.fromhex(found["placement_group_id"])
            remove_placement_group(PlacementGroup(group_id, []))
    until(lambda: rostral.available_resources()["CPU"] == 2.0, "the CPUs")


def member(group: PlacementGroup, index: int = -1, *, captures: bool = False) -> Any:
    return PlacementGroupSchedulingStrategy(group, index, captures)


@rostral.remote
def current_group() -> str | None:
    group = get_current_placement_group()
    return None if group is None else group.id


@rostral.remote
def mark_and_wait(marks: Path) -> None:
    marks.write_text("runs")
    while True:
        rostral.wait([rostral.put(0)])


def test_a_group_is_ready_when_its_bundles_are_set_aside() -> None:
    group = placement_group([{"CPU": 1}, {"CPU": 1}])
    assert group.wait(timeout_seconds=10)
    assert get(group.ready()) == group
    assert rostral.available_resources()["CPU"] == 0.0
    assert group.bundle_specs == [{"CPU": 1.0}, {"CPU": 1.0}]
    assert group.bundle_count == 2


def test_a_group_that_does_not_fit_yet_waits_whole() -> None:
    first = placement_group([{"CPU": 1}])
    second = placement_group([{"CPU": 1}, {"CPU": 1}])
    ready = second.ready()
    assert not second.wait(timeout_seconds=0.05)
    assert rostral.wait([ready], timeout=0) == ([], [ready])
    remove_placement_group(first)
    assert second.wait(timeout_seconds=10)
    assert get(ready) == second


def test_removal_gives_the_bundles_back() -> None:
    group = placement_group([{"CPU": 2}])
    assert rostral.available_resources()["CPU"] == 0.0
    remove_placement_group(group)
    assert rostral.available_resources()["CPU"] == 2.0
    assert not group.wait(timeout_seconds=1)
    remove_placement_group(group)


def test_tasks_and_actors_run_in_the_group_that_they_name() -> None:
    group = placement_group([{"CPU": 1}, {"CPU": 1}])

    class Member:
        def group(self) -> str | None:
            found = get_current_placement_group()
            return None if found is None else found.id

    actor = (
        rostral.remote(Member).options(num_cpus=1, scheduling_strategy=member(group, 1)).remote()
    )
    assert get(actor.group.remote()) == group.id
    assert get(current_group.options(scheduling_strategy=member(group)).remote()) == group.id
    assert get_current_placement_group() is None


def test_tasks_outside_of_a_group_do_not_get_what_is_set_aside() -> None:
    group = placement_group([{"CPU": 2}])
    outside = current_group.remote()
    inside = current_group.options(scheduling_strategy=member(group)).remote()
    assert get(inside) == group.id
    assert rostral.wait([outside], timeout=0.1) == ([], [outside])
    remove_placement_group(group)
    assert get(outside) is None


def test_children_are_members_where_the_group_captures_them() -> None:
    group = placement_group([{"CPU": 1}, {"CPU": 1}])

    @rostral.remote
    def parent() -> tuple[str | None, str | None]:
        escaping = current_group.options(scheduling_strategy="DEFAULT", num_cpus=0).remote()
        return rostral.get(current_group.remote()), rostral.get(escaping)

    capturing = parent.options(scheduling_strategy=member(group, captures=True))
    assert get(capturing.remote()) == (group.id, None)

    @rostral.remote
    def other_parent() -> str | None:
        child = current_group.options(num_cpus=0).remote()
        return rostral.get(child)

    assert get(other_parent.options(scheduling_strategy=member(group)).remote()) is None


def test_a_member_that_waits_lends_its_cpu_to_other_members() -> None:
    group = placement_group([{"CPU": 1}])

    @rostral.remote
    def parent() -> str | None:
        return rostral.get(current_group.remote())

    capturing = parent.options(scheduling_strategy=member(group, captures=True))
    assert get([capturing.remote() for _ in range(3)]) == [group.id] * 3


def test_a_demand_that_no_bundle_can_meet_is_refused() -> None:
    group = placement_group([{"CPU": 1}, {"CPU": 0.5}])
    large = current_group.options(num_cpus=2, scheduling_strategy=member(group))
    with pytest.raises(UnschedulableError, match="fits into no bundle"):
        large.remote()
    with pytest.raises(UnschedulableError, match="fits into no bundle"):
        current_group.options(scheduling_strategy=member(group, 1)).remote()


def test_a_group_that_no_node_can_hold_is_refused() -> None:
    with pytest.raises(UnschedulableError, match="3 CPU can never be had"):
        placement_group([{"CPU": 1}, {"CPU": 2}])
    with pytest.raises(UnschedulableError, match="STRICT_SPREAD"):
        placement_group([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")


def test_removal_ends_actors_with_an_error_that_says_so() -> None:
    group = placement_group([{"CPU": 1}])

    class Member:
        def work(self) -> int:
            return 1

    actor = (
        rostral.remote(Member).options(scheduling_strategy=member(group), max_restarts=-1).remote()
    )
    assert get(actor.work.remote()) == 1
    remove_placement_group(group)
    with pytest.raises(ActorPlacementGroupRemovedError, match="placement group was removed"):
        get(actor.work.remote())


def test_removal_fails_tasks_that_wait_and_kills_those_that_run(marks: Path) -> None:
    group = placement_group([{"CPU": 1}])
    inside: Any = {"scheduling_strategy": member(group)}
    once = mark_and_wait.options(**inside, max_retries=0).remote(marks)
    until(marks.read_text, "the task's start")
    queued = current_group.options(**inside).remote()
    remove_placement_group(group)
    with pytest.raises(WorkerCrashedError):
        get(once)
    with pytest.raises(TaskPlacementGroupRemovedError, match=group.id):
        get(queued)


def test_a_task_with_retries_is_not_run_again_in_a_removed_group(marks: Path) -> None:
    group = placement_group([{"CPU": 1}])
    running = mark_and_wait.options(scheduling_strategy=member(group)).remote(marks)
    until(marks.read_text, "the task's start")
    remove_placement_group(group)
    with pytest.raises(TaskPlacementGroupRemovedError):
        get(running)


def test_nothing_can_be_submitted_to_a_removed_group() -> None:
    group = placement_group([{"CPU": 1}])
    inside = current_group.options(scheduling_strategy=member(group))
    assert get(inside.remote()) == group.id
    remove_placement_group(group)
    with pytest.raises(TaskPlacementGroupRemovedError):
        get(inside.remote())
    with pytest.raises(TaskPlacementGroupRemovedError):
        current_group.options(scheduling_strategy=member(group), num_cpus=0.5).remote()


def test_a_group_is_found_by_its_name() -> None:
    group = placement_group([{"CPU": 1}], name="trial")
    assert get_placement_group("trial") == group
    with pytest.raises(ValueError, match="'trial' belongs to another"):
        placement_group([{"CPU": 1}], name="trial")
    remove_placement_group(group)
    with pytest.raises(PlacementGroupNotFoundError, match="trial"):
        get_placement_group("trial")
    with pytest.raises(ValueError, match="needs the name"):
        get_placement_group("")


def test_the_table_says_what_there_is() -> None:
    group = placement_group([{"CPU": 1}, {"CPU": 0.5}], strategy="SPREAD")
    found: Any = placement_group_table(group)
    node_id = rostral.nodes()[0]["NodeID"]
    assert found["state"] == "CREATED"
    assert found["strategy"] == "SPREAD"
    assert found["bundles"] == {0: {"CPU": 1.0}, 1: {"CPU": 0.5}}
    assert found["bundles_to_node_id"] == {0: node_id, 1: node_id}
    remove_placement_group(group)
    every: Any = placement_group_table()
    assert every[group.id]["state"] == "REMOVED"


def test_groups_are_equal_by_id_and_picklable() -> None:
    group = placement_group([{"CPU": 1}])
    copy = pickle.loads(pickle.dumps(group))
    assert copy == group
    assert hash(copy) == hash(group)
    assert copy.wait(timeout_seconds=10)
    assert get(current_group.options(scheduling_strategy=member(copy)).remote()) == group.id


@pytest.mark.parametrize(
    "bundles", [[], [{}], [{"CPU": 0}], [{"CPU": -1}], {"CPU": 1}, "CPU", [["CPU"]]]
)
def test_wrong_bundles_are_refused(bundles: Any) -> None:
    with pytest.raises(ValueError):
        placement_group(bundles)


def test_wrong_arguments_are_refused() -> None:
    wrong: Any = "LOOSE"
    with pytest.raises(ValueError, match="'LOOSE'"):
        placement_group([{"CPU": 1}], strategy=wrong)
    with pytest.raises(ValueError, match="lifetime"):
        placement_group([{"CPU": 1}], lifetime=wrong)
    with pytest.raises(TypeError, match="name"):
        placement_group([{"CPU": 1}], name=None)  # type: ignore[arg-type]
    group = placement_group([{"CPU": 1}])
    with pytest.raises(ValueError, match="bundles 0 to 0"):
        member(group, 1)
    with pytest.raises(TypeError, match="placement group"):
        remove_placement_group(wrong)
    with pytest.raises(ValueError, match="'LOOSE'"):
        current_group.options(scheduling_strategy=wrong)


def test_many_groups_come_and_go() -> None:
    for _ in range(3):
        groups = [placement_group([{"CPU": 0.01}]) for _ in range(100)]
        assert all(group.wait(10) for group in groups)
        for group in groups:
            remove_placement_group(group)
