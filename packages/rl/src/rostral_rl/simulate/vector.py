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
from rostral_rl.simulate.contract import Contract
from rostral_rl.simulate.journal import EnvState, Journal
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

    def states(self) -> list[EnvState | None]:
        """What is needed to go on elsewhere, as plain values; None where that cannot be told."""

    def restore(self, states: Sequence[EnvState | None], obs: SpaceArray) -> None:
        """Instead of `reset`: goes on from `states`; where there is none, an episode begins."""

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
        self._contract = Contract(self.observation_space)
        self._journals = [Journal() for _ in self._envs]
        # Discrete actions go in as Python ints: many environments index lists with them.
        self._scalar = self.action_space.shape == ()

    def reset(self, obs: SpaceArray) -> None:
        """See `VectorEnv.reset`."""
        for i, seed in enumerate(self._seeds):
            obs[i] = self._reset(i, seed)

    def step(self, slab: Slab, t: int) -> Finals | None:
        """See `VectorEnv.step`."""
        actions = slab.actions[t].tolist() if self._scalar else slab.actions[t]
        obs, reward = slab.obs[t + 1], slab.reward[t]
        terminated, truncated = slab.terminated[t], slab.truncated[t]
        ended: list[int] = []
        last: list[SpaceArray] = []
        for i, env in enumerate(self._envs):
            self._journals[i].add(actions[i])
            answer = self._contract.stepped(env.step(actions[i]))
            seen, reward[i], terminated[i], truncated[i], _ = answer
            seen = self._contract.observed(seen, "step")
            if terminated[i] or truncated[i]:
                ended.append(i)
                last.append(np.array(seen, obs.dtype))
                seen = self._reset(i, None)
            obs[i] = seen
        self._contract.steps += 1
        if not ended:
            return None
        return Finals(np.array(ended, np.int64), np.stack(last))

    def states(self) -> list[EnvState | None]:
        """See `VectorEnv.states`."""
        return [journal.state() for journal in self._journals]

    def restore(self, states: Sequence[EnvState | None], obs: SpaceArray) -> None:
        """See `VectorEnv.restore`: plays the running episodes again, action for action."""
        for i, (env, saved) in enumerate(zip(self._envs, states, strict=True)):
            if saved is None:
                obs[i] = self._reset(i, self._seeds[i])
                continue
            seen = self._reset(i, self._seeds[i])
            if saved["generator"] is not None:
                env.unwrapped.np_random.bit_generator.state = saved["generator"]
                seen = self._reset(i, None)
            for action in saved["actions"]:
                taken = action if self._scalar else np.array(action, self.action_space.dtype)
                self._journals[i].add(taken)
                seen = self._contract.observed(env.step(taken)[0], "step")
            obs[i] = seen

    def close(self) -> None:
        """See `VectorEnv.close`."""
        while self._envs:
            self._envs.pop().close()

    def _reset(self, i: int, seed: int | None) -> Any:
        env = self._envs[i]
        if seed is None:
            self._journals[i].begin(env)
            answer = env.reset()
        else:
            answer = env.reset(seed=seed)
            self._journals[i].begin_seeded()
        return self._contract.observed(self._contract.reset(answer), "reset")
