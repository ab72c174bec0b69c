"""Proximal policy optimisation (Schulman et al. 2017), top to bottom: settings, loss, loop.

Synchronous and on-policy: weights go out, every environment plays `steps` steps, all fragments come
back, and `epochs` passes of minibatches follow. No step is ever played with older weights than the
newest, so actors simulate while this process reports and evaluates, and wait while it learns. With
one seed the result is the same whoever simulates, up to the rounding of different batch sizes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from rostral_rl import forward, spaces
from rostral_rl.arrays import FloatArray, IntArray, SpaceArray, Weights
from rostral_rl.errors import InvalidSettingError
from rostral_rl.policy import Policy, PolicyInfo
from rostral_rl.seeding import SeedTree, Stream
from rostral_rl.simulate.fragment import Fragment, join
from rostral_rl.simulate.make import EnvSource, check_known, make_vector
from rostral_rl.simulate.worker import Layout, make_rollouts
from rostral_rl.threads import threads_for
from rostral_rl.train.parts import dists, gae
from rostral_rl.train.parts.nets import ActorCritic
from rostral_rl.train.parts.normalise import RunningMoments
from rostral_rl.train.parts.optimiser import FlatAdam
from rostral_rl.train.parts.schedules import Linear, Schedule, at
from rostral_rl.train.parts.settings import check_count, check_number

RECENT = 100
"""Episodes behind the reported mean return."""
LEARNING_RATE = Linear(2.5e-4, 0.0)
"""Default step size: that of the paper's Atari experiments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PPO:
    """Settings of PPO. Schedules run from the first update to the last.

    Attributes:
        envs: B, environments over all workers.
        steps: T, steps of each environment per update; the batch is `envs * steps`.
        minibatch: Samples per gradient step; divides the batch.
        epochs: Passes over the batch per update.
        lr: Adam's step size. May be a schedule.
        gamma: Discount, in (0, 1].
        lam: Trace decay of the advantage estimate, in [0, 1].
        clip: How far the probability ratio may leave 1 before its gradient stops. May be a
            schedule.
        clip_value: The critic may move this far from its old estimate; None, the default, does not
            limit it, because limiting it was found to help in no ablation (Andrychowicz et al.
            2021).
        vf_coef: Weight of the critic's squared error.
        ent_coef: Weight of the entropy bonus. May be a schedule.
        grad_norm_max: Gradients longer than this are scaled down.
        normalise_advantage: To zero mean and unit deviation within each minibatch.
        normalise_obs: Feed the net observations of zero mean and unit deviation; the moments are
            part of the policy.
        hidden: Width of each hidden layer, of actor and critic alike.
        activation: "tanh" or "relu".
        log_std: Initial log standard deviation of continuous actions.
    """

    envs: int = 8
    steps: int = 128
    minibatch: int = 256
    epochs: int = 4
    lr: Schedule = LEARNING_RATE
    gamma: float = 0.99
    lam: float = 0.95
    clip: Schedule = 0.2
    clip_value: float | None = None
    vf_coef: float = 0.5
    ent_coef: Schedule = 0.01
    grad_norm_max: float = 0.5
    normalise_advantage: bool = True
    normalise_obs: bool = False
    hidden: tuple[int, ...] = (64, 64)
    activation: forward.Activation = "tanh"
    log_std: float = 0.0

    def __post_init__(self) -> None:
        for name in ("envs", "steps", "minibatch", "epochs"):
            check_count(name, getattr(self, name))
        check_number("lr", self.lr)
        check_number("gamma", self.gamma, high=1.0, low_open=True)
        check_number("lam", self.lam, high=1.0)
        check_number("clip", self.clip)
        check_number("vf_coef", self.vf_coef)
        check_number("ent_coef", self.ent_coef)
        check_number("grad_norm_max", self.grad_norm_max, low_open=True)
        if self.clip_value is not None:
            check_number("clip_value", self.clip_value, low_open=True)
        if not self.hidden or not isinstance(self.hidden, tuple):
            raise InvalidSettingError(f"hidden must be a tuple of widths, got {self.hidden!r}")
        for width in self.hidden:
            check_count("hidden", width)
        if self.activation not in ("tanh", "relu"):
            raise InvalidSettingError(f"activation must be tanh or relu, got {self.activation!r}")
        if self.batch % self.minibatch:
            raise InvalidSettingError(
                f"minibatch {self.minibatch} does not divide the batch of "
                f"{self.envs} envs x {self.steps} steps = {self.batch}"
            )
        if self.minibatch < 2 and self.normalise_advantage:
            raise InvalidSettingError(
                "minibatch must be >= 2 where advantages are normalised within it"
            )

    @property
    def batch(self) -> int:
        """Steps per update."""
        return self.envs * self.steps

    def build(
        self,
        env: EnvSource,
        *,
        total_steps: int = 100_000,
        seed: int = 0,
        workers: int = 0,
        address: str | None = None,
    ) -> Trainer:
        """Makes ready to train; iterate over the result, or call its `step`, and close it.

        Args:
            env: Gymnasium id, or a callable that makes one environment.
            total_steps: Length of the training in environment steps, rounded up to whole updates.
            seed: Root of every stream.
            workers: Rollout actors; 0 simulates in this process.
            address: Cluster to simulate on; None for the one joined, or a new one on this machine.
        """
        return Trainer(
            self, env, total_steps=total_steps, seed=seed, workers=workers, address=address
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """N samples as tensors; the time axis is gone.

    Attributes:
        features: (N, D) float32, normalised.
        actions: (N,) int64 or (N, A) float32.
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
    if net.log_std is None:
        logp, entropy = dists.categorical(outputs, batch.actions)  # (M,), (M,)
    else:
        logp, entropy = dists.gaussian(outputs, net.log_std, batch.actions)  # (M,), (M,)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """One update.

    Attributes:
        update: Number of this update, from 1.
        env_steps: Environment steps so far, over all workers.
        returns: (K,) float64, returns of the episodes that ended in this update, before any
            scaling.
        lengths: (K,) int64, their steps.
        metrics: Everything else by name; the columns of the metrics files.
    """

    update: int
    env_steps: int
    returns: SpaceArray
    lengths: IntArray
    metrics: dict[str, float]


class Trainer:
    """A training under way: a context manager, or call `close`. Arguments: see `PPO.build`."""

    def __init__(
        self,
        settings: PPO,
        env: EnvSource,
        *,
        total_steps: int,
        seed: int,
        workers: int,
        address: str | None,
    ) -> None:
        check_count("total_steps", total_steps)
        check_known(env)
        tree = SeedTree(seed)
        self.settings = settings
        self.env = env
        self.seed = seed
        self.updates = -(-total_steps // settings.batch)
        self.update = 0
        self.env_steps = 0
        self._observation_space, self._action_space = _spaces_of(env)
        self._spec = _net_spec(settings, self._observation_space, self._action_space)
        self._net = ActorCritic(self._spec, log_std=settings.log_std, seed=tree.seed(Stream.NET))
        self._adam = FlatAdam(self._net)
        self._moments = RunningMoments(self._spec.inputs) if settings.normalise_obs else None
        self._weights = self._export()
        self._shuffle = tree.generator(Stream.SHUFFLE)
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._seconds = {"simulate": 0.0, "learn": 0.0}
        layout = Layout(
            env=env, envs=settings.envs, horizon=settings.steps, spec=self._spec, seed=seed
        )
        self._rollouts = make_rollouts(layout, workers=workers, address=address)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Iteration]:
        while self.update < self.updates:
            yield self.step()

    @property
    def policy(self) -> Policy:
        """The policy after the last completed update. Later updates do not change it."""
        acting = {k: v for k, v in self._weights.items() if not k.startswith("vf.")}
        return Policy(
            observation_space=self._observation_space,
            action_space=self._action_space,
            spec=self._spec,
            weights=acting,
            info=PolicyInfo(
                algorithm="ppo",
                env=self.env if isinstance(self.env, str) else None,
                env_steps=self.env_steps,
                seed=self.seed,
                version=self.update,
            ),
        )

    @property
    def weights(self) -> Weights:
        """Actor, critic and normaliser after the last completed update."""
        return dict(self._weights)

    @property
    def recent_returns(self) -> tuple[float, ...]:
        """Returns of the newest episodes, oldest first, at most `RECENT`."""
        return tuple(self._recent)

    def step(self) -> Iteration:
        """Collects one batch and learns from it.

        Raises:
            NonFiniteLossError: Training diverged; `policy` is still that of the update before.
            SimulationError: An environment failed.
            WorkersLostError: Rollout actors kept dying.
        """
        with threads_for(self.settings.minibatch * self._adam.size):
            return self._step()

    def _step(self) -> Iteration:
        started = time.perf_counter()
        fragments = self._rollouts.collect(self._weights, self.update)
        collected = time.perf_counter()
        fraction = self.update / max(self.updates - 1, 1)
        diagnostics = self._learn(join(fragments), fraction)
        self.update += 1
        self.env_steps += self.settings.batch
        self._weights = self._export()
        if self.update < self.updates:
            # Environments go on at once, while this process counts, reports and evaluates.
            self._rollouts.begin(self._weights, self.update)
        learned = time.perf_counter()
        returns = np.concatenate([f["episode_return"] for f in fragments])
        lengths = np.concatenate([f["episode_length"] for f in fragments])
        self._recent.extend(returns.tolist())
        self._seconds["simulate"] += collected - started
        self._seconds["learn"] += learned - collected
        return Iteration(
            update=self.update,
            env_steps=self.env_steps,
            returns=returns,
            lengths=lengths,
            metrics=self._metrics(diagnostics, fraction),
        )

    def close(self) -> None:
        """Frees environments and actors. May be called twice; `policy` stays usable."""
        self._rollouts.close()

    def _learn(self, fragment: Fragment, fraction: float) -> FloatArray:
        """Updates the net; returns the mean diagnostics (5,) of the last epoch."""
        batch = self._batch(fragment)
        settings = self.settings
        lr = at(settings.lr, fraction)
        size, part = settings.batch, settings.minibatch
        last: list[Tensor] = []
        for epoch in range(settings.epochs):
            order = (
                None if part == size else torch.from_numpy(self._shuffle.permutation(size))
            )  # (N,)
            for start in range(0, size, part):
                rows = batch if order is None else batch.rows(order[start : start + part])
                loss, terms = ppo_loss(self._net, rows, settings, fraction)
                self._adam.step(loss, lr=lr, norm_max=settings.grad_norm_max)
                if epoch == settings.epochs - 1:
                    last.append(terms.diagnostics())
        result: FloatArray = torch.stack(last).mean(0).numpy()
        return result

    def _batch(self, fragment: Fragment) -> Batch:
        settings, size = self.settings, self.settings.batch
        advantage = gae.advantages(
            fragment["reward"],
            fragment["value"],
            next_value=fragment["next_value"],
            done=fragment["terminated"] | fragment["truncated"],
            gamma=settings.gamma,
            lam=settings.lam,
        )  # (T, B)
        raw = fragment["obs"][:-1].reshape(size, *fragment["obs"].shape[2:])
        features = spaces.features(self._observation_space, raw)  # (N, D)
        # By the moments that acted, so that the ratio is 1 before the first gradient step; then
        # take the batch in.
        seen = forward.normalised(features, self._weights)  # (N, D)
        if self._moments is not None:
            self._moments.merge(features)
        actions = fragment["actions"].reshape(
            size, *fragment["actions"].shape[2:]
        )  # (N,) or (N, A)
        return Batch(
            torch.from_numpy(seen),
            torch.from_numpy(actions),
            torch.from_numpy(fragment["logp"].reshape(size)),
            torch.from_numpy(fragment["value"].reshape(size)),
            torch.from_numpy(advantage.reshape(size)),
            torch.from_numpy((advantage + fragment["value"]).reshape(size)),
        )

    def _export(self) -> Weights:
        weights = self._net.weights()
        if self._moments is not None:
            weights.update(self._moments.weights())
        return weights

    def _metrics(self, diagnostics: FloatArray, fraction: float) -> dict[str, float]:
        seconds = sum(self._seconds.values())
        names = ("policy_loss", "value_loss", "entropy", "kl", "clipped_share")
        return {
            "update": float(self.update),
            "env_steps": float(self.env_steps),
            "return_mean": float(np.mean(self._recent)) if self._recent else float("nan"),
            "steps_per_s": self.env_steps / seconds,
            "simulate_share": self._seconds["simulate"] / seconds,
            "learn_share": self._seconds["learn"] / seconds,
            "lr": at(self.settings.lr, fraction),
            **dict(zip(names, diagnostics.tolist(), strict=True)),
            "restarts": float(self._rollouts.restarts),
        }


def _spaces_of(env: EnvSource) -> tuple[spaces.Space, spaces.Space]:
    vector = make_vector(env, 1, seed=0)
    try:
        return vector.observation_space, vector.action_space
    finally:
        vector.close()


def _net_spec(
    settings: PPO, observation_space: spaces.Space, action_space: spaces.Space
) -> forward.NetSpec:
    return forward.NetSpec(
        inputs=spaces.feature_count(observation_space),
        hidden=settings.hidden,
        outputs=spaces.action_width(action_space),
        activation=settings.activation,
        head="gaussian" if action_space.shape else "categorical",
    )
