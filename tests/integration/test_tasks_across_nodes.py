"""Tasks that run on another node than the one that they were submitted on."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import pytest

import rostral
from rostral.cluster_utils import Cluster, ClusterNode
from rostral.exceptions import (
    ObjectStoreError,
    TaskCancelledError,
    TaskDeadlineExceededError,
    UnschedulableError,
    WorkerCrashedError,
)
from rostral.scheduling_strategies import NodeAffinitySchedulingStrategy

from .nodes import (
    Marks,
    cluster_of,
    log_of,
    nothing_left,
    status_of,
    until,
    workers_of,
)

pytestmark = pytest.mark.slow

# Workers cannot import this module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
TIMEOUT_S = 30


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head with one CPU, and a node with two and what only it has."""
    other = {"num_cpus": 2, "resources": {"arm": 2}, "labels": {"zone": "b"}}
    with cluster_of({"num_cpus": 1, "labels": {"zone": "a"}}, other) as cluster:
        yield cluster
        for node in cluster.list_all_nodes():
            assert "Traceback" not in log_of(node)


@pytest.fixture
def other(cluster: Cluster) -> Iterator[ClusterNode]:
    """The other node. After the test it has nothing of it but the job's code."""
    (node,) = cluster.worker_nodes
    yield node
    until(lambda: status_of(node)["hosted"] == 0, "no task of another node's is left")
    # Of the functions that have run there, each is kept for its job.
    nothing_left(node, code=True)


@rostral.remote(resources={"arm": 1})
def add(a: int, b: int = 0) -> int:
    return a + b


@rostral.remote
def node_id() -> str:
    return str(rostral.get_runtime_context().get_node_id())


def test_a_shape_that_only_another_node_has_runs_there(other: ClusterNode) -> None:
    assert rostral.get(add.remote(1, b=2), timeout=TIMEOUT_S) == 3
    there = node_id.options(resources={"arm": 0.5}).remote()
    assert rostral.get(there, timeout=TIMEOUT_S) == other.node_id


@pytest.mark.usefixtures("other")
def test_each_of_many_results_is_its_own_tasks() -> None:
    refs = [add.options(resources={"arm": 0.01}).remote(i, b=1) for i in range(3000)]
    assert rostral.get(refs, timeout=TIMEOUT_S) == [i + 1 for i in range(3000)]


@pytest.mark.usefixtures("other")
def test_large_arguments_and_results_are_fetched() -> None:
    @rostral.remote(resources={"arm": 1})
    def double(values: Any) -> Any:
        return values * 2

    values = np.arange(1 << 19)
    kept = rostral.put(values)
    for argument in (values, kept):
        assert np.array_equal(rostral.get(double.remote(argument), timeout=TIMEOUT_S), values * 2)


@pytest.mark.usefixtures("other")
def test_a_result_is_an_input_of_tasks_on_either_node() -> None:
    first = add.remote(1, b=1)
    second = add.remote(first, b=1)
    here = add.options(resources={}).remote(second, b=1)
    assert rostral.get(add.remote(here, b=first), timeout=TIMEOUT_S) == 6


@pytest.mark.usefixtures("other")
def test_references_in_arguments_are_read_where_the_task_runs() -> None:
    @rostral.remote(resources={"arm": 1})
    def total(refs: list[rostral.ObjectRef[int]]) -> int:
        return sum(rostral.get(refs))

    refs = [rostral.put(i) for i in range(5)]
    assert rostral.get(total.remote(refs), timeout=TIMEOUT_S) == 10


@pytest.mark.usefixtures("other")
def test_an_error_comes_back_as_what_it_was() -> None:
    @rostral.remote(resources={"arm": 1})
    def fail() -> None:
        raise ZeroDivisionError("there")

    failed = fail.remote()
    with pytest.raises(ZeroDivisionError, match="there"):
        rostral.get(failed, timeout=TIMEOUT_S)
    with pytest.raises(ZeroDivisionError, match="there"):
        rostral.get(add.remote(failed), timeout=TIMEOUT_S)


