"""Inline mode: one process, one thread but for actors that need more, and a cluster's semantics.

That values, errors, references and actors are as in a cluster is shown by the tests of other
modules, which run in both modes (see inline_subset.py).
"""

from __future__ import annotations

import asyncio
import inspect
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rostral
from rostral.actor import exit_actor
from rostral.exceptions import (
    ActorDiedError,
    GetTimeoutError,
    ObjectStoreFullError,
    RostralError,
    UnschedulableError,
    UnsupportedOptionError,
    WorkerCrashedError,
)

from .actors import counter_class, get
from .command_line import program
from .waiting import files_of, nothing_left, until


@pytest.fixture
def inline(runtime_dir: str) -> Iterator[rostral.Context]:
    """An inline session that leaves no thread, no object and no file."""
    before = threading.active_count()
    with rostral.init(mode="inline", num_cpus=2, resources={"arm": 1}) as context:
        yield context
        nothing_left()
    until(lambda: threading.active_count() <= before, "the end of the threads")
    assert files_of(runtime_dir) == []


# ---- where it runs


def test_a_session_starts_and_ends_within_milliseconds() -> None:
    rostral.init(mode="inline")  # once before: modules are imported at first use
    rostral.shutdown()
    times_s = []
    for _ in range(20):
        began_s = time.perf_counter()
        rostral.init(mode="inline")
        rostral.shutdown()
        times_s.append(time.perf_counter() - began_s)
    # The best of some: what else runs on the machine is no part of it.
    assert min(times_s) < 0.02


def test_there_is_no_other_process_and_no_socket() -> None:
    def sockets() -> int:
        found = 0
        for name in os.listdir("/proc/self/fd"):
            try:
                found += stat.S_ISSOCK(os.stat(f"/proc/self/fd/{name}").st_mode)
            except OSError:
                continue
        return found

    children = Path(f"/proc/self/task/{os.getpid()}/children")
    before = sockets(), children.read_text()
    with rostral.init(mode="inline"):
        assert rostral.get(rostral.remote(os.getpid).remote()) == os.getpid()
        assert (sockets(), children.read_text()) == before


def test_a_task_runs_in_the_thread_that_submits_it_before_remote_returns(
    inline: rostral.Context,
) -> None:
    del inline
    seen: list[Any] = []

    class Here:
        """Travels by reference to this very list."""

        def __reduce__(self) -> Any:
            return _noticed, (id(seen),)

    _lists[id(seen)] = seen

    @rostral.remote
    def look(notice: Any) -> None:
        names = [frame.function for frame in inspect.stack()]
        notice((threading.get_ident(), names))

    ref = look.remote(Here())
    [(thread, names)] = seen
    assert thread == threading.get_ident()
    assert names[0] == "look"
    assert "test_a_task_runs_in_the_thread_that_submits_it_before_remote_returns" in names
    assert rostral.get(ref) is None


_lists: dict[int, list[Any]] = {}


def _noticed(key: int) -> Any:
    return _lists[key].append


def test_plain_pdb_stops_in_a_task_and_sees_who_submitted_it() -> None:
    driver = program(
        """
import rostral

@rostral.remote
def double(x):
    breakpoint()
    return 2 * x

def caller():
    mine = "seen from below"
    return rostral.get(double.remote(21))

rostral.init(mode="inline")
print("result", caller())
"""
    )
    with driver:
        commands = ["p x", "where", *["up"] * 12, "p mine", "continue"]
        out, _ = driver.communicate("\n".join(commands) + "\n", timeout=30)
    assert "21" in out
    assert "caller()" in out
    assert "result 42" in out


# ---- values do not leak


def test_arguments_results_and_closures_are_copies(inline: rostral.Context) -> None:
    del inline
    given: list[int] = [1]
    captured: list[int] = [1]

    @rostral.remote
    def change(values: list[int]) -> list[int]:
        values.append(2)
        captured.append(2)
        return values

    first, second = change.remote(given), change.remote(given)
    assert (given, captured) == ([1], [1])
    got = rostral.get(first)
    got.append(3)
    assert rostral.get(first) == [1, 2]
    assert rostral.get(second) == [1, 2]
    array = np.zeros(1000)
    stored = rostral.get(rostral.put(array))
    assert not stored.flags.writeable
    array[0] = 1
    assert stored[0] == 0


def test_an_actors_state_is_its_own(inline: rostral.Context) -> None:
    del inline

    class Keeper:
        def __init__(self, values: list[int]) -> None:
            self.values = values

        def values_now(self) -> list[int]:
            return self.values

    given = [1]
    keeper: Any = rostral.remote(Keeper).remote(given)
    given.append(2)
    get(keeper.values_now.remote()).append(3)
    assert get(keeper.values_now.remote()) == [1]


