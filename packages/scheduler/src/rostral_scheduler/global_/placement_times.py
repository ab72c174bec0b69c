"""How long placements took, in buckets of a histogram."""

from __future__ import annotations

from typing import Final

__all__ = ["PlacementTimes"]

_BOUNDS_S: Final = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


class PlacementTimes:
    """How long batches of placements took, since the start."""

    def __init__(self) -> None:
        self.sum_s = 0.0
        self.counts = [0] * (len(_BOUNDS_S) + 1)

    def add(self, took_s: float) -> None:
        """One more batch."""
        self.sum_s += took_s
        at = next((i for i, bound_s in enumerate(_BOUNDS_S) if took_s <= bound_s), len(_BOUNDS_S))
        self.counts[at] += 1

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bounds, and how many took at most so long."""
        found, count = [], 0
        for bound, here in zip((*map(str, _BOUNDS_S), "+Inf"), self.counts, strict=True):
            count += here
            found.append((bound, float(count)))
        return found
