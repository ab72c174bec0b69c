"""Claims of the paper about the programming model (OSDI'18 §3), restated one by one."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rostral

pytestmark = pytest.mark.usefixtures("cluster")

GET_TIMEOUT_S = 30


def test_section_3_1_a_remote_function_returns_futures_at_once(marks: Path) -> None:
    """In Table 1: f.remote() returns futures, and is a non-blocking call."""

    @rostral.remote
    def f() -> int:
        deadline = time.monotonic() + 30
        while not marks.read_text() and time.monotonic() < deadline:
            time.sleep(0.002)
        return 1

    ref = f.remote()  # returns, although the task cannot end before the next line
    marks.write_text("go")
    assert rostral.get(ref, timeout=GET_TIMEOUT_S) == 1


def test_section_3_1_futures_are_arguments_without_waiting_for_their_values() -> None:
    """In Table 1: f.remote() can take objects or futures as inputs."""

    @rostral.remote
    def multiply(a: Any, b: Any) -> Any:
        return a @ b

    identity = rostral.put(np.eye(3))
    product = multiply.remote(multiply.remote(identity, np.full((3, 3), 2.0)), identity)
    assert rostral.get(product, timeout=GET_TIMEOUT_S).sum() == 18


def test_section_3_1_wait_returns_the_first_k_whose_tasks_have_completed(marks: Path) -> None:
    """In Table 1: as soon as k have completed, or the timeout expires; for unequal rollouts."""

    @rostral.remote(num_cpus=0.1)
    def rollout(length: str) -> str:
        deadline = time.monotonic() + 30
        while length == "long" and not marks.read_text() and time.monotonic() < deadline:
            time.sleep(0.002)
        return length

    lengths = ["long", "short", "short", "long", "short"]
    refs = [rollout.remote(length) for length in lengths]
    ready, others = rostral.wait(refs, num_returns=3, timeout=GET_TIMEOUT_S)
    assert rostral.get(ready) == ["short"] * 3
    ready, _ = rostral.wait(others, num_returns=2, timeout=0.05)
    assert ready == []
    marks.write_text("go")
    rostral.get(refs, timeout=GET_TIMEOUT_S)


def test_section_3_1_remote_functions_are_stateless_and_idempotent() -> None:
    """Stateless and side-effect free: a task works on values of its own, inputs are immutable."""

    @rostral.remote
    def change(values: list[int]) -> list[int]:
        values.append(4)
        return values

    values = [1, 2, 3]
    ref = rostral.put(values)
    assert rostral.get([change.remote(ref), change.remote(ref)], timeout=GET_TIMEOUT_S) == [
        [1, 2, 3, 4],
        [1, 2, 3, 4],
    ]
    assert values == rostral.get(ref) == [1, 2, 3]


def test_section_3_1_an_actors_methods_run_serially_on_its_state() -> None:
    """An actor is a stateful computation, whose methods are executed serially."""

    class Accumulator:
        def __init__(self) -> None:
            self.inside, self.total = 0, 0

        def add(self, n: int) -> tuple[int, int]:
            self.inside += 1
            self.total += n
            seen = self.inside, self.total
            self.inside -= 1
            return seen

    @rostral.remote(num_cpus=0.1)
    def caller(actor: Any) -> list[tuple[int, int]]:
        got: list[tuple[int, int]] = rostral.get([actor.add.remote(1) for _ in range(100)])
        return got

    actor = rostral.remote(Accumulator).remote()
    results = rostral.get([caller.remote(actor) for _ in range(5)], timeout=GET_TIMEOUT_S)
    assert {inside for calls in results for inside, _ in calls} == {1}
    assert sorted(total for calls in results for _, total in calls) == list(range(1, 501))
    for calls in results:
        assert [total for _, total in calls] == sorted(total for _, total in calls)


def test_section_3_1_a_handle_can_be_passed_to_other_actors_and_tasks() -> None:
    """A handle lets other actors and tasks invoke methods on that actor."""

    class Cell:
        value = 0

        def set(self, value: int) -> None:
            self.value = value

        def get(self) -> int:
            return self.value

    class Writer:
        def __init__(self, cell: Any) -> None:
            self.cell = cell

        def write(self, value: int) -> None:
            rostral.get(self.cell.set.remote(value))

    @rostral.remote
    def read(cells: list[Any]) -> int:
        value: int = rostral.get(cells[0].get.remote())
        return value

    cell = rostral.remote(Cell).remote()
    writer = rostral.remote(Writer).remote(cell)
    rostral.get(writer.write.remote(7), timeout=GET_TIMEOUT_S)
    assert rostral.get(read.remote([cell]), timeout=GET_TIMEOUT_S) == 7


def test_section_3_1_nested_remote_functions_scale_out_of_the_driver() -> None:
    """Remote functions invoke remote functions, so that no driver is the bottleneck."""

    @rostral.remote
    def leaf(n: int) -> int:
        return n

    @rostral.remote
    def branch(start: int) -> Any:
        return [leaf.remote(n) for n in range(start, start + 10)]

    branches = rostral.get([branch.remote(10 * n) for n in range(10)], timeout=GET_TIMEOUT_S)
    values = [rostral.get(refs, timeout=GET_TIMEOUT_S) for refs in branches]
    assert [value for row in values for value in row] == list(range(100))


def test_section_3_1_resources_say_what_a_task_needs() -> None:
    """Tasks that need both CPUs of the node run one after the other."""

    @rostral.remote(num_cpus=2)
    def exclusive() -> tuple[float, float]:
        began = time.monotonic()
        time.sleep(0.02)
        return began, time.monotonic()

    runs = sorted(rostral.get([exclusive.remote() for _ in range(5)], timeout=GET_TIMEOUT_S))
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(runs))


def test_section_3_2_data_edges_order_tasks_across_the_graph(marks: Path) -> None:
    """Figure 4: tasks run once the objects that their data edges come from exist."""

    @rostral.remote
    def note(name: str, *inputs: str) -> str:
        with marks.open("a") as file:
            file.write(f"{name} ")
        return name

    a, b = note.remote("a"), note.remote("b")
    c = note.remote("c", a, b)
    d = note.remote("d", c)
    e = note.remote("e", c, a)
    rostral.get([d, e], timeout=GET_TIMEOUT_S)
    order = marks.read_text().split()
    assert sorted(order) == list("abcde")
    assert order.index("c") == 2


def test_section_4_2_3_objects_are_shared_on_a_node_without_copies() -> None:
    """Tasks of one node read the same immutable object in shared memory."""

    @rostral.remote
    def look(array: Any) -> tuple[bool, bool, float]:
        return array.flags.owndata, array.flags.writeable, float(array[-1])

    ref = rostral.put(np.arange(1_000_000.0))
    looks = rostral.get([look.remote(ref) for _ in range(4)], timeout=GET_TIMEOUT_S)
    assert looks == [(False, False, 999_999.0)] * 4
