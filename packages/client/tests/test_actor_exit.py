"""How actors end by themselves: exit_actor, graceful termination, hooks, and what callers get."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import rostral
from rostral.actor import exit_actor
from rostral.exceptions import ActorDiedError, AsyncioActorExit, TaskError

from .actors import GET_TIMEOUT_S, counter_class, get
from .waiting import until

pytestmark = pytest.mark.usefixtures("cluster")


def leaving_class(marks: Path) -> Any:
    """An actor that writes down what runs at its end and what must not."""

    class Leaving:
        def __init__(self) -> None:
            atexit.register(self.mark, "atexit ")

        def mark(self, text: str) -> None:
            with marks.open("a") as file:
                file.write(text)

        def leave(self) -> None:
            exit_actor()
            self.mark("after exit_actor")

        def leave_deep_inside(self) -> None:
            def inner() -> None:
                self.leave()

            inner()

        def swallow(self) -> str:
            with contextlib.suppress(SystemExit):
                exit_actor()
            return "not what the caller gets"

        def leave_from_a_thread(self) -> None:
            thread = threading.Thread(target=exit_actor)
            thread.start()
            thread.join()

        def ping(self) -> str:
            return "pong"

        def __ray_shutdown__(self) -> None:
            self.mark("shutdown ")

    return Leaving


def async_leaving_class(marks: Path) -> Any:
    class AsyncLeaving(leaving_class(marks)):  # type: ignore[misc]
        async def leave(self) -> None:
            await asyncio.sleep(0)
            exit_actor()
            self.mark("after exit_actor")

        async def leave_deep_inside(self) -> None:
            await asyncio.create_task(self.leave())

        async def leave_later(self) -> None:
            self.task = asyncio.create_task(self.leave())

        async def swallow(self) -> str:
            with contextlib.suppress(AsyncioActorExit):
                exit_actor()
            return "not what the caller gets"

        async def wait(self) -> None:
            await asyncio.sleep(GET_TIMEOUT_S)

    return AsyncLeaving


KINDS = pytest.mark.parametrize(
    ("make", "options"),
    [
        (leaving_class, {}),
        (leaving_class, {"max_concurrency": 3}),
        (async_leaving_class, {}),
    ],
    ids=["plain", "threaded", "async"],
)


def refused(actor: Any) -> ActorDiedError:
    """The error of a call after the actor's end."""
    with pytest.raises(ActorDiedError) as caught:
        for _ in range(1000):
            get(actor.ping.remote())
    return caught.value


# ---- exit_actor


@KINDS
@pytest.mark.parametrize("method", ["leave", "leave_deep_inside", "swallow"])
def test_exit_actor_ends_the_actor_also_when_it_is_swallowed(
    make: Any, options: dict[str, Any], method: str, marks: Path
) -> None:
    actor = rostral.remote(**(options or {"num_cpus": 0}))(make(marks)).remote()
    assert get(actor.ping.remote()) == "pong"
    with pytest.raises(ActorDiedError, match=r"exit_actor\(\)") as caught:
        get(getattr(actor, method).remote())
    assert not isinstance(caught.value, TaskError)
    assert caught.value.actor_id == actor._actor_id
    assert "exit_actor()" in str(refused(actor))
    until(lambda: marks.read_text() == "shutdown atexit ", "the end")


@KINDS
def test_exit_actor_in_the_constructor_ends_the_actor(
    make: Any, options: dict[str, Any], marks: Path
) -> None:
    base: Any = make(marks)

    class Leaving(base):  # type: ignore[misc]
        def __init__(self, *, swallow: bool) -> None:
            super().__init__()
            with contextlib.suppress(SystemExit if swallow else KeyError):
                exit_actor()

    for count, swallow in enumerate((False, True), 1):
        actor = rostral.remote(**(options or {"num_cpus": 0}))(Leaving).remote(swallow=swallow)
        assert "exit_actor()" in str(refused(actor))
        until(lambda: marks.read_text().count("atexit ") == count, "the end")  # noqa: B023


