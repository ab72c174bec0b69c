"""Which GPUs of a node a task or an actor holds, as it can ask."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

import rostral

from . import waiting
from .waiting import until

# Workers cannot import the tests: what these tasks use of them travels along.
for module in (sys.modules[__name__], waiting):
    cloudpickle.register_pickle_by_value(module)

GET_TIMEOUT_S = 20.0


@pytest.fixture(scope="module", autouse=True)
def node(runtime_dir: str) -> Iterator[rostral.Context]:
    """A node that says that it has two GPUs."""
    del runtime_dir
    with rostral.init(num_cpus=4, num_gpus=2, object_store_memory=64 << 20) as context:
        yield context


def held() -> tuple[list[int], dict[str, list[str]]]:
    return rostral.get_gpu_ids(), rostral.get_runtime_context().get_accelerator_ids()


@rostral.remote(max_calls=0)
def hold(begun: Path, count: int) -> list[int]:
    """Ends once so many run at the same time."""
    ids, by_kind = held()
    assert by_kind == {"GPU": [str(index) for index in ids]}
    with begun.open("a") as file:
        file.write("x")
    until(lambda: len(begun.read_text()) >= count, "the others")
    return ids


@rostral.remote
def visible() -> tuple[str | None, int]:
    """What CUDA reads when it is first used here, and the process."""
    return os.environ.get("CUDA_VISIBLE_DEVICES"), os.getpid()


@rostral.remote(max_calls=0)
def visible_again() -> tuple[str | None, int]:
    """The same, in a process that other tasks have before and after."""
    return os.environ.get("CUDA_VISIBLE_DEVICES"), os.getpid()


class Holder:
    def visible(self) -> Any:
        return os.environ.get("CUDA_VISIBLE_DEVICES")

    def held(self) -> Any:
        return held()


def test_tasks_at_the_same_time_hold_different_gpus(marks: Path) -> None:
    refs = [hold.options(num_gpus=1).remote(marks, 2) for _ in range(2)]
    assert sorted(rostral.get(refs, timeout=GET_TIMEOUT_S)) == [[0], [1]]


def test_halves_of_a_gpu_are_shared_by_two(marks: Path) -> None:
    refs = [hold.options(num_gpus=0.5).remote(marks, 4) for _ in range(4)]
    assert sorted(rostral.get(refs, timeout=GET_TIMEOUT_S)) == [[0], [0], [1], [1]]


def test_a_task_may_hold_several_or_none(marks: Path) -> None:
    assert rostral.get(hold.options(num_gpus=2).remote(marks, 0), timeout=GET_TIMEOUT_S) == [0, 1]
    assert rostral.get(hold.options(num_gpus=0).remote(marks, 0), timeout=GET_TIMEOUT_S) == []
    assert held() == ([], {"GPU": []})


def test_libraries_see_the_gpus_that_a_task_was_given() -> None:
    counts = (2, 0.5, 0, 0, 1, 0)
    seen = [visible.options(num_gpus=count, num_cpus=0).remote() for count in counts]
    values = [value for value, _ in rostral.get(seen, timeout=GET_TIMEOUT_S)]
    assert values[0] in ("0,1", "1,0")
    assert values[1] in ("0", "1")
    assert values[2:4] == ["", ""]
    assert values[4] in ("0", "1")
    assert values[5] == ""


def test_a_process_that_is_used_again_sees_what_its_next_task_was_given() -> None:
    shapes = (1, 0, 2, 0, 0.25) * 2
    for count in shapes:
        task = visible_again.options(num_gpus=count)
        value, _ = rostral.get(task.remote(), timeout=GET_TIMEOUT_S)
        assert len([name for name in str(value).split(",") if name]) == -(-count // 1)


def test_what_a_runtime_environment_says_stays() -> None:
    own = {"env_vars": {"CUDA_VISIBLE_DEVICES": "7"}}
    task = visible.options(num_gpus=1, runtime_env=own)
    assert rostral.get(task.remote(), timeout=GET_TIMEOUT_S)[0] == "7"


def test_libraries_of_an_actor_see_its_gpus() -> None:
    with_gpu: Any = rostral.remote(Holder).options(num_gpus=1).remote()
    without: Any = rostral.remote(Holder).remote()
    assert rostral.get(with_gpu.visible.remote(), timeout=GET_TIMEOUT_S) in ("0", "1")
    assert rostral.get(without.visible.remote(), timeout=GET_TIMEOUT_S) == ""


def test_an_actor_holds_its_gpus_while_it_lives() -> None:
    actors: list[Any] = [rostral.remote(Holder).options(num_gpus=1).remote() for _ in range(2)]
    for _ in range(2):
        found = rostral.get([actor.held.remote() for actor in actors], timeout=GET_TIMEOUT_S)
        assert sorted(ids for ids, _ in found) == [[0], [1]]
    assert rostral.available_resources().get("GPU", 0.0) == 0.0
    actors.clear()
    until(lambda: rostral.available_resources()["GPU"] == 2.0, "the GPUs")
