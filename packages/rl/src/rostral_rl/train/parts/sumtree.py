"""A sum tree: draws indices in proportion to their priorities, many at a time, in log time."""

from __future__ import annotations

import numpy as np

from rostral_rl.arrays import IntArray, SpaceArray


class SumTree:
    """Priorities of `capacity` items. Every inner node holds the sum of its two children.

    Args:
        capacity: Number of items, > 0. All begin with priority 0 and are never drawn.
    """

    def __init__(self, capacity: int) -> None:
        # Leaves are nodes leaves .. leaves + capacity - 1; node 1 is the root, node 0 unused.
        self._leaves = 1 << max(capacity - 1, 0).bit_length()
        self._nodes = np.zeros(2 * self._leaves)

    @property
    def total(self) -> float:
        """Sum of all priorities."""
        return float(self._nodes[1])

    def __getitem__(self, index: IntArray) -> SpaceArray:
        """Priorities (N,) of items (N,)."""
        return self._nodes[self._leaves + index]

    def set(self, index: IntArray, priority: SpaceArray) -> None:
        """Gives items (N,) their priorities (N,) >= 0; of an item named twice the last counts."""
        nodes = self._leaves + index
        self._nodes[nodes] = priority
        nodes = np.unique(nodes >> 1)
        while nodes[0] >= 1:
            # Both children anew, never a difference: rounding does not pile up.
            self._nodes[nodes] = self._nodes[2 * nodes] + self._nodes[2 * nodes + 1]
            nodes = np.unique(nodes >> 1)

    def find(self, mass: SpaceArray) -> IntArray:
        """Items (N,) at cumulative priorities `mass` (N,), each in [0, total)."""
        left = mass.astype(np.float64)
        node = np.ones(len(mass), np.int64)
        while node[0] < self._leaves:
            node <<= 1
            under = self._nodes[node]
            # An empty right child is never entered, however `mass` was rounded.
            right = (left >= under) & (self._nodes[node + 1] > 0.0)
            left -= np.where(right, under, 0.0)
            node += right
        return node - self._leaves

    def load(self, priority: SpaceArray) -> None:
        """Sets the priorities of items 0 .. N - 1 from (N,)."""
        if len(priority):
            self.set(np.arange(len(priority)), priority)
