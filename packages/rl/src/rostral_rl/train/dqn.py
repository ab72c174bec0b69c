"""Deep Q-learning (Mnih et al. 2015), with the four additions that cost little and help.

Double (van Hasselt et al. 2016): the online net chooses the next action, the target net rates it.
Duelling (Wang et al. 2016): value and advantage have a last layer each; for acting the two are one.
n-step returns, which never cross an episode's end. Prioritised replay (Schaul et al. 2016).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from gymnasium import spaces as gym_spaces
from torch import Tensor

from rostral_rl import forward
from rostral_rl.arrays import Weights
from rostral_rl.errors import UnsupportedSpaceError
from rostral_rl.images import Convolutions
from rostral_rl.net import multiplications
from rostral_rl.seeding import Stream
from rostral_rl.train.off_policy import Minibatch, OffPolicySettings, OffPolicyTrainer, no_metrics
from rostral_rl.train.parts.direct import QGradient
from rostral_rl.train.parts.optimiser import FlatAdam
from rostral_rl.train.parts.qnet import QNet
from rostral_rl.train.parts.replay import Sample
from rostral_rl.train.parts.schedules import Linear, Schedule, at
from rostral_rl.train.parts.settings import check_conv, check_count, check_number
from rostral_rl.train.parts.snapshot import Snapshot
from rostral_rl.train.trainer import Plan, Trainer, net_spec, spaces_of

EPSILON = Linear(1.0, 0.05)
"""Default exploration."""
BETA = Linear(0.4, 1.0)
"""Default correction of uneven draws: that of the paper on prioritised replay."""

METRICS = ("loss", "q_mean", "error")
TARGET_ROWS = 512
"""Rows of a pass of the target net."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DQN(OffPolicySettings):
    """Settings of DQN; those not named here are in `OffPolicySettings`.

    Attributes:
        lr: Adam's step size. May be a schedule.
        target_every: Environment steps between two copies of the net to the target net.
        epsilon: Share of random actions, over the first `explore` of the training. May be a
            schedule.
        explore: Share of the training over which `epsilon` runs; its end holds afterwards.
        double: The online net chooses the action whose value the target net gives.
        duelling: Value and advantage apart.
        alpha: How much priorities count; 0 draws evenly.
        beta: How far weights correct for that. May be a schedule.
        grad_norm_max: Gradients longer than this are scaled down.
        conv: Convolutions of an image, (filters, size, stride) each; None takes the usual ones for
            images of bytes.
    """

    algorithm: ClassVar[str] = "dqn"

    lr: Schedule = 1e-3
    target_every: int = 500
    epsilon: Schedule = EPSILON
    explore: float = 0.2
    double: bool = True
    duelling: bool = True
    alpha: float = 0.0
    beta: Schedule = BETA
    grad_norm_max: float = 10.0
    conv: Convolutions | None = None
    minibatch: int = 64
    buffer: int = 100_000

    def __post_init__(self) -> None:
        OffPolicySettings.__post_init__(self)
        check_number("lr", self.lr)
        check_count("target_every", self.target_every)
        check_number("epsilon", self.epsilon, high=1.0)
        check_number("explore", self.explore, high=1.0, low_open=True)
        check_number("alpha", self.alpha, high=1.0)
        check_number("beta", self.beta, high=1.0)
        check_number("grad_norm_max", self.grad_norm_max, low_open=True)
        check_conv(self.conv)

    def trainer(self, plan: Plan) -> Trainer[Any]:
        """See `Settings.trainer`."""
        return DQNTrainer(self, plan)


@torch.no_grad()
def goals(batch: Minibatch, next_values: Tensor, chosen: Tensor | None) -> Tensor:
    """What the values of the actions taken should be.

    Args:
        batch: N transitions.
        next_values: (N, A), the target net's word on the next states.
        chosen: (N,) int64, the next actions; None takes those of the highest value.

    Returns:
        (N,).
    """
    if chosen is None:
        best = next_values.amax(1)  # (N,)
    else:
        best = next_values.gather(1, chosen[:, None])[:, 0]  # (N,)
    return torch.addcmul(batch.reward, batch.discount, best)


