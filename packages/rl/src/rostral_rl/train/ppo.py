"""Proximal policy optimisation (Schulman et al. 2017), top to bottom: settings, loss, loop.

Synchronous and on-policy: weights go out, every environment plays `steps` steps, all fragments come
back, and `epochs` passes of minibatches follow. No step is ever played with older weights than the
newest, so actors simulate while this process reports and evaluates, and wait while it learns. With
one seed the result is the same whoever simulates, up to the rounding of different batch sizes.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from rostral_rl.arrays import FloatArray, SpaceArray
from rostral_rl.errors import ConfigError, InvalidSettingError
from rostral_rl.seeding import Stream
from rostral_rl.simulate.fragment import Fragment, join
from rostral_rl.train.actor_critic import (
    ActorCriticSettings,
    ActorCriticTrainer,
    Net,
    flat,
    log_prob_and_entropy,
    mean_of,
)
from rostral_rl.train.learners import Learners
from rostral_rl.train.parts import gae
from rostral_rl.train.parts.device import AUTO, CPU, check_device, choose_device, on_device
from rostral_rl.train.parts.direct import LossTerms, PPOGradient
from rostral_rl.train.parts.memory import Memory
from rostral_rl.train.parts.nets import ActorCritic
from rostral_rl.train.parts.optimiser import FlatAdam
from rostral_rl.train.parts.schedules import Linear, Schedule, at
from rostral_rl.train.parts.settings import check_count, check_number
from rostral_rl.train.parts.snapshot import Snapshot
from rostral_rl.train.trainer import Clock, Iteration, Plan, Played

__all__ = ["PPO", "Batch", "Iteration", "LossTerms", "Trainer", "ppo_loss"]

logger = logging.getLogger("rostral.rl.train")

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
        learners: Actors that share out each minibatch; 1 learns in this process. The result does
            not depend on it, up to rounding. Pays for nets whose gradients take milliseconds.
        device: Where gradient steps run: "cpu", "cuda", "cuda:N", or "auto", which times the first
            minibatch's step on each device that there is and takes the quickest. Several learners
            run on the CPU.
    """

    algorithm: ClassVar[str] = "ppo"

    minibatch: int = 256
    epochs: int = 4
    lr: Schedule = LEARNING_RATE
    lam: float = 0.95
    clip: Schedule = 0.2
    clip_value: float | None = None
    normalise_advantage: bool = True
    learners: int = 1
    device: str = CPU

    def __post_init__(self) -> None:
        ActorCriticSettings.__post_init__(self)
        for name in ("minibatch", "epochs", "learners"):
            check_count(name, getattr(self, name))
        check_number("lam", self.lam, high=1.0)
        check_number("clip", self.clip)
        if self.clip_value is not None:
            check_number("clip_value", self.clip_value, low_open=True)
        check_device(self.device)
        if self.learners > 1 and self.device not in (AUTO, CPU):
            raise ConfigError("device", self.device, allowed="'auto' or 'cpu' with learners > 1")
        if self.batch % self.minibatch:
            raise InvalidSettingError(
                f"minibatch {self.minibatch} does not divide the batch of "
                f"{self.envs} envs x {self.steps} steps = {self.batch}"
            )
        if self.lstm and self.minibatch % self.steps:
            raise ConfigError(
                "minibatch",
                self.minibatch,
                allowed=f"a multiple of steps = {self.steps} with an lstm, which learns fragments",
            )
        if self.minibatch < 2 and self.normalise_advantage:
            raise InvalidSettingError(
                "minibatch must be >= 2 where advantages are normalised within it"
            )

    def trainer(self, plan: Plan) -> Trainer:
        """See `Settings.trainer`."""
        return Trainer(self, plan)