def test_exit_actor_in_a_task_that_nobody_awaits_ends_an_async_actor(marks: Path) -> None:
    base: Any = async_leaving_class(marks)

    class Early(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.task = asyncio.create_task(self.leave())

    actor = rostral.remote(base).remote()
    assert get(actor.leave_later.remote()) is None
    assert "exit_actor()" in str(refused(actor))
    assert "exit_actor()" in str(refused(rostral.remote(Early).remote()))
    until(lambda: marks.read_text().count("atexit ") == 2, "both ends")


@KINDS
def test_exit_actor_in_a_thread_of_the_users_ends_the_actor(
    make: Any, options: dict[str, Any], marks: Path
) -> None:
    actor = rostral.remote(**(options or {"num_cpus": 0}))(make(marks)).remote()
    assert get(actor.leave_from_a_thread.remote()) is None
    assert "exit_actor()" in str(refused(actor))


def test_calls_under_way_and_queued_fail_when_an_async_actor_exits(marks: Path) -> None:
    actor = rostral.remote(max_concurrency=3)(async_leaving_class(marks)).remote()
    refs = [actor.wait.remote(), actor.wait.remote(), actor.leave.remote()]
    refs += [actor.ping.remote() for _ in range(100)]
    began = time.monotonic()
    for ref in refs[:3]:
        with pytest.raises(ActorDiedError):
            get(ref)
    assert "exit_actor()" in str(refused(actor))
    assert time.monotonic() - began < GET_TIMEOUT_S / 2


def test_exit_actor_in_a_task_is_a_type_error() -> None:
    @rostral.remote
    def leave() -> None:
        exit_actor()

    with pytest.raises(TypeError, match="on a non-actor worker"):
        get(leave.remote())


# ---- termination


@KINDS
def test_termination_runs_what_was_called_before_and_refuses_the_rest(
    make: Any, options: dict[str, Any], marks: Path
) -> None:
    actor = rostral.remote(**(options or {"num_cpus": 0}))(make(marks)).remote()
    before = [actor.ping.remote() for _ in range(500)]
    ended = actor.__ray_terminate__.remote()
    after = [actor.ping.remote() for _ in range(10)]
    assert get(before) == ["pong"] * 500
    with pytest.raises(ActorDiedError, match=r"exit_actor\(\)"):
        get(ended)
    for ref in after:
        with pytest.raises(ActorDiedError):
            get(ref)
    until(lambda: marks.read_text() == "shutdown atexit ", "the end")


def test_termination_waits_for_calls_that_have_begun() -> None:
    class Async:
        async def nap(self) -> str:
            await asyncio.sleep(0.1)
            return "rested"

    class Threads:
        def nap(self) -> str:
            time.sleep(0.1)
            return "rested"

    for actor in (
        rostral.remote(Async).remote(),
        rostral.remote(max_concurrency=4)(Threads).remote(),
        rostral.remote(concurrency_groups={"io": 1})(Threads).remote(),
    ):
        naps = [actor.nap.remote() for _ in range(3)]
        actor.__ray_terminate__.remote()
        assert get(naps) == ["rested"] * 3


@pytest.mark.parametrize("name", ["__ray_shutdown__", "__rostral_shutdown__"])
@pytest.mark.parametrize("is_coroutine", [False, True])
def test_the_shutdown_hook_may_have_either_name_and_be_a_coroutine(
    name: str, marks: Path, *, is_coroutine: bool
) -> None:
    def hook(self: Any) -> None:
        del self
        marks.write_text("hook")

    async def hook_coroutine(self: Any) -> None:
        await asyncio.sleep(0)
        hook(self)

    class Plain:
        def ping(self) -> None: ...

    setattr(Plain, name, hook_coroutine if is_coroutine else hook)
    actor = rostral.remote(Plain).remote()
    get(actor.ping.remote())
    actor.__ray_terminate__.remote()
    until(lambda: marks.read_text() == "hook", "the hook")


def test_a_shutdown_hook_that_raises_does_not_stop_the_end(marks: Path) -> None:
    class Broken(leaving_class(marks)):  # type: ignore[misc]
        def __ray_shutdown__(self) -> None:
            self.mark("shutdown ")
            raise ValueError("zork")

    actor = rostral.remote(Broken).remote()
    actor.__ray_terminate__.remote()
    until(lambda: marks.read_text() == "shutdown atexit ", "the end")
    assert "exit_actor()" in str(refused(actor))


@KINDS
def test_the_shutdown_hook_and_atexit_run_when_the_last_handle_goes(
    make: Any, options: dict[str, Any], marks: Path
) -> None:
    actor = rostral.remote(**(options or {"num_cpus": 0}))(make(marks)).remote()
    get(actor.ping.remote())
    del actor
    until(lambda: marks.read_text() == "shutdown atexit ", "the end")


def test_kill_runs_neither_the_shutdown_hook_nor_atexit(marks: Path) -> None:
    actor = rostral.remote(leaving_class(marks)).remote()
    get(actor.ping.remote())
    rostral.kill(actor)
    with pytest.raises(ActorDiedError, match=r"kill\(\)"):
        get(actor.ping.remote())
    # Another actor's graceful end takes longer than it would have taken.
    other = rostral.remote(leaving_class(marks.with_name("other"))).remote()
    other.__ray_terminate__.remote()
    until(lambda: marks.with_name("other").exists(), "the other's end")
    assert marks.read_text() == ""


def test_every_actor_answers_when_it_is_ready_and_runs_closures() -> None:
    class Slow:
        async def __init__(self) -> None:  # type: ignore[misc]
            await asyncio.sleep(0.05)
            self.value = 7

    slow = rostral.remote(Slow).remote()
    assert get(slow.__ray_ready__.remote()) is True
    assert get(slow.__ray_call__.remote(lambda self, n: self.value * n, 6)) == 42

    async def later(self: Any, n: int) -> int:
        await asyncio.sleep(0)
        return int(self.value) + n

    assert get(slow.__ray_call__.remote(later, 1)) == 8
    assert get(counter_class().remote(2).__ray_call__.remote(lambda self: self.value)) == 2
