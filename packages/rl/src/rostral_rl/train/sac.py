"""Soft actor-critic (Haarnoja et al. 2018), with the temperature learned as in its second version.

The actor is a squashed Gaussian. Its log-probability is that of actions in [-1, 1]: scaling them to
the environment's bounds shifts it by a constant, which the temperature would only take back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from rostral_rl.arrays import FloatArray, Weights
from rostral_rl.seeding import Stream
from rostral_rl.train.off_policy import (
    OffPolicySettings,
    OffPolicyTrainer,
    box_spec,
    no_metrics,
)
from rostral_rl.train.parts.optimiser import FlatAdam
from rostral_rl.train.parts.qnet import BoxActor, TwinQ
from rostral_rl.train.parts.replay import Sample
from rostral_rl.train.parts.schedules import Schedule, at
from rostral_rl.train.parts.settings import check_number
from rostral_rl.train.parts.snapshot import Snapshot
from rostral_rl.train.parts.soft import SoftGradient
from rostral_rl.train.trainer import Plan, Trainer

METRICS = ("critic_loss", "actor_loss", "q_mean", "entropy", "temperature")


@dataclass(frozen=True, slots=True, kw_only=True)
class SAC(OffPolicySettings):
    """Settings of SAC; those not named here are in `OffPolicySettings`.

    Attributes:
        lr: Adam's step size, of actor, critics and temperature alike. May be a schedule.
        tau: Share of the way that the target critics move towards the critics in each step.
        temperature: Weight of the entropy at first.
        entropy: What the mean entropy of an action shall be; None, the default, takes minus the
            number of dimensions. Of actions in [-1, 1].
    """

    algorithm: ClassVar[str] = "sac"

    lr: Schedule = 3e-4
    tau: float = 0.005
    temperature: float = 1.0
    entropy: float | None = None

    def __post_init__(self) -> None:
        OffPolicySettings.__post_init__(self)
        check_number("lr", self.lr)
        check_number("tau", self.tau, high=1.0, low_open=True)
        check_number("temperature", self.temperature, low_open=True)
        if self.entropy is not None:
            check_number("entropy", self.entropy, low=-math.inf)

    def trainer(self, plan: Plan) -> Trainer[SAC]:
        """See `Settings.trainer`."""
        return SACTrainer(self, plan)


class SACTrainer(OffPolicyTrainer[SAC]):
    """SAC under way."""

    def __init__(self, settings: SAC, plan: Plan) -> None:
        spec = box_spec(settings, plan, "squashed")
        super().__init__(settings, plan, spec)
        seed = self.tree.seed(Stream.NET)
        self._actor = BoxActor(spec, seed=seed)
        self._critic, self._target = (
            TwinQ(spec.inputs, spec.actions, settings.hidden, seed=seed + 1) for _ in range(2)
        )
        self._actor_adam, self._critic_adam, self._target_adam = (
            FlatAdam(net) for net in (self._actor, self._critic, self._target)
        )
        self._temperature = LogNumber(settings.temperature)
        self._temperature_adam = FlatAdam(self._temperature)
        # Views of what the optimiser moves.
        self._acts = self._actor.weights()
        self._gradient = SoftGradient(self._actor, self._critic, self._target, inputs=spec.inputs)
        wanted = settings.entropy
        self._entropy = -float(spec.actions) if wanted is None else wanted

    def _work(self) -> int:
        return self.settings.minibatch * (self._critic_adam.size + self._actor_adam.size)

    def _acting(self) -> Weights:
        weights = dict(self._acts)
        if self.env_steps < self.settings.start:
            weights["act.uniform"] = np.ones((), np.float32)
        return weights

    def _draw(self) -> Sample:
        return self._replay.draw(self.settings.minibatch, self._draws)

    def _noise(self) -> FloatArray:
        """(2 N, A) standard normals: those of the next states first."""
        shape = (2 * self.settings.minibatch, self.spec.actions)
        return self._draws.standard_normal(shape, dtype=np.float32)

    def _gradient_step(self, sample: Sample) -> dict[str, float] | None:
        batch, rows = self._minibatch(sample), sample.rows
        lr = at(self.settings.lr, self.fraction)
        gradient, temperature = self._gradient, self._temperature().item()
        # What is not finite shows in a loss or a gradient, whose error says more than a warning.
        with np.errstate(all="ignore"):
            gradient.draw(batch.features, batch.next_features, self._noise())
            critic_loss, q_mean = gradient.critics(
                batch.actions, rows.reward, rows.discount, temperature
            )
            self._critic_adam.descend(critic_loss, lr=lr)
            self._critic_adam.copy_to(self._target_adam, self.settings.tau)
            actor_loss, logp = gradient.actor(temperature)
        self._actor_adam.descend(actor_loss, lr=lr)
        # The gradient of log temperature: up where there is too little entropy.
        excess = -logp - self._entropy
        assert self._temperature.log.grad is not None
        self._temperature.log.grad.fill_(excess)
        self._temperature_adam.descend(excess, lr=lr)
        if self.gradient_steps % self.settings.updates:
            return None
        tell = (critic_loss, actor_loss, q_mean, -logp, temperature)
        return dict(zip(METRICS, tell, strict=True))

    def _idle_metrics(self) -> dict[str, float]:
        return {**super()._idle_metrics(), **no_metrics(METRICS)}

    def _optimisers(self) -> dict[str, FlatAdam]:
        return {
            "actor": self._actor_adam,
            "critic": self._critic_adam,
            "target": self._target_adam,
            "temperature": self._temperature_adam,
        }

    def _save(self, snapshot: Snapshot) -> None:
        super()._save(snapshot)
        for name, adam in self._optimisers().items():
            snapshot.put_all(name, adam.state())

    def _load(self, snapshot: Snapshot) -> None:
        super()._load(snapshot)
        for name, adam in self._optimisers().items():
            adam.load(snapshot.take_all(name))


class LogNumber(torch.nn.Module):
    """A positive number that is learned by its logarithm."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.log = torch.nn.Parameter(torch.tensor(math.log(start)))

    def forward(self) -> Tensor:
        """The number, ()."""
        return self.log.exp()


class frozen:  # noqa: N801
    """A block in which a module's parameters get no gradients: what passes through it does."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._parameters = list(module.parameters())

    def __enter__(self) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(False)

    def __exit__(self, *error: object) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(True)
