"""Plays a policy in a vector environment and returns fragments: what learning feeds on.

A fragment is a time-major dict of arrays for T steps of B environments, made to lie in the object
store as it is. The sampler owns the environments, the current observations and the action noise; it
does not know who learns, or where.
"""

from __future__ import annotations

import numpy as np

from rostral_rl import forward, spaces
from rostral_rl.arrays import FloatArray, IntArray, SpaceArray, Weights
from rostral_rl.errors import SimulationError
from rostral_rl.policy import to_env
from rostral_rl.seeding import SeedTree, Stream
from rostral_rl.simulate.fragment import Fragment
from rostral_rl.simulate.slabs import Slab
from rostral_rl.simulate.vector import VectorEnv


class Sampler:
    """Steps environments under the weights it is given. Not thread-safe.

    Args:
        vector: B environments; the sampler closes them.
        spec: Shape of the actor's net.
        horizon: T, steps per fragment.
        seed: Root of the seed tree.
        first: Global index of the first environment; with `seed` it fixes the action noise.
        life: How often these environments were replaced.
    """

    def __init__(
        self,
        vector: VectorEnv,
        *,
        spec: forward.NetSpec,
        horizon: int,
        seed: int,
        first: int = 0,
        life: int = 0,
    ) -> None:
        self._vector = vector
        self._spec = spec
        self._horizon = horizon
        tree = SeedTree(seed)
        self._generators = [
            tree.generator(Stream.ACTION, first + i, life=life) for i in range(vector.count)
        ]
        self._next_obs: SpaceArray | None = None  # (B, *obs_shape) where the next fragment starts
        self._return = np.zeros(vector.count)  # (B,) of the running episodes
        self._length = np.zeros(vector.count, np.int64)  # (B,)

    def collect(self, weights: Weights, version: int) -> Fragment:
        """Plays T steps.

        Args:
            weights: Parameters "pi.*" and "vf.*", and "log_std", "obs.*" where the policy has them.
            version: Copied into the fragment.

        Returns:
            A fragment of arrays that are the caller's own: the next call does not touch them.

        Raises:
            SimulationError: An environment raised or gave a reward that is not finite.
        """
        slab = Slab.allocate(
            self._horizon,
            self._vector.count,
            observation_space=self._vector.observation_space,
            action_space=self._vector.action_space,
        )
        try:
            return self._play(slab, weights, version)
        except (
            ArithmeticError,
            LookupError,
            TypeError,
            ValueError,
            RuntimeError,
            AssertionError,
        ) as error:
            raise SimulationError(
                f"an environment failed: {type(error).__name__}: {error}"
            ) from error

    def close(self) -> None:
        """Closes the environments."""
        self._vector.close()

    def _play(self, slab: Slab, weights: Weights, version: int) -> Fragment:
        spec, vector = self._spec, self._vector
        steps, count = slab.reward.shape
        layers = len(spec.widths) - 1
        actor = forward.Tower(weights, "pi", layers=layers, activation=spec.activation)
        noise = np.stack(
            [forward.draw_noise(spec, g, steps) for g in self._generators], axis=1
        )  # (T, B, ...)
        outputs = np.empty((steps, count, spec.outputs), np.float32)  # (T, B, A)
        drawn = np.empty(
            noise.shape, np.int64 if spec.head == "categorical" else np.float32
        )  # (T, B, ...)
        if self._next_obs is None:
            vector.reset(slab.obs[0])
        else:
            slab.obs[0] = self._next_obs
        ends: list[tuple[int, SpaceArray, SpaceArray]] = []
        for t in range(steps):
            inputs = spaces.features(vector.observation_space, slab.obs[t])  # (B, D)
            outputs[t] = actor(forward.normalised(inputs, weights))  # (B, A)
            drawn[t] = forward.sample(spec, outputs[t], noise[t], weights)
            slab.actions[t] = to_env(vector.action_space, drawn[t])
            finals = vector.step(slab, t)
            if finals is not None:
                ends.append((t, finals.index, finals.obs))
        self._next_obs = slab.obs[-1].copy()
        if not np.all(np.isfinite(slab.reward)):
            raise SimulationError("an environment returned a reward that is not finite")
        final_index, final_obs = _join_ends(ends, slab)
        returns, lengths = self._episodes(slab, final_index)
        value, next_value = self._values(slab, weights, final_index, final_obs)
        flat = drawn.reshape(steps * count, *drawn.shape[2:])
        logp = forward.log_prob(spec, outputs.reshape(-1, spec.outputs), flat, weights).reshape(
            steps, count
        )
        return Fragment(
            obs=slab.obs,
            actions=drawn,
            logp=logp,
            value=value,
            next_value=next_value,
            reward=slab.reward,
            terminated=slab.terminated,
            truncated=slab.truncated,
            final_index=final_index,
            final_obs=final_obs,
            episode_return=returns,
            episode_length=lengths,
            version=np.array(version, np.int64),
        )

    def _values(
        self, slab: Slab, weights: Weights, final_index: IntArray, final_obs: SpaceArray
    ) -> tuple[FloatArray, FloatArray]:
        """The critic on the whole fragment: acting does not need it, and one call beats T small."""
        steps, count = slab.reward.shape
        critic = forward.Tower(
            weights, "vf", layers=len(self._spec.widths) - 1, activation=self._spec.activation
        )
        space = self._vector.observation_space
        flat = slab.obs.reshape((steps + 1) * count, *slab.obs.shape[2:])
        inputs = forward.normalised(spaces.features(space, flat), weights)  # ((T + 1) * B, D)
        value = critic(inputs).reshape(steps + 1, count)  # (T + 1, B)
        next_value = value[1:].copy()  # (T, B)
        if len(final_index):
            inputs = forward.normalised(spaces.features(space, final_obs), weights)  # (K, D)
            next_value[final_index[:, 0], final_index[:, 1]] = critic(inputs)[:, 0]
            next_value[slab.terminated] = 0.0
        return value[:-1], next_value

    def _episodes(self, slab: Slab, final_index: IntArray) -> tuple[SpaceArray, IntArray]:
        """Returns and lengths of the episodes that ended here, in the order of `final_index`."""
        returns = np.zeros(len(final_index))
        lengths = np.zeros(len(final_index), np.int64)
        start = np.zeros(
            self._vector.count, np.int64
        )  # (B,) row where the running episode begins here
        for k, (t, b) in enumerate(final_index.tolist()):
            returns[k] = self._return[b] + slab.reward[start[b] : t + 1, b].sum(dtype=np.float64)
            lengths[k] = self._length[b] + t + 1 - start[b]
            self._return[b], self._length[b], start[b] = 0.0, 0, t + 1
        for b in range(self._vector.count):
            self._return[b] += slab.reward[start[b] :, b].sum(dtype=np.float64)
            self._length[b] += len(slab.reward) - start[b]
        return returns, lengths


def _join_ends(
    ends: list[tuple[int, SpaceArray, SpaceArray]], slab: Slab
) -> tuple[IntArray, SpaceArray]:
    if not ends:
        return np.zeros((0, 2), np.int64), np.zeros((0, *slab.obs.shape[2:]), slab.obs.dtype)
    index = np.concatenate(
        [np.stack([np.full(len(b), t), b], axis=1) for t, b, _ in ends]
    )  # (K, 2)
    return index, np.concatenate([obs for _, _, obs in ends])
