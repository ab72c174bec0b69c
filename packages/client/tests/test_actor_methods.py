"""Options of actor methods: at the class, at the decorator, at the call; retries and limits."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import rostral
from rostral.exceptions import (
    PendingCallsLimitExceeded,
    UnknownMethodOptionError,
    UnsupportedOptionError,
)

from .actors import GET_TIMEOUT_S, get, late_function

pytestmark = pytest.mark.usefixtures("cluster")


# ---- the decorator


def test_an_unknown_option_of_method_is_an_assertion_error_that_names_the_nearest() -> None:
    with pytest.raises(AssertionError, match="'num_return', did you mean 'num_returns'") as caught:
        rostral.method(num_return=2)  # type: ignore[call-overload]
    assert isinstance(caught.value, UnknownMethodOptionError)
    with pytest.raises(AssertionError, match="no options"):
        rostral.method()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"num_returns": -1}, ValueError),
        ({"num_returns": "2"}, ValueError),
        ({"num_returns": 2.5}, TypeError),
        ({"max_task_retries": -2}, ValueError),
        ({"retry_exceptions": ValueError}, TypeError),
        ({"retry_exceptions": [3]}, TypeError),
        ({"concurrency_group": 3}, TypeError),
        ({"enable_task_events": "no"}, TypeError),
        ({"tensor_transport": "carrier pigeon"}, UnsupportedOptionError),
    ],
)
def test_options_of_methods_are_checked_at_once(
    options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=next(iter(options))):
        rostral.method(**options)


def test_options_that_change_nothing_here_are_taken() -> None:
    class Plain:
        @rostral.method(enable_task_events=False, tensor_transport="object_store")
        def ping(self) -> str:
            return "pong"

    actor = rostral.remote(Plain).remote()
    assert get(actor.ping.remote()) == "pong"
    assert get(actor.ping.options(name="probe", enable_task_events=True).remote()) == "pong"
    with pytest.raises(UnsupportedOptionError, match="did you mean 'num_returns'"):
        actor.ping.options(num_return=1)  # type: ignore[call-arg]


# ---- retries


def flaky_class(*, is_async: bool) -> Any:
    """Methods that raise at their first runs and count them."""

    class Flaky:
        def __init__(self) -> None:
            self.runs = 0

        def _run(self, failures: int) -> int:
            self.runs += 1
            if self.runs <= failures:
                raise ConnectionError(f"run {self.runs}")
            return self.runs

        def plain(self, failures: int) -> int:
            return self._run(failures)

        @rostral.method(max_task_retries=2, retry_exceptions=True)
        def retried(self, failures: int) -> int:
            return self._run(failures)

        @rostral.method(max_task_retries=-1, retry_exceptions=[OSError])
        def listed(self, failures: int) -> int:
            return self._run(failures)

        def count(self) -> int:
            return self.runs

    class AsyncFlaky(Flaky):
        async def plain(self, failures: int) -> int:  # type: ignore[override]
            return self._run(failures)

    return AsyncFlaky if is_async else Flaky


KINDS = pytest.mark.parametrize(
    ("is_async", "options"),
    [(False, {}), (False, {"max_concurrency": 2}), (True, {})],
    ids=["plain", "threaded", "async"],
)


@KINDS
def test_a_methods_exceptions_are_retried_as_its_decorator_says(
    options: dict[str, Any], *, is_async: bool
) -> None:
    flaky = rostral.remote(**(options or {"num_cpus": 0}))(flaky_class(is_async=is_async))
    assert get(flaky.remote().retried.remote(2)) == 3
    with pytest.raises(ConnectionError, match="run 3"):
        get(flaky.remote().retried.remote(3))
    assert get(flaky.remote().listed.remote(5)) == 6


@KINDS
def test_the_call_says_more_of_retries_than_the_decorator_and_that_more_than_the_actor(
    options: dict[str, Any], *, is_async: bool
) -> None:
    flaky = rostral.remote(max_task_retries=1, **options)(flaky_class(is_async=is_async))
    with pytest.raises(ConnectionError, match="run 1"):
        get(flaky.remote().plain.remote(1))
    assert get(flaky.remote().plain.options(retry_exceptions=True).remote(1)) == 2
    with pytest.raises(ConnectionError, match="run 2"):
        get(flaky.remote().plain.options(retry_exceptions=True).remote(2))
    more = flaky.remote().plain.options(retry_exceptions=True, max_task_retries=3)
    assert get(more.remote(3)) == 4
    with pytest.raises(ConnectionError, match="run 1"):
        get(flaky.remote().retried.options(retry_exceptions=False).remote(1))
    with pytest.raises(ConnectionError, match="run 1"):
        get(flaky.remote().retried.options(max_task_retries=0).remote(1))


@KINDS
def test_a_call_lists_the_exceptions_that_are_worth_another_try(
    options: dict[str, Any], *, is_async: bool
) -> None:
    flaky = rostral.remote(max_task_retries=3, **options)(flaky_class(is_async=is_async))
    listed = flaky.remote().plain.options(retry_exceptions=[KeyError, OSError])
    assert get(listed.remote(failures=2)) == 3
    with pytest.raises(ConnectionError, match="run 1"):
        get(flaky.remote().plain.options(retry_exceptions=[KeyError]).remote(rostral.put(1)))
    weak = rostral.remote(flaky_class(is_async=is_async)).options(
        name=f"flaky {options} {is_async}", max_task_retries=1
    )
    kept = weak.remote()
    found = rostral.get_actor(f"flaky {options} {is_async}")
    assert get(found.plain.options(retry_exceptions=[OSError]).remote(1)) == 2
    assert get(kept.count.remote()) == 2


# ---- limits


def test_calls_over_max_pending_calls_are_refused_until_some_are_done(marks: Path) -> None:
    class Plain:
        def take(self, value: int) -> int:
            return value

        def nothing(self) -> None: ...

    actor = rostral.remote(Plain).options(max_pending_calls=3).remote()
    alone = rostral.remote(Plain).options(max_pending_calls=1).remote()
    for _ in range(200):
        assert get(alone.take.remote(1)) == 1
    late = late_function(marks).remote(7)
    refs = [actor.take.remote(late) for _ in range(2)]
    actor.nothing.options(num_returns=0).remote()
    for method in (actor.take, actor.nothing.options(num_returns=0)):
        with pytest.raises(PendingCallsLimitExceeded, match=r"3 calls .*max_pending_calls=3"):
            method.remote(1)
    marks.write_text("done")
    assert get(refs) == [7, 7]
    assert get(actor.take.remote(1)) == 1


def test_each_handle_has_its_own_limit_of_pending_calls(marks: Path) -> None:
    class Plain:
        def take(self, value: int) -> int:
            return value

    actor = rostral.remote(Plain).options(max_pending_calls=1).remote()
    [other] = get(rostral.put([actor]))
    late = late_function(marks).remote(7)
    refs = [actor.take.remote(late), other.take.remote(late)]
    for handle in (actor, other):
        with pytest.raises(PendingCallsLimitExceeded):
            handle.take.remote(1)
    marks.write_text("done")
    assert get(refs) == [7, 7]


@pytest.mark.parametrize("limit", [0, -2, 1.5])
def test_a_limit_of_pending_calls_that_cannot_be_is_refused(limit: Any) -> None:
    class Plain: ...

    with pytest.raises((ValueError, TypeError), match="max_pending_calls"):
        rostral.remote(Plain).options(max_pending_calls=limit)


def test_the_limit_of_pending_calls_holds_over_threads() -> None:
    class Gate:
        def __init__(self) -> None:
            self.gate = threading.Event()

        def wait(self) -> None:
            self.gate.wait(GET_TIMEOUT_S)

        def open(self) -> None:
            self.gate.set()

    opener = rostral.remote(Gate).options(max_pending_calls=20, max_concurrency=30).remote()
    [free] = get(rostral.put([opener]))
    refs: list[Any] = []
    refused = []

    def call() -> None:
        for _ in range(10):
            try:
                refs.append(opener.wait.remote())
            except PendingCallsLimitExceeded as error:
                refused.append(error)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(refs), len(refused)) == (20, 20)
    get(free.open.remote())
    get(refs)
