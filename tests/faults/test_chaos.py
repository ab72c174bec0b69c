"""Workers die at any moment, and the program's results are what they would have been.

A seeded killer ends workers and restartable actors with SIGKILL while drivers run graphs of tasks.
Afterwards every value equals a sequential oracle's, and the node holds nothing of the program.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import rostral
from rostral_objectstore import StoreClient
from rostral_objectstore.layout import SlotState

KILLS = 40
STORE_BYTES = 256 << 20


@pytest.fixture
def node() -> Iterator[None]:
    """A node of its own, with enough CPUs that several workers run at once."""
    rostral.init(address="local", num_cpus=3, object_store_memory=STORE_BYTES)
    try:
        yield
    finally:
        rostral.shutdown()


def ask(method: str) -> dict[str, Any]:
    """What the local scheduler says."""
    from rostral import _context

    return _context.runtime().ask(method, {})


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Polls until the condition holds; fails, saying what did not come, after the timeout."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"within {timeout_s} s: {what}"
        time.sleep(0.005)


class Killer(threading.Thread):
    """Kills one worker after the other, in an order and rhythm that the seed decides."""

    def __init__(self, seed: int) -> None:
        super().__init__(name="killer")
        self._random = random.Random(seed)
        self.killed = 0

    def run(self) -> None:
        """Until KILLS processes are dead."""
        while self.killed < KILLS:
            pids = [worker["pid"] for worker in ask("status")["workers"] if worker["pid"]]
            if pids:
                try:
                    os.kill(self._random.choice(pids), signal.SIGKILL)
                except ProcessLookupError:
                    continue
                self.killed += 1
            time.sleep(self._random.uniform(0.0, 0.05))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.usefixtures("node")
def test_results_equal_a_sequential_oracle_while_workers_are_killed(seed: int) -> None:
    @rostral.remote(max_retries=-1)
    def leaf(i: int) -> list[int]:
        return [i] * 200

    @rostral.remote(max_retries=-1)
    def add(left: list[int], right: list[int]) -> list[int]:
        return [a + b for a, b in zip(left, right, strict=True)]

    @rostral.remote(max_retries=-1)
    def tree(n: int) -> int:
        refs = [leaf.remote(i) for i in range(n)]
        while len(refs) > 1:
            refs = [add.remote(a, b) for a, b in zip(refs[::2], refs[1::2], strict=True)]
        return int(rostral.get(refs[0])[0])

    killer = Killer(seed)
    killer.start()
    rounds = 0
    while killer.is_alive():
        refs = [tree.remote(16) for _ in range(6)]
        assert rostral.get(refs, timeout=60) == [sum(range(16))] * 6
        rounds += 1
    killer.join()
    assert killer.killed == KILLS
    assert rounds > 0
    del refs

    # Nothing of it is left but the code of the functions, which the driver may call again.
    store = rostral._context.runtime().store
    assert isinstance(store, StoreClient)
    functions = 3
    wait_until(lambda: len(store.list_objects()) <= functions, 5, "the run's objects are gone")
    wait_until(lambda: rostral.available_resources() == {"CPU": 3.0}, 5, "every CPU is free")
    wait_until(lambda: all_slots_live(store), 5, "no dead process's slot is left")


def all_slots_live(store: StoreClient) -> bool:
    """Whether no slot waits for its clean-up."""
    dead = (SlotState.DEAD, SlotState.REPAIRED)
    return not any(store.segment.slots_in_state(state) for state in dead)
