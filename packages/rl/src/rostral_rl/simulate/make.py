"""From a name or a factory to a vector environment with the right seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import gymnasium
from gymnasium.error import Error as GymnasiumError

from rostral_rl.errors import InvalidSettingError, SimulationError, UsageError
from rostral_rl.names import unknown_name
from rostral_rl.seeding import SeedTree, Stream
from rostral_rl.simulate.adapter import VectorAdapter, VectorSource
from rostral_rl.simulate.atari import atari_vector, check_game, is_atari
from rostral_rl.simulate.kernels import KERNELS
from rostral_rl.simulate.shared import SharedSource, SharedVector
from rostral_rl.simulate.vector import Env, EnvFactory, GymVector, VectorEnv

EnvSource: TypeAlias = str | EnvFactory | VectorSource | SharedSource
"""A Gymnasium id, a callable that makes one environment (picklable, where actors call it), one that
makes a Gymnasium vector environment, or environments in processes that share memory."""


def make_vector(
    env: EnvSource,
    count: int,
    *,
    seed: int,
    first: int = 0,
    stream: Stream = Stream.ENV,
    life: int = 0,
) -> VectorEnv:
    """Makes environments `first .. first + count - 1` of a layout.

    Args:
        env: Gymnasium id or factory.
        count: B, how many.
        seed: Root of the seed tree.
        first: Global index of the first one; fixes their streams whatever process they live in.
        stream: `Stream.EVALUATION` keeps evaluation episodes apart from those of training.
        life: How often these environments were replaced.

    Raises:
        UnknownNameError: No such id; suggests the nearest.
        SimulationError: The environment cannot be made.
    """
    if count <= 0:
        raise InvalidSettingError(f"number of environments must be > 0, got {count}")
    tree = SeedTree(seed)
    seeds = [tree.seed(stream, first + i, life=life) for i in range(count)]
    return make_seeded(env, seeds)


def make_seeded(env: EnvSource, seeds: Sequence[int]) -> VectorEnv:
    """Makes one environment for each of `seeds` (B,); errors as for `make_vector`."""
    if isinstance(env, VectorSource):
        return VectorAdapter(env.make(len(seeds)), seeds)
    if isinstance(env, SharedSource):
        return SharedVector(env, seeds)
    if isinstance(env, str) and env in KERNELS:
        return KERNELS[env](seeds)
    if isinstance(env, str) and is_atari(env):
        return VectorAdapter(atari_vector(env, seeds), seeds)
    return GymVector([_factory(env)] * len(seeds), seeds)


def check_known(env: EnvSource) -> None:
    """Refuses an unknown Gymnasium id before anything is started for it.

    Raises:
        UnknownNameError: No such id.
        UsageError: Neither an id nor callable.
    """
    if isinstance(env, SharedSource):
        env = env.env
    if callable(env) or isinstance(env, VectorSource):
        return
    if not isinstance(env, str):
        raise UsageError(f"an environment is an id or a callable, got {type(env).__name__}")
    if is_atari(env):
        check_game(env)
    # "module:Name-v0" names a module to import first; Gymnasium alone can tell.
    if ":" not in env and env not in gymnasium.registry:
        raise unknown_name("environment", env, gymnasium.registry)


def _factory(env: str | EnvFactory) -> EnvFactory:
    check_known(env)
    if not isinstance(env, str):
        return env

    def make() -> Env:
        try:
            # The checker re-validates every step of an environment; that is for its author, not for
            # training.
            return gymnasium.make(env, disable_env_checker=True)
        except GymnasiumError as error:
            raise SimulationError(f"gymnasium cannot make {env}: {error}") from error

    return make
