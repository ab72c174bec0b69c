"""Proximal policy optimisation (Schulman et al. 2017), top to bottom: settings, loss, loop.

Synchronous and on-policy: weights go out, every environment plays `steps` steps, all fragments come
back, and `epochs` passes of minibatches follow. No step is ever played with older weights than the
newest, so actors simulate while this process reports and evaluates, and wait while it learns. With
one seed the result is the same whoever simulates, up to the rounding of different batch sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rostral_rl.arrays import FloatArray
from rostral_rl.errors import InvalidSettingError
from rostral_rl.seeding import Stream
from rostral_rl.simulate.fragment import Fragment, join
from rostral_rl.train.actor_critic import (
    ActorCriticSettings,
    ActorCriticTrainer,
    flat,
    log_prob_and_entropy,
    mean_of,
)
from rostral_rl.train.parts import gae
from rostral_rl.train.parts.nets import ActorCritic
from rostral_rl.train.parts.schedules import Linear, Schedule, at
from rostral_rl.train.parts.settings import check_count, check_number
from rostral_rl.train.parts.snapshot import Snapshot
from rostral_rl.train.trainer import Clock, Iteration, Plan, Played

__all__ = ["PPO", "Batch", "Iteration", "LossTerms", "Trainer", "ppo_loss"]

LEARNING_RATE = Linear(2.5e-4, 0.0)
"""Default step size: that of the paper's Atari experiments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PPO(ActorCriticSettings):
    """Settings of PPO; those not named here are in `ActorCriticSettings`.

    Attributes:
        minibatch: Samples per gradient step; divides the batch of `envs * steps`.
        epochs: Passes over the batch per update.
        lam: Trace decay of the advantage estimate, in [0, 1].
        clip: How far the probability ratio may leave 1 before its gradient stops. May be a
            schedule.
        clip_value: The critic may move this far from its old estimate; None, the default, does not
            limit it, because limiting it was found to help in no ablation (Andrychowicz et al.
            2021).
        normalise_advantage: To zero mean and unit deviation within each minibatch.
    """

    algorithm: ClassVar[str] = "ppo"

    minibatch: int = 256
    epochs: int = 4
    lr: Schedule = LEARNING_RATE
    lam: float = 0.95
    clip: Schedule = 0.2
    clip_value: float | None = None
    normalise_advantage: bool = True

    def __post_init__(self) -> None:
        ActorCriticSettings.__post_init__(self)
        for name in ("minibatch", "epochs"):
            check_count(name, getattr(self, name))
        check_number("lam", self.lam, high=1.0)
        check_number("clip", self.clip)
        if self.clip_value is not None:
            check_number("clip_value", self.clip_value, low_open=True)
        if self.batch % self.minibatch:
            raise InvalidSettingError(
                f"minibatch {self.minibatch} does not divide the batch of "
                f"{self.envs} envs x {self.steps} steps = {self.batch}"
            )
        if self.minibatch < 2 and self.normalise_advantage:
            raise InvalidSettingError(
                "minibatch must be >= 2 where advantages are normalised within it"
            )

    def trainer(self, plan: Plan) -> Trainer:
        """See `Settings.trainer`."""
        return Trainer(self, plan)


@dataclass(frozen=True, slots=True)
class Batch:
    """N samples as tensors; the time axis is gone.

    Attributes:
        features: (N, D) float32, normalised.
        actions: (N,) or (N, parts) int64, or (N, A) float32.
        logp: (N,) float32, when they were drawn.
        value: (N,) float32, when they were drawn.
        advantage: (N,) float32.
        target: (N,) float32, what the critic shall say.
    """

    features: Tensor
    actions: Tensor
    logp: Tensor
    value: Tensor
    advantage: Tensor
    target: Tensor

    def rows(self, index: Tensor) -> Batch:
        """The samples at `index` (M,) int64."""
        return Batch(
            self.features[index],
            self.actions[index],
            self.logp[index],
            self.value[index],
            self.advantage[index],
            self.target[index],
        )


class LossTerms(NamedTuple):
    """Parts of one minibatch's loss.

    Attributes:
        policy: () float32, clipped surrogate, negated.
        value: () float32, the critic's squared error.
        entropy: () float32.
        ratio: (M,) float32, probability now over probability when drawn.
        clipped: (M,) float32, the same within its limits.
    """

    policy: Tensor
    value: Tensor
    entropy: Tensor
    ratio: Tensor
    clipped: Tensor

    @torch.no_grad()
    def diagnostics(self) -> Tensor:
        """Policy loss, value loss, entropy, KL estimate and clipped share, (5,) float32."""
        # Schulman's low-variance estimate of KL(old, new): E[(r - 1) - log r], never negative.
        divergence = (self.ratio - 1.0 - self.ratio.log()).mean()
        share = (self.ratio != self.clipped).float().mean()
        return torch.stack((self.policy, self.value, self.entropy, divergence, share))


