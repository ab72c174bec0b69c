"""What PPO, A2C and APPO share: an actor and a critic, their optimiser, fragments to samples."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from rostral_rl import forward, spaces
from rostral_rl.arrays import FloatArray, SpaceArray, Weights
from rostral_rl.errors import ConfigError
from rostral_rl.images import Convolutions
from rostral_rl.net import multiplications, read
from rostral_rl.seeding import Stream
from rostral_rl.simulate.fragment import Fragment
from rostral_rl.simulate.worker import Layout, make_rollouts
from rostral_rl.train.parts import dists
from rostral_rl.train.parts.memory import Memory
from rostral_rl.train.parts.nets import ActorCritic
from rostral_rl.train.parts.normalise import RewardScale, RunningMoments
from rostral_rl.train.parts.optimiser import FlatAdam
from rostral_rl.train.parts.schedules import Schedule
from rostral_rl.train.parts.settings import (
    check_choice,
    check_conv,
    check_count,
    check_hidden,
    check_number,
)
from rostral_rl.train.parts.shared import SharedActorCritic
from rostral_rl.train.parts.snapshot import Snapshot, take_env_states
from rostral_rl.train.trainer import Plan, Settings, Trainer, net_spec


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorCriticSettings(Settings):
    """Settings that the three have in common. Schedules run from the first update to the last.

    Attributes:
        envs: B, environments over all workers.
        steps: T, steps of each environment per fragment.
        lr: Adam's step size. May be a schedule.
        gamma: Discount, in (0, 1].
        vf_coef: Weight of the critic's squared error.
        ent_coef: Weight of the entropy bonus. May be a schedule.
        grad_norm_max: Gradients longer than this are scaled down.
        normalise_obs: Feed the net observations of zero mean and unit deviation; the moments are
            part of the policy.
        normalise_reward: Divide rewards by the deviation of the discounted return; reported returns
            are not touched.
        reward_sign: Learn from the rewards' signs alone, as is usual in Atari games; reported
            returns are not touched.
        hidden: Width of each hidden layer, of actor and critic alike.
        activation: "tanh" or "relu".
        conv: Convolutions of an image, (filters, size, stride) each; None takes the usual ones for
            images of bytes. With them, actor and critic are one layer each on top of `hidden`.
        lstm: Width of a layer with memory after `hidden`, actor's and critic's alike; 0 for none.
            It learns through time along whole fragments.
        log_std: Initial log standard deviation of continuous actions.
    """

    algorithm: ClassVar[str] = ""

    envs: int = 8
    steps: int = 128
    lr: Schedule = 2.5e-4
    gamma: float = 0.99
    vf_coef: float = 0.5
    ent_coef: Schedule = 0.01
    grad_norm_max: float = 0.5
    normalise_obs: bool = False
    normalise_reward: bool = False
    reward_sign: bool = False
    hidden: tuple[int, ...] = (64, 64)
    activation: forward.Activation = "tanh"
    conv: Convolutions | None = None
    lstm: int = 0
    log_std: float = 0.0

    def __post_init__(self) -> None:
        for name in ("envs", "steps"):
            check_count(name, getattr(self, name))
        check_number("lr", self.lr)
        check_number("gamma", self.gamma, high=1.0, low_open=True)
        check_number("vf_coef", self.vf_coef)
        check_number("ent_coef", self.ent_coef)
        check_number("grad_norm_max", self.grad_norm_max, low_open=True)
        check_hidden(self.hidden)
        check_choice("activation", self.activation, ("tanh", "relu"))
        check_conv(self.conv)
        if self.lstm:
            check_count("lstm", self.lstm)

    @property
    def batch(self) -> int:
        """Steps per update."""
        return self.envs * self.steps


C = TypeVar("C", bound=ActorCriticSettings)
Net: TypeAlias = ActorCritic | SharedActorCritic


class ActorCriticTrainer(Trainer[C]):
    """A training of an actor and a critic on fragments."""

    def __init__(self, settings: C, plan: Plan) -> None:
        super().__init__(settings, plan)
        self._spec = net_spec(
            self.observation_space,
            self.action_space,
            hidden=settings.hidden,
            activation=settings.activation,
            conv=settings.conv,
            lstm=settings.lstm,
        )
        if self._spec.conv and settings.normalise_obs:
            raise ConfigError("normalise_obs", True, allowed="False for images, which are scaled")
        seed = self.tree.seed(Stream.NET)
        self._net: Net = build_net(self._spec, log_std=settings.log_std, seed=seed)
        self._adam = FlatAdam(self._net)
        skipped = spaces.mask_columns(self.observation_space, self.action_space)
        self._moments = (
            RunningMoments(self._spec.inputs, skipped) if settings.normalise_obs else None
        )
        self._scale = (
            RewardScale(settings.envs, settings.gamma) if settings.normalise_reward else None
        )
        self._weights = self._export()
        layout = Layout(
            env=plan.env,
            envs=settings.envs,
            horizon=settings.steps,
            spec=self._spec,
            seed=plan.seed,
        )
        self._rollouts = make_rollouts(layout, workers=plan.workers, address=plan.address)

    @property
    def spec(self) -> forward.NetSpec:
        """See `Trainer.spec`."""
        return self._spec

    @property
    def weights(self) -> Weights:
        """See `Trainer.weights`."""
        return dict(self._weights)

    @property
    def restarts(self) -> int:
        """See `Trainer.restarts`."""
        return self._rollouts.restarts

    def pids(self) -> list[int]:
        """See `Trainer.pids`."""
        return self._rollouts.pids()

    def close(self) -> None:
        """See `Trainer.close`."""
        self._rollouts.close()

    @abc.abstractmethod
    def _rows(self) -> int:
        """Samples per gradient step."""

    def _work(self) -> int:
        return self._rows() * (self._adam.size + multiplications(self._spec))

    def _features(self, fragment: Fragment) -> SpaceArray:
        """Features (T * B, D) of a fragment as the actor saw them; the moments then take them in.

        By the moments that acted, so that the ratio is 1 before the first gradient step.
        """
        obs = fragment["obs"][:-1]
        raw = obs.reshape(-1, *obs.shape[2:])
        if self._spec.conv:
            return read(self._spec, self.observation_space, raw)
        features = spaces.features(self.observation_space, raw)  # (N, D)
        seen = forward.normalised(features, self._weights)  # (N, D)
        if self._moments is not None:
            self._moments.merge(features[fragment["valid"].ravel()])
        return seen

    def _memory(self, fragment: Fragment) -> Memory | None:
        """What a net with memory needs beside; None for others."""
        return Memory.of(fragment) if self._spec.lstm else None

    def _rewards(self, fragment: Fragment) -> FloatArray:
        """Rewards (T, B) as they are learned from."""
        reward = fragment["reward"]
        if self.settings.reward_sign:
            reward = np.sign(reward)
        if self._scale is None:
            return reward
        return self._scale(reward, fragment["terminated"] | fragment["truncated"])

    def _export(self) -> Weights:
        weights = self._net.weights()
        if self._moments is not None:
            weights.update(self._moments.weights())
        return weights

    def _save(self, snapshot: Snapshot) -> None:
        snapshot.put_all("adam", self._adam.state())
        if self._moments is not None:
            snapshot.put_all("moments", self._moments.state())
        if self._scale is not None:
            snapshot.put_all("scale", self._scale.state())
        snapshot.put_env_states(self._rollouts.states())

    def _load(self, snapshot: Snapshot) -> None:
        self._adam.load(snapshot.take_all("adam"))
        if self._moments is not None:
            self._moments.load(snapshot.take_all("moments"))
        if self._scale is not None:
            self._scale.load(snapshot.take_all("scale"))
        self._weights = self._export()
        states = take_env_states(snapshot)
        if states:
            self._rollouts.restore(states)


def build_net(spec: forward.NetSpec, *, log_std: float, seed: int) -> Net:
    """The kind of net that the spec describes."""
    kind = SharedActorCritic if spec.is_shared else ActorCritic
    return kind(spec, log_std=log_std, seed=seed)


def log_prob_and_entropy(net: Net, outputs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability (N,) of raw actions and entropy (N,), by the net's head."""
    match net.spec.head:
        case "gaussian":
            assert net.log_std is not None
            return dists.gaussian(outputs, net.log_std, actions)
        case "multi":
            return dists.multi(outputs, net.spec.parts, actions)
        case _:
            return dists.categorical(outputs, actions)


def refuse_reward_scale(settings: ActorCriticSettings, plan: Plan) -> None:
    """The running return of each environment cannot be kept where fragments come in any order.

    Raises:
        ConfigError: `normalise_reward` with several workers that nobody waits for.
    """
    if settings.normalise_reward and plan.workers > 1:
        raise ConfigError(
            "normalise_reward", True, allowed="False where several workers play asynchronously"
        )


def flat(array: SpaceArray) -> Tensor:
    """A fragment's column (T, B, ...) as samples (N, ...); shares memory where that can be."""
    merged = array.reshape(-1, *array.shape[2:])
    return torch.from_numpy(merged if merged.flags.writeable else merged.copy())


def mean_of(diagnostics: Sequence[Tensor]) -> FloatArray:
    """Mean over minibatches of diagnostics (K,)."""
    result: FloatArray = torch.stack(list(diagnostics)).mean(0).cpu().numpy()
    return np.asarray(result)
