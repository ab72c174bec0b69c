"""Options: defaults, and what is refused where it is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import rostral
from rostral.exceptions import UnsupportedOptionError
from rostral.options import ActorOptions, MethodOptions, TaskOptions, changed, resources_of
from rostral_objectstore.layout import RETRY_FOREVER


def test_a_task_needs_one_cpu_and_an_actor_none() -> None:
    assert TaskOptions().demand == {"CPU": 1.0}
    assert ActorOptions().demand == {}


def test_a_demand_names_only_what_is_needed() -> None:
    options = {"num_cpus": 0, "num_gpus": 0.5, "memory": 1000, "resources": {"arm": 2, "leg": 0}}
    assert resources_of(options, 1.0) == {"GPU": 0.5, "memory": 1000.0, "arm": 2.0}


def test_negative_retries_mean_for_ever() -> None:
    assert TaskOptions(max_retries=-1).retries == RETRY_FOREVER
    assert TaskOptions().retries == 3


def test_a_list_of_exceptions_to_retry_is_kept_as_a_tuple() -> None:
    options = changed(TaskOptions(), {"retry_exceptions": [KeyError, OSError]})
    assert options.retry_exceptions == (KeyError, OSError)


def test_changed_options_leave_the_others() -> None:
    first = TaskOptions(num_cpus=2, name="one")
    assert changed(first, {"name": "two"}) == TaskOptions(num_cpus=2, name="two")
    assert first.name == "one"


def test_an_unknown_option_names_the_nearest_and_lists_all() -> None:
    with pytest.raises(
        UnsupportedOptionError, match=r"'num_cpu', did you mean 'num_cpus'\?"
    ) as caught:
        changed(TaskOptions(), {"num_cpu": 1})
    assert "max_retries" in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("num_cpus", "2", TypeError),
        ("num_cpus", True, TypeError),
        ("num_cpus", -1, ValueError),
        ("num_cpus", float("nan"), ValueError),
        ("num_cpus", float("inf"), ValueError),
        ("num_gpus", 1.5, ValueError),
        ("memory", -1, ValueError),
        ("resources", [("arm", 1)], TypeError),
        ("resources", {"CPU": 1}, ValueError),
        ("resources", {"GPU": 1}, ValueError),
        ("resources", {1: 1}, TypeError),
        ("resources", {"arm": "1"}, TypeError),
        ("num_returns", -1, ValueError),
        ("num_returns", 3001, ValueError),
        ("num_returns", 1.0, TypeError),
        ("max_retries", -2, ValueError),
        ("max_retries", None, TypeError),
        ("retry_exceptions", "all", TypeError),
        ("retry_exceptions", [1], TypeError),
        ("name", 5, TypeError),
        ("name", "", ValueError),
        ("name", "two\nlines", ValueError),
        ("deadline_s", 0, ValueError),
    ],
)
def test_a_wrong_value_of_a_task_option_is_refused(
    option: str, value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match=option.split("s")[0]):
        changed(TaskOptions(), {option: value})


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("max_restarts", -2, ValueError),
        ("max_restarts", "1", TypeError),
        ("max_task_retries", 1.5, TypeError),
        ("max_concurrency", 0, ValueError),
        ("max_concurrency", "2", TypeError),
        ("lifetime", "eternal", ValueError),
        ("get_if_exists", 1, TypeError),
        ("get_if_exists", True, ValueError),  # it needs a name
        ("namespace", "", ValueError),
        ("max_pending_calls", 0, ValueError),
        ("num_returns", 2, UnsupportedOptionError),
    ],
)
def test_a_wrong_value_of_an_actor_option_is_refused(
    option: str, value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match=option):
        changed(ActorOptions(), {option: value})


def test_whether_to_speculate_is_a_bool() -> None:
    with pytest.raises(TypeError, match="speculate must be a bool"):
        changed(TaskOptions(), {"speculate": 1})


def test_what_yields_as_it_runs_cannot_run_twice_at_once() -> None:
    def count() -> Iterator[int]:
        yield 1

    with pytest.raises(ValueError, match="run twice"):
        rostral.remote(speculate=True)(count)
    with pytest.raises(ValueError, match="run twice"):
        TaskOptions(speculate=True, num_returns="streaming")


def test_a_method_has_options_of_its_own() -> None:
    assert changed(MethodOptions(), {"num_returns": 2}).num_returns == 2
    with pytest.raises(UnsupportedOptionError, match="num_cpus"):
        rostral.method(num_cpus=1)  # type: ignore[call-overload]


def test_the_decorator_refuses_wrong_options_before_it_is_applied() -> None:
    with pytest.raises(UnsupportedOptionError, match="num_cpu"):
        rostral.remote(num_cpu=1)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="num_cpus"):
        rostral.remote(num_cpus="1")  # type: ignore[call-overload]


def test_the_decorator_refuses_options_of_the_other_kind() -> None:
    class Counter:
        pass

    with pytest.raises(UnsupportedOptionError, match="max_retries"):
        rostral.remote(max_retries=1)(Counter)
    with pytest.raises(UnsupportedOptionError, match="max_restarts"):
        rostral.remote(max_restarts=1)(len)


@pytest.mark.parametrize("junk", [(), (1,), (len, 2), ("text",)])
def test_the_decorator_refuses_positional_junk(junk: tuple[Any, ...]) -> None:
    remote: Any = rostral.remote
    with pytest.raises(AssertionError, match="@remote goes on a function or class"):
        remote(*junk)


def test_what_is_remote_already_is_refused() -> None:
    remote: Any = rostral.remote
    with pytest.raises(TypeError, match="remote already"):
        remote(remote(len))
