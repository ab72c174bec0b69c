"""CartPole, Pendulum, both MountainCars and Acrobot: the physics of Gymnasium, many at a time.

Where Gymnasium computes with `math`, so is it here, number by number: NumPy's own cosine may differ
from it in the last bit, and these tasks are promised to be equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from gymnasium.envs.classic_control.acrobot import AcrobotEnv
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.envs.classic_control.continuous_mountain_car import Continuous_MountainCarEnv
from gymnasium.envs.classic_control.mountain_car import MountainCarEnv
from gymnasium.envs.classic_control.pendulum import PendulumEnv

from rostral_rl.arrays import BoolArray, SpaceArray
from rostral_rl.simulate.classic import KernelVector, State


class CartPoleVector(KernelVector):
    """`CartPole-v1`."""

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

    def __init__(self, seeds: Sequence[int], *, steps_max: int = 500) -> None:
        super().__init__(seeds, CartPoleEnv(), width=4, steps_max=steps_max)

    def _starts(self, generator: np.random.Generator, count: int) -> State:
        return generator.uniform(-self.START_MAX, self.START_MAX, size=(count, 4))

    def _observe(self, state: State, obs: SpaceArray) -> None:
        obs[...] = state.T

    def _advance(self, actions: SpaceArray) -> tuple[SpaceArray | float, BoolArray | bool]:
        state = self._state  # position, velocity, angle, angular velocity
        _, speed, angle, turn = state
        force = np.where(actions == 1, self.FORCE, -self.FORCE)  # (B,)
        cos, sin = np.cos(angle), np.sin(angle)
        temp = (force + self.POLE_MASS_LENGTH * np.square(turn) * sin) / self.TOTAL_MASS
        turn_rate = (self.GRAVITY * sin - cos * temp) / (
            self.HALF_LENGTH * (4.0 / 3.0 - self.POLE_MASS * np.square(cos) / self.TOTAL_MASS)
        )
        acceleration = temp - self.POLE_MASS_LENGTH * turn_rate * cos / self.TOTAL_MASS
        # Explicit Euler: positions move by the old velocities.
        state[0] += self.TAU_S * speed
        state[2] += self.TAU_S * turn
        state[1] += self.TAU_S * acceleration
        state[3] += self.TAU_S * turn_rate
        fallen = (np.abs(state[0]) > self.POSITION_MAX) | (np.abs(state[2]) > self.ANGLE_MAX)
        return 1.0, fallen

    def _advance_one(self, actions: SpaceArray) -> tuple[float, bool]:
        # The same, operation by operation, on Python's numbers, which cost a tenth of arrays of one
        # and are equal: both are double precision. The cosine stays NumPy's.
        position, speed, angle, turn = self._state[:, 0].tolist()
        force = self.FORCE if actions[0] == 1 else -self.FORCE
        cos, sin = float(np.cos(angle)), float(np.sin(angle))
        temp = (force + self.POLE_MASS_LENGTH * (turn * turn) * sin) / self.TOTAL_MASS
        turn_rate = (self.GRAVITY * sin - cos * temp) / (
            self.HALF_LENGTH * (4.0 / 3.0 - self.POLE_MASS * (cos * cos) / self.TOTAL_MASS)
        )
        acceleration = temp - self.POLE_MASS_LENGTH * turn_rate * cos / self.TOTAL_MASS
        position += self.TAU_S * speed
        angle += self.TAU_S * turn
        speed += self.TAU_S * acceleration
        turn += self.TAU_S * turn_rate
        self._state[:, 0] = position, speed, angle, turn
        return 1.0, abs(position) > self.POSITION_MAX or abs(angle) > self.ANGLE_MAX


class PendulumVector(KernelVector):
    """`Pendulum-v1`."""

    GRAVITY = 10.0
    SPEED_MAX = 8.0
    TORQUE_MAX = 2.0
    TAU_S = 0.05
    START_MAX = (np.pi, 1.0)

    def __init__(self, seeds: Sequence[int], *, steps_max: int = 200) -> None:
        super().__init__(seeds, PendulumEnv(), width=2, steps_max=steps_max)

    def _starts(self, generator: np.random.Generator, count: int) -> State:
        high = np.array(self.START_MAX)
        return generator.uniform(low=-high, high=high, size=(count, 2))

    def _observe(self, state: State, obs: SpaceArray) -> None:
        angle, speed = state
        obs[:, 0], obs[:, 1], obs[:, 2] = np.cos(angle), np.sin(angle), speed

    def _advance(self, actions: SpaceArray) -> tuple[SpaceArray | float, BoolArray | bool]:
        state = self._state
        angle, speed = state
        # In single precision, as the action comes.
        torque = np.clip(actions[:, 0], -self.TORQUE_MAX, self.TORQUE_MAX)  # (B,)
        upright = ((angle + np.pi) % (2.0 * np.pi)) - np.pi  # (B,)
        cost = np.square(upright) + 0.1 * np.square(speed) + 0.001 * np.square(torque)
        pull = 3.0 * self.GRAVITY / 2.0 * np.sin(angle) + 3.0 * torque  # (B,)
        state[1] = np.clip(speed + pull * self.TAU_S, -self.SPEED_MAX, self.SPEED_MAX)
        state[0] += state[1] * self.TAU_S
        return -cost, False


class MountainCarVector(KernelVector):
    """`MountainCar-v0`."""

    LOW, HIGH = -1.2, 0.6
    SPEED_MAX = 0.07
    GOAL = 0.5
    FORCE = 0.001
    GRAVITY = 0.0025
    START = (-0.6, -0.4)

    def __init__(self, seeds: Sequence[int], *, steps_max: int = 200) -> None:
        super().__init__(seeds, MountainCarEnv(), width=2, steps_max=steps_max)

    def _starts(self, generator: np.random.Generator, count: int) -> State:
        places = generator.uniform(*self.START, size=count)
        return np.stack((places, np.zeros(count)), axis=1)

    def _observe(self, state: State, obs: SpaceArray) -> None:
        obs[...] = state.T

    def _advance(self, actions: SpaceArray) -> tuple[SpaceArray | float, BoolArray | bool]:
        position, speed = self._state
        slope = _each(math.cos, 3 * position)  # (B,)
        speed += (actions - 1) * self.FORCE + slope * -self.GRAVITY
        np.clip(speed, -self.SPEED_MAX, self.SPEED_MAX, out=speed)
        position += speed
        np.clip(position, self.LOW, self.HIGH, out=position)
        speed[(position == self.LOW) & (speed < 0.0)] = 0.0
        return -1.0, (position >= self.GOAL) & (speed >= 0.0)


class MountainCarContinuousVector(KernelVector):
    """`MountainCarContinuous-v0`. From its second step on Gymnasium keeps single precision here."""

    LOW, HIGH = np.float32(-1.2), np.float32(0.6)
    SPEED_MAX = np.float32(0.07)
    GOAL = np.float32(0.45)
    POWER = 0.0015
    GRAVITY = 0.0025
    START = (-0.6, -0.4)

    def __init__(self, seeds: Sequence[int], *, steps_max: int = 999) -> None:
        super().__init__(seeds, Continuous_MountainCarEnv(), width=2, steps_max=steps_max)

    def _starts(self, generator: np.random.Generator, count: int) -> State:
        places = generator.uniform(*self.START, size=count)
        return np.stack((places, np.zeros(count)), axis=1)

    def _observe(self, state: State, obs: SpaceArray) -> None:
        obs[...] = state.T

    def _advance(self, actions: SpaceArray) -> tuple[SpaceArray | float, BoolArray | bool]:
        push = actions[:, 0]  # (B,)
        fresh = self._age == 0  # (B,)
        position, speed = self._state.astype(np.float32)
        first_position, first_speed = self._state
        argument = np.where(fresh, 3 * first_position, (3 * position).astype(np.float64))
        pull = self.GRAVITY * _each(math.cos, argument)  # (B,) double
        # A push at its bound is a Python number there, and the difference taken in double.
        within = (push * np.float32(self.POWER) - pull.astype(np.float32)).astype(np.float64)
        at_bound = np.clip(push, -1.0, 1.0).astype(np.float64) * self.POWER - pull
        change = np.where(np.abs(push) > 1.0, at_bound, within)  # (B,)
        moved = np.where(
            fresh, (first_speed + change).astype(np.float32), speed + change.astype(np.float32)
        )
        np.clip(moved, -self.SPEED_MAX, self.SPEED_MAX, out=moved)
        place = np.where(
            fresh,
            (first_position + (first_speed + change)).astype(np.float32),
            position + moved,
        )
        np.clip(place, self.LOW, self.HIGH, out=place)
        moved[(place == self.LOW) & (moved < 0.0)] = 0.0
        self._state[0], self._state[1] = place, moved
        reached = (place >= self.GOAL) & (moved >= 0.0)
        effort = np.square(push.astype(np.float64)) * 0.1  # (B,)
        return np.where(reached, 100.0, 0.0) - effort, reached


class AcrobotVector(KernelVector):
    """`Acrobot-v1`, the book's equations, by one Runge-Kutta step of fourth order."""

    TAU_S = 0.2
    GRAVITY = 9.8
    SPEED_1_MAX = 4 * np.pi
    SPEED_2_MAX = 9 * np.pi
    START_MAX = 0.1
    # Links of mass 1 and length 1, their centres half-way, moment of inertia 1.
    CENTRE = 0.5
    INERTIA = 1.0

    def __init__(self, seeds: Sequence[int], *, steps_max: int = 500) -> None:
        super().__init__(seeds, AcrobotEnv(), width=4, steps_max=steps_max)

    def _starts(self, generator: np.random.Generator, count: int) -> State:
        drawn = generator.uniform(low=-self.START_MAX, high=self.START_MAX, size=(count, 4))
        return drawn.astype(np.float32).astype(np.float64)

    def _observe(self, state: State, obs: SpaceArray) -> None:
        angle_1, angle_2, speed_1, speed_2 = state
        obs[:, 0], obs[:, 1] = np.cos(angle_1), np.sin(angle_1)
        obs[:, 2], obs[:, 3] = np.cos(angle_2), np.sin(angle_2)
        obs[:, 4], obs[:, 5] = speed_1, speed_2

    def _advance(self, actions: SpaceArray) -> tuple[SpaceArray | float, BoolArray | bool]:
        torque = actions.astype(np.float64) - 1.0  # (B,)
        start, half = self._state, self.TAU_S / 2.0
        k1 = self._slopes(start, torque)
        k2 = self._slopes(start + half * k1, torque)
        k3 = self._slopes(start + half * k2, torque)
        k4 = self._slopes(start + self.TAU_S * k3, torque)
        state = start + self.TAU_S / 6.0 * (k1 + 2 * k2 + 2 * k3 + k4)  # (4, B)
        _wrap(state[0])
        _wrap(state[1])
        np.clip(state[2], -self.SPEED_1_MAX, self.SPEED_1_MAX, out=state[2])
        np.clip(state[3], -self.SPEED_2_MAX, self.SPEED_2_MAX, out=state[3])
        self._state = state
        high = -np.cos(state[0]) - np.cos(state[1] + state[0]) > 1.0  # (B,)
        return np.where(high, 0.0, -1.0), high

    def _slopes(self, state: State, torque: State) -> State:
        """Time derivatives (4, B) of a state (4, B)."""
        centre, inertia, gravity = self.CENTRE, self.INERTIA, self.GRAVITY
        angle_1, angle_2, speed_1, speed_2 = state
        cos_2, sin_2 = np.cos(angle_2), np.sin(angle_2)
        d1 = centre**2 + (1.0 + centre**2 + 2 * centre * cos_2) + inertia + inertia
        d2 = (centre**2 + centre * cos_2) + inertia
        phi2 = centre * gravity * np.cos(angle_1 + angle_2 - np.pi / 2.0)
        phi1 = (
            -centre * np.square(speed_2) * sin_2
            - 2 * centre * speed_2 * speed_1 * sin_2
            + (centre + 1.0) * gravity * np.cos(angle_1 - np.pi / 2)
            + phi2
        )
        turn_2 = (torque + d2 / d1 * phi1 - centre * np.square(speed_1) * sin_2 - phi2) / (
            centre**2 + inertia - np.square(d2) / d1
        )
        turn_1 = -(d2 * turn_2 + phi1) / d1
        return np.stack((speed_1, speed_2, turn_1, turn_2))


KERNELS: dict[str, Callable[[Sequence[int]], KernelVector]] = {
    "CartPole-v1": CartPoleVector,
    "Pendulum-v1": PendulumVector,
    "MountainCar-v0": MountainCarVector,
    "MountainCarContinuous-v0": MountainCarContinuousVector,
    "Acrobot-v1": AcrobotVector,
}
"""Gymnasium ids that are simulated here instead."""


def _each(function: Callable[[float], float], values: SpaceArray) -> State:
    """A function of `math` on each of (B,)."""
    return np.fromiter(map(function, values.tolist()), np.float64, len(values))


def _wrap(angle: State) -> None:
    """Brings angles (B,) to [-pi, pi] by whole turns, in place."""
    while (over := angle > np.pi).any():
        angle[over] -= 2.0 * np.pi
    while (under := angle < -np.pi).any():
        angle[under] += 2.0 * np.pi
