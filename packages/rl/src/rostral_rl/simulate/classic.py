"""The frame that the classic-control kernels share: many environments at once, in NumPy.

The same tasks as Gymnasium's, step for step and seed for seed: environment i draws its starts from
the stream that Gymnasium's `reset(seed=seeds[i])` would use. Gymnasium's own NumPy forms draw for
all environments from one stream, so that what environment i sees depends on who else is in the
batch, and reset in the next step; hence these.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rostral_rl.arrays import BoolArray, IntArray, SpaceArray
from rostral_rl.simulate.journal import EnvState
from rostral_rl.simulate.slabs import Slab
from rostral_rl.simulate.vector import Finals
from rostral_rl.spaces import Space

BLOCK = 16
"""Starts drawn ahead for each environment."""

State = npt.NDArray[np.float64]


class KernelVector(abc.ABC):
    """B environments of one kind whose whole state is a few numbers.

    Args:
        seeds: (B,) seed of each environment.
        reference: Gymnasium's environment, for its spaces.
        width: Numbers of state per environment.
        steps_max: Time limit of an episode, in steps.
    """

    def __init__(self, seeds: Sequence[int], reference: Any, *, width: int, steps_max: int) -> None:
        self.count = len(seeds)
        self.observation_space: Space = reference.observation_space
        self.action_space: Space = reference.action_space
        self._seeds = list(seeds)
        self._steps_max = steps_max
        self._generators: list[np.random.Generator] = []
        # (width, B). Double precision, as Gymnasium keeps it.
        self._state: State = np.zeros((width, self.count))
        self._age = np.zeros(self.count, np.int64)  # (B,) steps since the episode's start
        # Starts are drawn a block at a time: a draw costs as much as a step of all environments.
        self._block: State = np.zeros((self.count, BLOCK, width))
        self._used = np.zeros(self.count, np.int64)  # (B,) of the block
        # What each stream was before its block; any state is replaced by the first reset.
        self._before: list[Mapping[str, Any]] = [{} for _ in seeds]

    @abc.abstractmethod
    def _starts(self, generator: np.random.Generator, count: int) -> State:
        """Draws the states (count, width) in which the next episodes begin, one after the other."""

    @abc.abstractmethod
    def _advance(self, actions: SpaceArray) -> tuple[SpaceArray | float, BoolArray | bool]:
        """Moves all by one step; returns rewards (B,) and whether the task ended (B,)."""

    @abc.abstractmethod
    def _observe(self, state: State, obs: SpaceArray) -> None:
        """Writes what is seen of states (width, N) to `obs` (N, *obs_shape)."""

    def reset(self, obs: SpaceArray) -> None:
        """See `VectorEnv.reset`."""
        self._generators = [
            np.random.Generator(np.random.PCG64(np.random.SeedSequence(s))) for s in self._seeds
        ]
        for i in range(self.count):
            self._draw(i)
        self._used[:] = 0
        self._begin(np.arange(self.count))
        self._observe(self._state, obs)

    def step(self, slab: Slab, t: int) -> Finals | None:
        """See `VectorEnv.step`."""
        if self.count == 1:
            return self._step_one(slab, t)
        reward, terminated = self._advance(slab.actions[t])
        self._age += 1
        obs = slab.obs[t + 1]
        self._observe(self._state, obs)
        truncated = self._age >= self._steps_max  # (B,)
        slab.reward[t] = reward
        slab.terminated[t] = terminated
        slab.truncated[t] = truncated
        ended = np.flatnonzero(truncated | terminated)  # (K,)
        if not ended.size:
            return None
        return self._end(ended, obs)

    def _step_one(self, slab: Slab, t: int) -> Finals | None:
        """The same of a single environment, which is spared half of the calls of NumPy."""
        reward, terminated = self._advance_one(slab.actions[t])
        self._age[0] += 1
        obs = slab.obs[t + 1]
        self._observe(self._state, obs)
        truncated = int(self._age[0]) >= self._steps_max
        slab.reward[t, 0] = reward
        if not (truncated or terminated):
            slab.terminated[t, 0] = slab.truncated[t, 0] = False
            return None
        slab.terminated[t, 0] = terminated
        slab.truncated[t, 0] = truncated
        return self._end(np.zeros(1, np.int64), obs)

    def _advance_one(self, actions: SpaceArray) -> tuple[float, bool]:
        """`_advance` of a single environment."""
        reward, terminated = self._advance(actions)
        return float(np.asarray(reward).item()), bool(np.asarray(terminated).item())

    def _end(self, ended: IntArray, obs: SpaceArray) -> Finals:
        """Begins episodes where they have ended (K,), and tells of their last observations."""
        last = obs[ended]  # Fancy indexing copies, before the rows are overwritten.
        self._begin(ended)
        first = np.empty_like(last)  # (K, *obs_shape)
        self._observe(self._state[:, ended], first)
        obs[ended] = first
        return Finals(ended, last)

    def states(self) -> list[EnvState | None]:
        """See `VectorEnv.states`."""
        return [
            {
                "state": self._state[:, i].tolist(),
                "age": int(self._age[i]),
                "generator": self._before[i],
                "used": int(self._used[i]),
            }
            for i in range(self.count)
        ]

    def restore(self, states: Sequence[EnvState | None], obs: SpaceArray) -> None:
        """See `VectorEnv.restore`."""
        self.reset(obs)
        for i, saved in enumerate(states):
            if saved is None:
                continue
            self._generators[i].bit_generator.state = saved["generator"]
            self._draw(i)
            self._used[i] = saved["used"]
            self._state[:, i] = saved["state"]
            self._age[i] = saved["age"]
        self._observe(self._state, obs)

    def _draw(self, i: int) -> None:
        """Draws the next block of an environment's starts: the same numbers as one at a time."""
        generator = self._generators[i]
        self._before[i] = generator.bit_generator.state
        self._block[i] = self._starts(generator, BLOCK)

    def _begin(self, index: IntArray) -> None:
        """Begins episodes in environments (K,)."""
        for i in index[self._used[index] == BLOCK].tolist():
            self._draw(i)
            self._used[i] = 0
        self._state[:, index] = self._block[index, self._used[index]].T
        self._used[index] += 1
        self._age[index] = 0

    def close(self) -> None:
        """See `VectorEnv.close`. Arrays free themselves; the streams end here."""
        self._generators.clear()
