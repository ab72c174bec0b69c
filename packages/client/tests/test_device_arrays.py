"""Arrays on a (fake) GPU as arguments and results: they stay on it between processes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import pytest

import rostral
from rostral_objectstore.gpu import fake_backend
from rostral_objectstore.gpu.backend import BACKEND_VARIABLE

from .waiting import until

# Workers cannot import the tests.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

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


def until_free() -> None:
    """A task's GPU is free again a little after its result is there."""
    until(lambda: rostral.available_resources().get("GPU") == 2, "the end of who had a GPU")


@pytest.fixture(autouse=True)
def free_gpus(node: rostral.Context) -> None:
    del node
    until_free()


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


@rostral.remote(num_gpus=1)
def seen(*arguments: Any) -> tuple[list[int], list[str]]:
    """Which GPUs the task was given, and as what its arguments came."""
    return rostral.get_gpu_ids(), [type(argument).__name__ for argument in arguments]


class Holder:
    def __init__(self, *arguments: Any) -> None:
        self._kinds = [type(argument["weights"]).__name__ for argument in arguments]

    def kinds(self) -> list[str]:
        return self._kinds

    def held(self) -> list[int]:
        return rostral.get_gpu_ids()


def on_gpu(number: int, count: int = 1000) -> rostral.ObjectRef[Any]:
    return rostral.put({"weights": fake_backend.asarray(np.arange(count), device=number)})


@rostral.remote(num_gpus=1)
def kind_of_weights(model: dict[str, Any]) -> tuple[list[int], str]:
    return rostral.get_gpu_ids(), type(model["weights"]).__name__


def test_a_task_gets_the_gpu_that_its_argument_lies_on() -> None:
    for number in (1, 0, 1):
        until_free()
        model = on_gpu(number)
        found = rostral.get(kind_of_weights.remote(model), timeout=GET_TIMEOUT_S)
        assert found == ([number], "FakeArray")


def test_of_several_arguments_the_largest_says_which_gpu_is_best() -> None:
    arguments = [on_gpu(0, 10), on_gpu(1, 100_000), on_gpu(0, 10)]
    ids, _ = rostral.get(seen.remote(*arguments), timeout=GET_TIMEOUT_S)
    assert ids == [1]


def test_a_share_of_a_gpu_is_had_where_the_argument_lies_too() -> None:
    share = kind_of_weights.options(num_gpus=0.25)
    assert rostral.get(share.remote(on_gpu(1)), timeout=GET_TIMEOUT_S) == ([1], "FakeArray")


def test_a_task_runs_on_another_gpu_while_that_of_its_argument_is_held() -> None:
    holder: Any = rostral.remote(Holder).options(num_gpus=1).remote()
    (taken,) = rostral.get(holder.held.remote(), timeout=GET_TIMEOUT_S)
    found = rostral.get(kind_of_weights.remote(on_gpu(taken)), timeout=GET_TIMEOUT_S)
    assert found == ([1 - taken], "ndarray")


def test_an_actor_gets_the_gpu_that_its_argument_lies_on() -> None:
    for number in (1, 0):
        until_free()
        actor: Any = rostral.remote(Holder).options(num_gpus=1).remote(on_gpu(number))
        found = rostral.get([actor.held.remote(), actor.kinds.remote()], timeout=GET_TIMEOUT_S)
        assert found == [[number], ["FakeArray"]]
        del actor
