"""What every training has: counters, fragments in, iterations out, a policy at any time.

An algorithm's file derives from `Trainer` and says what one iteration does (`_iterate`), what its
policy is made of, and what a checkpoint must hold beside that.
"""

from __future__ import annotations

import abc
import dataclasses
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

from rostral_rl import forward, spaces
from rostral_rl.arrays import IntArray, SpaceArray, Weights
from rostral_rl.errors import ConfigError, NonFiniteLossError
from rostral_rl.heads import HeadKind
from rostral_rl.images import Convolutions, image_of, usual_convolutions
from rostral_rl.net import trunk_widths
from rostral_rl.policy import Policy, PolicyInfo, policy_class
from rostral_rl.seeding import SeedTree
from rostral_rl.simulate.make import EnvSource, check_known, make_vector
from rostral_rl.threads import flushed_denormals, threads_for
from rostral_rl.train.parts.settings import check_count
from rostral_rl.train.parts.snapshot import Snapshot, save_snapshot, take_env_states

RECENT = 100
"""Episodes behind the reported mean return."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Where a training happens, how long, and from which seed.

    Attributes:
        env: Gymnasium id, or a callable that makes one environment.
        total_steps: Length in environment steps, rounded up to whole updates.
        seed: Root of every stream.
        workers: Rollout actors; 0 simulates in this process.
        address: Cluster to simulate on; None for the one joined, or a new one on this machine.
    """

    env: EnvSource
    total_steps: int = 100_000
    seed: int = 0
    workers: int = 0
    address: str | None = None

    def __post_init__(self) -> None:
        check_count("total_steps", self.total_steps)
        check_known(self.env)


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """One update, or one round of them.

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


class Settings(abc.ABC):
    """An algorithm's settings: a frozen dataclass that checks itself, and is built to a trainer."""

    __slots__ = ()

    algorithm: ClassVar[str]

    @property
    @abc.abstractmethod
    def batch(self) -> int:
        """Environment steps per update, over all environments."""

    @abc.abstractmethod
    def trainer(self, plan: Plan) -> Trainer[Any]:
        """Makes ready to train as planned."""

    def plain(self) -> dict[str, Any]:
        """All settings by name, as JSON can write them."""
        return dataclasses.asdict(cast("Any", self))

    def build(
        self,
        env: EnvSource,
        *,
        total_steps: int = 100_000,
        seed: int = 0,
        workers: int = 0,
        address: str | None = None,
    ) -> Trainer[Any]:
        """Makes ready to train; iterate over the result, or call its `step`, and close it.

        Arguments: see `Plan`.
        """
        return self.trainer(
            Plan(env=env, total_steps=total_steps, seed=seed, workers=workers, address=address)
        )


S = TypeVar("S", bound=Settings)


@dataclass(frozen=True, slots=True)
class Played:
    """What one iteration brought.

    Attributes:
        returns: (K,) float64, of the episodes that ended.
        lengths: (K,) int64, their steps.
        metrics: By name.
        simulate_s: Wall seconds spent waiting for simulation.
        learn_s: Wall seconds spent learning.
    """

    returns: SpaceArray
    lengths: IntArray
    metrics: dict[str, float]
    simulate_s: float
    learn_s: float


