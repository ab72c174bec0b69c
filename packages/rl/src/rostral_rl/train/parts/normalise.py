"""Running mean and variance of observations, and the scale of rewards, merged batch by batch.

Merging is that of Chan et al. 1979, so that it does not matter how the batches were cut.
"""

from __future__ import annotations

import numpy as np

from rostral_rl.arrays import BoolArray, FloatArray, SpaceArray, Weights

EPSILON = 1e-8


class RunningMoments:
    """Mean and variance per feature of everything merged so far; double precision inside.

    Args:
        width: D, number of features.
        skipped: Features that are passed on as they are: what a mask says is not to be scaled.
    """

    def __init__(self, width: int, skipped: slice | None = None) -> None:
        self._skipped = skipped
        self.count = 0.0
        self.mean = np.zeros(width)  # (D,)
        self.variance = np.ones(width)  # (D,)

    def merge(self, batch: SpaceArray) -> None:
        """Takes in features (N, D), as if all batches had been one."""
        if len(batch):
            mean, variance = (
                batch.mean(axis=0, dtype=np.float64),
                batch.var(axis=0, dtype=np.float64),
            )
            self.merge_moments(float(len(batch)), mean, variance)

    def merge_moments(self, count: float, mean: SpaceArray, variance: SpaceArray) -> None:
        """Takes in `count` > 0 observations of which mean and variance (D,) are known."""
        total = self.count + count
        shift = mean - self.mean  # (D,)
        weighted = (
            self.variance * self.count + variance * count + shift**2 * (self.count * count / total)
        )
        self.mean = self.mean + shift * (count / total)
        self.variance = weighted / total
        self.count = total

    def weights(self) -> Weights:
        """What the forward pass needs, under the names it looks for."""
        mean = self.mean.astype(np.float32)
        std = np.sqrt(self.variance + EPSILON).astype(np.float32)
        if self._skipped is not None:
            mean[self._skipped], std[self._skipped] = 0.0, 1.0
        return {"obs.mean": mean, "obs.std": std}

    def state(self) -> dict[str, SpaceArray]:
        """For a checkpoint."""
        return {"count": np.array(self.count), "mean": self.mean, "variance": self.variance}

    def load(self, state: dict[str, SpaceArray]) -> None:
        """Takes `state` back."""
        self.count = float(state["count"])
        self.mean, self.variance = state["mean"].copy(), state["variance"].copy()


class RewardScale:
    """Divides rewards by the running deviation of the discounted return of each environment.

    The mean is left: taking it away would pay an agent for living, or for dying.

    Args:
        count: B, number of environments.
        gamma: Discount of the training.
    """

    def __init__(self, count: int, gamma: float) -> None:
        self._gamma = gamma
        self._running = np.zeros(count)  # (B,) discounted return of the running episodes
        self._moments = RunningMoments(1)

    def __call__(self, reward: FloatArray, done: BoolArray) -> FloatArray:
        """Takes rewards (T, B) in, with the ends of episodes (T, B); returns them scaled."""
        seen = np.empty(reward.shape)  # (T, B)
        for t in range(len(reward)):
            self._running = self._running * self._gamma + reward[t]
            seen[t] = self._running
            self._running[done[t]] = 0.0
        self._moments.merge(seen.reshape(-1, 1))
        scale = np.sqrt(self._moments.variance[0] + EPSILON)
        return np.asarray(reward / scale, np.float32)

    def state(self) -> dict[str, SpaceArray]:
        """For a checkpoint."""
        return {"running": self._running, **self._moments.state()}

    def load(self, state: dict[str, SpaceArray]) -> None:
        """Takes `state` back."""
        self._running = state["running"].copy()
        self._moments.load(state)
