"""Tensors between processes: policies travel in place, and who writes to one writes to his own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import rostral
from rostral.serialization import pack
from rostral_objectstore.serialization import deserialize

SIZE = 1_000_000


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A node with two workers."""
    rostral.init("local", num_cpus=2)
    yield
    rostral.shutdown()


def in_segment(address: int) -> bool:
    """Whether an address lies in the mapping of a store."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(part, 16) for part in line.split()[0].split("-"))
        if "rostral-segment" in line and first <= address < last:
            return True
    return False


@rostral.remote
def write_in_place(tensor: torch.Tensor) -> tuple[bool, float]:
    """Says where the tensor lies, and what its sum is once every element is one larger."""
    address = tensor.data_ptr()
    tensor += 1
    return in_segment(address), float(tensor.sum())


@rostral.remote
def make() -> dict[str, Any]:
    """A value with a tensor in it, and with what only cloudpickle can take."""
    return {"weights": torch.ones(SIZE), "double": lambda x: 2 * x}


@pytest.mark.usefixtures("cluster")
def test_a_tensor_is_an_argument_in_place() -> None:
    ref = rostral.put(torch.zeros(SIZE))
    assert rostral.get([write_in_place.remote(ref) for _ in range(3)]) == [(True, SIZE)] * 3
    tensor = rostral.get(ref)
    assert in_segment(tensor.data_ptr())
    assert float(tensor.sum()) == 0.0


@pytest.mark.usefixtures("cluster")
def test_a_tensor_is_a_result_in_place() -> None:
    value = rostral.get(make.remote())
    assert in_segment(value["weights"].data_ptr())
    assert float(value["double"](value["weights"]).sum()) == 2 * SIZE


def test_the_memory_of_tensors_travels_beside_the_pickle() -> None:
    for value in (torch.ones(SIZE), [torch.ones(SIZE)], torch.nn.Linear(1000, 1000)):
        packed = pack(value)
        assert len(packed.inband) < 10_000
        assert sum(buffer.nbytes for buffer in packed.buffers) >= 4_000_000
        assert type(deserialize(packed.kind, packed.inband, packed.buffers)) is type(value)
