"""What DQN, Ape-X, SAC and TD3 share: replay, warm-up, and gradient steps for steps played."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, TypeVar

import numpy as np
import torch
from gymnasium import spaces as gym_spaces
from torch import Tensor

from rostral_rl import forward
from rostral_rl.arrays import SpaceArray, Weights
from rostral_rl.errors import ConfigError, UnsupportedSpaceError
from rostral_rl.heads import HEADS, HeadKind
from rostral_rl.net import read
from rostral_rl.seeding import Stream
from rostral_rl.simulate.fragment import Fragment, join
from rostral_rl.simulate.worker import Layout, make_rollouts
from rostral_rl.train.parts.nstep import NStep, Transitions
from rostral_rl.train.parts.replay import Replay, Sample
from rostral_rl.train.parts.settings import check_choice, check_count, check_hidden, check_number
from rostral_rl.train.parts.snapshot import Snapshot, take_env_states
from rostral_rl.train.trainer import (
    Clock,
    Plan,
    Played,
    Settings,
    Trainer,
    net_spec,
    spaces_of,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OffPolicySettings(Settings):
    """Settings that they have in common.

    Attributes:
        envs: B, environments over all workers.
        steps: T, steps of each environment between two rounds of gradient steps.
        updates: Gradient steps in a round.
        minibatch: Transitions per gradient step.
        buffer: Transitions kept.
        start: Environment steps before the first gradient step.
        gamma: Discount, in (0, 1].
        n_step: Rewards summed before the value of what follows is taken.
        hidden: Width of each hidden layer.
        activation: "tanh" or "relu".
    """

    algorithm: ClassVar[str] = ""

    envs: int = 1
    steps: int = 1
    updates: int = 1
    minibatch: int = 256
    buffer: int = 1_000_000
    start: int = 1_000
    gamma: float = 0.99
    n_step: int = 1
    hidden: tuple[int, ...] = (256, 256)
    activation: forward.Activation = "relu"

    def __post_init__(self) -> None:
        for name in ("envs", "steps", "updates", "minibatch", "buffer", "start", "n_step"):
            check_count(name, getattr(self, name))
        check_number("gamma", self.gamma, high=1.0, low_open=True)
        check_hidden(self.hidden)
        check_choice("activation", self.activation, ("tanh", "relu"))
        if self.start > self.buffer:
            raise ConfigError("start", self.start, allowed=f"at most buffer = {self.buffer}")

    @property
    def batch(self) -> int:
        """Environment steps per round."""
        return self.envs * self.steps


C = TypeVar("C", bound=OffPolicySettings)


@dataclass(frozen=True, slots=True)
class Minibatch:
    """N transitions as tensors.

    Attributes:
        features: (N, D) float32, or the bytes of images.
        actions: (N,) int64 or (N, A) float32.
        reward: (N,) float32.
        next_features: (N, D), likewise.
        discount: (N,) float32.
        weight: (N,) float32.
    """

    features: Tensor
    actions: Tensor
    reward: Tensor
    next_features: Tensor
    discount: Tensor
    weight: Tensor

    def split(self, rows: int) -> Iterator[Minibatch]:
        """So many transitions at a time; shares memory."""
        columns = (torch.split(getattr(self, name), rows) for name in self.__slots__)
        return (Minibatch(*column) for column in zip(*columns, strict=True))


class OffPolicyTrainer(Trainer[C]):
    """Plays `steps` steps in each environment, then takes `updates` gradient steps from replay."""

    #: How much priorities count.
    alpha: float = 0.0

    def __init__(self, settings: C, plan: Plan, spec: forward.NetSpec) -> None:
        super().__init__(settings, plan)
        self._spec = spec
        self._draws = self.tree.generator(Stream.SHUFFLE)
        self._replay = Replay(
            settings.buffer,
            observation_space=self.observation_space,
            action=HEADS[spec.head].allocate(spec, 1, 1)[0, 0],
            alpha=self.alpha,
        )
        # A group of environments each, by the first of them: their rows follow each other.
        self._windows: dict[int, NStep] = {}
        self.gradient_steps = 0
        layout = Layout(
            env=plan.env, envs=settings.envs, horizon=settings.steps, spec=spec, seed=plan.seed
        )
        self._rollouts = make_rollouts(layout, workers=plan.workers, address=plan.address)

    @property
    def spec(self) -> forward.NetSpec:
        """See `Trainer.spec`."""
        return self._spec

    @property
    def weights(self) -> Weights:
        """See `Trainer.weights`."""
        return {name: np.array(array, order="C") for name, array in self._acting().items()}

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

    def _acting_work(self) -> int:
        return self.settings.envs * sum(a * b for a, b in pairwise(self._spec.widths))

    @abc.abstractmethod
    def _acting(self) -> Weights:
        """Weights that act now, exploration included; may share memory with those that learn."""

    @abc.abstractmethod
    def _gradient_step(self, sample: Sample) -> dict[str, float] | None:
        """Learns from transitions; returns metrics, where it has some to tell."""

    @abc.abstractmethod
    def _draw(self) -> Sample:
        """Draws a minibatch."""

    def _collect(self) -> tuple[int, Fragment]:
        """Plays on; returns a fragment and the group whose rows it continues.

        The workers' fragments are put side by side, so that the order of what is remembered does
        not depend on how many workers there are. A trainer that waits for nobody overrides this.
        """
        return 0, join(self._rollouts.collect(self._acting(), self.update))

    def _iterate(self) -> Played:
        clock = Clock()
        group, fragment = self._collect()
        simulate_s = clock.lap()
        self._remember(group, fragment)
        self.env_steps += int(fragment["reward"].size)
        self.update += 1
        metrics: dict[str, float] = {}
        if self.env_steps >= self.settings.start and self._replay.size:
            metrics = self._learn()
        return Played(
            returns=fragment["episode_return"],
            lengths=fragment["episode_length"],
            metrics={**self._idle_metrics(), **metrics},
            simulate_s=simulate_s,
            learn_s=clock.lap(),
        )

    def _learn(self) -> dict[str, float]:
        """One round of gradient steps; returns the metrics of the last."""
        metrics: dict[str, float] = {}
        for _ in range(self.settings.updates):
            self.gradient_steps += 1
            metrics = self._gradient_step(self._draw()) or metrics
        return metrics

    def _remember(self, group: int, fragment: Fragment) -> None:
        if group not in self._windows:
            self._windows[group] = NStep(self.settings.n_step, self.settings.gamma)
        self._replay.add(self._windows[group](fragment))

    def _idle_metrics(self) -> dict[str, float]:
        """Metrics of an iteration that learned nothing: the same columns as of one that did."""
        return {"buffer": float(self._replay.size)}

    def _minibatch(self, sample: Sample) -> Minibatch:
        rows: Transitions = sample.rows

        def features(obs: SpaceArray) -> Tensor:
            return torch.from_numpy(read(self._spec, self.observation_space, obs))

        return Minibatch(
            features=features(rows.obs),
            actions=torch.from_numpy(rows.actions),
            reward=torch.from_numpy(rows.reward),
            next_features=features(rows.next_obs),
            discount=torch.from_numpy(rows.discount),
            weight=torch.from_numpy(sample.weight),
        )

    def _save(self, snapshot: Snapshot) -> None:
        snapshot.put_generator("draws", self._draws)
        snapshot.put_all("replay", self._replay.state())
        snapshot.values["gradient_steps"] = self.gradient_steps
        snapshot.values["groups"] = list(self._windows)
        for group, window in self._windows.items():
            snapshot.put_all(f"window{group}", window.state())
        snapshot.put_env_states(self._rollouts.states())

    def _load(self, snapshot: Snapshot) -> None:
        snapshot.take_generator("draws", self._draws)
        self._replay.load(snapshot.take_all("replay"))
        self.gradient_steps = snapshot.values["gradient_steps"]
        for group in snapshot.values["groups"]:
            self._windows[group] = NStep(self.settings.n_step, self.settings.gamma)
            self._windows[group].load(snapshot.take_all(f"window{group}"))
        states = take_env_states(snapshot)
        if states:
            self._rollouts.restore(states)


def no_metrics(names: tuple[str, ...]) -> dict[str, float]:
    """Columns that have no value yet."""
    return dict.fromkeys(names, float(np.nan))


def box_spec(settings: OffPolicySettings, plan: Plan, head: HeadKind) -> forward.NetSpec:
    """Shape of an actor for a Box of finite bounds.

    Raises:
        UnsupportedSpaceError: The actions are no such Box.
    """
    observation_space, action_space = spaces_of(plan.env)
    finite = isinstance(action_space, gym_spaces.Box) and action_space.is_bounded()
    if not finite:
        raise UnsupportedSpaceError(
            f"{settings.algorithm} needs a Box of actions with finite bounds, got {action_space}",
            hint="dqn acts in a Discrete; ppo, a2c and appo in any",
        )
    return net_spec(
        observation_space,
        action_space,
        hidden=settings.hidden,
        activation=settings.activation,
        head=head,
    )