@pytest.mark.usefixtures("other")
def test_any_number_of_results_comes_back(tmp_path: Path) -> None:
    @rostral.remote(resources={"arm": 1}, num_returns=3)
    def three() -> Any:
        return 1, b"2" * 1000, "3"

    @rostral.remote(resources={"arm": 1}, num_returns=0)
    def none(path: str) -> None:
        Path(path, "ran").touch()

    assert rostral.get(three.remote(), timeout=TIMEOUT_S) == [1, b"2" * 1000, "3"]
    assert none.remote(str(tmp_path)) is None
    until(Marks(tmp_path).count, "the task without results ran")


@pytest.mark.usefixtures("other")
def test_what_a_task_submits_there_may_come_back_here(cluster: Cluster) -> None:
    @rostral.remote(resources={"arm": 1})
    def outer(home: str) -> Any:
        strategy = NodeAffinitySchedulingStrategy(home, soft=False)
        return rostral.get(node_id.options(scheduling_strategy=strategy).remote())

    assert cluster.head_node is not None
    home = cluster.head_node.node_id
    assert rostral.get(outer.remote(home), timeout=TIMEOUT_S) == home


def test_affinity_and_labels_choose_the_node(cluster: Cluster, other: ClusterNode) -> None:
    assert cluster.head_node is not None
    for node in (other, cluster.head_node):
        for soft in (False, True):
            strategy = NodeAffinitySchedulingStrategy(node.node_id, soft=soft)
            ref = node_id.options(scheduling_strategy=strategy).remote()
            assert rostral.get(ref, timeout=TIMEOUT_S) == node.node_id
    labelled = node_id.options(label_selector={"zone": "b"}).remote()
    assert rostral.get(labelled, timeout=TIMEOUT_S) == other.node_id
    instead = [{"label_selector": {"zone": "!in(b, c)"}}]
    fallen = node_id.options(label_selector={"zone": "c"}, fallback_strategy=instead).remote()
    assert rostral.get(fallen, timeout=TIMEOUT_S) == cluster.head_node.node_id


@pytest.mark.usefixtures("other")
def test_what_no_node_can_ever_do_is_refused_at_once() -> None:
    gone = NodeAffinitySchedulingStrategy("ab" * 16, soft=False)
    for options in (
        {"resources": {"arm": 3}},
        {"resources": {"leg": 1}},
        {"label_selector": {"zone": "c"}},
        {"label_selector": {"zone": "a"}, "resources": {"arm": 1}},
        {"scheduling_strategy": gone},
    ):
        with pytest.raises(UnschedulableError):
            node_id.options(**options).remote()
    missing = NodeAffinitySchedulingStrategy("ab" * 16, soft=True)
    rostral.get(node_id.options(scheduling_strategy=missing).remote(), timeout=TIMEOUT_S)


@pytest.mark.usefixtures("other")
def test_spread_tasks_use_every_node(cluster: Cluster) -> None:
    @rostral.remote(scheduling_strategy="SPREAD")
    def where() -> str:
        time.sleep(0.05)
        return str(rostral.get_runtime_context().get_node_id())

    found = set(rostral.get([where.remote() for _ in range(12)], timeout=TIMEOUT_S))
    assert found == {node.node_id for node in cluster.list_all_nodes()}


@pytest.mark.usefixtures("other")
def test_a_worker_that_dies_there_costs_a_retry(tmp_path: Path) -> None:
    @rostral.remote(resources={"arm": 1})
    def die(path: str, deaths: int) -> int:
        Path(path, str(os.getpid())).touch()
        runs = len(os.listdir(path))
        if runs <= deaths:
            os._exit(9)
        return runs

    assert rostral.get(die.options(max_retries=2).remote(str(tmp_path), 2), timeout=TIMEOUT_S) == 3
    with pytest.raises(WorkerCrashedError):
        rostral.get(die.options(max_retries=0).remote(str(tmp_path), 99), timeout=TIMEOUT_S)


