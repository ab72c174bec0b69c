"""Which pickle is used, what is listed beside it, and what is refused."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import numpy as np
import pytest

from rostral.culprits import captured
from rostral.exceptions import NotPicklableError
from rostral.serialization import dumps, first_unpicklable, is_plain, pack
from rostral_objectstore.serialization import KIND_BYTES, KIND_PICKLE, deserialize

VALUES: list[Any] = [
    None,
    True,
    -5,
    1 << 100,
    1.5,
    2j,
    "text",
    b"bytes",
    b"",
    [],
    (),
    {},
    [1, [2, [3, [4, [5]]]]],
    {"a": (1, "b"), 2: None},
    {1, 2},
    frozenset({3}),
    bytearray(b"mutable"),
    range(3),
    slice(1, 2),
    [None] * 1000,
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:30])
def test_values_come_back_equal_and_of_their_type(value: Any) -> None:
    packed = pack(value)
    got = deserialize(packed.kind, packed.inband, packed.buffers)
    assert got == value
    assert type(got) is type(value)


def test_bytes_are_stored_as_they_are() -> None:
    assert pack(b"abc").kind == KIND_BYTES
    assert pack(b"abc").inband == b"abc"
    assert pack(bytearray(b"abc")).kind == KIND_PICKLE


def test_large_arrays_travel_beside_the_pickle() -> None:
    packed = pack({"a": np.arange(1000), "b": np.arange(3)})
    assert [buffer.nbytes for buffer in packed.buffers] == [8000]
    assert len(packed.inband) < 1000


def test_an_array_that_is_not_contiguous_comes_back_equal() -> None:
    array = np.arange(10_000).reshape(100, 100)[:, ::3]
    packed = pack(array)
    np.testing.assert_array_equal(deserialize(packed.kind, packed.inband, packed.buffers), array)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1, "a", None], True),
        ({"a": [1, 2]}, True),
        (np.zeros(3), True),
        (np.array([object()]), False),
        ([1] * 65, False),
        ([[[[1]]]], False),
        (lambda: 1, False),
        ({(1, 2): 3}, False),
    ],
    ids=repr,
)
def test_plain_values_are_told_from_others(value: object, expected: bool) -> None:
    assert is_plain(value) is expected


def test_a_lambda_is_pickled_by_value() -> None:
    offset = 5
    assert pickle.loads(dumps(lambda x: x + offset))(1) == 6


def test_what_cannot_be_pickled_is_named_with_the_reason() -> None:
    with pytest.raises(NotPicklableError, match=r"cannot pickle '_thread\.lock' object") as caught:
        pack([threading.Lock()])
    assert "list" in caught.value.message
    assert "inside the task" in str(caught.value)
    assert "_thread.lock" in caught.value.reason


def test_endless_nesting_is_refused() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(NotPicklableError):
        pack(value)


def test_the_first_that_cannot_be_pickled_is_found() -> None:
    values = [("a", 1), ("b", threading.Lock()), ("c", threading.Lock())]
    assert first_unpicklable(values) == "b (a lock)"
    assert first_unpicklable([("a", 1)]) is None


def test_what_a_function_and_a_class_capture_is_found() -> None:
    local = object()

    def function(default: int = 7) -> object:
        return local, np, default

    class Actor:
        setting = 3

        def method(self) -> object:
            return local

    found = dict(captured((function, {})))
    assert found["local"] is local
    assert found["np"] is np
    assert found["the default of default"] == 7
    in_class = dict(captured(Actor))
    assert in_class["local"] is local
    assert any(name.endswith("Actor.setting") for name in in_class)
