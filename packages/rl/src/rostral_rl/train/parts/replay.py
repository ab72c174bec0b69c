"""Replay: the newest transitions in preallocated arrays, drawn evenly or by priority."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rostral_rl import spaces
from rostral_rl.arrays import FloatArray, IntArray, SpaceArray
from rostral_rl.train.parts.nstep import Transitions
from rostral_rl.train.parts.sumtree import SumTree

PRIORITY_MIN = 1e-6
"""Added to an error, so that nothing is out of reach for good."""


@dataclass(frozen=True, slots=True)
class Sample:
    """N transitions that were drawn.

    Attributes:
        index: (N,) int64, where they lie.
        rows: The transitions.
        weight: (N,) float32, corrects for having been drawn too often; at most 1.
    """

    index: IntArray
    rows: Transitions
    weight: FloatArray


class Replay:
    """A ring of transitions.

    Args:
        capacity: Transitions kept, > 0.
        observation_space: Of one observation; stored as slabs keep it.
        action: One raw action, for its shape and dtype.
        alpha: How much priorities count: 0 draws evenly and keeps no priorities.
    """

    def __init__(
        self,
        capacity: int,
        *,
        observation_space: spaces.Space,
        action: SpaceArray,
        alpha: float = 0.0,
    ) -> None:
        seen = spaces.stored(observation_space)
        shape = tuple(seen.shape or ())
        self.capacity = capacity
        self.size = 0
        self._at = 0  # where the next one goes
        # Zeroed pages are not memory until they are written: a large ring costs as it fills.
        self._rows = Transitions(
            obs=np.zeros((capacity, *shape), seen.dtype),
            actions=np.zeros((capacity, *action.shape), action.dtype),
            reward=np.zeros(capacity, np.float32),
            next_obs=np.zeros((capacity, *shape), seen.dtype),
            discount=np.zeros(capacity, np.float32),
        )
        self._alpha = alpha
        self._tree = SumTree(capacity) if alpha else None
        self._largest = 1.0  # priority so far, which new transitions get

    def add(self, new: Transitions) -> None:
        """Puts transitions in, over the oldest."""
        count = len(new)
        if count > self.capacity:
            new = Transitions(*(getattr(new, name)[-self.capacity :] for name in new.__slots__))
            count = self.capacity
        index = (self._at + np.arange(count)) % self.capacity  # (N,)
        for name in new.__slots__:
            getattr(self._rows, name)[index] = getattr(new, name)
        self._at = (self._at + count) % self.capacity
        self.size = min(self.size + count, self.capacity)
        if self._tree is not None and count:
            self._tree.set(index, np.full(count, self._largest))

    def draw(self, count: int, generator: np.random.Generator, *, beta: float = 0.0) -> Sample:
        """Draws transitions, with replacement.

        Args:
            count: How many; the ring must hold at least one.
            generator: Of the draws.
            beta: How far weights correct for uneven draws, in [0, 1].
        """
        if self._tree is None:
            index = generator.integers(self.size, size=count)
            weight = np.ones(count, np.float32)
        else:
            # One from each of `count` equal slices of the mass: less variance than free draws.
            mass = (np.arange(count) + generator.random(count)) * (self._tree.total / count)
            index = self._tree.find(mass)
            share = self._tree[index] / self._tree.total  # (N,)
            rarity = (self.size * share) ** -beta  # (N,)
            weight = (rarity / rarity.max()).astype(np.float32)
        rows = Transitions(*(getattr(self._rows, name)[index] for name in self._rows.__slots__))
        return Sample(index, rows, weight)

    def prioritise(self, index: IntArray, error: FloatArray) -> None:
        """Gives transitions (N,) priorities by their errors (N,); of use with `alpha` alone."""
        if self._tree is None:
            return
        priority = (np.abs(error.astype(np.float64)) + PRIORITY_MIN) ** self._alpha  # (N,)
        self._largest = max(self._largest, float(priority.max()))
        self._tree.set(index, priority)

    def state(self) -> dict[str, SpaceArray]:
        """For a checkpoint: the filled part only."""
        kept = {name: getattr(self._rows, name)[: self.size] for name in self._rows.__slots__}
        kept["at"] = np.array((self._at, self.size), np.int64)
        kept["largest"] = np.array(self._largest)
        if self._tree is not None:
            kept["priority"] = self._tree[np.arange(self.size)]
        return kept

    def load(self, state: dict[str, SpaceArray]) -> None:
        """Takes `state` back."""
        self._at, self.size = (int(v) for v in state["at"])
        self._largest = float(state["largest"])
        for name in self._rows.__slots__:
            getattr(self._rows, name)[: self.size] = state[name]
        if self._tree is not None:
            self._tree.load(state["priority"])
