"""Running mean and variance of observations, merged batch by batch (Chan et al. 1979)."""

from __future__ import annotations

import numpy as np

from rostral_rl.arrays import FloatArray, Weights

EPSILON = 1e-8


class RunningMoments:
    """Mean and variance per feature of everything merged so far; double precision inside.

    Args:
        width: D, number of features.
    """

    def __init__(self, width: int) -> None:
        self.count = 0.0
        self.mean = np.zeros(width)  # (D,)
        self.variance = np.ones(width)  # (D,)

    def merge(self, batch: FloatArray) -> None:
        """Takes in features (N, D), as if all batches had been one."""
        count = float(len(batch))
        mean = batch.mean(axis=0, dtype=np.float64)  # (D,)
        variance = batch.var(axis=0, dtype=np.float64)  # (D,)
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
        return {
            "obs.mean": self.mean.astype(np.float32),
            "obs.std": np.sqrt(self.variance + EPSILON).astype(np.float32),
        }