class Trainer(abc.ABC, Generic[S]):
    """A training under way: a context manager, or call `close`.

    Attributes:
        settings: The algorithm's.
        env: What is learned in.
        seed: Root seed.
        updates: Updates in all; about as many, where updates differ in length.
        total_steps: Environment steps in all.
        update: Updates done.
        env_steps: Environment steps taken.
    """

    def __init__(self, settings: S, plan: Plan) -> None:
        self.settings = settings
        self.plan = plan
        self.env = plan.env
        self.seed = plan.seed
        self.tree = SeedTree(plan.seed)
        self.updates = -(-plan.total_steps // settings.batch)
        self.total_steps = self.updates * settings.batch
        self.update = 0
        self.env_steps = 0
        self.observation_space, self.action_space = spaces_of(plan.env)
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._seconds = {"simulate": 0.0, "learn": 0.0}
        self._checkpoint: Path | None = None
        #: Where gradient steps run, and why there; empty before the first of them.
        self.device_reason = ""

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
        while self.env_steps < self.total_steps:
            yield self.step()

    @property
    def policy(self) -> Policy:
        """The policy after the last completed update. Later updates do not change it."""
        acting = {k: v for k, v in self.weights.items() if not k.startswith(("vf.", "act."))}
        return policy_class(self.spec)(
            observation_space=self.observation_space,
            action_space=self.action_space,
            spec=self.spec,
            weights=acting,
            info=PolicyInfo(
                algorithm=self.settings.algorithm,
                env=self.env if isinstance(self.env, str) else None,
                env_steps=self.env_steps,
                seed=self.seed,
                version=self.update,
            ),
        )

    @property
    def recent_returns(self) -> tuple[float, ...]:
        """Returns of the newest episodes, oldest first, at most `RECENT`."""
        return tuple(self._recent)

    @property
    def fraction(self) -> float:
        """How much of the training is done, for schedules: 0 in the first update, 1 in the last."""
        return self.update / max(self.updates - 1, 1)

    @property
    @abc.abstractmethod
    def spec(self) -> forward.NetSpec:
        """Shape of the actor's net."""

    @property
    @abc.abstractmethod
    def weights(self) -> Weights:
        """Everything that acts, and the critic's tower where there is one."""

    @property
    @abc.abstractmethod
    def restarts(self) -> int:
        """Rollout actors that died and were replaced."""

    def pids(self) -> list[int]:
        """Processes of the rollout actors; none where this process simulates.

        Waits until they have played what they are playing.
        """
        return []

    @abc.abstractmethod
    def _iterate(self) -> Played:
        """Simulates and learns once; `update` and `env_steps` are counted by the caller."""

    @abc.abstractmethod
    def _work(self) -> int:
        """Multiply-adds of one pass through the nets, which decides how many threads it gets."""

    def _acting_work(self) -> int:
        """The same of what acts."""
        return self._work()

    @abc.abstractmethod
    def _save(self, snapshot: Snapshot) -> None:
        """Puts nets, optimisers, buffers and generators into a checkpoint."""

    @abc.abstractmethod
    def _load(self, snapshot: Snapshot) -> None:
        """Takes them out again."""

    @abc.abstractmethod
    def close(self) -> None:
        """Frees environments and actors. May be called twice; `policy` stays usable."""

    def step(self) -> Iteration:
        """Collects what one update needs and learns from it.

        Raises:
            NonFiniteLossError: Training diverged; `policy` is still that of the update before.
            SimulationError: An environment failed.
            WorkersLostError: Rollout actors kept dying.
        """
        try:
            with threads_for(self._work(), self._acting_work()), flushed_denormals():
                played = self._iterate()
        except NonFiniteLossError as error:
            kept = None if self._checkpoint is None else str(self._checkpoint)
            raise NonFiniteLossError(
                f"{error.message}, at step {self.env_steps} of the training",
                step=self.env_steps,
                checkpoint=kept,
                hint=f"{error.hint}; "
                + (f"the last checkpoint is {kept}" if kept else "no checkpoint was written"),
            ) from error
        return self._count(played)

    def save(self, folder: str | Path) -> None:
        """Writes a checkpoint that `rostral_rl.resume` goes on from; replaces an older one there.

        Raises:
            FolderUnwritableError: The folder cannot be written.
        """
        snapshot = Snapshot()
        snapshot.values["counters"] = {
            "update": self.update,
            "env_steps": self.env_steps,
            "recent": list(self._recent),
            "seconds": self._seconds,
        }
        self._save(snapshot)
        save_snapshot(snapshot, Path(folder), self.settings, self.plan)
        self._checkpoint = Path(folder)

    def load(self, snapshot: Snapshot, folder: Path) -> None:
        """Goes on from a checkpoint; the trainer must be fresh."""
        counters = snapshot.values["counters"]
        self.update = counters["update"]
        self.env_steps = counters["env_steps"]
        self._recent.extend(counters["recent"])
        self._seconds.update(counters["seconds"])
        self._load(snapshot)
        self._checkpoint = folder

    def _count(self, played: Played) -> Iteration:
        self._recent.extend(played.returns.tolist())
        self._seconds["simulate"] += played.simulate_s
        self._seconds["learn"] += played.learn_s
        seconds = sum(self._seconds.values())
        return Iteration(
            update=self.update,
            env_steps=self.env_steps,
            returns=played.returns,
            lengths=played.lengths,
            metrics={
                "update": float(self.update),
                "env_steps": float(self.env_steps),
                "return_mean": fmean(self._recent) if self._recent else float("nan"),
                "steps_per_s": self.env_steps / seconds,
                "simulate_share": self._seconds["simulate"] / seconds,
                "learn_share": self._seconds["learn"] / seconds,
                **played.metrics,
                "restarts": float(self.restarts),
            },
        )


class Clock:
    """Wall seconds of the parts of an iteration."""

    def __init__(self) -> None:
        self._at = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap."""
        before, self._at = self._at, time.perf_counter()
        return self._at - before


def spaces_of(env: EnvSource) -> tuple[spaces.Space, spaces.Space]:
    """Observation and action space of an environment."""
    vector = make_vector(env, 1, seed=0)
    try:
        return vector.observation_space, vector.action_space
    finally:
        vector.close()


def net_spec(
    observation_space: spaces.Space,
    action_space: spaces.Space,
    *,
    hidden: tuple[int, ...],
    activation: forward.Activation,
    head: HeadKind | None = None,
    conv: Convolutions | None = (),
    lstm: int = 0,
) -> forward.NetSpec:
    """Shape of a net that acts in these spaces; the head is the usual one for the actions.

    Raises:
        UnsupportedSpaceError: Nothing here can read or act in them.
        ConfigError: Convolutions of what is no image.
    """
    width = spaces.action_width(action_space)
    if head is None:
        head = spaces.usual_head(action_space)
    image = image_of(observation_space)
    if conv is None:
        conv = usual_convolutions(observation_space)
    elif conv and image is None:
        raise ConfigError(
            "conv", conv, allowed="() where an observation is no Box of height, width and channels"
        )
    spec = forward.NetSpec(
        inputs=spaces.feature_count(observation_space),
        hidden=hidden,
        outputs=2 * width if head == "squashed" else width,
        activation=activation,
        head=head,
        parts=spaces.choices(action_space),
        mask_at=spaces.mask_at(observation_space, action_space),
        image=image.shape if conv and image else None,
        channels_first=bool(conv and image and image.channels_first),
        conv=conv,
        lstm=lstm,
    )
    if spec.is_shared:
        trunk_widths(spec)  # Refuses what does not fit.
    return spec


__all__ = [
    "Clock",
    "Iteration",
    "Plan",
    "Played",
    "Settings",
    "Trainer",
    "net_spec",
    "spaces_of",
    "take_env_states",
]
