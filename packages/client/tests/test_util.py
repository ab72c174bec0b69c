"""rostral.util: results as they come, users' serializers, and what cannot be pickled."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rostral
from rostral.exceptions import NotPicklableError
from rostral.util import (
    as_completed,
    deregister_serializer,
    inspect_serializability,
    map_unordered,
    register_serializer,
)

from .actors import get, late_function

pytestmark = pytest.mark.usefixtures("cluster")


def double_function() -> Any:
    @rostral.remote
    def double(n: int) -> int:
        if n < 0:
            raise KeyError(n)
        return 2 * n

    return double


# ---- as they come


@pytest.mark.parametrize("chunk_size", [1, 3, 100])
def test_all_values_come_once(chunk_size: int) -> None:
    double = double_function()
    refs = [double.remote(n) for n in range(20)]
    assert sorted(as_completed(refs, chunk_size)) == [2 * n for n in range(20)]
    assert set(as_completed(refs, chunk_size=chunk_size, yield_obj_refs=True)) == set(refs)
    assert list(as_completed([])) == []


def test_what_is_done_comes_before_what_is_not(marks: Path) -> None:
    late = late_function(marks).remote("late")
    values = as_completed([late, rostral.put("soon")])
    assert next(values) == "soon"
    marks.write_text("done")
    assert list(values) == ["late"]


@pytest.mark.parametrize("chunk_size", [1, 4, 100])
def test_a_function_is_mapped_over_items(chunk_size: int) -> None:
    found = map_unordered(double_function(), range(30), chunk_size=chunk_size)
    assert sorted(found) == [2 * n for n in range(30)]
    refs = map_unordered(double_function(), [1, 2], yield_obj_refs=True)
    assert sorted(rostral.get(list(refs))) == [2, 4]
    assert list(map_unordered(double_function(), [])) == []


def test_items_are_taken_as_results_are() -> None:
    taken = []

    def items() -> Iterator[int]:
        for n in range(100):
            taken.append(n)
            yield n

    values = map_unordered(double_function(), items(), backpressure_size=5, chunk_size=1)
    assert taken == []
    next(values)
    assert len(taken) == 6
    unlimited = map_unordered(double_function(), items(), backpressure_size=None)
    next(unlimited)
    assert len(taken) == 106


def test_an_error_of_a_call_is_raised() -> None:
    with pytest.raises(KeyError):
        list(map_unordered(double_function(), [-1]))
    with pytest.raises(KeyError):
        list(as_completed([double_function().remote(-1)]))


@pytest.mark.parametrize("size", [0, -1])
def test_a_chunk_below_one_is_a_value_error(size: int) -> None:
    with pytest.raises(ValueError, match="chunk_size"):
        as_completed([], chunk_size=size)
    with pytest.raises(ValueError, match="chunk_size"):
        map_unordered(double_function(), [], chunk_size=size)
    with pytest.raises(ValueError, match="backpressure_size"):
        map_unordered(double_function(), [], backpressure_size=size)
    with pytest.raises(ValueError, match="at least chunk_size"):
        map_unordered(double_function(), [], backpressure_size=5, chunk_size=6)
    with pytest.raises(TypeError, match="whole number"):
        as_completed([], chunk_size=1.5)  # type: ignore[call-overload]


# ---- serializers


class Guarded:
    """Has a lock, which no pickle takes."""

    def __init__(self, value: Any) -> None:
        self.value, self.lock = value, threading.Lock()


def test_a_registered_serializer_is_used() -> None:
    def rebuild(value: Any) -> Any:
        return ("rebuilt", value)

    put: Any = rostral.put

    with pytest.raises(NotPicklableError):
        rostral.put(Guarded(1))
    register_serializer(Guarded, serializer=lambda guarded: guarded.value, deserializer=rebuild)
    array = np.arange(1000)
    assert rostral.get(put(Guarded(5))) == ("rebuilt", 5)
    name, got = rostral.get(put([Guarded(array)]))[0]
    assert (name, got.sum(), got.flags.writeable) == ("rebuilt", 499500, False)

    @rostral.remote
    def take(value: Any) -> Any:
        return value[1]

    assert get(take.remote(Guarded(7))) == 7
    deregister_serializer(Guarded)
    deregister_serializer(Guarded)
    with pytest.raises(NotPicklableError):
        rostral.put(Guarded(1))


def test_an_array_has_a_registered_serializer_too() -> None:
    register: Any = register_serializer
    register(np.ndarray, serializer=lambda a: a.tolist(), deserializer=tuple)
    try:
        assert rostral.get(rostral.put(np.arange(3))) == (0, 1, 2)
    finally:
        deregister_serializer(np.ndarray)


def test_what_register_refuses() -> None:
    register: Any = register_serializer
    for wrong in ("text", 5, int):
        with pytest.raises(TypeError):
            register(wrong, serializer=str, deserializer=str)
    with pytest.raises(TypeError, match="serializer must be callable"):
        register(Guarded, serializer=5, deserializer=str)
    with pytest.raises(TypeError, match="deserializer must be callable"):
        register(Guarded, serializer=str, deserializer=5)


# ---- what cannot be pickled


def test_what_can_be_pickled_is_reported_so() -> None:
    out = io.StringIO()
    assert inspect_serializability([1, 2], print_file=out) == (True, set())
    assert "can be pickled" in out.getvalue()


def test_the_innermost_culprit_is_found_and_reported() -> None:
    lock = threading.Lock()

    def function() -> Any:
        return lock

    out = io.StringIO()
    can, failures = inspect_serializability({"a": [1, lock]}, name="thing", print_file=out)
    assert not can
    assert {(failure.obj, failure.name) for failure in failures} == {(lock, "thing['a'][1]")}
    assert "thing['a'][1] is to blame: a lock" in out.getvalue()
    can, failures = inspect_serializability(function, print_file=out)
    assert [failure.obj for failure in failures] == [lock]
    assert next(iter(failures)).parent is function
    can, failures = inspect_serializability(Guarded(1), name="guarded", print_file=out)
    assert [failure.name for failure in failures] == ["guarded.lock"]


def test_the_report_goes_no_deeper_than_told() -> None:
    out = io.StringIO()
    _, failures = inspect_serializability([[[threading.Lock()]]], name="x", depth=1, print_file=out)
    assert [failure.name for failure in failures] == ["x[0]"]


def test_put_of_what_cannot_be_pickled_says_what_is_to_blame() -> None:
    with pytest.raises(TypeError, match=r"value\['a'\]\.lock: a lock") as caught:
        rostral.put({"a": Guarded(1)})
    assert isinstance(caught.value, NotPicklableError)
    assert "inside the task or actor" in str(caught.value)
