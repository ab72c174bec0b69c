"""Actors that are called from another node than the one that they live on."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import pytest

import rostral
from rostral.cluster_utils import Cluster, ClusterNode
from rostral.exceptions import (
    ActorAlreadyExistsError,
    ActorDiedError,
    ActorNotFoundError,
    ActorUnavailableError,
    PendingCallsLimitError,
    TaskCancelledError,
    TaskDeadlineExceededError,
    UnschedulableError,
)
from rostral.scheduling_strategies import NodeAffinitySchedulingStrategy
from rostral.util import list_named_actors

from .nodes import cluster_of, log_of, nothing_left, status_of, until

pytestmark = pytest.mark.slow

# Workers cannot import this module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
TIMEOUT_S = 30


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head with the driver and the actors, and a node with callers."""
    other = {"num_cpus": 4, "resources": {"arm": 4}, "labels": {"zone": "b"}}
    with cluster_of({"num_cpus": 4}, other) as cluster:
        yield cluster
        for node in cluster.list_all_nodes():
            assert "Traceback" not in log_of(node)


@pytest.fixture
def other(cluster: Cluster) -> Iterator[ClusterNode]:
    """The other node. After the test nothing is left of it anywhere but the job's code."""
    (node,) = cluster.worker_nodes
    yield node
    assert cluster.head_node is not None
    for one in (node, cluster.head_node):
        until(partial(is_idle, one), f"nothing is left: {status_of(one)}")
        nothing_left(one, code=True)


def is_idle(node: ClusterNode) -> bool:
    """Whether no task and no actor is on the node, or on its way."""
    status = status_of(node)
    return not any(status[what] for what in ("hosted", "forwarded", "remote_actors", "actors"))


