"""Vectorised environments in this process: SAME_STEP autoreset, explicit final observations.

Gymnasium's own vector classes reset in the *next* step by default, which puts a step that belongs
to no episode into every batch, and hide the true last observation in `info`. Here an episode's last
step and the next one's first observation arrive together, and the last observation comes back by
itself, so that no transition can cross a reset.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import gymnasium
import numpy as np

from rostral_rl.arrays import IntArray, SpaceArray
from rostral_rl.errors import SimulationError
from rostral_rl.simulate.slabs import Slab
from rostral_rl.spaces import Space

Env: TypeAlias = gymnasium.Env[Any, Any]
EnvFactory: TypeAlias = Callable[[], Env]


@dataclass(frozen=True, slots=True)
class Finals:
    """Episodes that ended in one step.

    Attributes:
        index: (K,) int64, ascending: which environments.
        obs: (K, *obs_shape): the true last observation of each.
    """

    index: IntArray
    obs: SpaceArray


class VectorEnv(Protocol):
    """B environments of one kind that step together. Not thread-safe."""

    count: int
    observation_space: Space
    action_space: Space

    def reset(self, obs: SpaceArray) -> None:
        """Starts every environment afresh; writes first observations to `obs` (B, *obs_shape)."""

    def step(self, slab: Slab, t: int) -> Finals | None:
        """Takes `slab.actions[t]`, writes row t and `obs[t + 1]`; returns ends, or None."""

    def close(self) -> None:
        """Frees what the environments hold. May be called twice."""


class GymVector:
    """Any Gymnasium environments, one after the other in this process.

    Args:
        factories: Makes one environment each; B of them.
        seeds: (B,) seed of each environment's first reset; later resets go on with the
            environment's own stream.

    Raises:
        SimulationError: A factory raised.
    """

    def __init__(self, factories: Sequence[EnvFactory], seeds: Sequence[int]) -> None:
        self._envs: list[Env] = []
        try:
            for factory in factories:
                self._envs.append(factory())
        except Exception as error:
            self.close()
            raise SimulationError(f"environment could not be made: {error}") from error
        self._seeds = list(seeds)
        self.count = len(self._envs)
        self.observation_space: Space = self._envs[0].observation_space
        self.action_space: Space = self._envs[0].action_space
        # Discrete actions go in as Python ints: many environments index lists with them.
        self._scalar = self.action_space.shape == ()

    def reset(self, obs: SpaceArray) -> None:
        """See `VectorEnv.reset`."""
        for i, env in enumerate(self._envs):
            obs[i] = env.reset(seed=self._seeds[i])[0]

    def step(self, slab: Slab, t: int) -> Finals | None:
        """See `VectorEnv.step`."""
        actions = slab.actions[t].tolist() if self._scalar else slab.actions[t]
        obs, reward = slab.obs[t + 1], slab.reward[t]
        terminated, truncated = slab.terminated[t], slab.truncated[t]
        ended: list[int] = []
        last: list[SpaceArray] = []
        for i, env in enumerate(self._envs):
            seen, reward[i], terminated[i], truncated[i], _ = env.step(actions[i])
            if terminated[i] or truncated[i]:
                ended.append(i)
                last.append(np.array(seen, obs.dtype))
                seen = env.reset()[0]
            obs[i] = seen
        if not ended:
            return None
        return Finals(np.array(ended, np.int64), np.stack(last))

    def close(self) -> None:
        """See `VectorEnv.close`."""
        while self._envs:
            self._envs.pop().close()
