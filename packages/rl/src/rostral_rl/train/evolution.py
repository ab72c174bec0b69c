"""What ES and ARS share: a population that is played, and parameters that move by its scores."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
from gymnasium import spaces as gym_spaces

from rostral_rl import forward, spaces
from rostral_rl.arrays import FloatArray, Weights
from rostral_rl.errors import NonFiniteLossError, UnsupportedSpaceError
from rostral_rl.heads import HeadKind
from rostral_rl.simulate.population import (
    Generation,
    PopulationLayout,
    Scores,
    make_population,
    parameter_count,
    unpack,
)
from rostral_rl.train.parts.normalise import RunningMoments
from rostral_rl.train.parts.schedules import Schedule, at
from rostral_rl.train.parts.settings import check_choice, check_count, check_hidden, check_number
from rostral_rl.train.parts.snapshot import Snapshot
from rostral_rl.train.trainer import Clock, Plan, Played, Settings, Trainer, net_spec


@dataclass(frozen=True, slots=True, kw_only=True)
class EvolutionSettings(Settings):
    """Settings that they have in common. Schedules run over environment steps.

    Attributes:
        pairs: N, candidates of a generation, each with its mirror image.
        episodes: Of each candidate; both of a pair play the same.
        sigma: Deviation of the noise on the parameters. May be a schedule.
        lr: Step size. May be a schedule.
        normalise_obs: Feed the nets observations of zero mean and unit deviation.
        hidden: Width of each hidden layer; empty for a linear policy.
        activation: "tanh" or "relu".
        steps_max: Episodes are cut off here.
    """

    algorithm: ClassVar[str] = ""

    pairs: int = 16
    episodes: int = 1
    sigma: Schedule = 0.1
    lr: Schedule = 0.05
    normalise_obs: bool = False
    hidden: tuple[int, ...] = ()
    activation: forward.Activation = "tanh"
    steps_max: int = 10_000

    def __post_init__(self) -> None:
        for name in ("pairs", "episodes", "steps_max"):
            check_count(name, getattr(self, name))
        check_number("sigma", self.sigma, low_open=True)
        check_number("lr", self.lr)
        check_hidden(self.hidden, empty=True)
        check_choice("activation", self.activation, ("tanh", "relu"))

    @property
    def batch(self) -> int:
        """Episodes are of any length: a training ends with the generation that spends its steps."""
        return 1


C = TypeVar("C", bound=EvolutionSettings)


class EvolutionTrainer(Trainer[C]):
    """A training of parameters by the scores of their neighbours."""

    def __init__(self, settings: C, plan: Plan) -> None:
        super().__init__(settings, plan)
        self._spec = net_spec(
            self.observation_space,
            self.action_space,
            hidden=settings.hidden,
            activation=settings.activation,
            head=_head(settings, self.action_space),
        )
        self._centre = np.zeros(parameter_count(self._spec), np.float32)  # (P,)
        self._moments = RunningMoments(self._spec.inputs)
        self._layout = PopulationLayout(
            env=plan.env,
            spec=self._spec,
            seed=plan.seed,
            pairs=settings.pairs,
            episodes=settings.episodes,
            steps_max=settings.steps_max,
        )
        self._population = make_population(self._layout, workers=plan.workers, address=plan.address)

    @property
    def spec(self) -> forward.NetSpec:
        """See `Trainer.spec`."""
        return self._spec

    @property
    def weights(self) -> Weights:
        """See `Trainer.weights`."""
        result: Weights = self._normaliser()
        for i, (weight, bias) in enumerate(unpack(self._spec, self._centre[None])):
            result[f"pi.{i}.weight"], result[f"pi.{i}.bias"] = weight[0], bias[0, 0]
        return result

    @property
    def restarts(self) -> int:
        """See `Trainer.restarts`."""
        return self._population.restarts

    @property
    def fraction(self) -> float:
        """See `Trainer.fraction`; of steps here, since generations differ in length."""
        return min(self.env_steps / self.total_steps, 1.0)

    def close(self) -> None:
        """See `Trainer.close`."""
        self._population.close()

    @abc.abstractmethod
    def _move(self, scores: FloatArray, noise: FloatArray) -> None:
        """Moves the parameters by the mean scores (N, 2) of pairs with noise (N, P)."""

    def _move_finitely(self, scores: FloatArray, noise: FloatArray) -> None:
        before = self._centre
        with np.errstate(over="ignore", invalid="ignore"):  # It is looked at here.
            self._move(scores, noise)
        if not np.isfinite(self._centre).all():
            self._centre = before
            raise NonFiniteLossError(
                f"parameters that are not finite after {self.update} generations",
                hint="lower lr, or check the scale of rewards",
            )

    def _work(self) -> int:
        return 2 * self.settings.pairs * self.settings.episodes * len(self._centre)

    def _normaliser(self) -> Weights:
        if not self.settings.normalise_obs or not self._moments.count:
            return {}
        return self._moments.weights()

    def _iterate(self) -> Played:
        clock = Clock()
        generation = Generation(
            number=self.update,
            centre=self._centre,
            sigma=at(self.settings.sigma, self.fraction),
            normaliser=self._normaliser(),
        )
        scores = self._population.play(generation)
        simulate_s = clock.lap()
        pairs = range(self.settings.pairs)
        noise = np.stack([self._layout.noise(self.update, pair) for pair in pairs])  # (N, P)
        means = scores.returns.mean(axis=2)  # (N, 2)
        self._move_finitely(means.astype(np.float32), noise)
        self._take_in(scores)
        self.update += 1
        self.env_steps += int(scores.lengths.sum())
        return Played(
            returns=scores.returns.ravel(),
            lengths=scores.lengths.ravel(),
            metrics={
                "lr": at(self.settings.lr, self.fraction),
                "sigma": generation.sigma,
                "score_best": float(means.max()),
                "score_deviation": float(means.std()),
                "length": float(np.linalg.norm(self._centre)),
            },
            simulate_s=simulate_s,
            learn_s=clock.lap(),
        )

    def _take_in(self, scores: Scores) -> None:
        """Merges what was seen, pair by pair, so that it does not matter who played which."""
        if not self.settings.normalise_obs:
            return
        for count, total, squares in zip(scores.count, scores.total, scores.squares, strict=True):
            mean = total / count  # (D,)
            self._moments.merge_moments(count, mean, np.maximum(squares / count - mean**2, 0.0))

    def _save(self, snapshot: Snapshot) -> None:
        snapshot.arrays["centre"] = self._centre
        snapshot.put_all("moments", self._moments.state())

    def _load(self, snapshot: Snapshot) -> None:
        self._centre = snapshot.arrays["centre"].copy()
        self._moments.load(snapshot.take_all("moments"))


def _head(settings: EvolutionSettings, action_space: spaces.Space) -> HeadKind:
    if isinstance(action_space, gym_spaces.Box):
        if not action_space.is_bounded():
            raise UnsupportedSpaceError(
                f"{settings.algorithm} needs a Box of actions with finite bounds",
                hint="wrap the environment with gymnasium.wrappers.ClipAction",
            )
        return "deterministic"
    return spaces.usual_head(action_space)
