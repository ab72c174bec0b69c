"""Several processes keep a store at nine tenths with values of all sizes: does every put find room?

Used by the soak `fragmentation` and, in small, by test_fragmentation.py.
"""

from __future__ import annotations

import math
import random
import time
from dataclasses import asdict, dataclass

from rostral_objectstore.layout import CHUNK_BYTES

from .store import Store

PROCESSES = 3
FULL_SHARE = 0.9
LARGEST_SHARE = 1 / 20
SMALLEST_BYTES = 16
USABLE_SHARE = 0.9
"""Of the free space: a put of more is not tried."""

SETUP = """
import numpy as np
from rostral_objectstore.errors import ObjectStoreFullError
kept = {}
def put(key, size):
    value = np.full(size, key % 251, np.uint8)
    try:
        kept[key] = client.put(value)
    except ObjectStoreFullError as error:
        return str(error)
    return ""
def is_whole(key, size):
    value = client.get(kept[key])
    return len(value) == size and bool((value == key % 251).all())
"""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came of the run."""

    puts: int = 0
    put_bytes: int = 0
    too_large: int = 0
    failures: int = 0
    wrong_values: int = 0
    worst_fragmentation: float = 0.0
    worst_largest_free_bytes: int = 1 << 62
    moved_bytes: int = 0

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)

    def is_clean(self) -> bool:
        """Every put that fits found room, and every value was as it had been put."""
        return self.puts > 0 and self.failures == self.wrong_values == 0


class FragmentationLoop:
    """Puts by one process after the other, so that what is free is known before each."""

    def __init__(self, store: Store, seed: int) -> None:
        self._store, self._random = store, random.Random(seed)
        self._peers = [store.peer() for _ in range(PROCESSES)]
        for peer in self._peers:
            peer.do(SETUP)
        self._sizes: dict[int, tuple[int, int]] = {}
        self.what: list[str] = []

    def run(self, seconds: float) -> Outcome:
        """Puts and deletes until the time is over, then reads what is left."""
        outcome = Outcome()
        deadline_s = time.monotonic() + seconds
        number = 0
        while time.monotonic() < deadline_s:
            number += 1
            self._put(number, outcome)
        for key in list(self._sizes):
            self._check(key, outcome)
        outcome.moved_bytes = self._store.watcher.stats().moved_bytes
        return outcome

    def _put(self, key: int, outcome: Outcome) -> None:
        stats = self._store.watcher.stats()
        while self._sizes and stats.used_bytes > FULL_SHARE * stats.capacity_bytes:
            self._drop(self._random.choice(list(self._sizes)), outcome)
            stats = self._store.watcher.stats()
        if stats.used_bytes > FULL_SHARE / 2 * stats.capacity_bytes:
            outcome.worst_fragmentation = max(outcome.worst_fragmentation, stats.fragmentation)
            outcome.worst_largest_free_bytes = min(
                outcome.worst_largest_free_bytes, stats.largest_free_bytes
            )
        largest = math.log(stats.capacity_bytes * LARGEST_SHARE)
        size = int(math.exp(self._random.uniform(math.log(SMALLEST_BYTES), largest)))
        if size + CHUNK_BYTES > USABLE_SHARE * stats.free_bytes:
            outcome.too_large += 1
            return
        index = self._random.randrange(PROCESSES)
        error = self._peers[index].ask("put(key, size)", key=key, size=size)
        if error:
            outcome.failures += 1
            self.what.append(f"put {key} of {size} bytes, {stats.free_bytes} free: {error}")
            return
        outcome.puts += 1
        outcome.put_bytes += size
        self._sizes[key] = index, size

    def _drop(self, key: int, outcome: Outcome) -> None:
        self._check(key, outcome)
        index, _ = self._sizes.pop(key)
        self._peers[index].do("del kept[key]", key=key)

    def _check(self, key: int, outcome: Outcome) -> None:
        index, size = self._sizes[key]
        if not self._peers[index].ask("is_whole(key, size)", key=key, size=size):
            outcome.wrong_values += 1
            self.what.append(f"object {key} of {size} bytes is not as it was put")
