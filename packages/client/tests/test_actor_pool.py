"""ActorPool: calls go to whichever actor is free."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

import rostral
from rostral.util import ActorPool

pytestmark = pytest.mark.usefixtures("cluster")
# Workers cannot import this module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Doubler:
    """Doubles at once; `late` waits for a file."""

    def double(self, value: int) -> int:
        if value < 0:
            raise KeyError(value)
        return 2 * value

    def late(self, marks: Path, value: int) -> int:
        while marks.read_text() != "go":
            time.sleep(0.005)
        return value


@pytest.fixture
def pool() -> Iterator[ActorPool[Any, Any]]:
    doubler: Any = rostral.remote(Doubler)
    made: ActorPool[Any, Any] = ActorPool([doubler.remote() for _ in range(2)])
    yield made
    # pytest keeps what a fixture made until after the look at what is left.
    while made.pop_idle() is not None:
        pass


def double(actor: Any, value: int) -> Any:
    return actor.double.remote(value)


def test_map_gives_results_in_the_order_of_the_values(pool: ActorPool[Any, Any]) -> None:
    assert list(pool.map(double, range(20))) == [2 * value for value in range(20)]
    assert not pool.has_next()


def test_map_unordered_gives_every_result_once(pool: ActorPool[Any, Any]) -> None:
    assert sorted(pool.map_unordered(double, range(20))) == [2 * value for value in range(20)]


def test_a_second_map_drops_results_that_were_not_taken(pool: ActorPool[Any, Any]) -> None:
    first = pool.map(double, range(5))
    assert next(first) == 0
    assert list(pool.map(double, [7])) == [14]


def test_an_error_is_raised_in_its_place_and_the_rest_comes(pool: ActorPool[Any, Any]) -> None:
    for value in (1, -1, 2):
        pool.submit(double, value)
    assert pool.get_next() == 2
    with pytest.raises(KeyError):
        pool.get_next()
    assert pool.get_next() == 4


def test_nothing_left_is_the_end(pool: ActorPool[Any, Any]) -> None:
    with pytest.raises(StopIteration):
        pool.get_next()
    with pytest.raises(StopIteration):
        pool.get_next_unordered()


def test_a_late_result_is_a_timeout_and_can_be_given_up(
    pool: ActorPool[Any, Any], marks: Path
) -> None:
    pool.submit(lambda actor, value: actor.late.remote(marks, value), 1)
    pool.submit(double, 2)
    with pytest.raises(TimeoutError):
        pool.get_next(timeout=0.05)
    with pytest.raises(TimeoutError):
        pool.get_next(timeout=0.05, ignore_if_timedout=True)
    assert pool.get_next(timeout=10) == 4
    marks.write_text("go")


def test_the_fast_one_is_first_when_order_does_not_count(
    pool: ActorPool[Any, Any], marks: Path
) -> None:
    pool.submit(lambda actor, value: actor.late.remote(marks, value), 1)
    pool.submit(double, 2)
    assert pool.get_next_unordered(timeout=10) == 4
    marks.write_text("go")
    assert pool.get_next_unordered(timeout=10) == 1


def test_orders_cannot_be_mixed(pool: ActorPool[Any, Any], marks: Path) -> None:
    pool.submit(lambda actor, value: actor.late.remote(marks, value), 1)
    pool.submit(double, 2)
    pool.submit(double, 3)
    assert pool.get_next_unordered() == 4
    assert pool.get_next_unordered() == 6
    marks.write_text("go")
    with pytest.raises(ValueError, match="order is lost"):
        pool.get_next()


def test_actors_can_be_taken_out_and_put_in(pool: ActorPool[Any, Any]) -> None:
    assert pool.has_free()
    actor = pool.pop_idle()
    assert actor is not None
    other = pool.pop_idle()
    assert other is not None
    assert not pool.has_free()
    assert pool.pop_idle() is None
    pool.push(actor)
    with pytest.raises(ValueError, match="in the pool already"):
        pool.push(actor)
    assert list(pool.map(double, range(3))) == [0, 2, 4]


def test_calls_wait_for_an_actor(pool: ActorPool[Any, Any]) -> None:
    actor, other = pool.pop_idle(), pool.pop_idle()
    assert actor is not None
    assert other is not None
    pool.submit(double, 4)
    assert not pool.has_next()
    pool.push(actor)
    assert pool.get_next() == 8
