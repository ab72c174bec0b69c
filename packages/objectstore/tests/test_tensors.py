"""Torch tensors: as they were, in place, and nobody's writes reach the store."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from .conftest import MEMORY_BYTES
from .process_memory import anonymous_bytes, in_segment
from .store import Nursery, Store, running

LARGE = 25_000_000


@pytest.fixture(scope="module")
def store(nursery: Nursery) -> Iterator[Store]:
    """One store for all tensors."""
    with (
        tempfile.TemporaryDirectory(prefix="rostral-") as folder,
        running(Path(folder), nursery, MEMORY_BYTES) as store,
    ):
        yield store


def tensors() -> dict[str, torch.Tensor]:
    base = torch.arange(120_000, dtype=torch.float32)
    return {
        "flat": base,
        "two dimensions": base.reshape(300, 400),
        "transposed": base.reshape(300, 400).T,
        "channels last": base.reshape(2, 3, 100, 200).to(memory_format=torch.channels_last),
        "every second": base[::2],
        "a slice": base[1000:100_000],
        "expanded": torch.arange(40_000).reshape(1, -1).expand(3, -1),
        "bfloat16": base.to(torch.bfloat16),
        "float8": base.to(torch.float8_e4m3fn),
        "half": base.half(),
        "bool": base > 5,
        "complex": torch.complex(base, base),
        "conjugate": torch.complex(base, base).conj(),
        "small": torch.arange(10),
        "a scalar": torch.tensor(2.5),
        "no elements": torch.empty(0, 7),
        "trained": torch.arange(40_000.0).requires_grad_(),
        "computed": torch.arange(40_000.0).requires_grad_() * 2,
        "sparse": torch.eye(100).to_sparse(),
    }


@pytest.mark.parametrize("name", tensors())
def test_a_tensor_comes_back_equal(store: Store, name: str) -> None:
    tensor, client = tensors()[name], store.connect()
    back = client.get(client.put(tensor))
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    assert (back.layout, back.requires_grad) == (tensor.layout, tensor.requires_grad)
    # Not every kind of number knows equality.
    assert torch.equal(wide(back), wide(tensor))
    if name in ("two dimensions", "transposed", "channels last"):
        assert back.stride() == tensor.stride()
    if back.layout is torch.strided and back.nbytes >= 1 << 16:
        assert in_segment(back.data_ptr())
        assert back.data_ptr() % 64 == 0


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers, in a form that can be compared."""
    return tensor.detach().to_dense().to(torch.complex128)


def test_a_large_tensor_is_read_without_a_copy(store: Store) -> None:
    writer, reader = store.connect(), store.peer()
    handle = writer.put({"layer": torch.ones(LARGE), "name": "policy"})
    reader.do("before = anonymous_bytes(); import torch; got = client.get(id)", id=handle.id)
    assert reader.ask("float(got['layer'].sum())") == LARGE
    reader.do("before = anonymous_bytes(); got = client.get(id); got['layer'].sum()", id=handle.id)
    assert reader.ask("anonymous_bytes() - before") < 4 * LARGE // 10
    assert reader.ask("in_segment(got['layer'].data_ptr())")


def test_what_a_reader_writes_in_place_stays_its_own(store: Store) -> None:
    client, reader = store.connect(), store.peer()
    handle = client.put([torch.zeros(100_000), torch.zeros(100_000)])
    reader.do("got = client.get(id); got[0] += 1; got[1][7] = 3", id=handle.id)
    assert reader.ask("float(got[0].sum()), float(got[1].sum())") == (100_000.0, 3.0)
    assert reader.ask("float(client.get(id)[0].sum())", id=handle.id) == 0.0
    first, second = client.get(handle)
    assert float(first.sum()) == float(second.sum()) == 0.0
    before = anonymous_bytes()
    second[:1000] = 1  # pays for the pages that it writes, and for no others
    assert anonymous_bytes() - before < 100_000
    assert float(second.sum()) == 1000.0
    assert float(client.get(handle)[1].sum()) == 0.0


def test_a_tensor_keeps_its_object(store: Store) -> None:
    client = store.connect()
    tensor = client.get(client.put(torch.full((100_000,), 7.0), "sevens"))
    client.put(torch.zeros(100_000))  # nothing is laid over it
    assert float(tensor.sum()) == 700_000.0
    assert client.contains("sevens")
    del tensor
    assert not client.contains("sevens")


def test_a_module_comes_back_in_place_and_can_be_trained(store: Store) -> None:
    client = store.connect()
    torch.manual_seed(0)
    module: Any = torch.nn.Sequential(torch.nn.Linear(300, 300), torch.nn.BatchNorm1d(300))
    handle = client.put(module)
    back: Any = client.get(handle)
    weight = back[0].weight
    assert isinstance(weight, torch.nn.Parameter)
    assert in_segment(weight.data_ptr())
    assert torch.equal(weight, module[0].weight)
    optimizer = torch.optim.SGD(back.parameters(), lr=0.1)
    back(torch.randn(8, 300)).pow(2).sum().backward()
    optimizer.step()
    assert not torch.equal(weight, module[0].weight)
    assert torch.equal(client.get(handle)[0].weight, module[0].weight)
    del weight, back


def test_the_same_tensor_twice_in_a_value_is_one_tensor(store: Store) -> None:
    client = store.connect()
    tensor = torch.arange(100_000.0)
    handle = client.put([tensor, tensor, tensor.tolist()[:5]])
    assert client.table.size(handle) < 2 * tensor.nbytes
    first, second, _ = client.get(handle)
    assert first is second


def test_a_tensor_of_the_store_can_be_put_again(store: Store) -> None:
    client = store.connect()
    once = client.get(client.put(torch.arange(100_000.0)))
    twice = client.get(client.put(once[10:50_000]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(twice, torch.arange(10.0, 50_000.0))


def test_torch_is_neither_imported_nor_changed() -> None:
    code = (
        "import copyreg, sys, rostral_objectstore.serialization as s\n"
        "s.deserialize(*s.serialize([1, {'a': 'b'}]))\n"
        "assert 'torch' not in sys.modules\n"
        "import torch\n"
        "s.deserialize(*s.serialize([torch.ones(10_000)]))\n"
        "assert torch.Tensor not in copyreg.dispatch_table\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
