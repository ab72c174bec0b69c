"""Arrays and buffers that are written in place: their forms, and what is left after the seal."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from rostral_objectstore import array_form
from rostral_objectstore.errors import (
    ObjectAlreadyExistsError,
    ObjectStateError,
    ObjectStoreFullError,
    SegmentError,
)

from .process_memory import anonymous_bytes, in_segment
from .store import Store

DTYPES = ["?", "u1", "<i8", ">i4", "f2", "f8", "c16", "M8[ns]", "m8[s]", "S7", "U3"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), 0, 7, (3, 4), (2, 0, 5), (2, 3, 4, 5)])
def test_an_array_made_in_the_store_is_sealed_in_place(
    table_store: Store, dtype: str, shape: int | tuple[int, ...]
) -> None:
    client = table_store.connect()
    with client.create_array(shape, dtype) as writable:
        assert writable.array.dtype == np.dtype(dtype)
        assert writable.array.flags.writeable
        assert writable.array.flags.c_contiguous
        writable.buffer[:] = b"1" * writable.array.nbytes
        address = writable.array.ctypes.data
        kept = writable.array
        handle = writable.seal()
    assert not kept.flags.writeable
    back = client.get(handle)
    assert (back.dtype, back.shape) == (kept.dtype, kept.shape)
    assert not back.flags.writeable
    if back.nbytes:
        assert (back.ctypes.data, back.ctypes.data % 64) == (address, 0)
        assert in_segment(address)
    assert back.tobytes() == kept.tobytes()


def test_a_large_array_is_sealed_without_a_copy(store: Store) -> None:
    client = store.connect()
    before = anonymous_bytes()
    with client.create_array((100, 250_000), np.float32, "grid") as writable:
        writable.array[:] = 3
        writable.seal(pin=True)
    assert anonymous_bytes() - before < 10_000_000
    assert client.get("grid").sum() == 75_000_000
    del writable
    assert client.delete("grid") == "deleted"


def test_leaving_unsealed_gives_the_object_up(store: Store) -> None:
    client = store.connect()
    with pytest.raises(KeyError), client.create_array(10, int, "given up", metadata=b"m") as array:
        array.array[:] = 1
        raise KeyError
    assert not client.contains("given up")
    del array
    assert client.list_objects() == []
    client.put(1, "given up")


def test_a_buffer_cannot_be_used_after_the_seal(store: Store) -> None:
    client = store.connect()
    with client.create(10) as writable:
        writable.buffer[:] = b"0123456789"
        handle = writable.seal()
    with pytest.raises(ValueError, match="released"):
        writable.buffer[0] = 1
    with pytest.raises(ObjectStateError, match="sealed"):
        writable.seal()
    with pytest.raises(ObjectStateError, match="sealed"):
        writable.abort()
    assert client.get(handle) == b"0123456789"


@pytest.mark.parametrize(
    ("shape", "dtype", "error"),
    [
        (3, object, TypeError),
        (3, [("a", "i4")], TypeError),
        (3, "V8", TypeError),
        ((3, -1), int, ValueError),
        ((1,) * 33, int, ValueError),
        ((1 << 40, 1 << 40), int, ValueError),
        (1 << 40, int, ObjectStoreFullError),
        ("3", int, TypeError),
        (2.5, int, TypeError),
    ],
)
def test_an_array_that_cannot_be_is_refused(
    store: Store, shape: Any, dtype: Any, error: type[Exception]
) -> None:
    client = store.connect()
    with pytest.raises(error):
        client.create_array(shape, dtype)
    assert client.list_objects() == []


def test_an_id_that_is_taken_is_refused(store: Store) -> None:
    client = store.connect()
    handle = client.put(1, "taken")
    with pytest.raises(ObjectAlreadyExistsError):
        client.create_array(3, int, "taken")
    assert client.get(handle) == 1


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"\xff",
        msgspec.msgpack.encode(["<f8", [2**31, 2**31, 2**31]]),
        msgspec.msgpack.encode(["<f8", [-1, 3]]),
        msgspec.msgpack.encode(["<f8", [4]]),
        msgspec.msgpack.encode(["|O", [1]]),
        msgspec.msgpack.encode(["no such type", [3]]),
        msgspec.msgpack.encode(["<f8", "3"]),
        msgspec.msgpack.encode(["<f8"]),
    ],
)
def test_a_damaged_form_makes_no_array(encoded: bytes) -> None:
    with pytest.raises(SegmentError, match="form"):
        array_form.view(encoded, bytes(24))
