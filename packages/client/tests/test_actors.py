"""Actors on a running cluster: calls, their order, handles, names and concurrency."""

from __future__ import annotations

import asyncio
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rostral
from rostral.actor import exit_actor
from rostral.exceptions import (
    ActorAlreadyExistsError,
    ActorDiedError,
    ActorNotFoundError,
    TaskError,
    UnsupportedOptionError,
)

from .actors import GET_TIMEOUT_S, counter_class, get, late_function
from .waiting import until

pytestmark = pytest.mark.usefixtures("cluster")


# ---- calls


def test_an_actor_keeps_its_state_between_calls() -> None:
    counter = counter_class().remote(10, step=2)
    assert get([counter.add.remote() for _ in range(3)]) == [12, 14, 16]


def test_a_new_actor_can_be_called_in_the_same_expression() -> None:
    assert get(counter_class().remote().add.remote(5)) == 5


def test_methods_have_num_returns() -> None:
    counter = counter_class().remote(7)
    left, right = counter.pair.remote()
    assert get([left, right]) == [7, 1]
    assert get(counter.pair.options(num_returns=1).remote()) == (7, 1)
    assert counter.add.options(num_returns=0).remote() is None
    assert get(counter.add.remote()) == 9


def test_an_actor_that_says_it_needs_no_cpu_starts_while_none_is_free() -> None:
    cpus = int(rostral.cluster_resources()["CPU"])
    busy = [counter_class().options(num_cpus=1).remote() for _ in range(cpus)]
    get([counter.add.remote() for counter in busy])
    assert get(counter_class().options(num_cpus=0).remote(5).add.remote()) == 6


def test_rays_one_call_form_of_actors_and_methods() -> None:
    counter = counter_class()._remote((10,), {"step": 2}, num_cpus=0)
    assert get(counter.add._remote()) == 12
    assert (
        get(counter.add._remote(args=(1,))) == get(counter.add._remote(kwargs={"times": 0})) == 14
    )
    assert rostral.get(counter.pair._remote(num_returns=2)) == [14, 2]
    with pytest.raises(UnsupportedOptionError, match="max_retries"):
        counter_class()._remote((10,), max_retries=1)
    with pytest.raises(UnsupportedOptionError, match="num_cpus"):
        counter.add._remote(num_cpus=1)


def test_arguments_of_calls_may_be_large_or_references() -> None:
    counter = counter_class().remote()
    array = np.arange(100_000)
    [got, value] = get(counter.append.remote([1]))
    assert (got, value) == (1, 0)
    assert get(counter.append.remote(rostral.put([2]))) == [2, 0]
    assert get(counter.append.remote([array]))[0].sum() == array.sum()


def test_a_methods_exception_is_the_users_and_the_actor_lives_on() -> None:
    counter = counter_class().remote()
    with pytest.raises(KeyError, match="zork") as caught:
        get(counter.fail.remote())
    assert isinstance(caught.value, TaskError)
    assert "Counter.fail() raised" in str(caught.value)
    assert get(counter.add.remote()) == 1


def test_a_failed_input_fails_the_call_without_running_it() -> None:
    @rostral.remote
    def fail() -> int:
        raise OSError("broken")

    counter = counter_class().remote()
    with pytest.raises(OSError, match="broken"):
        get(counter.add.remote(fail.remote()))
    assert get(counter.add.remote()) == 1


def test_direct_calls_say_what_to_type() -> None:
    counters = counter_class()
    with pytest.raises(TypeError, match=r"use .*Counter\.remote"):
        counters()
    with pytest.raises(TypeError, match=r"use \.add\.remote"):
        counters.remote().add()


def test_wrong_arguments_of_the_constructor_are_the_callers_error() -> None:
    with pytest.raises(TypeError, match="Counter"):
        counter_class().remote(1, 2)


def test_a_missing_method_is_an_attribute_error_with_a_suggestion() -> None:
    counter = counter_class().remote()
    with pytest.raises(AttributeError, match=r"Counter has no method 'ad', did you mean 'add'\?"):
        counter.ad  # noqa: B018
    assert not hasattr(counter, "__len__")


def test_an_actor_class_cannot_be_subclassed() -> None:
    source = "class Derived(counters):\n    pass"
    with pytest.raises(TypeError, match="decorate the subclass"):
        exec(source, {"counters": counter_class()})


def test_an_actor_may_inherit_and_call_its_base() -> None:
    class Base:
        def __init__(self) -> None:
            self.base = 1

        def value(self) -> int:
            return self.base

    class Derived(Base):
        def value(self) -> int:
            return super().value() + 1

    assert get(rostral.remote(Derived).remote().value.remote()) == 2


