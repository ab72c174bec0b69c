"""CartPole for many environments at once, in NumPy.

The same task as Gymnasium's `CartPole-v1`, step for step and seed for seed: environment i draws its
starts from the stream that `CartPoleEnv.reset(seed=seeds[i])` would use. Gymnasium's own NumPy form
draws for all environments from one stream, so that what environment i sees depends on who else is
in the batch, and resets in the next step; hence this one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

from rostral_rl.arrays import SpaceArray
from rostral_rl.simulate.slabs import Slab
from rostral_rl.simulate.vector import Finals
from rostral_rl.spaces import Space

GRAVITY = 9.8
POLE_MASS = 0.1
TOTAL_MASS = 1.1
HALF_LENGTH = 0.5
POLE_MASS_LENGTH = POLE_MASS * HALF_LENGTH
FORCE = 10.0
TAU_S = 0.02
ANGLE_MAX = 12 * 2 * np.pi / 360
POSITION_MAX = 2.4
START_MAX = 0.05


class CartPoleVector:
    """B cart-poles stepped by array arithmetic.

    Args:
        seeds: (B,) seed of each environment.
        steps_max: Time limit of an episode, in steps.
    """

    def __init__(self, seeds: Sequence[int], *, steps_max: int = 500) -> None:
        reference = CartPoleEnv()
        self.count = len(seeds)
        self.observation_space: Space = reference.observation_space
        self.action_space: Space = reference.action_space
        self._seeds = list(seeds)
        self._steps_max = steps_max
        self._generators: list[np.random.Generator] = []
        # (4, B): position, velocity, angle, angular velocity. Double precision, as Gymnasium keeps
        # it.
        self._state = np.zeros((4, self.count))
        self._age = np.zeros(self.count, np.int64)  # (B,) steps since the episode's start

    def reset(self, obs: SpaceArray) -> None:
        """See `VectorEnv.reset`."""
        self._generators = [
            np.random.Generator(np.random.PCG64(np.random.SeedSequence(s))) for s in self._seeds
        ]
        for i in range(self.count):
            self._state[:, i] = self._start(i)
        self._age[:] = 0
        obs[...] = self._state.T

    def step(self, slab: Slab, t: int) -> Finals | None:
        """See `VectorEnv.step`."""
        state = self._state
        _, speed, angle, turn = state
        force = np.where(slab.actions[t] == 1, FORCE, -FORCE)  # (B,)
        cos, sin = np.cos(angle), np.sin(angle)
        temp = (force + POLE_MASS_LENGTH * np.square(turn) * sin) / TOTAL_MASS
        turn_rate = (GRAVITY * sin - cos * temp) / (
            HALF_LENGTH * (4.0 / 3.0 - POLE_MASS * np.square(cos) / TOTAL_MASS)
        )
        acceleration = temp - POLE_MASS_LENGTH * turn_rate * cos / TOTAL_MASS
        # Explicit Euler: positions move by the old velocities.
        state[0] += TAU_S * speed
        state[2] += TAU_S * turn
        state[1] += TAU_S * acceleration
        state[3] += TAU_S * turn_rate
        self._age += 1

        obs = slab.obs[t + 1]
        obs[...] = state.T
        terminated = (np.abs(state[0]) > POSITION_MAX) | (np.abs(state[2]) > ANGLE_MAX)  # (B,)
        truncated = self._age >= self._steps_max  # (B,)
        slab.reward[t] = 1.0
        slab.terminated[t] = terminated
        slab.truncated[t] = truncated
        ended = np.flatnonzero(terminated | truncated)  # (K,)
        if not ended.size:
            return None
        finals = Finals(
            ended, obs[ended]
        )  # Fancy indexing copies, before the rows are overwritten.
        for i in ended.tolist():
            state[:, i] = self._start(i)
            obs[i] = state[:, i]
        self._age[ended] = 0
        return finals

    def close(self) -> None:
        """Holds nothing that needs freeing."""

    def _start(self, i: int) -> npt.NDArray[np.float64]:
        return self._generators[i].uniform(-START_MAX, START_MAX, size=4)
