"""Who runs the samplers: this process, or actors of a Rostral cluster.

This is the only file of the package that talks to the engine.
One call per fragment and never one per step. Weights go out as one object per update that all
workers read in place; fragments come back through the node's shared memory as read-only views.
Which worker holds which environments does not change what they do: streams are tied to the
environment's global index.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from rostral_rl.arrays import Weights
from rostral_rl.errors import InvalidSettingError, WorkersLostError
from rostral_rl.forward import NetSpec
from rostral_rl.simulate.fragment import Fragment
from rostral_rl.simulate.make import EnvSource, make_vector
from rostral_rl.simulate.sampler import Sampler
from rostral_rl.threads import threads_for

if TYPE_CHECKING:
    from types import ModuleType

logger = logging.getLogger("rostral.rl.simulate")

RESTARTS_MAX = 8
"""Deaths of rollout actors that one training survives; more is a fault and not bad luck."""
COLLECT_TIMEOUT_S = 300.0
"""Longest wait for one fragment. An environment slower than this wants a shorter horizon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What shall be simulated, wherever it runs.

    Attributes:
        env: Gymnasium id or factory.
        envs: Number of environments over all workers.
        horizon: T, steps per fragment.
        spec: Shape of the actor's net.
        seed: Root of the seed tree.
    """

    env: EnvSource
    envs: int
    horizon: int
    spec: NetSpec
    seed: int

    def sampler(self, first: int, count: int, *, life: int = 0) -> Sampler:
        """Makes the sampler of environments `first .. first + count - 1`."""
        vector = make_vector(self.env, count, seed=self.seed, first=first, life=life)
        return Sampler(
            vector, spec=self.spec, horizon=self.horizon, seed=self.seed, first=first, life=life
        )


class Rollouts(Protocol):
    """A source of fragments.

    Attributes:
        restarts: Workers replaced so far.
    """

    restarts: int

    def collect(self, weights: Weights, version: int) -> list[Fragment]:
        """One fragment from each worker, in the order of their environments; blocks."""

    def close(self) -> None:
        """Frees environments and actors. May be called twice."""


class InlineRollouts:
    """All environments in this process: no cluster, real tracebacks, breakpoints."""

    def __init__(self, layout: Layout) -> None:
        self.restarts = 0
        self._sampler = layout.sampler(0, layout.envs)

    def collect(self, weights: Weights, version: int) -> list[Fragment]:
        """See `Rollouts.collect`."""
        return [self._sampler.collect(weights, version)]

    def close(self) -> None:
        """See `Rollouts.close`."""
        self._sampler.close()


class RolloutActor:
    """What runs inside an actor: one sampler."""

    def __init__(self, layout: Layout, first: int, count: int, life: int) -> None:
        self._sampler = layout.sampler(first, count, life=life)

    def collect(self, weights: Weights, version: int) -> Fragment:
        """Plays one fragment, on one thread: the other cores have workers of their own."""
        with threads_for(0):
            return self._sampler.collect(weights, version)


@dataclass(slots=True)
class _Seat:
    """A worker's place: the environments stay when the actor in it is replaced."""

    first: int
    count: int
    life: int
    actor: Any


class ActorRollouts:
    """Environments spread over rollout actors.

    An actor that dies is replaced, with fresh episodes in its environments.
    Starts a cluster on this machine where none is running, and then also stops it.

    Args:
        layout: What to simulate.
        workers: Number of actors, each of one CPU; at most one per environment.
        address: A running cluster's; None for the one this process is in, or a new one.

    Raises:
        InvalidSettingError: More workers than environments, or than the cluster has CPUs.
    """

    def __init__(self, layout: Layout, *, workers: int, address: str | None = None) -> None:
        if workers > layout.envs:
            raise InvalidSettingError(
                f"{workers} workers cannot share {layout.envs} environments",
                hint="raise envs or lower workers",
            )
        self._rostral = _engine()
        self._owns_cluster = not self._rostral.is_initialized()
        self._layout = layout
        self._seats: list[_Seat] = []
        self.restarts = 0
        if self._owns_cluster:
            if address is None:
                self._rostral.init(num_cpus=workers)
            else:
                self._rostral.init(address)
        try:
            self._check_cpus(workers, self._rostral.cluster_resources())
            for first, count in split(layout.envs, workers):
                seat = _Seat(first, count, 0, None)
                seat.actor = self._start(seat)
                self._seats.append(seat)
        except BaseException:
            self.close()
            raise

    def collect(self, weights: Weights, version: int) -> list[Fragment]:
        """See `Rollouts.collect`."""
        shared = self._rostral.put(weights)
        calls = [seat.actor.collect.remote(shared, version) for seat in self._seats]
        return [
            self._finish(seat, call, shared, version)
            for seat, call in zip(self._seats, calls, strict=True)
        ]

    def close(self) -> None:
        """See `Rollouts.close`."""
        seats, self._seats = self._seats, []
        for seat in seats:
            self._rostral.kill(seat.actor)
        if self._owns_cluster:
            self._owns_cluster = False
            self._rostral.shutdown()

    def _start(self, seat: _Seat) -> Any:
        actor_class = self._rostral.remote(RolloutActor).options(num_cpus=1)
        return actor_class.remote(self._layout, seat.first, seat.count, seat.life)

    def _finish(self, seat: _Seat, call: Any, shared: Any, version: int) -> Fragment:
        """Waits for one worker's fragment; replaces an actor that dies, within the budget."""
        while True:
            try:
                fragment: Fragment = self._rostral.get(call, timeout=COLLECT_TIMEOUT_S)
                return fragment
            except self._rostral.exceptions.ActorDiedError as error:
                self.restarts += 1
                if self.restarts > RESTARTS_MAX:
                    raise WorkersLostError(
                        f"rollout actors died {self.restarts} times, the last with "
                        f"environments {seat.first} to {seat.first + seat.count - 1}",
                        hint="the first traceback above is the cause; try workers=0",
                    ) from error
                logger.warning(
                    "rollout actor died, replacing it first_env=%d life=%d",
                    seat.first,
                    seat.life,
                    exc_info=error,
                )
                seat.life += 1
                seat.actor = self._start(seat)
                call = seat.actor.collect.remote(shared, version)

    @staticmethod
    def _check_cpus(workers: int, resources: Mapping[str, float]) -> None:
        cpus = resources.get("CPU", 0.0)
        if workers > cpus:
            raise InvalidSettingError(
                f"{workers} workers need a CPU each, the cluster has {cpus:g}", hint="lower workers"
            )


def split(envs: int, workers: int) -> list[tuple[int, int]]:
    """Divides environments into runs of neighbours of nearly equal length: (first, count) each."""
    small, extra = divmod(envs, workers)
    parts: list[tuple[int, int]] = []
    first = 0
    for i in range(workers):
        count = small + (i < extra)
        parts.append((first, count))
        first += count
    return parts


def make_rollouts(layout: Layout, *, workers: int, address: str | None = None) -> Rollouts:
    """Chooses who simulates: this process for `workers=0`, else that many actors.

    Raises:
        InvalidSettingError: `workers` is negative, or does not fit environments or cluster.
    """
    if workers < 0:
        raise InvalidSettingError(f"workers must be >= 0, got {workers}")
    if workers == 0:
        return InlineRollouts(layout)
    return ActorRollouts(layout, workers=workers, address=address)


def _engine() -> ModuleType:
    # Imported here, so that everything in one process works without starting, or even loading, the
    # engine.
    import rostral
    import rostral.exceptions

    return rostral