def q_loss(online: QNet, batch: Minibatch, goal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted Huber loss of the values of the actions taken.

    Args:
        online: The net that learns.
        batch: N transitions.
        goal: (N,), what the values should be.

    Returns:
        Loss (), errors (N,) and values (N,).
    """
    values = online(batch.features).gather(1, batch.actions[:, None])[:, 0]  # (N,)
    error = values - goal  # (N,)
    return huber(error, batch.weight), error.detach(), values.detach()


def huber(error: Tensor, weight: Tensor) -> Tensor:
    """Weighted Huber loss () of errors (N,)."""
    zero = torch.zeros_like(error)
    return (F.smooth_l1_loss(error, zero, reduction="none") * weight).mean()


D = TypeVar("D", bound=DQN)


class QTrainer(OffPolicyTrainer[D]):
    """A training of action values; what DQN and Ape-X share."""

    def __init__(self, settings: D, plan: Plan) -> None:
        self.alpha = settings.alpha
        spec = _spec(settings, plan)
        super().__init__(settings, plan, spec)
        seed = self.tree.seed(Stream.NET)
        self._online = QNet(spec, duelling=settings.duelling, seed=seed)
        self._target = QNet(spec, duelling=settings.duelling, seed=seed)
        self._adam = FlatAdam(self._online)
        self._target_adam = FlatAdam(self._target)
        # Convolutions take autograd: their arithmetic is worth its bookkeeping.
        plain = not spec.conv
        self._gradient = QGradient(self._online) if plain else None
        self._rating = QGradient(self._target) if plain else None
        self._synced = 0  # environment steps at the last copy
        self._exported: tuple[int, Weights] = (-1, {})

    def _work(self) -> int:
        return self.settings.minibatch * (self._adam.size + multiplications(self._spec))

    def _epsilon(self) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        """Share of random actions of each environment, (B,)."""
        epsilon = at(self.settings.epsilon, self.fraction / self.settings.explore)
        return np.full(self.settings.envs, epsilon, np.float32)

    def _acting(self) -> Weights:
        if self._exported[0] != self.gradient_steps:
            self._exported = (self.gradient_steps, self._online.weights())
        return {**self._exported[1], "act.epsilon": self._epsilon()}

    def _draw(self) -> Sample:
        beta = at(self.settings.beta, self.fraction)
        return self._replay.draw(self.settings.minibatch, self._draws, beta=beta)

    def _learn(self) -> dict[str, float]:
        settings = self.settings
        if self.env_steps - self._synced >= settings.target_every:
            self._adam.copy_to(self._target_adam)
            self._synced = self.env_steps
        if self.alpha:
            # What is drawn next depends on the errors of this step.
            return super()._learn()
        # The round's draws are independent, and the target net stands still: one gather and one
        # pass for all of them, where a small net would pay for calls and not for arithmetic.
        drawn = self._replay.draw(settings.minibatch * settings.updates, self._draws)
        batch = self._minibatch(drawn)
        next_values = self._next_values(batch.next_features, drawn)  # (U * N, A)
        rows = settings.minibatch
        parts = zip(batch.split(rows), self._goals(batch, next_values, rows), strict=True)
        metrics: dict[str, float] = {}
        for part, goal in parts:
            self.gradient_steps += 1
            _, metrics = self._step_down(part, goal)
        return metrics

    def _goals(self, batch: Minibatch, next_values: Tensor, rows: int) -> Iterator[Tensor]:
        """What so many values at a time should be, each when those before are learned."""
        if not self.settings.double:
            yield from torch.split(goals(batch, next_values, None), rows)
            return
        for part, values in zip(batch.split(rows), torch.split(next_values, rows), strict=True):
            yield goals(part, values, self._chosen(part.next_features))

    def _next_values(self, features: Tensor, drawn: Sample) -> Tensor:
        """The target net's word on the next states (U * N, A), once on each that was drawn."""
        _, first, places = np.unique(drawn.index, return_index=True, return_inverse=True)
        rows = features[torch.from_numpy(first)]
        said = torch.empty(len(rows), self._spec.outputs)
        # So many at a time that what is between two layers stays in the cache.
        parts = zip(torch.split(rows, TARGET_ROWS), torch.split(said, TARGET_ROWS), strict=True)
        for part, room in parts:
            room.copy_(self._rated(part))
        return said[torch.from_numpy(places)]

    def _gradient_step(self, sample: Sample) -> dict[str, float] | None:
        batch = self._minibatch(sample)
        next_values = self._rated(batch.next_features)  # (N, A)
        (goal,) = self._goals(batch, next_values, len(sample.index))
        error, metrics = self._step_down(batch, goal)
        self._replay.prioritise(sample.index, error.numpy())
        return metrics or None

    def _step_down(self, batch: Minibatch, goal: Tensor) -> tuple[Tensor, dict[str, float]]:
        """One gradient step; returns errors (N,), and metrics if it is the last of its round."""
        settings = self.settings
        error, values = self._differentiated(batch, goal)
        lr, norm_max = at(settings.lr, self.fraction), settings.grad_norm_max
        self._adam.descend(error.sum().item(), lr=lr, norm_max=norm_max)
        if self.gradient_steps % settings.updates:
            return error, {}
        loss = huber(error, batch.weight)
        tell = (loss.item(), values.mean().item(), error.abs().mean().item())
        return error, dict(zip(METRICS, tell, strict=True))

    def _rated(self, features: Tensor) -> Tensor:
        """The target net's values (N, A), which the next call may overwrite."""
        if self._rating is not None:
            return self._rating.values(features)
        with torch.no_grad():
            values: Tensor = self._target(features)
        return values

    def _chosen(self, features: Tensor) -> Tensor:
        """The choices (N,) that the online net prefers."""
        if self._gradient is not None:
            return self._gradient.choose(features)
        with torch.no_grad():
            chosen: Tensor = self._online(features).argmax(1)
        return chosen

    def _differentiated(self, batch: Minibatch, goal: Tensor) -> tuple[Tensor, Tensor]:
        """Leaves the loss's gradient in the parameters; errors (N,) and values (N,)."""
        if self._gradient is not None:
            return self._gradient(batch.features, batch.actions, goal, batch.weight)
        loss, error, values = q_loss(self._online, batch, goal)
        self._adam.differentiate(loss)
        return error, values

    def _idle_metrics(self) -> dict[str, float]:
        return {
            **super()._idle_metrics(),
            "epsilon": float(self._epsilon().mean()),
            **no_metrics(METRICS),
        }

    def _save(self, snapshot: Snapshot) -> None:
        super()._save(snapshot)
        snapshot.put_all("online", self._adam.state())
        snapshot.put_all("target", self._target_adam.state())
        snapshot.values["synced"] = self._synced

    def _load(self, snapshot: Snapshot) -> None:
        super()._load(snapshot)
        self._adam.load(snapshot.take_all("online"))
        self._target_adam.load(snapshot.take_all("target"))
        self._synced = snapshot.values["synced"]


class DQNTrainer(QTrainer[DQN]):
    """DQN under way."""


def _spec(settings: DQN, plan: Plan) -> forward.NetSpec:
    observation_space, action_space = spaces_of(plan.env)
    if not isinstance(action_space, gym_spaces.Discrete):
        raise UnsupportedSpaceError(
            f"{settings.algorithm} needs Discrete actions, got {action_space}",
            hint="sac, td3, ppo, a2c and appo act in a Box",
        )
    return net_spec(
        observation_space,
        action_space,
        hidden=settings.hidden,
        activation=settings.activation,
        head="greedy",
        conv=settings.conv,
    )
