"""Who runs the samplers: this process, or actors of a Rostral cluster.

This is the only file of the package that talks to the engine.
One call per fragment and never one per step. Weights go out as one object per update that all
workers read in place; a fragment is an object too, which its worker seals and the learner reads in
place, as read-only views. Which worker holds which environments does not change what they do:
streams are tied to the environment's global index.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from rostral_rl.arrays import Weights
from rostral_rl.errors import InvalidSettingError, RLError, SimulationError, WorkersLostError
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

    def begin(self, weights: Weights, version: int) -> None:
        """Has the next fragments played while the caller does something else, where that can be."""

    def collect(self, weights: Weights, version: int) -> list[Fragment]:
        """One fragment from each worker, in the order of their environments; blocks.

        They are those that `begin` was called for, if it was for the same version.
        """

    def close(self) -> None:
        """Frees environments and actors. May be called twice."""


class InlineRollouts:
    """All environments in this process: no cluster, real tracebacks, breakpoints."""

    def __init__(self, layout: Layout) -> None:
        self.restarts = 0
        self._sampler = layout.sampler(0, layout.envs)

    def begin(self, weights: Weights, version: int) -> None:
        """See `Rollouts.begin`. There is nobody else here who could play."""

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

    def __str__(self) -> str:
        return f"environments {self.first} to {self.first + self.count - 1}"


@dataclass(frozen=True, slots=True)
class _Round:
    """Fragments on their way: one call for each seat, and what to ask a replacement for."""

    version: int
    weights: Any
    calls: list[Any]


class ActorRollouts:
    """Environments spread over rollout actors.

    An actor that dies is replaced, with fresh episodes in its environments.
    Starts a cluster on this machine where none is running, and then also stops it.

    Args:
        layout: What to simulate.
        workers: Number of actors, each of one CPU; at most one per environment.
        address: A running cluster's; None for the one this process is in, that of ROSTRAL_ADDRESS,
            or a new one.

    Raises:
        InvalidSettingError: More workers than environments, or than the cluster has CPUs; or the
            address cannot be one.
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
        self._round: _Round | None = None
        self.restarts = 0
        self._join(address, workers)
        try:
            self._check_cpus(workers, self._rostral.cluster_resources())
            for first, count in split(layout.envs, workers):
                seat = _Seat(first, count, 0, None)
                seat.actor = self._start(seat)
                self._seats.append(seat)
        except BaseException:
            self.close()
            raise

    def begin(self, weights: Weights, version: int) -> None:
        """See `Rollouts.begin`."""
        shared = self._rostral.put(weights)
        calls = [seat.actor.collect.remote(shared, version) for seat in self._seats]
        self._round = _Round(version, shared, calls)

    def collect(self, weights: Weights, version: int) -> list[Fragment]:
        """See `Rollouts.collect`."""
        if self._round is None or self._round.version != version:
            self.begin(weights, version)
        assert self._round is not None
        played, self._round = self._round, None
        return [
            self._finish(seat, call, played)
            for seat, call in zip(self._seats, played.calls, strict=True)
        ]

    def close(self) -> None:
        """See `Rollouts.close`."""
        seats, self._seats = self._seats, []
        self._round = None
        try:
            for seat in seats:
                self._rostral.kill(seat.actor)
        finally:
            if self._owns_cluster:
                self._owns_cluster = False
                self._rostral.shutdown()

    def _join(self, address: str | None, workers: int) -> None:
        if not self._owns_cluster:
            if address is not None:
                raise InvalidSettingError(
                    f"this process is in a cluster already and cannot join the one at {address}",
                    hint="leave out address",
                )
            return
        try:
            if address is not None or "ROSTRAL_ADDRESS" in os.environ:
                self._rostral.init(address)
            else:
                self._rostral.init("local", num_cpus=workers)
        except ValueError as error:
            raise InvalidSettingError(str(error)) from error

    def _start(self, seat: _Seat) -> Any:
        actor_class = self._rostral.remote(RolloutActor).options(num_cpus=1)
        try:
            return actor_class.remote(self._layout, seat.first, seat.count, seat.life)
        except self._rostral.exceptions.NotPicklableError as error:
            raise InvalidSettingError(
                f"the environment's factory cannot be sent to actors: {error.message}",
                hint="make locks, files and the like inside the factory, or use workers=0",
            ) from error

    def _finish(self, seat: _Seat, call: Any, played: _Round) -> Fragment:
        """Waits for one worker's fragment; replaces an actor that dies, within the budget."""
        exceptions = self._rostral.exceptions
        while True:
            try:
                fragment: Fragment = self._rostral.get(call, timeout=COLLECT_TIMEOUT_S)
                return fragment
            except exceptions.ActorDiedError as error:
                self._replace(seat, error)
                call = seat.actor.collect.remote(played.weights, played.version)
            except exceptions.GetTimeoutError as error:
                raise WorkersLostError(
                    f"no fragment of {seat} within {COLLECT_TIMEOUT_S:g} s",
                    hint="an environment hangs, or other programs hold the cluster's CPUs",
                ) from error
            except exceptions.TaskError as error:
                # What an environment did is told as it is without actors.
                if isinstance(error.cause, RLError):
                    raise error.cause from error
                raise SimulationError(f"the rollout actor of {seat} failed: {error}") from error

    def _replace(self, seat: _Seat, death: Exception) -> None:
        if getattr(death, "actor_init_failed", False):
            raise SimulationError(
                f"the rollout actor of {seat} could not be made: {death}"
            ) from death
        self.restarts += 1
        if self.restarts > RESTARTS_MAX:
            raise WorkersLostError(
                f"rollout actors died {self.restarts} times, the last with {seat}",
                hint="the first warning above names the cause; try workers=0",
            ) from death
        logger.warning(
            "rollout actor died, replacing it first_env=%d life=%d: %s",
            seat.first,
            seat.life,
            death,
        )
        seat.life += 1
        seat.actor = self._start(seat)

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