# ---- order


def test_calls_of_one_caller_run_in_their_order() -> None:
    counter = counter_class().remote()
    assert get([counter.add.remote() for _ in range(1000)]) == list(range(1, 1001))


def test_a_late_input_holds_back_its_callers_later_calls_only(marks: Path) -> None:
    """One caller's first call waits for an input; its second waits too, another's does not."""

    class Log:
        def __init__(self) -> None:
            self.lines: list[str] = []

        def write(self, line: str) -> list[str]:
            self.lines.append(line)
            return list(self.lines)

    @rostral.remote(num_cpus=0)
    def other(log: Any) -> Any:
        return rostral.get(log.write.remote("other"))

    log = rostral.remote(Log).remote()
    first = log.write.remote(late_function(marks).remote("first"))
    second = log.write.remote("second")
    assert get(other.remote(log)) == ["other"]
    assert rostral.wait([first, second], timeout=0) == ([], [first, second])
    marks.write_text("done")
    assert get(second) == ["other", "first", "second"]


def test_several_late_inputs_keep_the_order(marks: Path) -> None:
    counter = counter_class().remote()
    late = late_function(marks)
    refs = [counter.append.remote(late.remote([n])) for n in range(3)]
    refs += [counter.append.remote([n]) for n in range(3, 100)]
    marks.write_text("done")
    assert get(refs) == [[n, 0] for n in range(100)]


# ---- handles


def test_handles_are_passed_to_tasks_also_inside_values() -> None:
    @rostral.remote
    def use(handle: Any, more: dict[str, Any]) -> int:
        rostral.get(handle.add.remote())
        value: int = rostral.get(more["deep"][0].add.remote())
        return value

    counter = counter_class().remote()
    assert get(use.remote(counter, {"deep": [counter]})) == 2
    assert get(counter.add.remote()) == 3


def test_handles_are_equal_and_hashable_by_actor() -> None:
    first, second = counter_class().remote(), counter_class().remote()
    [again] = get(rostral.put([first]))
    assert again == first
    assert again is not first
    assert len({first, again, second}) == 2
    assert "Counter" in repr(first)


def test_an_actor_can_hold_and_make_actors() -> None:
    counters = counter_class()

    class Parent:
        def __init__(self) -> None:
            self.children = [counters.remote(n) for n in range(2)]

        def sum(self) -> int:
            return sum(rostral.get([child.add.remote() for child in self.children]))

        def child(self) -> Any:
            return self.children[1]

    parent = rostral.remote(Parent).remote()
    assert get(parent.sum.remote()) == 3
    child = get(parent.child.remote())
    assert get(child.add.remote()) == 3


def test_a_handle_pickled_by_hand_works_again() -> None:
    counter = counter_class().remote(5)
    again = pickle.loads(pickle.dumps(counter))
    assert get(again.add.remote()) == 6
    rostral.kill(counter)


# ---- names


def test_a_named_actor_is_found_by_its_name() -> None:
    counter = counter_class().options(name="found").remote(5)
    assert rostral.get_actor("found") == counter
    assert get(rostral.get_actor("found").add.remote()) == 6


def test_a_taken_name_is_refused() -> None:
    counters = counter_class().options(name="taken")
    counter = counters.remote()
    with pytest.raises(ActorAlreadyExistsError, match="taken") as caught:
        counters.remote()
    assert isinstance(caught.value, ValueError)
    assert get(counter.add.remote()) == 1


def test_a_name_is_free_again_after_the_actors_end() -> None:
    counters = counter_class().options(name="again")
    rostral.kill(counters.remote())

    def taken() -> bool:
        try:
            get(counters.remote().add.remote())
        except ActorAlreadyExistsError:
            return True
        return False

    until(lambda: not taken(), "the free name")


def test_an_absent_name_is_a_value_error() -> None:
    with pytest.raises(ActorNotFoundError, match="nobody") as caught:
        rostral.get_actor("nobody")
    assert isinstance(caught.value, ValueError)
    with pytest.raises(ValueError, match="not empty"):
        rostral.get_actor("")
    get_actor: Any = rostral.get_actor
    with pytest.raises(TypeError, match="string"):
        get_actor(5)


def test_names_live_in_namespaces() -> None:
    counters = counter_class()
    here = counters.options(name="one").remote(1)
    there = counters.options(name="one", namespace="elsewhere").remote(2)
    assert rostral.get_actor("one") == here
    assert rostral.get_actor("one", namespace="elsewhere") == there
    with pytest.raises(ActorNotFoundError):
        rostral.get_actor("one", namespace="nowhere")


