"""The fragment: T steps of B environments as a dict of arrays, made to lie in the object store.

It is the unit of data between who simulates and who learns.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, TypedDict

import numpy as np

from rostral_rl.arrays import BoolArray, FloatArray, IntArray, SpaceArray

Column: TypeAlias = Literal[
    "obs",
    "actions",
    "logp",
    "value",
    "next_value",
    "reward",
    "terminated",
    "truncated",
    "valid",
    "final_obs",
    "state",
    "episode_return",
    "episode_length",
]


class Fragment(TypedDict):
    """T steps of B environments under one version of the weights.

    Attributes:
        obs: (T + 1, B, *obs_shape); row T is where the next fragment starts.
        actions: (T, B) or (T, B, parts) int64, or (T, B, A) float32, as drawn, before any change
            for the environment.
        logp: (T, B) float32, log-probability of `actions` when they were drawn.
        value: (T, B) float32, the critic's estimate of `obs[:-1]`; zeros where there is no critic.
        next_value: (T, B) float32, the critic's estimate of what truly followed: of the final
            observation where an episode was truncated, 0 where it terminated, else of `obs[t + 1]`.
        reward: (T, B) float32, as the environment gave it.
        terminated: (T, B) bool.
        truncated: (T, B) bool.
        valid: (T, B) bool; False where a step belongs to no episode, see `Slab`.
        final_index: (K, 2) int64, (t, b) of every episode's end, ascending in t.
        final_obs: (K, *obs_shape), the true last observations.
        state: (B, S) float32, what a net with memory remembered before the first row; S is 0 of
            others.
        episode_return: (K,) float64, undiscounted sum of rewards of those episodes.
        episode_length: (K,) int64, their steps.
        version: () int64, of the weights that acted.
        first: () int64, global index of the first of these environments.
    """

    obs: SpaceArray
    actions: SpaceArray
    logp: FloatArray
    value: FloatArray
    next_value: FloatArray
    reward: FloatArray
    terminated: BoolArray
    truncated: BoolArray
    valid: BoolArray
    final_index: IntArray
    final_obs: SpaceArray
    state: FloatArray
    episode_return: SpaceArray
    episode_length: IntArray
    version: SpaceArray
    first: SpaceArray


def join(fragments: list[Fragment]) -> Fragment:
    """Puts workers' fragments side by side: (T, B1) and (T, B2) to (T, B1 + B2).

    That is what one process would have made.
    The result may be written to, and so aliased by torch: what comes from the object store, which
    is read-only, is copied.
    """
    if len(fragments) == 1 and fragments[0]["obs"].flags.writeable:
        return fragments[0]
    side = [len(f["reward"][0]) for f in fragments]
    offsets = np.concatenate(([0], np.cumsum(side)[:-1]))

    def wide(name: Column) -> SpaceArray:
        return np.concatenate([f[name] for f in fragments], axis=1)

    def long(name: Column) -> SpaceArray:
        return np.concatenate([f[name] for f in fragments])

    index = [f["final_index"] + np.array((0, o)) for f, o in zip(fragments, offsets, strict=True)]
    return Fragment(
        obs=wide("obs"),
        actions=wide("actions"),
        logp=wide("logp"),
        value=wide("value"),
        next_value=wide("next_value"),
        reward=wide("reward"),
        terminated=wide("terminated"),
        truncated=wide("truncated"),
        valid=wide("valid"),
        final_index=np.concatenate(index),
        final_obs=long("final_obs"),
        state=long("state"),
        episode_return=long("episode_return"),
        episode_length=long("episode_length"),
        version=fragments[0]["version"],
        first=fragments[0]["first"],
    )
