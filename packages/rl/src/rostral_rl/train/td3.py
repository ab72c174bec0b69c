"""Twin delayed deep deterministic policy gradient (Fujimoto et al. 2018).

Its three repairs of DDPG: the smaller of two critics is believed, the actor is updated less often
than they are, and the target action is blurred, so that a narrow peak of a critic is of no use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from rostral_rl.arrays import FloatArray, Weights
from rostral_rl.seeding import Stream
from rostral_rl.train.off_policy import (
    Minibatch,
    OffPolicySettings,
    OffPolicyTrainer,
    box_spec,
    no_metrics,
)
from rostral_rl.train.parts.optimiser import FlatAdam
from rostral_rl.train.parts.qnet import BoxActor, TwinQ
from rostral_rl.train.parts.replay import Sample
from rostral_rl.train.parts.schedules import Schedule, at
from rostral_rl.train.parts.settings import check_count, check_number
from rostral_rl.train.parts.snapshot import Snapshot
from rostral_rl.train.sac import frozen
from rostral_rl.train.trainer import Plan, Trainer

METRICS = ("critic_loss", "q_mean")


@dataclass(frozen=True, slots=True, kw_only=True)
class TD3(OffPolicySettings):
    """Settings of TD3; those not named here are in `OffPolicySettings`. Actions lie in [-1, 1].

    Attributes:
        lr: Adam's step size, of actor and critics. May be a schedule.
        tau: Share of the way that the target nets move in each update of the actor.
        noise: Deviation of what is added to actions while exploring. May be a schedule.
        delay: Updates of the critics for one of the actor.
        blur: Deviation of the noise on target actions.
        blur_max: What that noise is cut to.
    """

    algorithm: ClassVar[str] = "td3"

    lr: Schedule = 1e-3
    tau: float = 0.005
    noise: Schedule = 0.1
    delay: int = 2
    blur: float = 0.2
    blur_max: float = 0.5

    def __post_init__(self) -> None:
        OffPolicySettings.__post_init__(self)
        check_number("lr", self.lr)
        check_number("tau", self.tau, high=1.0, low_open=True)
        check_number("noise", self.noise)
        check_count("delay", self.delay)
        check_number("blur", self.blur)
        check_number("blur_max", self.blur_max)

    def trainer(self, plan: Plan) -> Trainer[TD3]:
        """See `Settings.trainer`."""
        return TD3Trainer(self, plan)


class TD3Trainer(OffPolicyTrainer[TD3]):
    """TD3 under way."""

    def __init__(self, settings: TD3, plan: Plan) -> None:
        spec = box_spec(settings, plan, "deterministic")
        super().__init__(settings, plan, spec)
        seed = self.tree.seed(Stream.NET)
        self._actor, self._actor_target = (BoxActor(spec, seed=seed) for _ in range(2))
        self._critic, self._critic_target = (
            TwinQ(spec.inputs, spec.actions, settings.hidden, seed=seed + 1) for _ in range(2)
        )
        self._adams = {
            "actor": FlatAdam(self._actor),
            "critic": FlatAdam(self._critic),
            "actor_target": FlatAdam(self._actor_target),
            "critic_target": FlatAdam(self._critic_target),
        }

    def _work(self) -> int:
        return self.settings.minibatch * (self._adams["critic"].size + self._adams["actor"].size)

    def _acting(self) -> Weights:
        weights = self._actor.weights()
        if self.env_steps < self.settings.start:
            weights["act.uniform"] = np.ones((), np.float32)
        weights["act.noise"] = np.array(at(self.settings.noise, self.fraction), np.float32)
        return weights

    def _draw(self) -> Sample:
        return self._replay.draw(self.settings.minibatch, self._draws)

    def _gradient_step(self, sample: Sample) -> dict[str, float] | None:
        settings, adams = self.settings, self._adams
        batch = self._minibatch(sample)
        lr = at(settings.lr, self.fraction)
        critic_loss, q_mean = self._critic_loss(batch)
        adams["critic"].step(critic_loss, lr=lr)
        if self.gradient_steps % settings.delay == 0:
            with frozen(self._critic):
                action = self._actor(batch.features).tanh()  # (N, A)
                adams["actor"].step(-self._critic(batch.features, action)[0].mean(), lr=lr)
            for name in ("actor", "critic"):
                adams[name].copy_to(adams[f"{name}_target"], settings.tau)
        if self.gradient_steps % settings.updates:
            return None
        return dict(zip(METRICS, (critic_loss.item(), q_mean.item()), strict=True))

    def _critic_loss(self, batch: Minibatch) -> tuple[Tensor, Tensor]:
        settings = self.settings
        drawn: FloatArray = self._draws.standard_normal(
            (settings.minibatch, self.spec.actions), dtype=np.float32
        )
        blur = (torch.from_numpy(drawn) * settings.blur).clamp(
            -settings.blur_max, settings.blur_max
        )  # (N, A)
        with torch.no_grad():
            action = (self._actor_target(batch.next_features).tanh() + blur).clamp(-1.0, 1.0)
            following = self._critic_target(batch.next_features, action).amin(0)  # (N,)
            goal = batch.reward + batch.discount * following  # (N,)
        values = self._critic(batch.features, batch.actions)  # (2, N)
        return (values - goal).square().mean(1).sum(), values.detach().mean()

    def _idle_metrics(self) -> dict[str, float]:
        return {**super()._idle_metrics(), **no_metrics(METRICS)}

    def _save(self, snapshot: Snapshot) -> None:
        super()._save(snapshot)
        for name, adam in self._adams.items():
            snapshot.put_all(name, adam.state())

    def _load(self, snapshot: Snapshot) -> None:
        super()._load(snapshot)
        for name, adam in self._adams.items():
            adam.load(snapshot.take_all(name))
