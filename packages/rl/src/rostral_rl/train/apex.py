"""Ape-X (Horgan et al. 2018): DQN whose actors never wait, each with its own share of exploration.

Environment i of B takes a random action with probability `epsilon ** (1 + ladder * i / (B - 1))`: a
few explore much and the rest play nearly greedily, and replay by priority picks what is worth it.
Replay lies in the learner's process; fragments reach it through the object store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from rostral_rl.simulate.fragment import Fragment, join
from rostral_rl.train.dqn import DQN, QTrainer
from rostral_rl.train.parts.schedules import Schedule, at
from rostral_rl.train.parts.settings import check_count, check_number
from rostral_rl.train.trainer import Plan, Trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class ApeX(DQN):
    """DQN's settings with Ape-X's defaults; those not named here are in `DQN`.

    Attributes:
        ladder: How far apart the exploration of the first and the last environment are.
    """

    algorithm: ClassVar[str] = "apex"

    envs: int = 8
    steps: int = 16
    updates: int = 16
    n_step: int = 3
    alpha: float = 0.6
    epsilon: Schedule = 0.4
    ladder: float = 7.0

    def __post_init__(self) -> None:
        DQN.__post_init__(self)
        check_count("envs", self.envs)
        check_number("ladder", self.ladder)

    def trainer(self, plan: Plan) -> Trainer[Any]:
        """See `Settings.trainer`."""
        return ApeXTrainer(self, plan)


class ApeXTrainer(QTrainer[ApeX]):
    """Ape-X under way. A round is one worker's fragment."""

    @property
    def fraction(self) -> float:
        """See `Trainer.fraction`; of steps here, since a round is one worker's."""
        return self.env_steps / self.total_steps

    def _epsilon(self) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        envs = self.settings.envs
        steps = np.arange(envs, dtype=np.float32) / max(envs - 1, 1)  # (B,)
        epsilon = at(self.settings.epsilon, self.fraction / self.settings.explore)
        return np.asarray(np.float32(epsilon) ** (1.0 + self.settings.ladder * steps), np.float32)

    def _collect(self) -> tuple[int, Fragment]:
        fragment = self._rollouts.next(self._acting(), self.update)
        return int(fragment["first"]), join([fragment])