class LogClass:
    """Notes what it is told, in its order."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def tell(self, what: Any) -> int:
        self.told.append(what)
        return len(self.told)

    def all(self) -> list[Any]:
        return self.told

    def echo(self, value: Any) -> Any:
        return value

    def sleep(self, path: str, time_s: float) -> str:
        Path(path, f"{time.monotonic_ns()}").touch()
        time.sleep(time_s)
        return "slept"

    def fail(self) -> None:
        raise ZeroDivisionError("at the actor")

    def total(self, refs: list[Any]) -> int:
        return int(sum(rostral.get(refs)))

    def die(self) -> None:
        os._exit(1)


Log: Any = rostral.remote(LogClass).options(num_cpus=0)


def touch(folder: str) -> None:
    Path(folder, "go").touch()


def wait_for_marks(folder: str, count: int) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while len(os.listdir(folder)) < count:
        assert time.monotonic() < deadline_s, f"{count} files in {folder}"
        time.sleep(0.01)


@rostral.remote(resources={"arm": 1})
def call(handles: list[Any], method: str, *args: Any) -> Any:
    """Calls the actor from the other node."""
    return rostral.get(getattr(handles[0], method).remote(*args), timeout=TIMEOUT_S)


@rostral.remote(resources={"arm": 1})
def tell_many(log: Any, caller: int, count: int) -> list[int]:
    return rostral.get([log.tell.remote((caller, i)) for i in range(count)], timeout=TIMEOUT_S)


@pytest.mark.usefixtures("other")
def test_a_handle_works_on_another_node() -> None:
    log = Log.remote()
    assert rostral.get(call.remote([log], "tell", "a"), timeout=TIMEOUT_S) == 1
    assert rostral.get(log.tell.remote("b"), timeout=TIMEOUT_S) == 2
    assert rostral.get(call.remote([log], "all"), timeout=TIMEOUT_S) == ["a", "b"]


@pytest.mark.usefixtures("other")
def test_each_caller_keeps_its_order() -> None:
    log = Log.remote()
    count = 3000
    places = rostral.get([tell_many.remote(log, i, count) for i in range(3)], timeout=TIMEOUT_S)
    assert sorted(place for mine in places for place in mine) == list(range(1, 3 * count + 1))
    for mine in places:
        assert mine == sorted(mine)
    told = rostral.get(log.all.remote(), timeout=TIMEOUT_S)
    for caller in range(3):
        assert [i for who, i in told if who == caller] == list(range(count))


@pytest.mark.usefixtures("other")
def test_a_late_input_delays_its_caller_and_no_other(tmp_path: Path) -> None:
    @rostral.remote(resources={"arm": 1})
    def late(log: Any, path: str) -> Any:
        @rostral.remote(num_cpus=0)
        def wait() -> str:
            while not Path(path, "go").exists():
                time.sleep(0.01)
            return "late"

        refs = [log.tell.remote(wait.remote()), log.tell.remote("behind")]
        Path(path, "sent").touch()
        return rostral.get(refs, timeout=TIMEOUT_S)

    log = Log.remote()
    places = late.remote(log, str(tmp_path))
    until(Path(tmp_path, "sent").exists, "the calls are made")
    assert rostral.get(call.remote([log], "tell", "other"), timeout=TIMEOUT_S) == 1
    Path(tmp_path, "go").touch()
    assert rostral.get(places, timeout=TIMEOUT_S) == [2, 3]
    assert rostral.get(log.all.remote(), timeout=TIMEOUT_S) == ["other", "late", "behind"]


@pytest.mark.usefixtures("other")
def test_large_arguments_and_results_travel() -> None:
    @rostral.remote(resources={"arm": 1})
    def doubled(log: Any) -> Any:
        values = np.arange(1 << 18)
        kept = rostral.put(values)
        for given in (values, kept):
            assert np.array_equal(rostral.get(log.echo.remote(given), timeout=TIMEOUT_S), values)
        return rostral.get(log.total.remote([rostral.put(i) for i in range(5)]), timeout=TIMEOUT_S)

    assert rostral.get(doubled.remote(Log.remote()), timeout=TIMEOUT_S) == 10


@pytest.mark.usefixtures("other")
def test_what_a_method_raises_comes_back() -> None:
    log = Log.remote()
    with pytest.raises(ZeroDivisionError, match="at the actor"):
        rostral.get(call.remote([log], "fail"), timeout=TIMEOUT_S)
    assert rostral.get(call.remote([log], "echo", 1), timeout=TIMEOUT_S) == 1


@pytest.mark.usefixtures("other")
def test_the_death_of_an_actor_reaches_its_callers_elsewhere() -> None:
    log = Log.remote()
    assert rostral.get(call.remote([log], "tell", 1), timeout=TIMEOUT_S) == 1
    with pytest.raises(ActorDiedError, match="exited with status 1"):
        rostral.get(call.remote([log], "die"), timeout=TIMEOUT_S)
    with pytest.raises(ActorDiedError, match="exited with status 1"):
        rostral.get(call.remote([log], "tell", 2), timeout=TIMEOUT_S)


@pytest.mark.usefixtures("other")
def test_a_call_that_died_with_the_process_is_made_again_only_if_allowed(tmp_path: Path) -> None:
    class FragileClass:
        def once(self, path: str) -> str:
            if not Path(path, "died").exists():
                Path(path, "died").touch()
                os._exit(1)
            return "lived"

    fragile_class: Any = rostral.remote(FragileClass).options(num_cpus=0, max_restarts=-1)

    @rostral.remote(resources={"arm": 1})
    def once(fragile: Any, path: str, retries: int) -> Any:
        method = fragile.once.options(max_task_retries=retries)
        return rostral.get(method.remote(path), timeout=TIMEOUT_S)

    fragile = fragile_class.remote()
    with pytest.raises(ActorUnavailableError):
        rostral.get(once.remote(fragile, str(tmp_path), 0), timeout=TIMEOUT_S)
    Path(tmp_path, "died").unlink()
    assert rostral.get(once.remote(fragile, str(tmp_path), 1), timeout=TIMEOUT_S) == "lived"


@pytest.mark.usefixtures("other")
def test_a_limit_of_pending_calls_holds_elsewhere(tmp_path: Path) -> None:
    @rostral.remote(resources={"arm": 1})
    def fill(log: Any, path: str) -> int:
        refs = []
        try:
            for _ in range(10):
                refs.append(log.sleep.remote(path, 0.3))
        except PendingCallsLimitError:
            rostral.get(refs, timeout=TIMEOUT_S)
            refs.append(log.echo.remote(1))  # There is room again.
            assert rostral.get(refs[-1], timeout=TIMEOUT_S) == 1
            return len(refs) - 1
        return -1

    log = Log.options(max_pending_calls=3).remote()
    assert rostral.get(fill.remote(log, str(tmp_path)), timeout=TIMEOUT_S) == 3


@pytest.mark.usefixtures("other")
def test_calls_are_cancelled_from_elsewhere_queued_and_running(tmp_path: Path) -> None:
    @rostral.remote(resources={"arm": 1})
    def cancel(log: Any, path: str) -> list[str]:
        first = log.sleep.remote(path, 1.0)
        queued = log.tell.remote("never")
        wait_for_marks(path, 1)
        found = []
        rostral.cancel(queued)
        for ref in (queued, first):
            try:
                found.append(rostral.get(ref, timeout=TIMEOUT_S))
            except TaskCancelledError:
                found.append("cancelled")
        last = log.sleep.remote(path, 1.0)
        wait_for_marks(path, 2)
        rostral.cancel(last)
        try:
            found.append(rostral.get(last, timeout=TIMEOUT_S))
        except TaskCancelledError:
            found.append("cancelled")
        return found

    log = Log.remote()
    found = rostral.get(cancel.remote(log, str(tmp_path)), timeout=TIMEOUT_S)
    assert found == ["cancelled", "slept", "cancelled"]
    assert rostral.get(log.all.remote(), timeout=TIMEOUT_S) == []


@pytest.mark.usefixtures("other")
def test_a_deadline_of_a_call_holds_elsewhere(tmp_path: Path) -> None:
    @rostral.remote(resources={"arm": 1})
    def late(log: Any, path: str) -> Any:
        first = log.sleep.remote(path, 1.5)
        second = log.tell.options(deadline_s=0.3).remote("late")
        try:
            rostral.get(second, timeout=TIMEOUT_S)
        except TaskDeadlineExceededError:
            return rostral.get(first, timeout=TIMEOUT_S)
        return "no deadline"

    log = Log.remote()
    assert rostral.get(late.remote(log, str(tmp_path)), timeout=TIMEOUT_S) == "slept"
    assert rostral.get(log.all.remote(), timeout=TIMEOUT_S) == []


@pytest.mark.usefixtures("other")
def test_a_handle_in_a_result_that_nobody_has_read_keeps_its_actor(cluster: Cluster) -> None:
    @rostral.remote(resources={"arm": 1})
    def pass_on(handles: list[Any]) -> list[Any]:
        return handles

    head = cluster.head_node
    assert head is not None
    log = Log.remote()
    assert rostral.get(log.tell.remote("before"), timeout=TIMEOUT_S) == 1
    kept = pass_on.remote([log])
    rostral.wait([kept], timeout=TIMEOUT_S)
    del log
    handles = rostral.get(kept, timeout=TIMEOUT_S)
    assert rostral.get(call.remote(handles, "tell", "after"), timeout=TIMEOUT_S) == 2
    del kept, handles
    until(lambda: not status_of(head)["actors"], "it ends with its last handle")


def test_a_handle_that_an_object_elsewhere_holds_keeps_its_actor(
    cluster: Cluster, other: ClusterNode, tmp_path: Path
) -> None:
    @rostral.remote(resources={"arm": 1})
    def keep(handles: list[Any], path: str) -> int:
        found: int = rostral.get(handles[0].tell.remote("first"))
        wait_for_marks(path, 1)
        return found + int(rostral.get(handles[0].tell.remote("second")))

    head = cluster.head_node
    assert head is not None
    log = Log.remote()
    kept = keep.remote([log], str(tmp_path))
    until(lambda: status_of(other)["remote_actors"] == 1, "the other node knows of it")
    del log
    # The driver's task refers to it, and so does what runs there.
    assert len(status_of(head)["actors"]) == 1
    Path(tmp_path, "go").touch()
    assert rostral.get(kept, timeout=TIMEOUT_S) == 3
    del kept
    until(lambda: not status_of(head)["actors"], "it ends with its last handle")


@pytest.mark.usefixtures("other")
def test_an_async_actor_takes_calls_past_a_late_one(tmp_path: Path) -> None:
    class SignalClass:
        def __init__(self) -> None:
            self.is_set = False

        async def note(self, value: str) -> str:
            return value

        async def send(self) -> None:
            touch(str(tmp_path))

    signal_class: Any = rostral.remote(SignalClass).options(num_cpus=0)

    @rostral.remote(resources={"arm": 1})
    def drive(signal: Any, path: str) -> Any:
        @rostral.remote(num_cpus=0)
        def wait() -> str:
            while not Path(path, "go").exists():
                time.sleep(0.01)
            return "came"

        noted = signal.note.remote(wait.remote())
        signal.send.remote()
        return rostral.get(noted, timeout=TIMEOUT_S)

    signal_actor = signal_class.remote()
    assert rostral.get(drive.remote(signal_actor, str(tmp_path)), timeout=TIMEOUT_S) == "came"


@pytest.mark.usefixtures("other")
def test_calls_run_once_each_though_the_stream_breaks(cluster: Cluster, tmp_path: Path) -> None:
    log = Log.remote()

    @rostral.remote(resources={"arm": 1})
    def trickle(log: Any, path: str) -> list[int]:
        refs = []
        for i in range(400):
            refs.append(log.tell.remote(i))
            time.sleep(0.01)
            Path(path, "begun").touch()
        return rostral.get(refs, timeout=TIMEOUT_S)

    places = trickle.remote(log, str(tmp_path))
    until(Path(tmp_path, "begun").exists, "calls are made")
    (origin,) = cluster.worker_nodes
    # Silent for longer than a stream is waited for, and shorter than a node is.
    pid = origin.process.record.pid
    os.kill(pid, signal.SIGSTOP)
    time.sleep(2.5)
    os.kill(pid, signal.SIGCONT)
    assert rostral.get(places, timeout=TIMEOUT_S) == list(range(1, 401))
    assert rostral.get(log.all.remote(), timeout=TIMEOUT_S) == list(range(400))


class TallyClass:
    """Lives on the other node."""

    def __init__(self, start: Any = 0) -> None:
        self.count = int(start if isinstance(start, int) else len(start))

    def add(self, by: int = 1) -> int:
        self.count += by
        return self.count

    def node_id(self) -> str:
        return str(rostral.get_runtime_context().get_node_id())


Tally: Any = rostral.remote(TallyClass).options(resources={"arm": 0.5})


def test_an_actor_is_made_where_its_resources_are(other: ClusterNode) -> None:
    tally = Tally.remote(5)
    assert rostral.get([tally.add.remote() for _ in range(3)], timeout=TIMEOUT_S) == [6, 7, 8]
    assert rostral.get(tally.node_id.remote(), timeout=TIMEOUT_S) == other.node_id
    assert rostral.get(call.remote([tally], "add", 2), timeout=TIMEOUT_S) == 10


def test_constructor_arguments_come_along_large_late_and_by_reference(other: ClusterNode) -> None:
    @rostral.remote(num_cpus=0)
    def later() -> int:
        time.sleep(0.3)
        return 40

    large = Tally.remote(np.zeros(1 << 18, np.uint8))
    stored = Tally.remote(rostral.put(np.zeros(1 << 18, np.uint8)))
    late = Tally.remote(later.remote())
    added = [tally.add.remote() for tally in (large, stored, late)]
    assert rostral.get(added, timeout=TIMEOUT_S) == [(1 << 18) + 1, (1 << 18) + 1, 41]


def test_strategies_choose_the_node_of_an_actor(cluster: Cluster, other: ClusterNode) -> None:
    assert cluster.head_node is not None
    free = Tally.options(resources={}, num_cpus=0.1)
    strategy = NodeAffinitySchedulingStrategy(other.node_id, soft=False)
    there = free.options(scheduling_strategy=strategy).remote()
    assert rostral.get(there.node_id.remote(), timeout=TIMEOUT_S) == other.node_id
    labelled = free.options(label_selector={"zone": "b"}).remote()
    assert rostral.get(labelled.node_id.remote(), timeout=TIMEOUT_S) == other.node_id
    spread = [free.options(scheduling_strategy="SPREAD").remote() for _ in range(6)]
    found = rostral.get([one.node_id.remote() for one in spread], timeout=TIMEOUT_S)
    assert set(found) == {cluster.head_node.node_id, other.node_id}
    gone = NodeAffinitySchedulingStrategy("ab" * 16, soft=False)
    with pytest.raises(UnschedulableError, match="ab" * 16):
        free.options(scheduling_strategy=gone).remote()
    with pytest.raises(UnschedulableError, match="legs"):
        free.options(resources={"legs": 1}).remote()


@pytest.mark.usefixtures("other")
def test_an_actor_elsewhere_ends_with_its_last_handle_or_by_kill(cluster: Cluster) -> None:
    (node,) = cluster.worker_nodes
    tally = Tally.remote()
    assert rostral.get(tally.add.remote(), timeout=TIMEOUT_S) == 1
    del tally
    until(lambda: not status_of(node)["actors"], "it ended with its handle")
    killed = Tally.remote()
    assert rostral.get(killed.add.remote(), timeout=TIMEOUT_S) == 1
    rostral.kill(killed)
    with pytest.raises(ActorDiedError, match=r"killed by rostral\.kill"):
        rostral.get(killed.add.remote(), timeout=TIMEOUT_S)


@pytest.mark.usefixtures("other")
def test_a_constructor_that_raises_there_says_so_here() -> None:
    bad = Tally.remote(1.5)
    with pytest.raises(ActorDiedError, match="has no len"):
        rostral.get(bad.add.remote(), timeout=TIMEOUT_S)


def test_a_named_actor_is_found_from_every_node(other: ClusterNode) -> None:
    @rostral.remote(resources={"arm": 1})
    def add_to(name: str) -> Any:
        return rostral.get(rostral.get_actor(name).add.remote(), timeout=TIMEOUT_S)

    there = Tally.options(name="there").remote()
    here = Tally.options(name="here", resources={}, num_cpus=0).remote()
    for name in ("there", "here"):
        assert rostral.get(add_to.remote(name), timeout=TIMEOUT_S) == 1
        assert rostral.get(rostral.get_actor(name).add.remote(), timeout=TIMEOUT_S) == 2
        with pytest.raises(ActorAlreadyExistsError, match=name):
            Tally.options(name=name).remote()
    assert sorted(list_named_actors()) == ["here", "there"]
    assert rostral.get(there.node_id.remote(), timeout=TIMEOUT_S) == other.node_id
    del there
    until(lambda: list_named_actors() == ["here"], "its name is free")
    with pytest.raises(ActorNotFoundError):
        rostral.get_actor("there")
    del here


@pytest.mark.usefixtures("other")
def test_of_creators_on_several_nodes_one_makes_the_actor() -> None:
    @rostral.remote
    def join(name: str) -> Any:
        made = Tally.options(name=name, get_if_exists=True).remote()
        return [rostral.get(made.add.remote(), timeout=TIMEOUT_S), made]

    strategies = ["SPREAD"] * 4
    joins = [join.options(num_cpus=0.1, scheduling_strategy=s).remote("one") for s in strategies]
    counts = sorted(count for count, _ in rostral.get(joins, timeout=TIMEOUT_S))
    assert counts == [1, 2, 3, 4]


@pytest.mark.usefixtures("other")
def test_a_detached_actor_elsewhere_lives_until_it_is_killed() -> None:
    Tally.options(name="stays", lifetime="detached", namespace="all").remote(7)
    stays = rostral.get_actor("stays", namespace="all")
    assert rostral.get(stays.add.remote(), timeout=TIMEOUT_S) == 8
    rostral.kill(stays)
    with pytest.raises(ActorDiedError):
        rostral.get(stays.add.remote(), timeout=TIMEOUT_S)
    until(lambda: not list_named_actors(all_namespaces=True), "its name is free")


@pytest.mark.usefixtures("other")
def test_what_an_actor_makes_elsewhere_ends_with_it(cluster: Cluster) -> None:
    class ParentClass:
        def make(self) -> list[Any]:
            self.child = Tally.remote()
            rostral.get(self.child.add.remote(), timeout=TIMEOUT_S)
            return [self.child]

    parent_class: Any = rostral.remote(ParentClass).options(num_cpus=0)

    (node,) = cluster.worker_nodes
    parent = parent_class.remote()
    (child,) = rostral.get(parent.make.remote(), timeout=TIMEOUT_S)
    assert rostral.get(child.add.remote(), timeout=TIMEOUT_S) == 2
    rostral.kill(parent)
    with pytest.raises(ActorDiedError, match="its owner died"):
        until(lambda: rostral.get(child.add.remote(), timeout=TIMEOUT_S) < 0, "the child ends")
    until(lambda: all(a["state"] == "DEAD" for a in status_of(node)["actors"]), "it ended")