# ---- what waits, and what would wait for ever


def test_a_wait_that_cannot_end_is_an_error(inline: rostral.Context) -> None:
    del inline

    class Selfish:
        def ask_myself(self) -> Any:
            me: Any = rostral.get_runtime_context().current_actor
            return rostral.get(me.answer.remote())

        def answer(self) -> int:
            return 1

    selfish: Any = rostral.remote(Selfish).remote()
    with pytest.raises(RostralError, match="will never be ready"):
        rostral.get(selfish.ask_myself.remote())
    assert get(selfish.answer.remote()) == 1


def test_get_is_late_when_an_actor_of_its_own_thread_is(inline: rostral.Context) -> None:
    del inline

    class Slow:
        async def sleep(self, time_s: float) -> float:
            await asyncio.sleep(time_s)
            return time_s

    slow: Any = rostral.remote(Slow).remote()
    late, soon = slow.sleep.remote(0.2), slow.sleep.remote(0.01)
    with pytest.raises(GetTimeoutError):
        rostral.get(late, timeout=0.05)
    assert rostral.wait([late, soon], timeout=0) == ([soon], [late])

    @rostral.remote
    def double(value: float) -> float:
        return 2 * value

    assert get(double.remote(late)) == 0.4


def test_threads_of_an_actor_run_at_the_same_time(inline: rostral.Context) -> None:
    del inline

    class Meeting:
        def __init__(self) -> None:
            self.barrier = threading.Barrier(3)

        def meet(self) -> int:
            return self.barrier.wait(20)

    meeting: Any = rostral.remote(max_concurrency=3)(Meeting).remote()
    assert sorted(get([meeting.meet.remote() for _ in range(3)])) == [0, 1, 2]


def test_a_long_chain_of_submissions_does_not_exhaust_the_stack(inline: rostral.Context) -> None:
    del inline

    @rostral.remote
    def descend(n: int, self: Any) -> Any:
        return [self[0].remote(n - 1, self)] if n else "bottom"

    value = rostral.get(descend.remote(200, [descend]))
    for _ in range(200):
        value = rostral.get(value[0])
    assert value == "bottom"


# ---- actors' ends


def test_actors_have_names_and_restarts_and_ends(inline: rostral.Context) -> None:
    del inline
    counters = counter_class()
    counter = counters.options(name="one", max_restarts=1).remote(10)
    assert get(rostral.get_actor("one").add.remote()) == 11
    assert counters.options(name="one", get_if_exists=True).remote() == counter
    with pytest.raises(ValueError, match="'one'"):
        counters.options(name="one").remote()
    rostral.kill(counter, no_restart=False)
    assert get(counter.add.remote()) == 11
    rostral.kill(counter)
    with pytest.raises(ActorDiedError, match="kill"):
        get(counter.add.remote())
    with pytest.raises(ValueError, match="no living actor"):
        rostral.get_actor("one")
    leaving = counters.remote()
    with pytest.raises(ActorDiedError, match="exit_actor"):
        get(leaving.exit.remote())
    with pytest.raises(ActorDiedError):
        get(leaving.add.remote())


def test_the_calls_of_a_killed_actor_fail_whether_they_run_or_wait(
    inline: rostral.Context,
) -> None:
    del inline

    class Slow:
        async def sleep(self) -> None:
            await asyncio.sleep(60)

    slow: Any = rostral.remote(max_concurrency=2)(Slow).remote()
    refs = [slow.sleep.remote() for _ in range(4)]
    assert rostral.wait(refs, timeout=0.05) == ([], refs)
    rostral.kill(slow)
    for ref in refs:
        with pytest.raises(ActorDiedError, match="kill"):
            get(ref)


def test_an_actor_that_kills_itself_is_dead_to_its_caller(inline: rostral.Context) -> None:
    del inline

    class Tired:
        def end(self) -> str:
            me: Any = rostral.get_runtime_context().current_actor
            rostral.kill(me)
            return "still here"

    tired: Any = rostral.remote(Tired).remote()
    with pytest.raises(ActorDiedError, match="kill"):
        get(tired.end.remote())


def test_a_call_whose_input_is_late_waits_for_it_and_the_next_behind_it(
    inline: rostral.Context,
) -> None:
    del inline

    class Slow:
        async def sleep(self, time_s: float) -> float:
            await asyncio.sleep(time_s)
            return time_s

    slow: Any = rostral.remote(Slow).remote()
    counter = counter_class().remote()
    first = counter.append.remote([slow.sleep.remote(0.05)])
    late = counter.add.remote(slow.sleep.remote(0.1))
    then = counter.add.remote(1)
    assert rostral.wait([first, late, then], num_returns=3, timeout=0)[0] == [first]
    assert get([late, then]) == [pytest.approx(0.1), pytest.approx(1.1)]