COLUMNS = ("features", "actions", "logp", "value", "advantage", "target")
"""Of a batch, in its order."""


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
        memory: For a net with memory; then features are those of whole sequences.
        usable: (N,) bool, which of the features' rows the other columns are of; None where of all.
    """

    features: Tensor
    actions: Tensor
    logp: Tensor
    value: Tensor
    advantage: Tensor
    target: Tensor
    memory: Memory | None = None
    usable: Tensor | None = None

    def on(self, device: str) -> Batch:
        """The same on a device: what is there already is not copied."""
        if device == CPU:
            return self
        columns = {name: on_device(getattr(self, name), device) for name in COLUMNS}
        memory = None if self.memory is None else self.memory.on(device)
        usable = None if self.usable is None else on_device(self.usable, device)
        return Batch(**columns, memory=memory, usable=usable)

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

    def take(self, index: Tensor | None, valid: Tensor) -> Batch:
        """A minibatch: the rows at `index`; with memory the environments there, as sequences.

        Args:
            index: (M,) int64; None takes all.
            valid: (N,) bool. Rows of sequences that are not go through the net, and no further.
        """
        if index is None:
            return self
        if self.memory is None:
            return self.rows(index)
        rows = self.memory.rows(index)  # (T * m,)
        usable = valid[rows]  # (T * m,)
        return dataclasses.replace(
            self.rows(rows[usable]),
            features=self.features[rows],
            memory=self.memory.columns(index),
            usable=None if usable.all() else usable,
        )

    def share(self, rank: int, count: int) -> Batch:
        """One of `count` nearly equal parts; whole sequences where there is memory."""
        if self.memory is None:
            bounds = [len(self.logp) * (rank + i) // count for i in range(2)]
            return self.rows(torch.arange(*bounds))
        steps, environments = self.memory.keeps.shape
        bounds = [environments * (rank + i) // count for i in range(2)]
        usable = self.usable
        if usable is None:
            usable = torch.ones(steps * environments, dtype=torch.bool)
        mine = torch.zeros(steps, environments, dtype=torch.bool)
        mine[:, slice(*bounds)] = True
        kept = self.rows(torch.nonzero(mine.view(-1)[usable])[:, 0])
        return dataclasses.replace(
            kept,
            features=self.features[mine.view(-1)],
            memory=self.memory.columns(torch.arange(*bounds)),
            usable=usable[mine.view(-1)],
        )

    def arrays(self, valid: Tensor) -> dict[str, SpaceArray]:
        """The columns, and which rows are valid, as they travel."""
        found = {name: getattr(self, name).numpy() for name in COLUMNS} | {"valid": valid.numpy()}
        if self.memory is not None:
            found |= {"state": self.memory.state.numpy(), "keeps": self.memory.keeps.numpy()}
        return found

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, SpaceArray]) -> tuple[Batch, Tensor]:
        """What `arrays` gave, and which rows are valid; copies what came read-only."""
        found = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
        memory = Memory(found["state"], found["keeps"]) if "state" in found else None
        columns = {name: found[name] for name in COLUMNS}
        return cls(**columns, memory=memory), found["valid"]


def ppo_loss(net: Net, batch: Batch, settings: PPO, fraction: float) -> tuple[Tensor, LossTerms]:
    """Clipped surrogate, critic's error and entropy bonus (eq. 9 of the paper, negated).

    Args:
        net: Actor and critic.
        batch: M samples.
        settings: Coefficients.
        fraction: How much of the training is done, for schedules.

    Returns:
        Loss () float32, and what it is made of.
    """
    outputs, value = net(batch.features, batch.memory)  # (M, A), (M,)
    if batch.usable is not None:
        outputs, value = outputs[batch.usable], value[batch.usable]
    logp, entropy = log_prob_and_entropy(net, outputs, batch.actions)  # (M,), (M,)
    advantage = weighed(batch.advantage, settings)  # (M,)
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


def weighed(advantage: Tensor, settings: PPO) -> Tensor:
    """Advantages (M,) as the loss takes them."""
    if not settings.normalise_advantage:
        return advantage
    deviation, mean = torch.std_mean(advantage)
    return (advantage - mean) / (deviation + 1e-8)


class Trainer(ActorCriticTrainer[PPO]):
    """PPO under way."""

    def __init__(self, settings: PPO, plan: Plan) -> None:
        super().__init__(settings, plan)
        self._shuffle = self.tree.generator(Stream.SHUFFLE)
        self._device = CPU
        self._direct: PPOGradient | None = None
        if isinstance(self._net, ActorCritic) and settings.clip_value is None:
            self._direct = PPOGradient(self._net)
        self._learners: Learners | None = None
        if settings.learners > 1:
            address = None if plan.workers else plan.address  # else joined already
            try:
                self._learners = Learners(settings, self._spec, self._adam, address=address)
            except BaseException:
                self._rollouts.close()
                raise

    @property
    def restarts(self) -> int:
        """See `Trainer.restarts`; learners count too."""
        return super().restarts + (self._learners.restarts if self._learners else 0)

    def close(self) -> None:
        """See `Trainer.close`."""
        if self._learners is not None:
            self._learners.close()
        super().close()

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
        valid = flat(fragment["valid"])  # (N,)
        orders = [order for _ in range(settings.epochs) for order in self._orders(fragment)]
        if self._learners is not None:
            self.device_reason = f"{CPU}: several learners share out the minibatches there"
            return self._learners.learn(batch, valid, orders, fraction).numpy()
        if not self.device_reason:
            self._choose_device(batch.take(orders[0], valid))
        batch = batch.on(self._device)
        last: list[Tensor] = []
        for i, order in enumerate(orders):
            rows = batch.take(order, valid)
            if len(rows.logp) < 2 and settings.normalise_advantage:
                continue
            terms = self._step_down(rows, fraction)
            if i >= len(orders) - len(orders) // settings.epochs:
                last.append(terms.diagnostics())
        return mean_of(last)

    def _choose_device(self, rows: Batch) -> None:
        """Goes to the device that is best for the steps to come, of which this is the first."""
        choice = choose_device(self.settings.device, lambda device: self._trial(rows, device))
        self.device_reason = choice.reason
        logger.info("learner on %s", choice.reason)
        if choice.device != self._device:
            self._move(choice.device)

    def _trial(self, rows: Batch, device: str) -> Callable[[], object]:
        """A gradient step on a device, of a net and an optimiser that nobody else has."""
        trial = copy.copy(self)
        trial._net = copy.deepcopy(self._net)
        trial._move(device)
        there = rows.on(device)
        return lambda: trial._step_down(there, 0.0)

    def _move(self, device: str) -> None:
        """Takes net and optimiser to a device."""
        state = self._adam.state()
        self._net = self._net.to(device)
        self._adam = FlatAdam(self._net)
        self._adam.load(state)
        self._direct = None
        if device == CPU and isinstance(self._net, ActorCritic) and not self.settings.clip_value:
            self._direct = PPOGradient(self._net)
        self._device = device

    def _step_down(self, rows: Batch, fraction: float) -> LossTerms:
        """One gradient step."""
        settings = self.settings
        lr, norm_max = at(settings.lr, fraction), settings.grad_norm_max
        if self._direct is None:
            loss, terms = ppo_loss(self._net, rows, settings, fraction)
            self._adam.step(loss, lr=lr, norm_max=norm_max)
            return terms
        ent_coef = at(settings.ent_coef, fraction)
        terms = self._direct(
            rows.features,
            rows.actions,
            rows.logp,
            weighed(rows.advantage, settings),
            rows.target,
            clip=at(settings.clip, fraction),
            vf_coef=settings.vf_coef,
            ent_coef=ent_coef,
        )
        loss = terms.policy + settings.vf_coef * terms.value - ent_coef * terms.entropy
        self._adam.descend(loss.item(), lr=lr, norm_max=norm_max)
        return terms

    def _orders(self, fragment: Fragment) -> list[Tensor | None]:
        """One epoch's minibatches: rows in any order, or environments where there is memory.

        None stands for everything as it is.
        """
        settings = self.settings
        part = settings.minibatch
        if self._spec.lstm:
            shuffled = torch.from_numpy(self._shuffle.permutation(settings.envs))  # (B,)
            return list(torch.split(shuffled, part // settings.steps))
        # But for the rows that were spent on resets.
        usable = np.flatnonzero(fragment["valid"])  # (N,)
        if part == settings.batch == len(usable):
            return [None]
        shuffled = torch.from_numpy(self._shuffle.permutation(usable))  # (N,)
        return list(torch.split(shuffled, part))

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
            self._memory(fragment),
        )

    def _save(self, snapshot: Snapshot) -> None:
        super()._save(snapshot)
        snapshot.put_generator("shuffle", self._shuffle)

    def _load(self, snapshot: Snapshot) -> None:
        super()._load(snapshot)
        snapshot.take_generator("shuffle", self._shuffle)
        if self._learners is not None:
            self._learners.forget()