@pytest.mark.usefixtures("other")
def test_running_and_queued_tasks_there_are_cancelled(tmp_path: Path) -> None:
    @rostral.remote(resources={"arm": 2})
    def sleep(path: str) -> None:
        Path(path, str(time.time_ns())).touch()
        time.sleep(600)

    marks = Marks(tmp_path)
    refs = [sleep.remote(marks.path) for _ in range(3)]
    until(marks.count, "the first task began")
    for ref in reversed(refs):
        assert rostral.cancel(ref)
        with pytest.raises(TaskCancelledError):
            rostral.get(ref, timeout=TIMEOUT_S)
    forced = sleep.remote(marks.path)
    until(lambda: marks.count() == 2, "the forced one began")
    rostral.cancel(forced, force=True)
    with pytest.raises(TaskCancelledError):
        rostral.get(forced, timeout=TIMEOUT_S)
    assert marks.count() == 2


@pytest.mark.usefixtures("other")
def test_a_deadline_holds_there() -> None:
    @rostral.remote(resources={"arm": 1}, deadline_s=0.3)
    def sleep() -> None:
        time.sleep(600)

    begin_s = time.monotonic()
    with pytest.raises(TaskDeadlineExceededError):
        rostral.get(sleep.remote(), timeout=TIMEOUT_S)
    assert time.monotonic() - begin_s < 5


@pytest.mark.usefixtures("other")
def test_what_cannot_travel_says_so() -> None:
    @rostral.remote(resources={"arm": 1})
    def stream() -> Any:
        yield 1

    with pytest.raises(ObjectStoreError, match="do not travel between nodes"):
        rostral.get(next(stream.remote()), timeout=TIMEOUT_S)


def test_values_with_references_bring_what_they_refer_to(other: ClusterNode) -> None:
    @rostral.remote(resources={"arm": 1})
    def make(depth: int) -> Any:
        inner: Any = rostral.put(np.full(1 << 17, depth))
        for i in range(depth):
            inner = rostral.put([i, inner])
        return {"here": [inner, inner], "pending": add.options(resources={}).remote(1, b=2)}

    @rostral.remote(resources={"arm": 1})
    def depth_of(made: Any) -> int:
        depth, inner = 0, rostral.get(made["here"][0])
        while isinstance(inner, list):
            depth, inner = depth + 1, rostral.get(inner[1])
        assert len(inner) == 1 << 17
        return depth + int(rostral.get(made["pending"]))

    made = make.remote(5)
    value = rostral.get(made, timeout=TIMEOUT_S)
    assert rostral.get(value["pending"], timeout=TIMEOUT_S) == 3
    here = depth_of.options(resources={})
    for depths in (here, depth_of):
        assert rostral.get(depths.remote(made), timeout=TIMEOUT_S) == 8
        assert rostral.get(depths.remote(value), timeout=TIMEOUT_S) == 8
    del value, made
    nothing_left(other, code=True)


@pytest.mark.usefixtures("other")
def test_a_reference_to_what_is_not_there_yet_travels_once_it_is(tmp_path: Path) -> None:
    @rostral.remote
    def later(path: str) -> int:
        while not Path(path, "go").exists():
            time.sleep(0.01)
        return 7

    @rostral.remote(resources={"arm": 1})
    def first(refs: list[rostral.ObjectRef[int]]) -> int:
        return int(rostral.get(refs[0]))

    ref = first.remote([later.remote(str(tmp_path))])
    assert rostral.wait([ref], timeout=0.3) == ([], [ref])
    Path(tmp_path, "go").touch()
    assert rostral.get(ref, timeout=TIMEOUT_S) == 7


def test_a_jobs_workers_end_with_it_on_every_node(cluster: Cluster) -> None:
    (other,) = cluster.worker_nodes
    rostral.get(add.remote(1), timeout=TIMEOUT_S)
    assert workers_of(other)
    rostral.shutdown()
    until(lambda: not workers_of(other), "the job's workers ended")
    until(lambda: status_of(other)["jobs"] == [], "the job ended")
    nothing_left(other)
    cluster.connect()
    assert rostral.get(add.remote(1), timeout=TIMEOUT_S) == 1
