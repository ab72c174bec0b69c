"""How many calls of an actor run at once, in which groups, and in which order they begin."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import rostral
from rostral.exceptions import UnsupportedOptionError

from .actors import GET_TIMEOUT_S, get, late_function
from .waiting import until

pytestmark = pytest.mark.usefixtures("cluster")


def gated_class() -> Any:
    """Threads: a call that blocks until another opens the gate, and probes."""

    class Gated:
        def __init__(self) -> None:
            self.gate = threading.Event()
            self.running = self.most = 0
            self.lock = threading.Lock()

        def block(self) -> int:
            with self.lock:
                self.running += 1
                self.most = max(self.most, self.running)
            assert self.gate.wait(GET_TIMEOUT_S)
            with self.lock:
                self.running -= 1
            return self.most

        @rostral.method(concurrency_group="io")
        def block_io(self) -> int:
            return self.block()

        def ping(self) -> str:
            return "pong"

        @rostral.method(concurrency_group="io")
        def ping_io(self) -> str:
            return "pong"

        @rostral.method(concurrency_group="control")
        def open(self) -> None:
            self.gate.set()

        @rostral.method(concurrency_group="control")
        def count(self) -> int:
            return self.running

        def thread(self) -> int:
            return threading.get_ident()

    return Gated


GROUPS = {"io": 2, "control": 1}


# ---- threads


def test_a_long_call_does_not_hold_up_short_ones_of_a_threaded_actor() -> None:
    actor = rostral.remote(max_concurrency=3, concurrency_groups={"io": 1, "control": 1})(
        gated_class()
    ).remote()
    blocked = [actor.block.remote() for _ in range(2)]
    assert get([actor.ping.remote() for _ in range(200)]) == ["pong"] * 200
    get(actor.open.remote())
    assert max(get(blocked)) <= 2


def test_max_concurrency_bounds_threads() -> None:
    actor = rostral.remote(max_concurrency=3, concurrency_groups=GROUPS)(gated_class()).remote()
    refs = [actor.block.remote() for _ in range(10)]
    until(lambda: get(actor.count.remote()) == 3, "three running calls")
    get(actor.open.remote())
    assert max(get(refs)) == 3


def test_short_calls_of_a_threaded_actor_all_run_once() -> None:
    class Adder:
        def __init__(self) -> None:
            self.lock, self.sum = threading.Lock(), 0

        def add(self, n: int) -> int:
            with self.lock:
                self.sum += n
                return self.sum

    adder = rostral.remote(max_concurrency=8)(Adder).remote()
    assert max(get([adder.add.remote(1) for _ in range(5000)])) == 5000
    # Now and then a long call in between, after which another thread takes over.
    refs = [
        adder.add.remote(1) if n % 50 else adder.__ray_call__.remote(lambda _: time.sleep(0.003))
        for n in range(2000)
    ]
    get(refs)
    assert get(adder.add.remote(0)) == 5000 + 1960


def test_a_threaded_actor_answers_after_it_was_idle() -> None:
    actor = rostral.remote(max_concurrency=4, concurrency_groups=GROUPS)(gated_class()).remote()
    for _ in range(3):
        assert get(actor.ping.remote()) == "pong"
        time.sleep(0.15)  # longer than the watch over long calls stays awake
        blocked = [actor.block.remote() for _ in range(3)]
        until(lambda: get(actor.count.remote()) == 3, "three running calls")
        get(actor.open.remote())
        get(blocked)
        get(actor.__ray_call__.remote(lambda self: self.gate.clear()))


# ---- groups


@pytest.mark.parametrize("max_concurrency", [1, 2])
def test_groups_do_not_block_each_other(max_concurrency: int) -> None:
    actor = rostral.remote(max_concurrency=max_concurrency, concurrency_groups=GROUPS)(
        gated_class()
    ).remote()
    blocked = [actor.block_io.remote() for _ in range(5)]
    until(lambda: get(actor.count.remote()) == 2, "two running calls of the group")
    assert get(actor.ping.remote()) == "pong"
    late = actor.ping_io.remote()
    assert rostral.wait([late], timeout=0.05) == ([], [late])
    get(actor.open.remote())
    assert get(late) == "pong"
    assert max(get(blocked)) == 2


def test_a_full_default_group_does_not_block_the_named_ones() -> None:
    actor = rostral.remote(concurrency_groups=GROUPS)(gated_class()).remote()
    blocked = [actor.block.remote() for _ in range(3)]
    assert get(actor.ping_io.remote()) == "pong"
    get(actor.open.remote())
    assert get(blocked) == [1, 1, 1]


def test_a_call_names_its_group() -> None:
    actor = rostral.remote(concurrency_groups=GROUPS)(gated_class()).remote()
    blocked = actor.block.remote()
    assert get(actor.ping.options(concurrency_group="io").remote()) == "pong"
    waiting = actor.ping_io.options(concurrency_group="_default").remote()
    assert rostral.wait([waiting], timeout=0.05) == ([], [waiting])
    get(actor.open.remote())
    assert get([blocked, waiting]) == [1, "pong"]


def test_an_unknown_group_is_refused_at_the_call_and_at_the_class() -> None:
    gated = gated_class()
    actor = rostral.remote(concurrency_groups=GROUPS)(gated).remote()
    with pytest.raises(UnsupportedOptionError, match=r"no concurrency group 'oi'.*'io'"):
        actor.ping.options(concurrency_group="oi")
    with pytest.raises(ValueError, match="no concurrency group 'io': the actor has none"):
        rostral.remote(gated).remote()


def test_groups_are_given_where_the_class_is_made_remote() -> None:
    remote_class = rostral.remote(concurrency_groups=GROUPS)(gated_class())
    with pytest.raises(ValueError, match=r"concurrency_groups cannot be changed by options\(\)"):
        remote_class.options(concurrency_groups={"io": 1})
    kept = remote_class.options(max_concurrency=2).remote()
    assert get(kept.ping_io.remote()) == "pong"


@pytest.mark.parametrize(
    ("groups", "error"),
    [
        ({"io": 0}, ValueError),
        ({"io": "2"}, TypeError),
        ({3: 2}, TypeError),
        (["io"], TypeError),
        ({"": 1}, ValueError),
    ],
)
def test_groups_that_cannot_be_are_refused(groups: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"concurrency.group"):
        rostral.remote(concurrency_groups=groups)(gated_class())


def test_the_calls_of_each_group_keep_their_order() -> None:
    class Log:
        def __init__(self) -> None:
            self.lines: list[tuple[str, int]] = []

        def write(self, n: int) -> None:
            self.lines.append(("default", n))

        @rostral.method(concurrency_group="one")
        def write_one(self, n: int) -> None:
            self.lines.append(("one", n))

        def read(self) -> list[tuple[str, int]]:
            return self.lines

    log = rostral.remote(concurrency_groups={"one": 1})(Log).remote()
    get([call.remote(n) for n in range(300) for call in (log.write, log.write_one)])
    lines = get(log.read.remote())
    for group in ("default", "one"):
        assert [n for name, n in lines if name == group] == list(range(300))


def test_a_late_input_holds_back_its_group_only(marks: Path) -> None:
    class Log:
        def __init__(self) -> None:
            self.lines: list[str] = []

        def write(self, line: str) -> list[str]:
            self.lines.append(line)
            return list(self.lines)

    log = rostral.remote(concurrency_groups={"other": 1})(Log).remote()
    first = log.write.remote(late_function(marks).remote("late"))
    second = log.write.remote("after")
    assert get(log.write.options(concurrency_group="other").remote("other")) == ["other"]
    assert rostral.wait([first, second], timeout=0) == ([], [first, second])
    marks.write_text("done")
    assert get(second) == ["other", "late", "after"]


def test_groups_of_an_async_actor_do_not_block_each_other() -> None:
    class Async:
        def __init__(self) -> None:
            self.gate = asyncio.Event()
            self.running = self.most = 0

        @rostral.method(concurrency_group="io")
        async def block(self) -> int:
            self.running += 1
            self.most = max(self.most, self.running)
            await self.gate.wait()
            self.running -= 1
            return self.most

        async def open(self) -> int:
            self.gate.set()
            return self.running

    actor = rostral.remote(concurrency_groups={"io": 3}, max_concurrency=1)(Async).remote()
    refs = [actor.block.remote() for _ in range(10)]
    assert get(actor.open.remote()) <= 3
    assert max(get(refs)) == 3


# ---- coroutines


def test_all_of_an_async_actor_runs_in_one_thread() -> None:
    class Async:
        def __init__(self) -> None:
            self.threads = {threading.get_ident()}
            self.loops = {id(asyncio.get_running_loop())}

        def plain(self) -> None:
            self.threads.add(threading.get_ident())

        async def coroutine(self) -> tuple[int, int]:
            await asyncio.sleep(0)
            self.threads.add(threading.get_ident())
            self.loops.add(id(asyncio.get_running_loop()))
            return len(self.threads), len(self.loops)

    actor = rostral.remote(Async).remote()
    get(actor.plain.remote())
    assert get(actor.coroutine.remote()) == (1, 1)


def test_a_constructor_may_be_a_coroutine_and_start_tasks() -> None:
    class Async:
        async def __init__(self, start: int) -> None:  # type: ignore[misc]
            await asyncio.sleep(0)
            self.value = start
            self.task = asyncio.create_task(self.add())

        async def add(self) -> None:
            await asyncio.sleep(0.01)
            self.value += 1

        async def read(self) -> int:
            await self.task
            return self.value

    assert get(rostral.remote(Async).remote(4).read.remote()) == 5


def test_each_call_of_an_async_actor_has_a_context_of_its_own() -> None:
    class Async:
        def __init__(self) -> None:
            self.variable = contextvars.ContextVar("variable", default=0)

        async def at_once(self, value: int) -> int:
            seen = self.variable.get()
            self.variable.set(value)
            return seen

        def plain(self, value: int) -> int:
            seen = self.variable.get()
            self.variable.set(value)
            return seen

        async def later(self, value: int) -> tuple[int, int]:
            seen = self.variable.get()
            self.variable.set(value)
            await asyncio.sleep(0.01)
            return seen, self.variable.get()

    actor = rostral.remote(Async).remote()
    assert get([actor.at_once.remote(1), actor.plain.remote(2), actor.at_once.remote(3)]) == [0] * 3
    assert get([actor.later.remote(n) for n in range(1, 5)]) == [(0, n) for n in range(1, 5)]


def test_a_coroutine_has_a_task_from_its_first_step() -> None:
    async def answer(text: str) -> str:
        return text

    class Async:
        async def timed(self) -> str:
            async with asyncio.timeout(GET_TIMEOUT_S):
                return await answer("in time")

        async def late(self) -> None:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(GET_TIMEOUT_S)

        async def grouped(self) -> list[int]:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(asyncio.sleep(0, n)) for n in range(3)]
            return [task.result() for task in tasks]

    actor = rostral.remote(Async).remote()
    assert get(actor.timed.remote()) == "in time"
    with pytest.raises(TimeoutError):
        get(actor.late.remote())
    assert get(actor.grouped.remote()) == [0, 1, 2]


def test_calls_come_while_a_coroutine_waits_for_a_descriptor() -> None:
    class Echo:
        def __init__(self) -> None:
            self.ours, self.theirs = socket.socketpair()
            self.ours.setblocking(False)

        async def read(self) -> bytes:
            return await asyncio.get_running_loop().sock_recv(self.ours, 100)

        async def write(self, text: bytes) -> None:
            self.theirs.send(text)

        async def ping(self) -> int:
            return os.getpid()

    echo = rostral.remote(Echo).remote()
    answer = echo.read.remote()
    for _ in range(20):
        assert get(echo.ping.remote()) > 0
        time.sleep(0.001)  # the loop is asleep again
    get(echo.write.remote(b"hello"))
    assert get(answer) == b"hello"


def test_timers_and_threads_wake_the_loop_of_an_async_actor() -> None:
    class Async:
        async def in_thread(self) -> int:
            return await asyncio.to_thread(threading.get_ident)

        async def nap(self, seconds: float) -> float:
            began = time.monotonic()
            await asyncio.sleep(seconds)
            return time.monotonic() - began

    actor = rostral.remote(Async).remote()
    assert get(actor.in_thread.remote()) > 0
    assert get(actor.nap.remote(0.05)) >= 0.05
    assert all(slept >= 0.02 for slept in get([actor.nap.remote(0.02) for _ in range(100)]))


def test_a_flood_of_calls_lets_other_coroutines_run() -> None:
    class Async:
        def __init__(self) -> None:
            self.turns = 0

        async def turn(self) -> None:
            for _ in range(50):
                await asyncio.sleep(0)
                self.turns += 1

        async def count(self) -> int:
            return self.turns

    actor = rostral.remote(Async).remote()
    get(actor.__ray_ready__.remote())
    turning = actor.turn.remote()
    counts = get([actor.count.remote() for _ in range(20_000)])
    assert counts[-1] == 50
    get(turning)


def test_a_call_that_cancels_its_own_task_ends_alone() -> None:
    class Async:
        async def give_up(self) -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(GET_TIMEOUT_S)

        async def cancel_and_go_on(self) -> str:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            return "done"

        async def ping(self) -> str:
            return "pong"

    actor = rostral.remote(Async).remote()
    with pytest.raises(BaseException, match="CancelledError"):
        get(actor.give_up.remote())
    assert get(actor.cancel_and_go_on.remote()) == "done"
    assert get(actor.ping.remote()) == "pong"


# ---- order


def test_in_order_execution_of_concurrent_actors_is_refused() -> None:
    class Async:
        async def ping(self) -> None: ...

    class Plain:
        def ping(self) -> None: ...

    with pytest.raises(ValueError, match=r"allow_out_of_order_execution is False.*async"):
        rostral.remote(allow_out_of_order_execution=False)(Async).remote()
    with pytest.raises(ValueError, match=r"allow_out_of_order_execution is False.*threaded"):
        rostral.remote(Plain).options(
            max_concurrency=2, allow_out_of_order_execution=False
        ).remote()
    with pytest.raises(TypeError, match="allow_out_of_order_execution must be a bool"):
        rostral.remote(Plain).options(allow_out_of_order_execution="no")  # type: ignore[arg-type]
    in_order = rostral.remote(Plain).options(allow_out_of_order_execution=False).remote()
    assert get(in_order.ping.remote()) is None


@pytest.mark.parametrize(
    "options", [{"allow_out_of_order_execution": True}, {"max_concurrency": 2}]
)
def test_out_of_order_calls_overtake_one_whose_input_is_late(
    marks: Path, options: dict[str, Any]
) -> None:
    class Log:
        def __init__(self) -> None:
            self.lines: list[str] = []

        def write(self, line: str) -> list[str]:
            self.lines.append(line)
            return list(self.lines)

    log = rostral.remote(**options)(Log).remote()
    late = log.write.remote(late_function(marks).remote("late"))
    assert get(log.write.remote("early")) == ["early"]
    marks.write_text("done")
    assert get(late) == ["early", "late"]


def test_the_order_of_one_caller_holds_over_threads_and_several_handles() -> None:
    class Log:
        def __init__(self) -> None:
            self.lines: list[tuple[int, int]] = []

        def write(self, thread: int, n: int) -> None:
            self.lines.append((thread, n))

        def read(self) -> list[tuple[int, int]]:
            return self.lines

    log = rostral.remote(Log).remote()
    handles = get(rostral.put([log, log]))

    def call(thread: int) -> None:
        for n in range(200):
            handles[n % 2].write.remote(thread, n)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = get(log.read.remote())
    for number in range(4):
        assert [n for thread, n in lines if thread == number] == list(range(200))


# ---- deaths


@pytest.mark.parametrize(
    "options",
    [{"max_concurrency": 4}, {"concurrency_groups": {"io": 2}}, {}],
    ids=["threads", "groups", "async"],
)
def test_calls_begun_and_held_run_again_after_a_concurrent_actors_death(
    options: dict[str, Any], marks: Path
) -> None:
    """The process dies with calls running, held for their group, and waiting in the mailbox."""

    class Fragile:
        def work(self, n: int) -> int:
            with marks.open("a") as file:
                file.write("x")
            # The first process never answers.
            while os.getpid() == first_pid():
                time.sleep(0.005)
            return n

        def pid(self) -> int:
            marks.with_name("pid").write_text(str(os.getpid()))
            return os.getpid()

    class AsyncFragile(Fragile):
        async def work(self, n: int) -> int:  # type: ignore[override]
            with marks.open("a") as file:
                file.write("x")
            if os.getpid() == first_pid():
                await asyncio.sleep(GET_TIMEOUT_S)
            return n

    def first_pid() -> int:
        return int(marks.with_name("pid").read_text())

    remote_class = rostral.remote(max_restarts=1, max_task_retries=1, **options)
    actor: Any = remote_class(Fragile if options else AsyncFragile).remote()
    pid = get(actor.pid.remote())
    work = actor.work
    if "concurrency_groups" in options:
        work = work.options(concurrency_group="io")
    refs = [work.remote(n) for n in range(20)]
    until(lambda: len(marks.read_text()) >= 2, "two running calls")
    os.kill(pid, signal.SIGKILL)
    assert get(refs) == list(range(20))
