"""What a worker that waits does with its CPUs: lends them, unless what it wants is there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

import rostral

GET_TIMEOUT_S = 20.0

# Workers cannot import this module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = pytest.mark.usefixtures("cluster")


def whole_node_function() -> Any:
    """One that needs all CPUs."""

    @rostral.remote(num_cpus=2)
    def whole_node() -> Iterator[int]:
        yield 7

    return whole_node


def test_what_is_there_is_got_without_giving_a_cpu_back() -> None:
    whole_node = whole_node_function()

    @rostral.remote(num_cpus=2)
    def read(refs: list[Any]) -> tuple[float, bool]:
        waiting = whole_node.options(num_returns=1).remote()
        most = 0.0
        for _ in range(20):
            rostral.get(refs)
            rostral.wait(refs, num_returns=len(refs))
            most = max(most, rostral.available_resources().get("CPU", 0.0))
        ready, _ = rostral.wait([waiting], timeout=0)
        return most, bool(ready)

    refs = [rostral.put(bytes(1000 * size)) for size in range(20)]
    assert rostral.get(read.remote(refs), timeout=GET_TIMEOUT_S) == (0.0, False)


def wait_and_get(whole_node: Any) -> int:
    ref = whole_node.options(num_returns=1).remote()
    rostral.wait([ref])
    return int(rostral.get(ref))


WAYS: dict[str, Callable[[Any], int]] = {
    "get": lambda whole_node: rostral.get(whole_node.options(num_returns=1).remote()),
    "wait": wait_and_get,
    "next": lambda whole_node: rostral.get(next(whole_node.remote())),
}


@pytest.mark.parametrize("way", WAYS)
def test_whoever_waits_lends_his_cpus(way: str) -> None:
    whole_node, code = whole_node_function(), WAYS[way]

    @rostral.remote(num_cpus=2)
    def lend() -> int:
        return code(whole_node)

    assert rostral.get(lend.remote(), timeout=GET_TIMEOUT_S) == 7
