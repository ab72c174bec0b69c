"""Options that say which node: labels, affinity, accelerators; and those of older programs."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

import rostral
from rostral.exceptions import UnschedulableError, UnsupportedOptionError
from rostral.node_choice import matches
from rostral.options import ActorOptions, TaskOptions, changed
from rostral.util.placement_group import placement_group, remove_placement_group
from rostral.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rostral_gcs.ids import NodeID

# Workers cannot import this module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def cluster(runtime_dir: str) -> Iterator[rostral.Context]:
    """One node with labels, and of one kind of accelerator."""
    with rostral.init(
        num_cpus=2,
        object_store_memory=64 << 20,
        labels={"zone": "b", "disk": "ssd"},
        resources={"accelerator_type:T4": 1},
    ) as context:
        yield context


@rostral.remote
def one() -> int:
    return 1


class Counter:
    def one(self) -> int:
        return 1


def runs(**options: Any) -> bool:
    """Whether a task and an actor with these options run; both do, or neither does."""
    actors = rostral.remote(Counter).options(**options)
    try:
        value = rostral.get(one.options(**options).remote(), timeout=20)
    except UnschedulableError:
        with pytest.raises(UnschedulableError):
            actors.remote()
        return False
    return bool(value == rostral.get(actors.remote().one.remote(), timeout=20) == 1)


@pytest.mark.parametrize(
    ("value", "is_met"),
    [
        ("b", True),
        ("a", False),
        ("!a", True),
        ("!b", False),
        ("in(a, b)", True),
        ("in(a,c)", False),
        ("!in(a,c)", True),
        ("!in(a, b)", False),
        ("", False),
        ("!", True),
    ],
)
def test_a_selector_is_met_by_labels(value: str, *, is_met: bool) -> None:
    assert matches({"zone": value}, {"zone": "b", "disk": "ssd"}) == is_met
    assert matches({"zone": value}, {}) == value.startswith("!")


@pytest.mark.usefixtures("cluster")
def test_label_selectors_choose_the_node_or_none() -> None:
    assert runs(label_selector={"zone": "in(a, b)", "disk": "!hdd"})
    assert not runs(label_selector={"zone": "b", "disk": "hdd"})
    with pytest.raises(UnschedulableError, match=r"zone.*'c'"):
        one.options(label_selector={"zone": "c"}).remote()
    own = rostral.get_runtime_context().get_node_id()
    assert runs(label_selector={"ray.io/node-id": own})


@pytest.mark.usefixtures("cluster")
def test_a_fallback_is_taken_where_the_selector_is_met_by_no_node() -> None:
    fallback = [{"label_selector": {"zone": "a"}}, {"label_selector": {"zone": "b"}}]
    assert runs(label_selector={"zone": "c"}, fallback_strategy=fallback)
    assert not runs(label_selector={"zone": "c"}, fallback_strategy=fallback[:1])


@pytest.mark.usefixtures("cluster")
def test_an_accelerator_is_there_or_not() -> None:
    assert runs(accelerator_type="T4")
    with pytest.raises(UnschedulableError, match="accelerator_type:A100"):
        one.options(accelerator_type="A100").remote()
    assert not runs(accelerator_type="A100")


@pytest.mark.usefixtures("cluster")
def test_affinity_to_this_node_or_softly_to_another_runs() -> None:
    own, other = rostral.get_runtime_context().get_node_id(), NodeID.from_random()
    assert runs(scheduling_strategy=NodeAffinitySchedulingStrategy(own, soft=False))
    assert runs(scheduling_strategy=NodeAffinitySchedulingStrategy(other, soft=True))
    with pytest.raises(UnschedulableError, match=other.hex()):
        one.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(other.hex(), soft=False)
        ).remote()
    assert not runs(scheduling_strategy=NodeAffinitySchedulingStrategy(other.hex(), soft=False))


def test_affinity_to_what_is_no_node_is_refused() -> None:
    for junk in ("no hex", "abc", "ff" * 3, ""):
        with pytest.raises(ValueError, match="NodeID"):
            NodeAffinitySchedulingStrategy(junk, soft=False)
    wrong: Any = NodeAffinitySchedulingStrategy
    with pytest.raises(TypeError, match="node_id"):
        wrong(5, soft=False)
    with pytest.raises(TypeError, match="soft"):
        wrong("ff" * 16, soft="no")


@pytest.mark.usefixtures("cluster")
def test_what_changes_nothing_is_accepted() -> None:
    assert runs(enable_task_events=False, _labels={"team": "blue", "example.com/tier": ""})


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("enable_task_events", 1, TypeError),
        ("accelerator_type", 4, TypeError),
        ("accelerator_type", "", ValueError),
        ("_labels", ["team"], TypeError),
        ("_labels", {"team": 1}, TypeError),
        ("_labels", {"team": "a b"}, ValueError),
        ("_labels", {"": "a"}, ValueError),
        ("label_selector", "zone=b", TypeError),
        ("label_selector", {1: "b"}, TypeError),
        ("label_selector", {"zone": None}, TypeError),
        ("label_selector", {"zone": "a,b"}, ValueError),
        ("label_selector", {"zone": "!!a"}, ValueError),
        ("label_selector", {"zone": "in(a"}, ValueError),
        ("label_selector", {"zo ne": "a"}, ValueError),
        ("fallback_strategy", {"label_selector": {}}, TypeError),
        ("fallback_strategy", ["zone"], TypeError),
        ("fallback_strategy", [{}], ValueError),
        ("fallback_strategy", [{"label_selector": {}, "num_cpus": 1}], ValueError),
        ("fallback_strategy", [{"label_selector": {"zone": "a,b"}}], ValueError),
        ("scheduling_strategy", 5, TypeError),
    ],
)
def test_a_wrong_value_is_refused(option: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=option):
        changed(TaskOptions(), {option: value})
    with pytest.raises(error, match=option):
        changed(ActorOptions(), {option: value})


# ---- options of older programs


@pytest.mark.usefixtures("cluster")
def test_a_legacy_placement_group_is_one_of_a_strategy_and_warned_of() -> None:
    group = placement_group([{"CPU": 1}])
    try:

        @rostral.remote
        def group_id() -> str | None:
            return rostral.get_runtime_context().get_placement_group_id()

        with pytest.warns(DeprecationWarning, match="placement_group_bundle_index") as caught:
            chosen = group_id.options(placement_group=group, placement_group_bundle_index=0)
        assert caught[0].filename == __file__
        assert rostral.get(chosen.remote(), timeout=20) == group.id
        with pytest.warns(DeprecationWarning, match="placement_group"):
            outside = group_id.options(placement_group=None)
        assert rostral.get(outside.remote(), timeout=20) is None
        with (
            pytest.warns(DeprecationWarning, match="placement_group"),
            pytest.raises(ValueError, match="bundle_index is 3"),
        ):
            group_id.options(placement_group=group, placement_group_bundle_index=3)
    finally:
        remove_placement_group(group)


@pytest.mark.parametrize("options", [TaskOptions(), ActorOptions()])
def test_legacy_options_are_checked(options: Any) -> None:
    wrong: list[tuple[dict[str, Any], type[Exception]]] = [
        ({"placement_group": 5}, TypeError),
        ({"placement_group_bundle_index": 1}, ValueError),
        ({"placement_group_bundle_index": "1"}, TypeError),
        ({"placement_group_capture_child_tasks": 1}, TypeError),
    ]
    for changes, error in wrong:
        with pytest.warns(DeprecationWarning), pytest.raises(error, match="placement_group"):
            changed(options, changes)
    with pytest.raises(ValueError, match="scheduling_strategy say the same"):
        changed(options, {"placement_group": None, "scheduling_strategy": "SPREAD"})


def test_the_default_group_is_no_choice_and_none_is_outside_of_any() -> None:
    with pytest.warns(DeprecationWarning):
        assert changed(TaskOptions(), {"placement_group": "default"}) == TaskOptions()
    with pytest.warns(DeprecationWarning):
        assert changed(TaskOptions(), {"placement_group": None}).scheduling_strategy == "DEFAULT"


def test_nothing_else_is_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        changed(TaskOptions(), {"scheduling_strategy": "SPREAD", "label_selector": {"zone": "b"}})
    with pytest.raises(UnsupportedOptionError, match="placement_groups"):
        changed(TaskOptions(), {"placement_groups": None})
