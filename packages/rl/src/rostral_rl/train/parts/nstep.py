"""From fragments to transitions of up to n steps, none of which crosses an episode's end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rostral_rl.arrays import FloatArray, SpaceArray
from rostral_rl.simulate.fragment import Fragment


@dataclass(frozen=True, slots=True)
class Transitions:
    """N transitions.

    Attributes:
        obs: (N, *obs_shape).
        actions: (N,) int64 or (N, A) float32, as drawn.
        reward: (N,) float32, the discounted sum of up to n rewards.
        next_obs: (N, *obs_shape), what truly followed the last of them.
        discount: (N,) float32, of the value of `next_obs`: gamma to the number of steps, 0 where
            the episode terminated.
    """

    obs: SpaceArray
    actions: SpaceArray
    reward: FloatArray
    next_obs: SpaceArray
    discount: FloatArray

    def __len__(self) -> int:
        return len(self.reward)


@dataclass(slots=True)
class _Rows:
    """The last rows of an environment group, whose windows reach into the next fragment."""

    obs: SpaceArray  # (L, B, *obs_shape)
    after: SpaceArray  # (L, B, *obs_shape), what truly followed
    actions: SpaceArray  # (L, B, ...)
    reward: FloatArray  # (L, B)
    terminated: SpaceArray  # (L, B)
    done: SpaceArray  # (L, B)
    valid: SpaceArray  # (L, B)

    def of(self, part: slice) -> _Rows:
        return _Rows(*(getattr(self, name)[part].copy() for name in self.__slots__))

    def then(self, other: _Rows) -> _Rows:
        return _Rows(
            *(
                np.concatenate((getattr(self, name), getattr(other, name)))
                for name in self.__slots__
            )
        )


class NStep:
    """Turns the fragments of one group of environments, in order, into transitions.

    Args:
        n: Steps of a transition, > 0; fewer where the episode ends.
        gamma: Discount, in (0, 1].
    """

    def __init__(self, n: int, gamma: float) -> None:
        self._n = n
        self._gamma = gamma
        self._tail: _Rows | None = None

    def __call__(self, fragment: Fragment) -> Transitions:
        """All transitions whose window is complete with this fragment."""
        rows = _rows(fragment)
        if self._n == 1:
            return self._select(rows, rows.valid, rows.reward)
        if self._tail is not None:
            self._forget_the_lost(self._tail, rows)
            rows = self._tail.then(rows)
        count, n = len(rows.reward), self._n
        starts = count - n + 1
        # Copies: rows of the object store are read-only, and the tail outlives the fragment.
        self._tail = rows.of(slice(max(starts, 0), None))
        if starts <= 0:
            return self._select(rows, np.zeros((0, rows.reward.shape[1]), np.bool_), rows.reward)
        reward = np.zeros((starts, rows.reward.shape[1]), np.float32)  # (S, B)
        last = np.tile(np.arange(starts)[:, None], (1, reward.shape[1]))  # (S, B) row of the end
        going = np.ones(reward.shape, np.bool_)  # (S, B)
        for k in range(n):
            here = slice(k, k + starts)
            reward += np.where(going, np.float32(self._gamma**k) * rows.reward[here], 0.0)
            last = np.where(going, np.arange(k, k + starts)[:, None], last)
            going &= ~rows.done[here]
        return self._select(rows, rows.valid[:starts], reward, last)

    @staticmethod
    def _forget_the_lost(tail: _Rows, rows: _Rows) -> None:
        """Drops what an environment that was replaced meanwhile had begun: nothing follows it."""
        count = tail.done.shape[1]
        differs = (tail.after[-1] != rows.obs[0]).reshape(count, -1).any(axis=1)  # (B,)
        lost = differs & ~tail.done[-1]
        tail.valid[:, lost] = False
        tail.done[-1, lost] = True

    def _select(
        self,
        rows: _Rows,
        valid: SpaceArray,
        reward: FloatArray,
        last: SpaceArray | None = None,
    ) -> Transitions:
        t, b = np.nonzero(valid)  # (N,) each
        end = t if last is None else last[t, b]
        power = np.float32(self._gamma) ** (end - t + 1).astype(np.float32)
        return Transitions(
            obs=rows.obs[t, b],
            actions=rows.actions[t, b],
            reward=reward[t, b],
            next_obs=rows.after[end, b],
            discount=np.where(rows.terminated[end, b], np.float32(0.0), power),
        )

    def state(self) -> dict[str, SpaceArray]:
        """For a checkpoint."""
        if self._tail is None:
            return {}
        return {name: getattr(self._tail, name) for name in _Rows.__slots__}

    def load(self, state: dict[str, SpaceArray]) -> None:
        """Takes `state` back."""
        self._tail = _Rows(**state) if state else None


def _rows(fragment: Fragment) -> _Rows:
    after = fragment["obs"][1:].copy()  # (T, B, *obs_shape)
    index = fragment["final_index"]
    after[index[:, 0], index[:, 1]] = fragment["final_obs"]
    return _Rows(
        obs=fragment["obs"][:-1],
        after=after,
        actions=fragment["actions"],
        reward=fragment["reward"],
        terminated=fragment["terminated"],
        done=fragment["terminated"] | fragment["truncated"],
        valid=fragment["valid"],
    )
