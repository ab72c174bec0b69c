"""The joblib backend: Parallel runs in a cluster."""

from __future__ import annotations

import math
import os
from typing import Any

import joblib
import pytest

from rostral.util.joblib import register_ray, register_rostral

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(autouse=True, scope="module")
def registered() -> None:
    register_rostral()


def run(*calls: Any, backend: str = "rostral", n_jobs: int = 2) -> list[Any]:
    with joblib.parallel_config(backend=backend, n_jobs=n_jobs):
        return list(joblib.Parallel()(calls))


def test_calls_give_their_values_in_order() -> None:
    roots = run(*(joblib.delayed(math.sqrt)(value**2) for value in range(200)))
    assert roots == [float(value) for value in range(200)]


def test_calls_run_in_workers() -> None:
    assert os.getpid() not in run(*(joblib.delayed(os.getpid)() for _ in range(10)))


def test_a_call_that_raises_ends_the_whole_with_its_error() -> None:
    with pytest.raises(ValueError, match="math domain error"):
        run(*(joblib.delayed(math.sqrt)(value) for value in (1.0, -1.0, 4.0)))
    assert run(joblib.delayed(math.sqrt)(4.0)) == [2.0]


def test_negative_numbers_of_jobs_count_from_the_cpus_down() -> None:
    assert run(joblib.delayed(math.sqrt)(9.0), n_jobs=-1) == [3.0]
    with pytest.raises(ValueError, match="n_jobs"):
        run(joblib.delayed(math.sqrt)(9.0), n_jobs=0)


def test_rays_name_of_the_backend_works() -> None:
    register_ray()
    assert run(joblib.delayed(math.sqrt)(16.0), backend="ray") == [4.0]


def test_values_come_one_after_the_other_as_a_generator() -> None:
    with joblib.parallel_config(backend="rostral", n_jobs=2):
        values = joblib.Parallel(return_as="generator")(
            joblib.delayed(math.sqrt)(value**2) for value in range(20)
        )
        assert next(values) == 0.0
        assert list(values) == [float(value) for value in range(1, 20)]
