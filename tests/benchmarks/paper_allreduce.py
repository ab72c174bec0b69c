"""The paper's figure 12a: an allreduce written in actor calls, beside a library made for it.

OSDI'18 section 5.1 ("Building blocks: Allreduce"). The paper sends chunks around a ring of actors;
where all read one shared memory no chunk need travel: each participant adds up its share of all
arrays where their owners wrote them, and everybody copies the sums from where they were written.
On many nodes the store fetches what is not there. The peer is Gloo, which torch uses on CPUs.
"""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import rostral
from paper_figures import Point

ROUNDS = 5


class _Participant:
    """Holds one array (n,) float32, and its share of the sum."""

    def __init__(self, rank: int, world: int) -> None:
        self._rank = rank
        self._world = world
        self._array = np.zeros(0, np.float32)

    def fill(self, count: int) -> None:
        """An array of so many numbers, `rank` each."""
        self._array = np.full(count, self._rank, np.float32)

    def scatter(self) -> list[Any]:
        """The array in as many parts as there are participants, each an object."""
        return [rostral.put(part) for part in np.array_split(self._array, self._world)]

    def reduce(self, parts: list[list[Any]]) -> Any:
        """The sum of everybody's part that is ours to add up."""
        first, *others = rostral.get([theirs[self._rank] for theirs in parts])
        total = first + others[0] if others else first.copy()
        for other in others[1:]:
            total += other
        return rostral.put(total)

    def gather(self, totals: list[Any]) -> None:
        """Takes all sums."""
        at = 0
        for total in rostral.get(totals):
            self._array[at : at + len(total)] = total
            at += len(total)

    def address(self) -> str:
        """Where others can meet: this host, and a port that is free."""
        with socket.create_server(("", 0)) as probe:
            return f"tcp://{socket.gethostbyname(socket.gethostname())}:{probe.getsockname()[1]}"

    def join_gloo(self, address: str) -> None:
        """Meets the others there; blocks until all have come."""
        import torch

        torch.distributed.init_process_group(
            "gloo", init_method=address, rank=self._rank, world_size=self._world
        )

    def gloo(self) -> None:
        """The peer's allreduce of the same array."""
        import torch

        torch.distributed.all_reduce(torch.from_numpy(self._array))

    def wrong(self, expected: float) -> int:
        """How many numbers are not what they should be."""
        return int(np.count_nonzero(self._array != expected))


Participant: Any = rostral.remote(_Participant)


def allreduce(participants: list[Any]) -> None:
    """Replaces everybody's array by the sum of all; blocks until all have it."""
    parts = rostral.get([p.scatter.remote() for p in participants])
    totals = rostral.get([p.reduce.remote(parts) for p in participants])
    rostral.get([p.gather.remote(totals) for p in participants])


def gloo(participants: list[Any]) -> None:
    """The same by the peer."""
    rostral.get([p.gloo.remote() for p in participants])


def run(world: int, sizes: tuple[int, ...]) -> list[Point]:
    """Seconds of one allreduce of arrays of so many bytes, by so many participants."""
    participants = [Participant.remote(rank, world) for rank in range(world)]
    address = rostral.get(participants[0].address.remote())
    rostral.get([p.join_gloo.remote(address) for p in participants])
    ways: dict[str, Callable[[list[Any]], None]] = {"Rostral": allreduce, "Gloo": gloo}
    points = []
    for size in sizes:
        for name, reduce_all in ways.items():
            runs = [_timed(participants, size, reduce_all) for _ in range(1 + ROUNDS)][1:]
            points.append(
                Point(
                    experiment="allreduce",
                    series=name,
                    x=size,
                    x_is=f"bytes, {world} participants",
                    value=statistics.median(runs),
                    unit="s",
                    runs=tuple(runs),
                )
            )
    for participant in participants:
        rostral.kill(participant)
    return points


def _timed(participants: list[Any], size: int, reduce_all: Callable[[list[Any]], None]) -> float:
    rostral.get([p.fill.remote(size // 4) for p in participants])
    start_s = time.perf_counter()
    reduce_all(participants)
    took_s = time.perf_counter() - start_s
    expected = float(sum(range(len(participants))))
    wrong = rostral.get([p.wrong.remote(expected) for p in participants])
    if any(wrong):
        raise RuntimeError(f"an allreduce of {size} bytes left {wrong} wrong numbers")
    return took_s
