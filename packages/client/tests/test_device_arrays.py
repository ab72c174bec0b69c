"""Arrays on a (fake) GPU as arguments and results: they stay on it between processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import rostral
from rostral_objectstore.gpu import fake_backend
from rostral_objectstore.gpu.backend import BACKEND_VARIABLE

GET_TIMEOUT_S = 30.0


@pytest.fixture(scope="module", autouse=True)
def node(runtime_dir: str) -> Iterator[rostral.Context]:
    """A node with two fake GPUs."""
    del runtime_dir
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(BACKEND_VARIABLE, "fake")
        patch.setenv(fake_backend.DEVICES_VARIABLE, "2")
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        with rostral.init(num_cpus=2, num_gpus=2, object_store_memory=64 << 20) as context:
            yield context


@rostral.remote(num_gpus=1)
def doubled(weights: Any) -> Any:
    """Reads on the GPU, if it is the one that the task was given; puts on its own."""
    from rostral_objectstore.gpu import fake_backend

    values = weights.numpy() if isinstance(weights, fake_backend.FakeArray) else weights
    return {"twice": fake_backend.asarray(2 * values), "was": type(weights).__name__}


@rostral.remote
def total(result: dict[str, Any]) -> tuple[str, int]:
    """Has no GPU: the array comes as NumPy's."""
    return type(result["twice"]).__name__, int(result["twice"].sum())


def test_an_array_on_a_gpu_goes_from_task_to_task() -> None:
    weights = rostral.put(fake_backend.asarray(np.arange(1000)))
    assert np.array_equal(rostral.get(weights).numpy(), np.arange(1000))
    result = doubled.remote(weights)
    name, summed = rostral.get(total.remote(result), timeout=GET_TIMEOUT_S)
    assert (name, summed) == ("ndarray", 999_000)
    # The driver sees all GPUs: the result is read where it lies.
    twice = rostral.get(result, timeout=GET_TIMEOUT_S)["twice"]
    assert np.array_equal(twice.numpy(), 2 * np.arange(1000))


def test_an_argument_by_value_goes_along() -> None:
    result = rostral.get(doubled.remote(fake_backend.asarray(np.arange(10))), timeout=GET_TIMEOUT_S)
    assert np.array_equal(result["twice"].numpy(), 2 * np.arange(10))


def test_an_array_outlives_the_process_that_made_it() -> None:
    # A task with a GPU has a process of its own, which ends with it.
    results = [doubled.remote(np.arange(10) + number) for number in range(4)]
    for number, result in enumerate(rostral.get(results, timeout=GET_TIMEOUT_S)):
        assert np.array_equal(result["twice"].numpy(), 2 * (np.arange(10) + number))
