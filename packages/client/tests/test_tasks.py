"""Remote functions on a running cluster: what goes in and comes out, and how often they run."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rostral
from rostral.exceptions import NotPicklableError, TaskError, UnschedulableError

from .waiting import end_workers

pytestmark = pytest.mark.usefixtures("cluster")


def echo_function() -> Any:
    @rostral.remote
    def echo(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    return echo


# ---- arguments


def test_arguments_keywords_and_defaults_arrive() -> None:
    @rostral.remote
    def f(a: int, b: int = 2, *rest: int, c: int = 3, **more: int) -> Any:
        return a, b, rest, c, more

    assert rostral.get(f.remote(1)) == (1, 2, (), 3, {})
    assert rostral.get(f.remote(1, 5, 6, 7, c=8, d=9)) == (1, 5, (6, 7), 8, {"d": 9})


def test_a_call_that_cannot_be_made_is_refused_by_the_caller() -> None:
    @rostral.remote
    def f(a: int) -> int:
        return a

    wrong: Any = f
    for args, kwargs in (((), {}), ((1, 2), {}), ((), {"b": 1})):
        with pytest.raises(TypeError, match=r"f\(\): "):
            wrong.remote(*args, **kwargs)


def test_a_direct_call_says_what_to_type() -> None:
    @rostral.remote
    def f() -> None: ...

    with pytest.raises(TypeError, match=r"use .*f\.remote"):
        f()


def test_references_become_values_but_not_inside_other_values() -> None:
    echo = echo_function()
    ref = rostral.put("value")
    (first, inside), kwargs = rostral.get(echo.remote(ref, [ref], key=ref))
    assert first == kwargs["key"] == "value"
    assert inside == [ref]
    assert rostral.get(inside[0]) == "value"


def test_a_task_starts_once_its_inputs_are_there(marks: Path) -> None:
    @rostral.remote
    def note(name: str, *inputs: Any) -> str:
        with marks.open("a") as file:
            file.write(name + "\n")
        return name

    first = note.remote("first")
    second = note.remote("second", first)
    third = note.remote("third", second, first)
    assert rostral.get(third) == "third"
    assert marks.read_text().split() == ["first", "second", "third"]


@pytest.mark.parametrize("size", [0, 1000, 100_000, 102_400, 200_000, 5_000_000])
def test_bytes_and_arrays_of_any_size_arrive_whole(size: int) -> None:
    echo = echo_function()
    data, array = os.urandom(size), np.arange(size // 8)
    (got, got_array), _ = rostral.get(echo.remote(data, array))
    assert got == data
    np.testing.assert_array_equal(got_array, array)


def test_a_large_argument_is_read_in_place_and_read_only() -> None:
    @rostral.remote
    def flags(array: Any) -> tuple[bool, bool]:
        return array.flags.writeable, array.flags.owndata

    assert rostral.get(flags.remote(np.zeros(100_000))) == (False, False)


def test_many_large_and_small_arguments_together() -> None:
    echo = echo_function()
    args = [b"x" * 200_000, 1, "y" * 200_000, [str(i) * 50 for i in range(5000)], rostral.put(7)]
    got, kwargs = rostral.get(echo.remote(*args, last=args[0]))
    assert list(got) == [*args[:-1], 7]
    assert kwargs == {"last": args[0]}


# ---- results


def test_num_returns_0_1_and_n() -> None:
    @rostral.remote
    def numbers(count: int) -> Any:
        return list(range(count))

    assert numbers.options(num_returns=0).remote(5) is None
    assert rostral.get(numbers.remote(2)) == [0, 1]
    refs = numbers.options(num_returns=3).remote(3)
    assert isinstance(refs, list)
    assert rostral.get(refs) == [0, 1, 2]


@pytest.mark.parametrize("returned", [1, 5, None])
def test_a_wrong_number_of_results_is_a_value_error(returned: int | None) -> None:
    @rostral.remote(num_returns=3)
    def wrong() -> Any:
        return returned if returned is None else list(range(returned))

    for ref in wrong.remote():
        with pytest.raises(ValueError, match="num_returns=3 but returned"):
            rostral.get(ref)


def test_each_of_several_results_can_be_an_input_of_its_own() -> None:
    @rostral.remote(num_returns=2)
    def split(text: str) -> Any:
        return text.split()

    @rostral.remote
    def shout(text: str) -> str:
        return text.upper()

    left, right = split.remote("a b")
    assert rostral.get([shout.remote(right), shout.remote(left)]) == ["B", "A"]


def test_a_result_may_hold_references() -> None:
    @rostral.remote
    def make() -> Any:
        return {"inner": rostral.put(np.arange(100_000))}

    inner = rostral.get(make.remote())["inner"]
    assert rostral.get(inner).sum() == 4999950000


def test_a_result_that_cannot_be_pickled_is_the_tasks_error() -> None:
    @rostral.remote
    def lock() -> Any:
        return threading.Lock()

    with pytest.raises(NotPicklableError, match=r"_thread\.lock") as caught:
        rostral.get(lock.remote())
    assert isinstance(caught.value, TaskError)


# ---- nesting, chains and many


def test_nested_tasks_20_deep_on_2_cpus() -> None:
    @rostral.remote
    def nest(depth: int) -> int:
        if depth == 0:
            return 0
        below: int = rostral.get(nest.remote(depth - 1))
        return below + 1

    assert rostral.get(nest.remote(20), timeout=60) == 20


def test_a_tree_of_tasks() -> None:
    @rostral.remote
    def fibonacci(n: int) -> int:
        if n < 2:
            return n
        return sum(rostral.get([fibonacci.remote(n - 1), fibonacci.remote(n - 2)]))

    assert rostral.get(fibonacci.remote(7), timeout=60) == 13


def test_a_chain_of_1000_tasks() -> None:
    @rostral.remote
    def next_number(n: int) -> int:
        return n + 1

    ref = next_number.remote(0)
    for _ in range(999):
        ref = next_number.remote(ref)
    assert rostral.get(ref) == 1000


def test_10000_tasks_give_10000_values() -> None:
    @rostral.remote
    def double(n: int) -> int:
        return 2 * n

    refs = [double.remote(n) for n in range(10_000)]
    assert rostral.get(refs) == [2 * n for n in range(10_000)]


def test_a_task_that_submits_1000_tasks() -> None:
    @rostral.remote
    def one(n: int) -> int:
        return n

    @rostral.remote
    def many() -> int:
        return sum(rostral.get([one.remote(n) for n in range(1000)]))

    assert rostral.get(many.remote(), timeout=60) == 499500


@pytest.mark.slow
def test_tasks_that_fill_the_queue_at_once_do_not_block_each_other() -> None:
    """On 2 CPUs 2 tasks submit more than the queue holds; others must run to make room."""

    @rostral.remote
    def one() -> int:
        return 1

    @rostral.remote
    def many(count: int) -> int:
        return sum(rostral.get([one.remote() for _ in range(count)]))

    count = (1 << 16) + 5000
    assert rostral.get([many.remote(count) for _ in range(2)], timeout=60) == [count, count]


def test_tasks_of_different_shapes_of_resources_run() -> None:
    @rostral.remote
    def f() -> int:
        return 1

    cpus = [0.5, 2, 0, 1]
    assert rostral.get([f.options(num_cpus=n).remote() for n in cpus * 3]) == [1] * 12


def test_what_no_node_can_give_is_refused_at_once() -> None:
    @rostral.remote(num_cpus=64)
    def f() -> None: ...

    with pytest.raises(UnschedulableError, match="CPU"):
        f.remote()

    @rostral.remote(resources={"arm": 1})
    def g() -> None: ...

    with pytest.raises(UnschedulableError, match="arm"):
        g.remote()


# ---- functions


def test_a_closure_is_captured_at_its_first_call() -> None:
    factor = 2

    @rostral.remote
    def scale(n: int) -> int:
        return n * factor

    assert rostral.get(scale.remote(5)) == 10
    factor = 3
    assert rostral.get(scale.remote(5)) == 10


def test_a_function_defined_again_is_another_function() -> None:
    for value in range(3):

        @rostral.remote
        def f() -> int:
            return value  # noqa: B023 - captured at the call that follows

        assert rostral.get(f.remote()) == value


def test_a_reference_in_a_closure_stays_a_reference() -> None:
    ref = rostral.put(41)

    @rostral.remote
    def f() -> int:
        return rostral.get(ref) + 1

    assert rostral.get(f.remote()) == 42
    end_workers()


def test_lambdas_partials_and_builtins_can_be_remote() -> None:
    assert rostral.get(rostral.remote(lambda x: x + 1).remote(1)) == 2
    assert rostral.get(rostral.remote(len).remote([1, 2])) == 2


def test_the_name_option_names_the_task_in_its_errors() -> None:
    @rostral.remote
    def f() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match=r"^nightly\(\) raised in process"):
        rostral.get(f.options(name="nightly").remote())


def test_options_may_be_given_at_each_call() -> None:
    @rostral.remote
    def f(n: int) -> int:
        return n

    refs = [f.options(num_cpus=1, name=f"f{n % 100}").remote(n) for n in range(300)]
    assert rostral.get(refs) == list(range(300))


def test_rays_one_call_form() -> None:
    @rostral.remote
    def f(a: int, b: int) -> Any:
        return [a + b, a - b]

    assert rostral.get(f._remote((3,), {"b": 1})) == [4, 2]
    assert rostral.get(f._remote(args=(3, 1), num_returns=2)) == [4, 2]


def test_a_function_keeps_its_name_and_docstring() -> None:
    @rostral.remote
    def f() -> None:
        """What it does."""

    assert f.__name__ == "f"
    assert f.__doc__ == "What it does."
    assert "f" in repr(f)


def test_a_function_that_cannot_be_pickled_names_itself_and_what_it_captures() -> None:
    lock = threading.Lock()

    @rostral.remote
    def guarded() -> None:
        with lock:
            pass

    with pytest.raises(NotPicklableError, match=r"guarded cannot be sent.*captures lock") as caught:
        guarded.remote()
    assert "_thread.lock" in str(caught.value)


def test_an_argument_that_cannot_be_pickled_is_named() -> None:
    echo = echo_function()
    with pytest.raises(NotPicklableError, match=r"argument 1 \(a lock\)"):
        echo.remote(1, threading.Lock())


def test_a_function_whose_module_is_missing_on_the_worker_is_the_tasks_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module is importable here, but not from where a worker looks."""
    (tmp_path / "only_here.py").write_text("def f():\n    return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import only_here  # type: ignore[import-not-found]

    with pytest.raises(ModuleNotFoundError, match="only_here"):
        rostral.get(rostral.remote(only_here.f).remote())


# ---- errors


def test_an_exception_is_of_the_users_type_with_the_remote_traceback() -> None:
    class PolicyError(Exception):
        def __init__(self, step: int) -> None:
            super().__init__(step)
            self.step = step

    @rostral.remote
    def fail() -> None:
        def inner() -> None:
            raise PolicyError(7)

        inner()

    with pytest.raises(PolicyError) as caught:
        rostral.get(fail.remote())
    assert caught.value.step == 7
    assert isinstance(caught.value, TaskError)
    assert caught.value.pid != os.getpid()
    assert "in inner" in str(caught.value)
    assert "raise PolicyError(7)" in str(caught.value)


def test_an_exception_that_cannot_be_pickled_leaves_its_text() -> None:
    @rostral.remote
    def fail() -> None:
        class LocalError(Exception):
            def __reduce__(self) -> Any:
                raise RuntimeError

        raise LocalError("zork")

    with pytest.raises(TaskError, match="LocalError: zork") as caught:
        rostral.get(fail.remote())
    assert "LocalError: zork" in str(caught.value.cause)


def test_a_chained_exception_shows_both() -> None:
    @rostral.remote
    def fail() -> None:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second") from error

    with pytest.raises(ValueError, match="second") as caught:
        rostral.get(fail.remote())
    assert "KeyError: 'first'" in str(caught.value)


def test_a_failed_input_fails_the_task_without_running_it(marks: Path) -> None:
    @rostral.remote
    def fail() -> int:
        raise KeyError("zork")

    @rostral.remote
    def work(*inputs: Any) -> None:
        marks.write_text("ran")

    failed = fail.remote()
    for ref in (work.remote(failed), work.remote(1, failed), work.remote(work.remote(failed))):
        with pytest.raises(KeyError, match="zork"):
            rostral.get(ref)
    assert not marks.read_text()


def test_an_error_inside_a_nested_task_comes_up() -> None:
    @rostral.remote
    def fail() -> None:
        raise KeyError("zork")

    @rostral.remote
    def outer() -> None:
        rostral.get(fail.remote())

    with pytest.raises(KeyError, match="zork") as caught:
        rostral.get(outer.remote())
    assert "outer() raised" in str(caught.value)
    assert "fail() raised" in str(caught.value)


def test_get_raises_at_the_first_error_without_waiting_for_the_rest(marks: Path) -> None:
    @rostral.remote
    def wait_for_mark() -> None:
        deadline = time.monotonic() + 30
        while not marks.read_text() and time.monotonic() < deadline:
            time.sleep(0.005)

    @rostral.remote
    def fail() -> None:
        raise KeyError("zork")

    slow = wait_for_mark.remote()
    with pytest.raises(KeyError):
        rostral.get([slow, fail.remote()], timeout=20)
    assert rostral.wait([slow], timeout=0) == ([], [slow])
    marks.write_text("go on")
    rostral.get(slow)


def counting(marks: Path, error: type[Exception]) -> Any:
    """A function that fails twice."""

    def f() -> int:
        with marks.open("a") as file:
            file.write("x")
        if len(marks.read_text()) < 3:
            raise error("not yet")
        return len(marks.read_text())

    return f


def test_retry_exceptions_runs_the_task_again(marks: Path) -> None:
    f = rostral.remote(counting(marks, KeyError)).options(retry_exceptions=True)
    assert rostral.get(f.remote()) == 3


def test_retry_exceptions_stops_at_max_retries(marks: Path) -> None:
    f = rostral.remote(counting(marks, KeyError)).options(retry_exceptions=True, max_retries=1)
    with pytest.raises(KeyError):
        rostral.get(f.remote())
    assert marks.read_text() == "xx"


def test_only_listed_exceptions_are_retried(marks: Path) -> None:
    f = rostral.remote(counting(marks, KeyError)).options(retry_exceptions=[OSError])
    with pytest.raises(KeyError):
        rostral.get(f.remote())
    assert marks.read_text() == "x"
    assert rostral.get(f.options(retry_exceptions=[KeyError]).remote()) == 3


def test_an_error_without_retry_exceptions_is_final(marks: Path) -> None:
    with pytest.raises(KeyError):
        rostral.get(rostral.remote(counting(marks, KeyError)).remote())
    assert marks.read_text() == "x"
