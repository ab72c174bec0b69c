"""Tables: pandas frames through pickle, Arrow data through pickle and as streams."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from rostral_objectstore.errors import ObjectKindError

from .conftest import MEMORY_BYTES
from .process_memory import anonymous_bytes, in_segment
from .store import Nursery, Store, running

ROWS = 1_000_000


@pytest.fixture(scope="module")
def store(nursery: Nursery) -> Iterator[Store]:
    """One store for all tables."""
    with (
        tempfile.TemporaryDirectory(prefix="rostral-") as folder,
        running(Path(folder), nursery, MEMORY_BYTES) as store,
    ):
        yield store


def test_a_frame_comes_back_in_place_and_read_only(store: Store) -> None:
    client = store.connect()
    frame = pd.DataFrame(
        {
            "x": np.arange(10_000.0),
            "n": np.arange(10_000),
            "name": ["a", "b"] * 5_000,
            "when": pd.date_range("2020-01-01", periods=10_000, freq="s"),
            "kind": pd.Categorical(["u", "v", "u", "v"] * 2_500),
        }
    )
    back = client.get(client.put(frame))
    pd.testing.assert_frame_equal(back, frame)
    for column in ("x", "n"):
        values = back[column].to_numpy()
        assert in_segment(values.ctypes.data)
        assert not values.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        back.loc[0, "x"] = 5.0
    changed = back.assign(x=back["x"] + 1)
    assert changed["x"].iloc[0] == 1.0
    del back, values, changed


def test_a_stream_is_written_with_one_copy(store: Store) -> None:
    client = store.connect()
    table = pa.table({"x": np.arange(10 * ROWS)})
    before = anonymous_bytes()
    handle = client.put_arrow(table, "table")
    assert anonymous_bytes() - before < table.nbytes // 10
    back = client.get(handle)
    assert back.equals(table)
    assert anonymous_bytes() - before < table.nbytes // 10
    assert in_segment(back.column("x").chunk(0).buffers()[1].address)


def test_arrow_alone_reads_what_put_arrow_wrote(store: Store, tmp_path: Path) -> None:
    client = store.connect()
    table = pa.table({"x": [1, 2, 3], "name": ["a", "b", None]})
    for data in (
        table,
        table.to_batches()[0],
        pa.RecordBatchReader.from_batches(table.schema, table.to_batches()),
        table.slice(0, 3),
    ):
        handle = client.put_arrow(data, metadata=b"about it")
        assert pa.ipc.open_stream(client.get_buffer(handle)).read_all().equals(table)
        assert client.get(handle).equals(table)
        assert client.get_metadata(handle) == b"about it"
    path = tmp_path / "stream"
    path.write_bytes(client.get_buffer(client.put_arrow(table)))
    code = "import pyarrow as pa, sys; print(pa.ipc.open_stream(sys.argv[1]).read_all().num_rows)"
    ran = subprocess.run([sys.executable, "-c", code, path], check=True, stdout=subprocess.PIPE)
    assert ran.stdout == b"3\n"


def test_a_frame_can_be_stored_as_arrow(store: Store) -> None:
    client = store.connect()
    frame = pd.DataFrame({"x": [1.5, 2.5], "name": ["a", "b"]})
    back = client.get(client.put_arrow(frame))
    pd.testing.assert_frame_equal(back.to_pandas(), frame, check_dtype=False)


def test_an_empty_table_is_a_table(store: Store) -> None:
    client = store.connect()
    table = pa.table({"x": pa.array([], pa.int64())})
    assert client.get(client.put_arrow(table)).schema == table.schema


def test_what_is_no_arrow_data_is_refused_and_leaves_nothing(store: Store) -> None:
    client = store.connect()
    with pytest.raises(ObjectKindError, match="type list"):
        client.put_arrow([1, 2])  # type: ignore[arg-type]
    with pytest.raises(ObjectKindError, match="pickled value"):
        client.get_buffer(client.put([1, 2]))
    assert client.list_objects() == []