def ppo_loss(
    net: ActorCritic, batch: Batch, settings: PPO, fraction: float
) -> tuple[Tensor, LossTerms]:
    """Clipped surrogate, critic's error and entropy bonus (eq. 9 of the paper, negated).

    Args:
        net: Actor and critic.
        batch: M samples.
        settings: Coefficients.
        fraction: How much of the training is done, for schedules.

    Returns:
        Loss () float32, and what it is made of.
    """
    outputs, value = net(batch.features)  # (M, A), (M,)
    logp, entropy = log_prob_and_entropy(net, outputs, batch.actions)  # (M,), (M,)
    advantage = batch.advantage  # (M,)
    if settings.normalise_advantage:
        deviation, mean = torch.std_mean(advantage)
        advantage = (advantage - mean) / (deviation + 1e-8)
    ratio = (logp - batch.logp).exp()  # (M,)
    clip = at(settings.clip, fraction)
    clipped = ratio.clamp(1.0 - clip, 1.0 + clip)  # (M,)
    policy_loss = -torch.minimum(ratio * advantage, clipped * advantage).mean()
    error = (value - batch.target).square()  # (M,)
    if settings.clip_value is not None:
        limit = settings.clip_value
        near = batch.value + (value - batch.value).clamp(-limit, limit)  # (M,)
        error = torch.maximum(error, (near - batch.target).square())
    terms = LossTerms(policy_loss, error.mean(), entropy.mean(), ratio, clipped)
    loss = terms.policy + settings.vf_coef * terms.value
    entropy_coefficient = at(settings.ent_coef, fraction)
    if entropy_coefficient:
        loss = loss - entropy_coefficient * terms.entropy
    return loss, terms


class Trainer(ActorCriticTrainer[PPO]):
    """PPO under way."""

    def __init__(self, settings: PPO, plan: Plan) -> None:
        super().__init__(settings, plan)
        self._shuffle = self.tree.generator(Stream.SHUFFLE)

    def _rows(self) -> int:
        return self.settings.minibatch

    def _iterate(self) -> Played:
        clock = Clock()
        fragments = self._rollouts.collect(self._weights, self.update)
        simulate_s = clock.lap()
        fraction = self.fraction
        fragment = join(fragments)
        diagnostics = self._learn(fragment, fraction)
        self.update += 1
        self.env_steps += self.settings.batch
        self._weights = self._export()
        if self.update < self.updates:
            # Environments go on at once, while this process counts, reports and evaluates.
            self._rollouts.begin(self._weights, self.update)
        names = ("policy_loss", "value_loss", "entropy", "kl", "clipped_share")
        return Played(
            returns=fragment["episode_return"],
            lengths=fragment["episode_length"],
            metrics={
                "lr": at(self.settings.lr, fraction),
                **dict(zip(names, diagnostics.tolist(), strict=True)),
            },
            simulate_s=simulate_s,
            learn_s=clock.lap(),
        )

    def _learn(self, fragment: Fragment, fraction: float) -> FloatArray:
        """Updates the net; returns the mean diagnostics (5,) of the last epoch."""
        settings = self.settings
        batch = self._batch(fragment)
        usable = np.flatnonzero(
            fragment["valid"]
        )  # (N,) but for the rows that were spent on resets
        part, lr = settings.minibatch, at(settings.lr, fraction)
        whole = part == settings.batch == len(usable)
        last: list[Tensor] = []
        for epoch in range(settings.epochs):
            order = None if whole else torch.from_numpy(self._shuffle.permutation(usable))  # (N,)
            for start in range(0, len(usable), part):
                rows = batch if order is None else batch.rows(order[start : start + part])
                if len(rows.logp) < 2 and settings.normalise_advantage:
                    continue
                loss, terms = ppo_loss(self._net, rows, settings, fraction)
                self._adam.step(loss, lr=lr, norm_max=settings.grad_norm_max)
                if epoch == settings.epochs - 1:
                    last.append(terms.diagnostics())
        return mean_of(last)

    def _batch(self, fragment: Fragment) -> Batch:
        settings = self.settings
        advantage = gae.advantages(
            self._rewards(fragment),
            fragment["value"],
            next_value=fragment["next_value"],
            done=fragment["terminated"] | fragment["truncated"],
            gamma=settings.gamma,
            lam=settings.lam,
        )  # (T, B)
        return Batch(
            torch.from_numpy(self._features(fragment)),
            flat(fragment["actions"]),
            flat(fragment["logp"]),
            flat(fragment["value"]),
            flat(advantage),
            flat(advantage + fragment["value"]),
        )

    def _save(self, snapshot: Snapshot) -> None:
        super()._save(snapshot)
        snapshot.put_generator("shuffle", self._shuffle)

    def _load(self, snapshot: Snapshot) -> None:
        super()._load(snapshot)
        snapshot.take_generator("shuffle", self._shuffle)
