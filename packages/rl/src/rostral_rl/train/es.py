"""Evolution strategies (Salimans et al. 2017): the gradient of the mean score of noisy parameters.

Scores become centred ranks, so that neither their scale nor one lucky candidate counts for more
than its place. Weight decay is part of the gradient, once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rostral_rl.arrays import FloatArray
from rostral_rl.train.evolution import EvolutionSettings, EvolutionTrainer
from rostral_rl.train.parts.schedules import at
from rostral_rl.train.parts.settings import check_number
from rostral_rl.train.parts.snapshot import Snapshot
from rostral_rl.train.trainer import Plan, Trainer

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
"""Adam's constants."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ES(EvolutionSettings):
    """Settings of ES; those not named here are in `EvolutionSettings`.

    Attributes:
        decay: Weight decay: this share of the parameters is part of the gradient.
    """

    algorithm: ClassVar[str] = "es"

    decay: float = 0.005

    def __post_init__(self) -> None:
        EvolutionSettings.__post_init__(self)
        check_number("decay", self.decay)

    def trainer(self, plan: Plan) -> Trainer[ES]:
        """See `Settings.trainer`."""
        return ESTrainer(self, plan)


def centred_ranks(scores: FloatArray) -> FloatArray:
    """Ranks of all scores, evenly spread over [-0.5, 0.5]; equal ones share the mean of theirs."""
    flat = scores.ravel()
    _, place, counts = np.unique(flat, return_inverse=True, return_counts=True)
    before = np.cumsum(counts) - counts  # (values,) how many are smaller
    rank = (before + (counts - 1) / 2.0)[place]  # (2 N,)
    return np.asarray((rank / max(len(flat) - 1, 1) - 0.5).reshape(scores.shape), np.float32)


def gradient(scores: FloatArray, noise: FloatArray, sigma: float) -> FloatArray:
    """The gradient (P,) of the mean rank, from pairs' scores (N, 2) and noise (N, P)."""
    ranks = centred_ranks(scores)  # (N, 2)
    weight = ranks[:, 0] - ranks[:, 1]  # (N,)
    return np.asarray(weight @ noise / (2.0 * len(scores) * sigma), np.float32)


class ESTrainer(EvolutionTrainer[ES]):
    """ES under way."""

    def __init__(self, settings: ES, plan: Plan) -> None:
        super().__init__(settings, plan)
        self._first = np.zeros_like(self._centre)  # (P,)
        self._second = np.zeros_like(self._centre)  # (P,)

    def _move(self, scores: FloatArray, noise: FloatArray) -> None:
        settings, steps = self.settings, self.update + 1
        up = gradient(scores, noise, at(settings.sigma, self.fraction))  # (P,)
        up -= settings.decay * self._centre
        self._first += (1.0 - BETA_1) * (up - self._first)
        self._second += (1.0 - BETA_2) * (np.square(up) - self._second)
        mean = self._first / (1.0 - BETA_1**steps)
        deviation = np.sqrt(self._second / (1.0 - BETA_2**steps)) + EPSILON
        step = at(settings.lr, self.fraction) * mean / deviation  # (P,)
        self._centre = np.asarray(self._centre + step, np.float32)

    def _save(self, snapshot: Snapshot) -> None:
        super()._save(snapshot)
        snapshot.put_all("adam", {"first": self._first, "second": self._second})

    def _load(self, snapshot: Snapshot) -> None:
        super()._load(snapshot)
        kept = snapshot.take_all("adam")
        self._first, self._second = kept["first"].copy(), kept["second"].copy()
