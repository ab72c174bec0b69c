"""Preallocated time-major storage that environments step straight into.

Row t holds what was seen, done and received at step t; `obs` has one row more, the observation that
follows the last step. Nothing is allocated or copied per step: a vector environment reads
`actions[t]` and writes the rest in place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rostral_rl.arrays import BoolArray, FloatArray, SpaceArray
from rostral_rl.spaces import Space, stored


@dataclass(frozen=True, slots=True)
class Slab:
    """T steps of B environments.

    Attributes:
        obs: (T + 1, B, *obs_shape) in the space's dtype; `obs[t + 1]` after a reset is the new
            episode's first.
        actions: (T, B, *action_shape), as the environment takes them.
        reward: (T, B) float32.
        terminated: (T, B) bool.
        truncated: (T, B) bool. Both may be set, when an episode fails at its time limit; then it is
            terminated.
        valid: (T, B) bool; False where a step belongs to no episode, because the environment spent
            it on its reset. Nobody may learn from such a row.
    """

    obs: SpaceArray
    actions: SpaceArray
    reward: FloatArray
    terminated: BoolArray
    truncated: BoolArray
    valid: BoolArray

    @classmethod
    def allocate(
        cls, steps: int, count: int, *, observation_space: Space, action_space: Space
    ) -> Slab:
        """Makes a slab for `steps` steps (T) of `count` environments (B)."""
        seen = stored(observation_space)
        return cls(
            obs=np.zeros((steps + 1, count, *(seen.shape or ())), seen.dtype),
            actions=np.zeros((steps, count, *(action_space.shape or ())), action_space.dtype),
            reward=np.zeros((steps, count), np.float32),
            terminated=np.zeros((steps, count), np.bool_),
            truncated=np.zeros((steps, count), np.bool_),
            valid=np.ones((steps, count), np.bool_),
        )
