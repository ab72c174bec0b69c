"""Gymnasium's own vector environments, in each of their three autoreset modes.

`SAME_STEP` is what this package does itself. In `DISABLED` mode those that ended are reset by their
mask in the same step. In `NEXT_STEP` mode, Gymnasium's default, the step after an episode's end
resets and belongs to no episode: its row is marked as not valid, and nobody learns from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector import VectorEnv as GymnasiumVectorEnv

from rostral_rl.arrays import BoolArray, SpaceArray
from rostral_rl.errors import EnvContractError, UsageError
from rostral_rl.nested import is_nested
from rostral_rl.simulate.journal import EnvState
from rostral_rl.simulate.slabs import Slab
from rostral_rl.simulate.vector import Finals
from rostral_rl.spaces import Space

GymnasiumVector: TypeAlias = GymnasiumVectorEnv


@dataclass(frozen=True, slots=True)
class VectorSource:
    """Says that a callable makes a Gymnasium vector environment of as many as it is asked for.

    Attributes:
        make: Called with a count; picklable, where actors call it.
    """

    make: Callable[[int], GymnasiumVector]


class VectorAdapter:
    """A Gymnasium vector environment behind this package's interface.

    Args:
        vector: Closed with this.
        seeds: (B,) seeds of the first resets.

    Raises:
        UsageError: It has another number of environments, or nested observations.
    """

    def __init__(self, vector: GymnasiumVector, seeds: Sequence[int]) -> None:
        self._vector = vector
        self.count = len(seeds)
        self.observation_space: Space = vector.single_observation_space
        self.action_space: Space = vector.single_action_space
        self._seeds = [int(s) for s in seeds]
        self._mode = AutoresetMode(vector.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        self._resetting = np.zeros(self.count, np.bool_)  # (B,) in the coming step
        self._steps = 0
        if vector.num_envs != self.count:
            self.close()
            raise UsageError(
                f"the vector environment has {vector.num_envs} environments, asked for {self.count}"
            )
        if is_nested(self.observation_space):
            self.close()
            raise UsageError(
                "a vector environment of Dict or Tuple observations is not supported",
                hint="give the factory of one environment instead",
            )

    def reset(self, obs: SpaceArray) -> None:
        """See `VectorEnv.reset`."""
        # Gymnasium's vectors take a seed for each; its types say otherwise.
        obs[...] = self._vector.reset(seed=self._seeds)[0]  # type: ignore[arg-type]
        self._resetting[:] = False

    def step(self, slab: Slab, t: int) -> Finals | None:
        """See `VectorEnv.step`."""
        # A copy: some vector environments keep what they are given.
        seen, reward, terminated, truncated, info = self._vector.step(slab.actions[t].copy())
        self._steps += 1
        slab.obs[t + 1] = seen
        slab.reward[t] = reward
        slab.terminated[t] = terminated
        slab.truncated[t] = truncated
        if self._resetting.any():
            slab.valid[t] = ~self._resetting
            slab.reward[t][self._resetting] = 0.0
        ended = slab.terminated[t] | slab.truncated[t]  # (B,)
        finals = self._finals(slab.obs[t + 1], ended, info) if ended.any() else None
        self._resetting = ended if self._mode is AutoresetMode.NEXT_STEP else self._resetting
        return finals

    def states(self) -> list[EnvState | None]:
        """See `VectorEnv.states`: Gymnasium does not tell."""
        return [None] * self.count

    def restore(self, states: Sequence[EnvState | None], obs: SpaceArray) -> None:
        """See `VectorEnv.restore`."""
        self.reset(obs)

    def close(self) -> None:
        """See `VectorEnv.close`."""
        self._vector.close()

    def _finals(self, obs: SpaceArray, ended: BoolArray, info: dict[str, Any]) -> Finals:
        index = np.flatnonzero(ended)  # (K,)
        if self._mode is AutoresetMode.SAME_STEP:
            if "final_obs" not in info:
                raise EnvContractError(
                    "a SAME_STEP vector environment gave no final observations",
                    step=self._steps,
                    field="step",
                    hint='Gymnasium wants them in info["final_obs"]',
                )
            last = np.stack([np.asarray(info["final_obs"][i], obs.dtype) for i in index])
            return Finals(index, last)
        finals = Finals(index, obs[index])  # Fancy indexing copies.
        if self._mode is AutoresetMode.DISABLED:
            obs[index] = self._vector.reset(options={"reset_mask": ended})[0][index]
        return finals
