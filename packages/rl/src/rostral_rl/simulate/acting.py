"""Acting and rating along one fragment, with and without memory.

Acting needs no critic, and one call for a whole fragment beats one for each step; but a critic on
top of a memory has to be asked when the memory is what it was.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from rostral_rl import net as nets
from rostral_rl.arrays import FloatArray, IntArray, SpaceArray
from rostral_rl.net import Net
from rostral_rl.simulate.slabs import Slab
from rostral_rl.spaces import Space


class Acting(Protocol):
    """A net that plays T steps of B environments."""

    def outputs(self, inputs: SpaceArray) -> FloatArray:
        """What the actor says, (B, A), of the next step's features (B, D)."""

    def stepped(self, slab: Slab, t: int) -> None:
        """Step t was taken, and row t of the slab is complete."""

    def values(
        self, slab: Slab, final_index: IntArray, final_obs: SpaceArray
    ) -> tuple[FloatArray, FloatArray]:
        """The critic's values of `slab.obs[:-1]` and of what truly followed, (T, B) each."""

    @property
    def state(self) -> FloatArray:
        """What it remembers, (B, S), for the next fragment."""


def acting(net: Net, space: Space, state: FloatArray, steps: int) -> Acting:
    """The form that fits the net; `state` (B, S) is what the fragment before left."""
    if net.spec.lstm:
        return _Remembering(net, space, state, steps)
    return _Forgetful(net, space, state)


class _Forgetful:
    """Without memory."""

    def __init__(self, net: Net, space: Space, state: FloatArray) -> None:
        self._net = net
        self._space = space
        self.state = state

    def outputs(self, inputs: SpaceArray) -> FloatArray:
        return self._net.outputs(inputs)

    def stepped(self, slab: Slab, t: int) -> None:
        pass

    def values(
        self, slab: Slab, final_index: IntArray, final_obs: SpaceArray
    ) -> tuple[FloatArray, FloatArray]:
        steps, count = slab.reward.shape
        if not self._net.has_critic:
            return np.zeros((steps, count), np.float32), np.zeros((steps, count), np.float32)
        flat = slab.obs.reshape((steps + 1) * count, *slab.obs.shape[2:])
        value = self._values(flat).reshape(steps + 1, count)  # (T + 1, B)
        final = self._values(final_obs) if len(final_index) else np.zeros(0, np.float32)  # (K,)
        return value[:-1], following(value, slab, final_index, final)

    def _values(self, obs: SpaceArray) -> FloatArray:
        return self._net.values(nets.read(self._net.spec, self._space, obs))


class _Remembering:
    """With memory: forgets where an episode ends, and after a step that was spent on a reset."""

    def __init__(self, net: Net, space: Space, state: FloatArray, steps: int) -> None:
        self._net = net
        self._space = space
        self.state = state
        self._value = np.zeros((steps + 1, len(state)), np.float32)  # (T + 1, B)
        self._at = 0
        self._ended: list[FloatArray] = []  # states (k, S) when episodes ended, as `final_index`

    def outputs(self, inputs: SpaceArray) -> FloatArray:
        outputs, self._value[self._at], self.state = self._net.step(inputs, self.state)
        self._at += 1
        return outputs

    def stepped(self, slab: Slab, t: int) -> None:
        done = slab.terminated[t] | slab.truncated[t]  # (B,)
        begins = done | ~slab.valid[t]  # (B,)
        if begins.any():
            self._ended.append(self.state[done])
            self.state = np.where(begins[:, None], np.float32(0.0), self.state)

    def values(
        self, slab: Slab, final_index: IntArray, final_obs: SpaceArray
    ) -> tuple[FloatArray, FloatArray]:
        self._value[-1] = self._values(slab.obs[-1], self.state)
        final = np.zeros(0, np.float32)  # (K,)
        if len(final_index):
            final = self._values(final_obs, np.concatenate(self._ended))
        return self._value[:-1], following(self._value, slab, final_index, final)

    def _values(self, obs: SpaceArray, state: FloatArray) -> FloatArray:
        return self._net.step(nets.read(self._net.spec, self._space, obs), state)[1]


def following(
    value: FloatArray, slab: Slab, final_index: IntArray, final: FloatArray
) -> FloatArray:
    """Values (T, B) of what truly followed, by those of `slab.obs` (T + 1, B) and of ends (K,)."""
    result: FloatArray = value[1:].copy()
    if len(final_index):
        result[final_index[:, 0], final_index[:, 1]] = final
        result[slab.terminated] = 0.0
    return result
