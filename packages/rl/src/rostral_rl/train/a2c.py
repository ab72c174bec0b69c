"""Advantage actor-critic (Mnih et al. 2016): one gradient step per batch, top to bottom.

Synchronous by default (A2C). With `asynchronous=True` nobody is waited for, as in A3C: the fragment
of whichever worker is done first is learned from at once, while the others play on with weights
that are a little older.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rostral_rl.simulate.fragment import Fragment, join
from rostral_rl.simulate.lag import LAG_MAX, LagBound
from rostral_rl.train.actor_critic import (
    ActorCriticSettings,
    ActorCriticTrainer,
    Net,
    flat,
    log_prob_and_entropy,
    refuse_reward_scale,
)
from rostral_rl.train.parts import gae
from rostral_rl.train.parts.memory import Memory
from rostral_rl.train.parts.schedules import Linear, Schedule, at
from rostral_rl.train.parts.settings import check_count, check_number
from rostral_rl.train.trainer import Clock, Plan, Played, Trainer

LEARNING_RATE = Linear(7e-4, 0.0)
"""Default step size: that of most published results."""


@dataclass(frozen=True, slots=True, kw_only=True)
class A2C(ActorCriticSettings):
    """Settings of A2C and A3C; those not named here are in `ActorCriticSettings`.

    Attributes:
        lam: Trace decay of the advantage estimate, in [0, 1]; 1 is the paper's.
        normalise_advantage: To zero mean and unit deviation within the batch.
        asynchronous: Learn from each worker's fragment as it comes. Not reproducible.
        lag_max: As APPO's, where asynchronous.
    """

    algorithm: ClassVar[str] = "a2c"

    envs: int = 16
    steps: int = 8
    lr: Schedule = LEARNING_RATE
    lam: float = 1.0
    normalise_advantage: bool = False
    asynchronous: bool = False
    lag_max: int = LAG_MAX

    def __post_init__(self) -> None:
        ActorCriticSettings.__post_init__(self)
        check_count("lag_max", self.lag_max)
        check_number("lam", self.lam, high=1.0)

    def trainer(self, plan: Plan) -> Trainer[A2C]:
        """See `Settings.trainer`."""
        return A2CTrainer(self, plan)


def a2c_loss(
    net: Net,
    features: Tensor,
    actions: Tensor,
    advantage: Tensor,
    target: Tensor,
    *,
    vf_coef: float,
    ent_coef: float,
    memory: Memory | None = None,
    usable: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Policy gradient, critic's error and entropy bonus.

    Args:
        net: Actor and critic.
        features: (N, D).
        actions: (N,) or (N, A).
        advantage: (N,).
        target: (N,), what the critic shall say.
        vf_coef: Weight of the critic's squared error.
        ent_coef: Weight of the entropy.
        memory: For a net with memory; then the features are those of whole sequences.
        usable: (M,) bool, which of the features' M rows the other arguments are of; None where all.

    Returns:
        Loss (), and policy loss, value loss and entropy (3,).
    """
    outputs, value = net(features, memory)  # (M, A), (M,)
    if usable is not None:
        outputs, value = outputs[usable], value[usable]  # (N, A), (N,)
    logp, entropy = log_prob_and_entropy(net, outputs, actions)  # (N,), (N,)
    policy_loss = -(logp * advantage).mean()
    value_loss = (value - target).square().mean()
    loss = policy_loss + vf_coef * value_loss - ent_coef * entropy.mean()
    return loss, torch.stack((policy_loss, value_loss, entropy.mean())).detach()


class A2CTrainer(ActorCriticTrainer[A2C]):
    """A2C under way."""

    def __init__(self, settings: A2C, plan: Plan) -> None:
        self._bound = LagBound(settings.lag_max)
        if settings.asynchronous:
            refuse_reward_scale(settings, plan)
            self._bound.check(plan.workers)
        super().__init__(settings, plan)

    @property
    def fraction(self) -> float:
        """See `Trainer.fraction`; of steps where each worker's fragment is an update of its own."""
        if self.settings.asynchronous:
            return self.env_steps / self.total_steps
        return super().fraction

    def _rows(self) -> int:
        return self.settings.batch

    def _iterate(self) -> Played:
        clock = Clock()
        if self.settings.asynchronous:
            fragments = [self._rollouts.next(self._weights, self.update, self._bound)]
        else:
            fragments = self._rollouts.collect(self._weights, self.update)
        lag = self.update - min(int(f["version"]) for f in fragments)
        simulate_s = clock.lap()
        fraction = self.fraction
        fragment = join(fragments)
        terms = self._learn(fragment, fraction)
        self.update += 1
        self.env_steps += int(fragment["reward"].size)
        self._weights = self._export()
        if self.update < self.updates and not self.settings.asynchronous:
            self._rollouts.begin(self._weights, self.update)
        names = ("policy_loss", "value_loss", "entropy")
        return Played(
            returns=fragment["episode_return"],
            lengths=fragment["episode_length"],
            metrics={
                "lr": at(self.settings.lr, fraction),
                "lag": float(lag),
                **dict(zip(names, terms.tolist(), strict=True)),
            },
            simulate_s=simulate_s,
            learn_s=clock.lap(),
        )

    def _learn(self, fragment: Fragment, fraction: float) -> Tensor:
        settings = self.settings
        advantage = gae.advantages(
            self._rewards(fragment),
            fragment["value"],
            next_value=fragment["next_value"],
            done=fragment["terminated"] | fragment["truncated"],
            gamma=settings.gamma,
            lam=settings.lam,
        )  # (T, B)
        usable = flat(fragment["valid"])  # (N,)
        weight = flat(advantage)[usable]
        if settings.normalise_advantage:
            deviation, mean = torch.std_mean(weight)
            weight = (weight - mean) / (deviation + 1e-8)
        loss, terms = a2c_loss(
            self._net,
            torch.from_numpy(self._features(fragment)),
            flat(fragment["actions"])[usable],
            weight,
            flat(advantage + fragment["value"])[usable],
            vf_coef=settings.vf_coef,
            ent_coef=at(settings.ent_coef, fraction),
            memory=self._memory(fragment),
            usable=None if usable.all() else usable,
        )
        self._adam.step(loss, lr=at(settings.lr, fraction), norm_max=settings.grad_norm_max)
        return terms
