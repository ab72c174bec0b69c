"""Augmented random search (Mania et al. 2018), V2-t: a linear policy, and the best directions only.

The step is divided by the deviation of the scores that it is made of, so that one step size does
for the beginning of a training and for its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rostral_rl.arrays import FloatArray
from rostral_rl.errors import ConfigError
from rostral_rl.train.evolution import EvolutionSettings, EvolutionTrainer
from rostral_rl.train.parts.schedules import Schedule, at
from rostral_rl.train.parts.settings import check_count
from rostral_rl.train.trainer import Plan, Trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class ARS(EvolutionSettings):
    """Settings of ARS; those not named here are in `EvolutionSettings`.

    Attributes:
        top: Pairs that the step is made of: those whose better candidate scored best; 0 takes all.
    """

    algorithm: ClassVar[str] = "ars"

    pairs: int = 8
    top: int = 0
    sigma: Schedule = 0.03
    lr: Schedule = 0.02
    normalise_obs: bool = True

    def __post_init__(self) -> None:
        EvolutionSettings.__post_init__(self)
        if self.top:
            check_count("top", self.top)
        if self.top > self.pairs:
            raise ConfigError("top", self.top, allowed=f"at most pairs = {self.pairs}")

    def trainer(self, plan: Plan) -> Trainer[ARS]:
        """See `Settings.trainer`."""
        return ARSTrainer(self, plan)


def direction(scores: FloatArray, noise: FloatArray, top: int) -> FloatArray:
    """The step (P,) at step size 1, from pairs' scores (N, 2) and noise (N, P).

    Where all scores are equal they say nothing, and the step is 0.
    """
    best = np.argsort(-scores.max(axis=1), kind="stable")[:top]  # (top,)
    deviation = scores[best].std()
    if deviation == 0.0:
        return np.zeros(noise.shape[1], np.float32)
    weight = scores[best, 0] - scores[best, 1]  # (top,)
    return np.asarray(weight @ noise[best] / (top * deviation), np.float32)


class ARSTrainer(EvolutionTrainer[ARS]):
    """ARS under way."""

    def _move(self, scores: FloatArray, noise: FloatArray) -> None:
        step = direction(scores, noise, self.settings.top or self.settings.pairs)  # (P,)
        rate = np.float32(at(self.settings.lr, self.fraction))
        self._centre = np.asarray(self._centre + rate * step, np.float32)