def test_get_if_exists_finds_or_makes_one_also_when_many_try_at_once() -> None:
    counters = counter_class().options(name="only", get_if_exists=True)

    @rostral.remote(num_cpus=0.1)
    def use() -> Any:
        handle = counters.remote()
        return handle, rostral.get(handle.pid.remote())

    results = get([use.remote() for _ in range(10)])
    assert len({pid for _, pid in results}) == 1
    assert len({handle for handle, _ in results}) == 1


def test_a_task_finds_an_actor_of_its_driver_by_name() -> None:
    @rostral.remote
    def use() -> int:
        value: int = rostral.get(rostral.get_actor("driver's").add.remote())
        return value

    counter = counter_class().options(name="driver's").remote()
    assert get(use.remote()) == 1
    assert get(counter.add.remote()) == 2


# ---- every actor has


def test_ready_and_call() -> None:
    counter = counter_class().remote(5)
    assert get(counter.__ray_ready__.remote()) is True
    assert get(counter.__ray_call__.remote(lambda self, n: self.value * n, 3)) == 15


# ---- concurrency


def async_class() -> Any:
    @rostral.remote
    class Async:
        def __init__(self) -> None:
            self.running = self.most = 0
            self.opened = asyncio.Event()

        async def wait(self) -> int:
            self.running += 1
            self.most = max(self.most, self.running)
            await asyncio.wait_for(self.opened.wait(), 30)
            self.running -= 1
            return self.most

        async def open(self) -> None:
            self.opened.set()

        async def fail(self) -> None:
            await asyncio.sleep(0)
            raise KeyError("zork")

        def plain(self) -> int:
            return 5

        async def get_inside(self, refs: list[Any]) -> Any:
            return await refs[0]

        async def leave(self) -> None:
            exit_actor()

    return Async


def test_async_methods_run_at_once() -> None:
    actor = async_class().remote()
    refs = [actor.wait.remote() for _ in range(50)]
    assert get(actor.plain.remote()) == 5
    with pytest.raises(KeyError, match="zork"):
        get(actor.fail.remote())
    get(actor.open.remote())
    assert max(get(refs)) == 50


def test_an_async_method_awaits_references(marks: Path) -> None:
    actor = async_class().remote()
    late = late_function(marks).remote("value")
    ref = actor.get_inside.remote([late])
    assert get(actor.plain.remote()) == 5
    marks.write_text("done")
    assert get(ref) == "value"


def test_exit_actor_in_an_async_method_ends_the_actor() -> None:
    actor = async_class().remote()
    with pytest.raises(ActorDiedError, match=r"exit_actor\(\)"):
        get(actor.leave.remote())
    with pytest.raises(ActorDiedError):
        for _ in range(1000):
            get(actor.plain.remote())


def test_max_concurrency_bounds_async_methods() -> None:
    actor = async_class().options(max_concurrency=3).remote()
    refs = [actor.wait.remote() for _ in range(2)]
    get(actor.open.remote())
    refs += [actor.wait.remote() for _ in range(20)]
    assert max(get(refs)) <= 3


def test_max_concurrency_runs_threads() -> None:
    class Threads:
        def __init__(self) -> None:
            self.barrier = threading.Barrier(4)

        def meet(self) -> int:
            return self.barrier.wait(timeout=GET_TIMEOUT_S)

        def ping(self) -> None: ...

        def leave(self) -> None:
            exit_actor()

    actor = rostral.remote(max_concurrency=4)(Threads).remote()
    assert sorted(get([actor.meet.remote() for _ in range(8)])) == [0, 0, 1, 1, 2, 2, 3, 3]
    with pytest.raises(ActorDiedError, match=r"exit_actor\(\)"):
        get(actor.leave.remote())
    with pytest.raises(ActorDiedError):
        for _ in range(1000):
            get(actor.ping.remote())


# ---- resources


def test_an_actor_holds_what_it_asked_for_while_it_lives() -> None:
    @rostral.remote(num_cpus=2)
    def needs_both() -> int:
        return 1

    holder = counter_class().options(num_cpus=1).remote()
    get(holder.add.remote())
    until(lambda: rostral.available_resources().get("CPU", 0) <= 1, "the actor's claim")
    waiting = needs_both.remote()
    assert rostral.wait([waiting], timeout=0.1) == ([], [waiting])
    rostral.kill(holder)
    assert get(waiting) == 1


def test_actors_without_demands_are_many() -> None:
    actors = [counter_class().remote(n) for n in range(12)]
    assert get([actor.add.remote() for actor in actors]) == list(range(1, 13))
