"""The payload of a task: what is encoded is decoded, references in their places."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rostral.arguments import INLINE_BYTES_MAX, NO_ARGUMENTS, decode, encode, value_count
from rostral.exceptions import NotPicklableError
from rostral.object_ref import ObjectRef


class Stored:
    """Stands for the store: keeps what is put, hands out references."""

    def __init__(self) -> None:
        self.values: dict[int, Any] = {}

    def put(self, value: Any) -> ObjectRef[Any]:
        ref: ObjectRef[Any] = ObjectRef.__new__(ObjectRef)
        self.values[id(ref)] = ref, value
        return ref

    def get(self, ref: ObjectRef[Any]) -> Any:
        return self.values[id(ref)][1]


def round_trip(*args: Any, **kwargs: Any) -> tuple[list[Any], dict[str, Any]]:
    stored = Stored()
    arguments = encode(args, kwargs, stored.put)
    fetched = arguments.dependencies[: value_count(arguments.payload)]
    got_args, got_kwargs = decode(arguments.payload, [stored.get(ref) for ref in fetched])
    return list(got_args), got_kwargs


def test_a_call_without_arguments_costs_nothing() -> None:
    assert encode((), {}, Stored().put) is NO_ARGUMENTS
    assert round_trip() == ([], {})


def test_arguments_come_back() -> None:
    assert round_trip(1, "a", key=[2, 3]) == ([1, "a"], {"key": [2, 3]})


def test_small_arguments_are_not_stored() -> None:
    stored = Stored()
    arguments = encode((1, b"x" * 100, np.zeros(10)), {}, stored.put)
    assert not stored.values
    assert not arguments.dependencies


@pytest.mark.parametrize(
    "large",
    [
        lambda: b"x" * (INLINE_BYTES_MAX + 1),
        lambda: "x" * (INLINE_BYTES_MAX + 1),
        lambda: np.zeros(INLINE_BYTES_MAX, dtype=np.uint8).repeat(2),
        lambda: ["x" * 1000] * 10 + [str(i) * 100 for i in range(2000)],
    ],
)
@pytest.mark.parametrize("by_keyword", [False, True])
def test_large_arguments_are_stored(large: Callable[[], Any], by_keyword: bool) -> None:
    value = large()
    stored = Stored()
    args, kwargs = ((1,), {"v": value}) if by_keyword else ((1, value), {})
    arguments = encode(args, kwargs, stored.put)
    assert len(stored.values) == 1
    assert len(arguments.payload) < INLINE_BYTES_MAX
    got_args, got_kwargs = round_trip(*args, **kwargs)
    got = got_kwargs["v"] if by_keyword else got_args[1]
    assert np.array_equal(got, value) if isinstance(value, np.ndarray) else got == value


def test_large_and_many_small_arguments_together() -> None:
    array = np.arange(INLINE_BYTES_MAX)
    text = [str(number) * 50 for number in range(10_000)]
    (first, second), kwargs = round_trip(array, text, k=array, last=3)
    assert np.array_equal(first, array)
    assert np.array_equal(kwargs["k"], array)
    assert second == text
    assert kwargs["last"] == 3


def test_references_among_the_arguments_are_replaced_by_values() -> None:
    stored = Stored()
    one, two = stored.put("one"), stored.put("two")
    arguments = encode((one, 5), {"k": two}, stored.put)
    values = [stored.get(ref) for ref in arguments.dependencies[: value_count(arguments.payload)]]
    args, kwargs = decode(arguments.payload, values)
    assert (list(args), kwargs) == (["one", 5], {"k": "two"})


def test_the_callers_own_containers_are_not_changed() -> None:
    stored = Stored()
    ref = stored.put("value")
    args, kwargs = (ref, [1]), {"k": ref}
    encode(args, kwargs, stored.put)
    assert args[0] is ref
    assert kwargs["k"] is ref


def test_the_argument_that_cannot_be_pickled_is_named() -> None:
    with pytest.raises(NotPicklableError, match=r"argument 1 \(a lock\) cannot be pickled"):
        encode((1, threading.Lock()), {}, Stored().put)
    with pytest.raises(NotPicklableError, match=r"argument 'k' \(a list\) cannot be pickled"):
        encode((1,), {"k": [threading.Lock()]}, Stored().put)