def test_a_constructor_that_raises_is_the_calls_error(inline: rostral.Context) -> None:
    del inline

    class Broken:
        def __init__(self) -> None:
            raise KeyError("zork")

        def work(self) -> None: ...

    class Later(Broken):
        async def work(self) -> None: ...  # type: ignore[override]

    for cls in (Broken, Later):
        broken: Any = rostral.remote(cls).remote()
        with pytest.raises(ActorDiedError, match="zork") as caught:
            get(broken.work.remote())
        assert caught.value.actor_init_failed


def test_an_actor_ends_with_its_last_handle(inline: rostral.Context) -> None:
    del inline
    counter = counter_class().options(name="brief").remote()
    get(counter.add.remote())
    del counter

    def is_gone() -> bool:
        rostral.get(rostral.remote(os.getpid).remote())
        try:
            rostral.get_actor("brief")
        except ValueError:
            return True
        return False

    until(is_gone, "the end of the actor")


def test_exit_actor_outside_of_an_actor_is_a_type_error(inline: rostral.Context) -> None:
    del inline
    with pytest.raises(TypeError, match="outside of an actor"):
        exit_actor()


def test_a_task_that_exits_is_a_crash(inline: rostral.Context) -> None:
    del inline

    @rostral.remote(max_retries=2)
    def leave(marks: str) -> None:
        with open(marks, "a", encoding="utf-8") as file:
            file.write("x")
        raise SystemExit(3)

    marks = Path(os.environ["ROSTRAL_RUNTIME_DIR"]) / "marks"
    with pytest.raises(WorkerCrashedError, match="exited with 3"):
        get(leave.remote(str(marks)))
    assert marks.read_text() == "xxx"
    marks.unlink()


# ---- what needs a cluster


def test_what_could_never_be_given_is_refused(inline: rostral.Context) -> None:
    del inline
    work: Any = rostral.remote(os.getpid)
    with pytest.raises(UnschedulableError, match="3 CPU can never be had"):
        work.options(num_cpus=3).remote()
    with pytest.raises(UnschedulableError, match="leg"):
        counter_class().options(resources={"leg": 1}).remote()
    assert rostral.get(work.options(resources={"arm": 1}).remote()) == os.getpid()
    assert rostral.cluster_resources() == {"CPU": 2.0, "arm": 1.0}


def test_what_needs_a_cluster_says_so(inline: rostral.Context) -> None:
    del inline
    with pytest.raises(UnsupportedOptionError, match="inline"):
        rostral.util.placement_group([{"CPU": 1}])

    class Saved:
        def __checkpoint__(self) -> int:
            return 1

        def __restore__(self, value: int) -> None: ...

    with pytest.raises(UnsupportedOptionError, match=r"checkpoint_interval of .*Saved"):
        rostral.remote(checkpoint_interval=5)(Saved).remote()
    with pytest.raises(UnsupportedOptionError, match="inline"):
        rostral.remote(runtime_env={"env_vars": {"A": "b"}})(os.getpid).remote()


def test_a_full_store_is_an_error_at_once() -> None:
    with (
        rostral.init(mode="inline", object_store_memory=64 << 20),
        pytest.raises(ObjectStoreFullError),
    ):
        rostral.get([rostral.put(np.zeros(4 << 20)) for _ in range(4)])


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"mode": "local"}, ValueError),
        ({"mode": "inline", "address": "auto"}, ValueError),
        ({"mode": "inline", "runtime_env": {"env_vars": {"A": "b"}}}, UnsupportedOptionError),
    ],
)
def test_what_does_not_go_with_the_mode_is_refused(
    arguments: dict[str, Any], error: type[Exception]
) -> None:
    init: Any = rostral.init
    with pytest.raises(error):
        init(**arguments)
    assert not rostral.is_initialized()


def test_a_session_leaves_the_thread_without_an_event_loop(inline: rostral.Context) -> None:
    del inline

    class Later:
        async def value(self) -> int:
            return 1

    later: Any = rostral.remote(Later).remote()

    async def scenario() -> int:
        value: int = await later.value.remote()
        return value

    assert asyncio.run(scenario()) == 1
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


def test_inline_and_cluster_sessions_take_turns() -> None:
    @rostral.remote
    def pid() -> int:
        return os.getpid()

    with rostral.init(mode="inline"):
        assert rostral.get(pid.remote()) == os.getpid()
        old = rostral.put(1)
    with rostral.init(num_cpus=1, object_store_memory=64 << 20):
        assert rostral.get(pid.remote(), timeout=20) != os.getpid()
        with pytest.raises(ValueError, match="another store"):
            rostral.get(old)
    with rostral.init(mode="inline"):
        assert rostral.get(pid.remote()) == os.getpid()
