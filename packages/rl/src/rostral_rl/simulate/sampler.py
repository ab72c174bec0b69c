"""Plays a policy in a vector environment and returns fragments: what learning feeds on.

A fragment is a time-major dict of arrays for T steps of B environments, made to lie in the object
store as it is. The sampler owns the environments, the current observations and the action noise; it
does not know who learns, or where.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from rostral_rl import forward, spaces
from rostral_rl.arrays import FloatArray, IntArray, SpaceArray, Weights
from rostral_rl.heads import HEADS
from rostral_rl.net import Net, read
from rostral_rl.seeding import SeedTree, Stream
from rostral_rl.simulate.acting import acting
from rostral_rl.simulate.contract import check_finite, simulating
from rostral_rl.simulate.fragment import Fragment
from rostral_rl.simulate.journal import EnvState
from rostral_rl.simulate.shared import SharedVector
from rostral_rl.simulate.slabs import Slab
from rostral_rl.simulate.vector import VectorEnv

logger = logging.getLogger("rostral.rl.simulate")


class SamplerState(TypedDict):
    """One environment's part of a checkpoint.

    Attributes:
        env: What the vector environment needs; None where it cannot be told.
        noise: State of the generator of the actions' noise.
        seen: (*obs_shape), where the next fragment starts.
        state: (S,), what a net with memory remembers there.
        episode_return: Of the running episode.
        episode_length: Its steps.
    """

    env: EnvState | None
    noise: Mapping[str, Any]
    seen: SpaceArray
    state: FloatArray
    episode_return: float
    episode_length: int


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
        self._first = first
        self._steps = 0  # played so far
        tree = SeedTree(seed)
        self._generators = [
            tree.generator(Stream.ACTION, first + i, life=life) for i in range(vector.count)
        ]
        self._next_obs: SpaceArray | None = None  # (B, *obs_shape) where the next fragment starts
        self._state = np.zeros((vector.count, spec.state_width), np.float32)  # (B, S)
        self._return = np.zeros(vector.count)  # (B,) of the running episodes
        self._length = np.zeros(vector.count, np.int64)  # (B,)

    @property
    def count(self) -> int:
        """B."""
        return self._vector.count

    def collect(self, weights: Weights, version: int) -> Fragment:
        """Plays T steps.

        Args:
            weights: Parameters "pi.*" and "vf.*", and "log_std", "obs.*" where the policy has them.
            version: Copied into the fragment.

        Returns:
            A fragment of arrays that are the caller's own: the next call does not touch them.

        Raises:
            EnvContractError: An environment gave what Gymnasium's interface forbids.
            SimulationError: An environment raised.
        """
        playing = self.playing(weights, version)
        while True:
            try:
                next(playing)
            except StopIteration as end:
                fragment: Fragment = end.value
                return fragment

    def playing(self, weights: Weights, version: int) -> Generator[None, None, Fragment]:
        """The same; stops wherever environments of another process step, so that others may act.

        Arguments and errors: see `collect`.
        """
        if "act.epsilon" in weights:
            # One for each environment of the whole layout; ours are these.
            mine = slice(self._first, self._first + self._vector.count)
            weights = {**weights, "act.epsilon": weights["act.epsilon"][mine]}
        slab = Slab.allocate(
            self._horizon,
            self._vector.count,
            observation_space=self._vector.observation_space,
            action_space=self._vector.action_space,
        )
        with simulating():
            return (yield from self._play(slab, weights, version))

    def states(self) -> list[SamplerState]:
        """What each environment, and its noise, needs to go on elsewhere; none before `collect`."""
        if self._next_obs is None:
            return []
        return [
            SamplerState(
                env=env,
                noise=generator.bit_generator.state,
                seen=self._next_obs[i].copy(),
                state=self._state[i].copy(),
                episode_return=float(self._return[i]),
                episode_length=int(self._length[i]),
            )
            for i, (env, generator) in enumerate(
                zip(self._vector.states(), self._generators, strict=True)
            )
        ]

    def restore(self, states: Sequence[SamplerState]) -> None:
        """Goes on from `states`, one for each environment in order.

        An environment whose state could not be told, or that does not come back to the observation
        it had shown, begins a new episode.
        """
        vector = self._vector
        seen = spaces.stored(vector.observation_space)
        obs = np.zeros((vector.count, *(seen.shape or ())), seen.dtype)  # (B, *obs_shape)
        vector.restore([state["env"] for state in states], obs)
        lost = [i for i, s in enumerate(states) if not np.array_equal(obs[i], s["seen"])]
        if lost:
            logger.warning(
                "environments begin new episodes, they cannot be brought back first=%d lost=%s",
                self._first,
                lost,
            )
            kept = [None if i in lost else s["env"] for i, s in enumerate(states)]
            vector.restore(kept, obs)
        for i, state in enumerate(states):
            self._generators[i].bit_generator.state = state["noise"]
            self._state[i] = 0.0 if i in lost else state["state"]
            self._return[i] = 0.0 if i in lost else state["episode_return"]
            self._length[i] = 0 if i in lost else state["episode_length"]
        self._next_obs = obs

    def close(self) -> None:
        """Closes the environments."""
        self._vector.close()

    def _play(self, slab: Slab, weights: Weights, version: int) -> Generator[None, None, Fragment]:
        spec, vector = self._spec, self._vector
        steps, count = slab.reward.shape
        began = self._state
        actor = acting(Net(spec, weights), vector.observation_space, began, steps)
        head = HEADS[spec.head]
        noise = np.stack(
            [forward.draw_noise(spec, g, steps) for g in self._generators], axis=1
        )  # (T, B, ...)
        outputs = np.empty((steps, count, spec.outputs), np.float32)  # (T, B, A)
        drawn = head.allocate(spec, steps, count)  # (T, B, ...)
        if self._next_obs is None:
            vector.reset(slab.obs[0])
        else:
            slab.obs[0] = self._next_obs
        ends: list[tuple[int, SpaceArray, SpaceArray]] = []
        for t in range(steps):
            inputs = read(spec, vector.observation_space, slab.obs[t])  # (B, D)
            outputs[t] = actor.outputs(inputs)
            drawn[t] = forward.sample(spec, outputs[t], noise[t], weights)
            slab.actions[t] = head.to_env(vector.action_space, drawn[t])
            if isinstance(vector, SharedVector):
                vector.begin(slab, t)
                yield
                finals = vector.finish(slab, t)
            else:
                finals = vector.step(slab, t)
            actor.stepped(slab, t)
            if finals is not None:
                ends.append((t, finals.index, finals.obs))
        self._next_obs = slab.obs[-1].copy()
        check_finite(slab, self._steps)
        self._steps += steps
        final_index, final_obs = _join_ends(ends, slab)
        returns, lengths = self._episodes(slab, final_index)
        value, next_value = actor.values(slab, final_index, final_obs)
        self._state = actor.state
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
            valid=slab.valid,
            final_index=final_index,
            final_obs=final_obs,
            state=began,
            episode_return=returns,
            episode_length=lengths,
            version=np.array(version, np.int64),
            first=np.array(self._first, np.int64),
        )

    def _episodes(self, slab: Slab, final_index: IntArray) -> tuple[SpaceArray, IntArray]:
        """Returns and lengths of the episodes that ended here, in the order of `final_index`."""
        returns = np.zeros(len(final_index))
        lengths = np.zeros(len(final_index), np.int64)
        start = np.zeros(
            self._vector.count, np.int64
        )  # (B,) row where the running episode begins here
        for k, (t, b) in enumerate(final_index.tolist()):
            returns[k] = self._return[b] + slab.reward[start[b] : t + 1, b].sum(dtype=np.float64)
            lengths[k] = self._length[b] + slab.valid[start[b] : t + 1, b].sum()
            self._return[b], self._length[b], start[b] = 0.0, 0, t + 1
        for b in range(self._vector.count):
            self._return[b] += slab.reward[start[b] :, b].sum(dtype=np.float64)
            self._length[b] += slab.valid[start[b] :, b].sum()
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
