"""What comes out of the store: equal to what went in, read-only, aligned, and in place."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from rostral_gcs.ids import ObjectID
from rostral_objectstore import StoreClient

from .conftest import MEMORY_BYTES
from .process_memory import anonymous_bytes, in_segment, is_mapped
from .store import Nursery, Store, running


@pytest.fixture(scope="module")
def store(nursery: Nursery) -> Iterator[Store]:
    """One store for all values."""
    with (
        tempfile.TemporaryDirectory(prefix="rostral-") as folder,
        running(Path(folder), nursery, MEMORY_BYTES) as store,
    ):
        yield store


LARGE = 100_000_000

ARRAYS: dict[str, NDArray[Any]] = {
    "one dimension": np.arange(10_000, dtype=np.float32),
    "two dimensions": np.arange(60_000, dtype=np.int16).reshape(300, 200),
    "fortran order": np.asfortranarray(np.arange(60_000, dtype=np.float64).reshape(300, 200)),
    "strided": np.arange(40_000, dtype=np.uint8)[::3],
    "transposed slice": np.arange(90_000).reshape(300, 300)[10:200:2, ::-1].T,
    "no elements": np.empty((0, 7), np.float32),
    "a scalar": np.array(3.5),
    "one byte": np.array([7], np.uint8),
    "structured": np.zeros(2000, dtype=[("a", "i4"), ("b", "f8")]),
    "text": np.array(["ä", "bc"] * 500),
    "another byte order": np.arange(1000, dtype=">i8"),
    "times": np.arange(1000).astype("M8[ms]"),
    "objects": np.array([None, {}, "x"] * 300, dtype=object),
    "complex": np.arange(500) * (1 + 2j),
    "many dimensions": np.arange(1024).reshape((2,) * 10),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_comes_back_equal_and_read_only(store: Store, name: str) -> None:
    array = ARRAYS[name]
    handle = store.connect().put(array)
    back = store.connect().get(handle.id)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    np.testing.assert_array_equal(back, array)
    contiguous = array.flags.c_contiguous or array.flags.f_contiguous
    if back.nbytes >= 512 and contiguous and not array.dtype.hasobject:
        assert not back.flags.writeable
        assert back.flags.f_contiguous == array.flags.f_contiguous
        assert back.ctypes.data % 64 == 0
        assert in_segment(back.ctypes.data)


VALUES: dict[str, object] = {
    "none": None,
    "empty bytes": b"",
    "bytes in the record": b"x" * 64,
    "bytes in a block": b"x" * 65,
    "bytes of several pages": bytes(range(256)) * 1000,
    "text": "x" * 10_000,
    "nested": {"a": [1, (2.5, None)], "b": {"c": {frozenset({1})}}},
    "bytearray": bytearray(b"y" * 4000),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_comes_back_equal(store: Store, name: str) -> None:
    client = store.connect()
    assert client.get(client.put(VALUES[name])) == VALUES[name]


def test_arrays_inside_containers_come_back_in_place(store: Store) -> None:
    client = store.connect()
    value = {"layers": [np.full(1000, i, np.float32) for i in range(20)], "name": "policy"}
    back = client.get(client.put(value))
    assert back["name"] == "policy"
    for i, layer in enumerate(back["layers"]):
        assert (layer == i).all()
        assert in_segment(layer.ctypes.data)
        assert layer.ctypes.data % 64 == 0


def test_what_a_form_does_not_tell_of_an_array_comes_back_too(store: Store) -> None:
    tagged = np.zeros(1000, np.dtype("f8", metadata={"unit": "m"}))
    masked = np.ma.masked_array(np.arange(1000), mask=np.arange(1000) % 2 == 1)
    client = store.connect()
    back = client.get(client.put(tagged))
    assert back.dtype.metadata == {"unit": "m"}
    back = client.get(client.put(masked))
    assert type(back) is np.ma.MaskedArray
    assert back.sum() == masked.sum()


@pytest.mark.parametrize(
    "value",
    [
        np.ones(1_000_000),
        {"x": np.ones(1_000_000), "y": np.zeros(10_000)},
        {"x": np.ones(1_000_000), "name": "n" * 1000},
    ],
    ids=["a head in the record", "a short head", "a head that is read in place"],
)
def test_getting_a_large_value_touches_none_of_its_pages_that_it_can_do_without(
    store: Store, value: Any
) -> None:
    handle = store.connect().put(value)
    reader = store.connect()
    for _ in range(2):
        back = reader.get(handle.id)
        array = back["x"] if isinstance(back, dict) else back
        far = array.ctypes.data + array.nbytes // 2
        in_place = isinstance(back, dict) and "name" in back
        assert is_mapped(array.ctypes.data - 64) == in_place
        assert not is_mapped(far)
        del back, array
    again = [reader.get(handle.id) for _ in range(2)]
    for back in again:
        array = back["x"] if isinstance(back, dict) else back
        assert array.sum() == 1_000_000


def test_an_arrow_table_comes_back_in_place(store: Store) -> None:
    client = store.connect()
    table = pa.table({"x": np.arange(100_000), "name": ["a", "b"] * 50_000})
    for handle in (client.put_arrow(table), client.put(table)):
        back = client.get(handle)
        assert back.equals(table)
        buffers = [b for column in back.columns for b in column.chunk(0).buffers() if b is not None]
        assert buffers
        assert all(in_segment(b.address) for b in buffers if b.size)
    batch = table.to_batches()[0]
    assert client.get(client.put_arrow(batch)).equals(pa.Table.from_batches([batch]))


def test_an_arrow_object_is_a_stream_that_any_reader_understands(store: Store) -> None:
    client = store.connect()
    table = pa.table({"x": [1, 2, 3]})
    read = client.table.read(client.put_arrow(table))
    assert read is not None
    assert pa.ipc.open_stream(pa.py_buffer(read[2])).read_all().equals(table)


def test_a_large_array_is_read_without_a_copy(store: Store) -> None:
    client = store.connect()
    handle = client.put(np.ones(LARGE, np.uint8))
    before = anonymous_bytes()
    back = client.get(handle)
    assert int(back.sum(dtype=np.int64)) == LARGE
    assert in_segment(back.ctypes.data)
    assert anonymous_bytes() - before < LARGE // 10


def test_two_unrelated_processes_exchange_100_mb_without_a_copy(store: Store) -> None:
    writer, reader = store.peer(), store.peer()
    writer.do(f"handle = client.put(np.arange({LARGE // 4}, dtype=np.uint32))")
    reader.do(
        "before = anonymous_bytes(); array = client.get(ObjectID(id))",
        id=writer.ask("handle.binary()"),
    )
    total = sum(range(LARGE // 4))
    assert reader.ask("int(array.sum(dtype=np.int64))") == total
    assert reader.ask("in_segment(array.ctypes.data), array.flags.writeable") == (True, False)
    assert reader.ask("anonymous_bytes() - before") < LARGE // 10


def test_an_object_written_in_place_is_sealed_without_a_copy(store: Store) -> None:
    client = store.connect()
    before = anonymous_bytes()
    with client.create(LARGE) as writable:
        array = np.frombuffer(writable.buffer, np.uint8)
        array[:] = 5
        handle = writable.seal()
    assert anonymous_bytes() - before < LARGE // 10
    view = client.get(handle)
    assert view.readonly
    assert np.frombuffer(view, np.uint8).ctypes.data == array.ctypes.data
    assert (np.frombuffer(view, np.uint8) == 5).all()
    del array, view


def test_what_cannot_be_pickled_leaves_nothing(store: Store) -> None:
    client = store.connect()
    with pytest.raises((TypeError, AttributeError)):
        client.put(lambda: None)
    with pytest.raises(TypeError, match="cannot be pickled"):
        client.put(client.put(1))


def test_a_buffer_that_is_not_contiguous_leaves_the_object_to_be_written(store: Store) -> None:
    client: StoreClient = store.connect()
    id = ObjectID(b"n" * 20)
    handle = client.handle(id)
    strided = memoryview(bytes(100))[::2]
    with pytest.raises(TypeError):
        client.table.fill(handle, 1, b"", [strided], [])
    assert client.table.fill(handle, 2, b"now", [], [])
    assert client.get(id) == b"now"
