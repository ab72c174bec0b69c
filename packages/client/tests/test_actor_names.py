"""Names of actors: weak handles, what is listed, namespaces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import rostral
from rostral.exceptions import ActorDiedError
from rostral.util import list_named_actors

from .actors import counter_class, get
from .waiting import is_alive, until


@pytest.fixture(autouse=True)
def in_cluster(cluster: rostral.Context) -> Iterator[None]:
    """This module's cluster; what a test named is gone before the next."""
    del cluster
    yield
    until(lambda: not list_named_actors(all_namespaces=True), "the end of every named actor")


def test_a_handle_from_get_actor_does_not_keep_the_actor_alive() -> None:
    counter = counter_class().options(name="weak").remote()
    found = rostral.get_actor("weak")
    pid = get(found.pid.remote())
    del counter
    until(lambda: not is_alive(pid), "the end of the actor")
    with pytest.raises(ActorDiedError, match="out of scope"):
        get(found.add.remote())


def test_a_weak_handle_stays_weak_when_it_is_passed_on() -> None:
    counter = counter_class().options(name="weak too").remote()
    [passed] = get(rostral.put([rostral.get_actor("weak too")]))
    pid = get(passed.pid.remote())
    del counter
    until(lambda: not is_alive(pid), "the end of the actor")


def test_a_handle_from_get_if_exists_keeps_the_actor_alive() -> None:
    counters = counter_class().options(name="kept", get_if_exists=True)
    first = counters.remote(3)
    second = counters.remote(99)
    assert first == second
    pid = get(first.pid.remote())
    del first
    assert get(second.add.remote()) == 4
    assert is_alive(pid)


def test_calls_of_a_weak_handle_are_done_before_the_actor_ends() -> None:
    counter = counter_class().options(name="busy").remote()
    found = rostral.get_actor("busy")
    refs = [found.add.remote() for _ in range(200)]
    del counter
    assert get(refs) == list(range(1, 201))


def test_list_named_actors_names_the_living_of_this_namespace() -> None:
    counters = counter_class()
    kept = [counters.options(name=name).remote() for name in ("b", "a")]
    kept.append(counters.options(name="c", namespace="elsewhere").remote())
    kept.append(counters.remote())
    assert list_named_actors() == ["b", "a"]
    everywhere = list_named_actors(all_namespaces=True)
    assert {"name": "c", "namespace": "elsewhere"} in everywhere
    assert len(everywhere) == 3
    rostral.kill(kept[0])
    assert list_named_actors() == ["a"]


def test_a_name_is_free_as_soon_as_its_actor_was_killed() -> None:
    counters = counter_class().options(name="quick")
    for n in range(10):
        counter = counters.remote(n)
        assert get(counter.add.remote()) == n + 1
        rostral.kill(counter)


@pytest.mark.parametrize("argument", ["name", "namespace"])
@pytest.mark.parametrize(
    ("value", "error"), [("", ValueError), (5, TypeError), ("a/b", ValueError), ("a\0", ValueError)]
)
def test_a_bad_name_or_namespace_is_refused_where_it_is_given(
    argument: str, value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        counter_class().options(**{argument: value})
    if value in ("", 5):
        arguments = {"name": "any", argument: value}
        with pytest.raises(error):
            rostral.get_actor(**arguments)


def test_get_if_exists_without_a_name_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="needs a name"):
        counter_class().options(get_if_exists=True)
