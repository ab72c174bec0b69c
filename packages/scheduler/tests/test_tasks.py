"""Tasks on a node with real processes: granted, run, nested, shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from rostral_scheduler.errors import JobNotFoundError, RequestError, UnschedulableError

from .node import Driver, Node, eventually, running


def test_task_runs_in_a_worker(driver: Driver) -> None:
    assert driver.get(driver.submit(driver.queue(), "add", 1, 2)) == 3


def test_error_of_a_task_reaches_who_waits(driver: Driver) -> None:
    with pytest.raises(ValueError, match="on purpose"):
        driver.get(driver.submit(driver.queue(), "fail", "on purpose"))


def test_same_shape_gets_the_same_queue(driver: Driver) -> None:
    assert driver.queue(CPU=1.0) == driver.queue(CPU=1)
    assert driver.queue(CPU=1.0) != driver.queue(CPU=0.5)


def test_many_tasks_of_several_shapes_all_run(driver: Driver) -> None:
    queues = [driver.queue(CPU=cpus) for cpus in (0.5, 1.0, 2.0)]
    handles = [driver.submit(queues[i % 3], "add", i, i) for i in range(300)]
    assert [driver.get(handle) for handle in handles] == [2 * i for i in range(300)]


def test_infeasible_shape_is_refused_at_once(driver: Driver) -> None:
    with pytest.raises(UnschedulableError, match=r"3 CPU can never be had.*it has 2") as caught:
        driver.queue(CPU=3.0)
    assert (caught.value.resource, caught.value.requested, caught.value.total) == ("CPU", 3.0, 2.0)
    with pytest.raises(UnschedulableError, match="1 TPU can never be had"):
        driver.queue(TPU=1.0)


def test_wrong_amount_is_refused(driver: Driver) -> None:
    with pytest.raises(RequestError, match="0 or more"):
        driver.queue(CPU=-1.0)


def test_queue_of_an_unknown_job_is_refused(driver: Driver) -> None:
    body = {"job_id": bytes(16), "resources": {}}
    with pytest.raises(JobNotFoundError):
        driver.scheduler.call("get_queue", body)


def test_unknown_method_is_refused(driver: Driver) -> None:
    with pytest.raises(RequestError, match="'dance'"):
        driver.scheduler.call("dance", {})


def test_stranger_cannot_register_as_worker(driver: Driver) -> None:
    body = {"slot": driver.store.slot, "pid": 1, "worker_id": bytes(16)}
    with pytest.raises(RequestError, match="not a worker of this node"):
        driver.scheduler.call("register_worker", body)


def test_nested_tasks_on_one_cpu_finish(folder: Path) -> None:
    """Each of the six waiting parents gives its CPU back; the next one runs on it."""
    with running(folder, num_cpus=1.0) as node:
        driver = Driver(node)
        queue = driver.queue()
        assert driver.get(driver.submit(queue, "nested", queue, 6)) == 6
        node.check()
        driver.unregister()
        node.expect_nothing_left()


def test_workers_are_never_more_than_allowed(folder: Path) -> None:
    with running(folder, num_cpus=1.0, workers_max=3) as node:
        driver = Driver(node)
        queue = driver.queue(CPU=0.0)
        handles = [driver.submit(queue, "add", i, 0) for i in range(50)]
        assert [driver.get(handle) for handle in handles] == list(range(50))
        assert len(node.worker_pids()) <= 3
        driver.unregister()


def test_parents_that_would_block_every_process_do_not_keep_their_children_waiting(
    folder: Path,
) -> None:
    """Each of 40 parents, on six processes at most, waits for a child submitted after them all."""
    with running(folder, num_cpus=2.0, workers_max=6) as node:
        driver = Driver(node)
        queue = driver.queue()
        handles = [driver.submit(queue, "ask_child", driver.job_id, i) for i in range(40)]
        done = driver.store.table.wait(handles, len(handles), 60_000_000_000)
        assert done == len(handles)
        assert [driver.get(handle) for handle in handles] == [i + 1 for i in range(40)]
        node.check()
        driver.unregister()
        node.expect_nothing_left()


def test_two_jobs_share_no_process(node: Node) -> None:
    first, second = Driver(node), Driver(node)
    pids = [
        {driver.get(driver.submit(driver.queue(), "pid")) for _ in range(20)}
        for driver in (first, second)
    ]
    assert not pids[0] & pids[1]
    for driver in (first, second):
        driver.unregister()
    node.expect_nothing_left()


@pytest.mark.slow
def test_idle_workers_beyond_the_cpus_end(folder: Path) -> None:
    with running(folder, num_cpus=1.0, idle_worker_timeout_s=0.05) as node:
        driver = Driver(node)
        queue = driver.queue()
        driver.get(driver.submit(queue, "nested", queue, 4))
        eventually(lambda: len(node.worker_pids()) == 1, "the end of idle workers")
        assert driver.get(driver.submit(queue, "add", 1, 1)) == 2
        driver.unregister()
        node.expect_nothing_left()


def test_output_of_a_worker_reaches_driver_and_file(driver: Driver) -> None:
    driver.get(driver.submit(driver.queue(), "speak", "hello\nthere"))
    eventually(lambda: driver.logs, "the log line")
    entry = driver.logs[0]
    assert (entry["stream"], entry["lines"]) == ("stdout", ["hello", "there"])
    files = driver.node.config.session_dir.glob("logs/worker-*.out")
    assert "hello\nthere\n" in [path.read_text() for path in files]


def test_status_says_what_there_is(driver: Driver) -> None:
    driver.get(driver.submit(driver.queue(), "add", 1, 2))
    status = driver.scheduler.call("status", {})
    assert status["resources"] == {"CPU": 2.0}
    assert [queue["resources"] for queue in status["queues"]] == [{"CPU": 1.0}]
    assert {worker["stage"] for worker in status["workers"]} <= {"FREE", "GRANTED", "STARTING"}
    assert status["store"]["capacity_bytes"] > 0
    assert driver.scheduler.call("cluster_resources", {}) == {"resources": {"CPU": 2.0}}
    nodes = driver.scheduler.call("nodes", {})["nodes"]
    assert [node["node_id"] for node in nodes] == [driver.welcome["node_id"]]
    info = driver.scheduler.call("job_info", {"job_id": driver.job_id})
    assert info["entrypoint"] == "test"
