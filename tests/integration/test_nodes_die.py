"""Nodes and the GCS die while tasks are on their way between nodes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cloudpickle  # type: ignore[import-untyped]
import pytest

import rostral
from rostral.exceptions import NodeDiedError, UnschedulableError
from rostral.scheduling_strategies import NodeAffinitySchedulingStrategy

from .nodes import (
    Gcs,
    Marks,
    cluster_of,
    nodes_of,
    runtime_folder,
    status_of,
    until,
    workers_of,
)

pytestmark = pytest.mark.slow

# Workers cannot import this module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
TIMEOUT_S = 30
ARM = {"num_cpus": 2, "resources": {"arm": 2}}


@rostral.remote(resources={"arm": 1}, max_retries=1)
def slow_square(i: int, path: str, delay_s: float = 0.02) -> int:
    Path(path, f"{i}-{os.getpid()}").touch()
    time.sleep(delay_s)
    return i * i


def test_tasks_of_a_killed_node_run_on_another(tmp_path: Path) -> None:
    with cluster_of({"num_cpus": 1}, ARM, ARM) as cluster:
        marks = Marks(tmp_path)
        refs = [slow_square.remote(i, marks.path) for i in range(200)]
        until(lambda: marks.count() > 20, "some ran")
        victim = cluster.worker_nodes[0]
        cluster.remove_node(victim, allow_graceful=False)
        assert rostral.get(refs, timeout=TIMEOUT_S) == [i * i for i in range(200)]
        head = cluster.head_node
        assert head is not None
        until(lambda: status_of(head)["forwarded"] == 0, "nothing is out")
        until(
            lambda: sum(node["Alive"] for node in rostral.nodes()) == 2, "the cluster knows of it"
        )


def test_a_task_without_retries_fails_with_its_node_within_a_second(tmp_path: Path) -> None:
    with cluster_of({"num_cpus": 1}, ARM) as cluster:
        once = slow_square.options(max_retries=0)
        ref = once.remote(1, str(tmp_path), 600.0)
        until(Marks(tmp_path).count, "it runs")
        (node,) = cluster.worker_nodes
        begin_s = time.monotonic()
        os.kill(node.process.record.pid, signal.SIGKILL)
        with pytest.raises(NodeDiedError, match=node.node_id):
            rostral.get(ref, timeout=TIMEOUT_S)
        assert time.monotonic() - begin_s < 1.0
        cluster.remove_node(node, allow_graceful=False)
        strategy = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
        with pytest.raises(UnschedulableError):
            once.options(scheduling_strategy=strategy).remote(1, str(tmp_path))


def test_a_frozen_node_is_given_up_within_six_seconds(tmp_path: Path) -> None:
    with cluster_of({"num_cpus": 1}, ARM, ARM) as cluster:
        refs = [slow_square.remote(i, str(tmp_path), 0.5) for i in range(4)]
        until(lambda: Marks(tmp_path).count() == 4, "all run")
        victim = cluster.worker_nodes[0]
        begin_s = time.monotonic()
        os.kill(victim.process.record.pid, signal.SIGSTOP)
        assert rostral.get(refs, timeout=TIMEOUT_S) == [0, 1, 4, 9]
        assert time.monotonic() - begin_s < 7.0
        # It was found dead: when it wakes it must not go on.
        os.kill(victim.process.record.pid, signal.SIGCONT)
        assert victim.process.process.wait(TIMEOUT_S) is not None
        cluster.remove_node(victim, allow_graceful=False)


@pytest.mark.parametrize(
    ("how", "within_s"), [(signal.SIGKILL, 1.0), (signal.SIGSTOP, 5.5)], ids=["killed", "frozen"]
)
def test_the_death_of_a_node_without_tasks_is_noticed_as_soon(how: int, within_s: float) -> None:
    idle = {"num_cpus": 1}
    with cluster_of(idle, idle, idle) as cluster:
        time.sleep(0.5)  # Until each watches the next one.
        victim = cluster.worker_nodes[0]
        begin_s = time.monotonic()
        os.kill(victim.process.record.pid, how)
        until(lambda: sum(node["Alive"] for node in rostral.nodes()) == 2, "all know of it")
        assert time.monotonic() - begin_s < within_s
        os.kill(victim.process.record.pid, signal.SIGKILL)
        cluster.remove_node(victim, allow_graceful=False)


DRIVER = """
import sys, rostral
rostral.init(sys.argv[1])
@rostral.remote(resources={"arm": 1})
def hang(path):
    import pathlib, time
    pathlib.Path(path, "ran").touch()
    time.sleep(600)
refs = [hang.remote(sys.argv[2]) for _ in range(4)]
rostral.get(refs)
"""


@pytest.mark.parametrize("victim", ["node", "driver"])
def test_the_work_of_a_killed_origin_ends_on_the_host(tmp_path: Path, victim: str) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    with runtime_folder():
        gcs = Gcs(tmp_path)
        try:
            with nodes_of(gcs, ARM, {"num_cpus": 1.0}) as (host, origin):
                driver = subprocess.Popen(
                    [sys.executable, "-c", DRIVER, gcs.address, str(marks)],
                    stderr=subprocess.DEVNULL,
                )
                until(Marks(marks).count, "it runs on the host", TIMEOUT_S)
                assert status_of(origin)["forwarded"] == 4
                dies = origin.process if victim == "node" else driver
                dies.kill()
                until(lambda: status_of(host)["hosted"] == 0, "the host dropped it", TIMEOUT_S)
                until(lambda: not workers_of(host), "its workers are gone", TIMEOUT_S)
                until(lambda: status_of(host)["jobs"] == [], "its job is gone", TIMEOUT_S)
                driver.kill()
                driver.wait()
        finally:
            gcs.kill()


def test_tasks_cross_while_the_gcs_is_dead(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    with runtime_folder():
        gcs = Gcs(tmp_path)
        try:
            with nodes_of(gcs, ARM, {"num_cpus": 1.0}):
                rostral.init(gcs.address)
                first = [slow_square.remote(i, str(marks)) for i in range(50)]
                until(Marks(marks).count, "some run")
                gcs.kill()
                second = [slow_square.remote(i, str(marks)) for i in range(50)]
                squares = [i * i for i in range(50)]
                assert rostral.get(first, timeout=TIMEOUT_S) == squares
                assert rostral.get(second, timeout=TIMEOUT_S) == squares
                gcs.start()
                until(lambda: len(rostral.nodes()) == 2, "the GCS knows both", TIMEOUT_S)
                assert rostral.get(slow_square.remote(9, str(marks)), timeout=TIMEOUT_S) == 81
        finally:
            gcs.kill()


def test_tasks_on_their_way_survive_the_death_of_their_submitter(tmp_path: Path) -> None:
    @rostral.remote(max_retries=1)
    def parent(path: str, run: str) -> int:
        refs = [slow_square.remote(i, path, 2.0) for i in range(4)]
        if not Path(run).exists():
            Path(run).touch()
            while not os.listdir(path):
                time.sleep(0.001)
            os._exit(9)
        return sum(rostral.get(refs))

    with cluster_of({"num_cpus": 1}, ARM):
        marks = tmp_path / "marks"
        marks.mkdir()
        ref = parent.remote(str(marks), str(tmp_path / "run"))
        assert rostral.get(ref, timeout=TIMEOUT_S) == 14
        # The children of both runs have the same ids: none ran twice.
        assert Marks(marks).count() == 4
