"""Arrays on (fake) GPUs as arguments and results of tasks on other nodes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import pytest

import rostral
from rostral.cluster_utils import Cluster
from rostral_objectstore.gpu import fake_backend
from rostral_objectstore.gpu.backend import BACKEND_VARIABLE

from .nodes import cluster_of, log_of

pytestmark = pytest.mark.slow

# Workers cannot import this module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
TIMEOUT_S = 30


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[Cluster]:
    """A head with two GPUs, and a node with none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(BACKEND_VARIABLE, "fake")
        patch.setenv(fake_backend.DEVICES_VARIABLE, "2")
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        other = {"num_cpus": 1, "resources": {"far": 1}}
        with cluster_of({"num_cpus": 1, "num_gpus": 2}, other) as cluster:
            yield cluster
            for node in cluster.list_all_nodes():
                assert "Traceback" not in log_of(node)


@rostral.remote(resources={"far": 1})
def total_far_away(model: dict[str, Any]) -> tuple[str, int]:
    """As what the array came, and its sum."""
    return type(model["weights"]).__name__, int(model["weights"].sum())


@rostral.remote(resources={"far": 1})
def made_far_away(count: int) -> dict[str, Any]:
    return {"weights": fake_backend.asarray(np.arange(count))}


@rostral.remote(num_gpus=1)
def total_on_a_gpu(model: dict[str, Any]) -> tuple[str, int]:
    weights = model["weights"]
    return type(weights).__name__, int(weights.numpy().sum())


@pytest.mark.parametrize("count", [100, 1_000_000])
def test_an_argument_on_a_gpu_comes_to_a_node_without_one_as_a_host_array(count: int) -> None:
    model = rostral.put({"weights": fake_backend.asarray(np.arange(count))})
    found = rostral.get(total_far_away.remote(model), timeout=TIMEOUT_S)
    assert found == ("ndarray", sum(range(count)))
    # Where the GPU is, the array is read on it as before.
    found = rostral.get(total_on_a_gpu.remote(model), timeout=TIMEOUT_S)
    assert found == ("FakeArray", sum(range(count)))


@pytest.mark.parametrize("count", [100, 1_000_000])
def test_a_result_on_another_nodes_gpu_comes_as_a_host_array(count: int) -> None:
    model = rostral.get(made_far_away.remote(count), timeout=TIMEOUT_S)
    assert type(model["weights"]) is np.ndarray
    assert np.array_equal(model["weights"], np.arange(count))
