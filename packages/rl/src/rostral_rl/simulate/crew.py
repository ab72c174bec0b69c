"""Actors of a Rostral cluster that share out environments, and are replaced when they die.

This is the only file of the package that talks to the engine. It knows seats, calls and deaths;
what is asked of an actor is its users' business.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rostral_rl.errors import (
    InvalidSettingError,
    RLError,
    SimulationError,
    UnschedulableError,
    WorkersLostError,
)

if TYPE_CHECKING:
    from types import ModuleType

logger = logging.getLogger("rostral.rl.simulate")

RESTARTS_MAX = 8
"""Deaths in one seat, one after the other and with no result between, that a training survives."""
RESULT_TIMEOUT_S = 300.0
"""Longest wait for one result. An environment slower than this wants a shorter horizon."""


@dataclass(slots=True, eq=False)
class Seat:
    """A worker's place: the environments stay when the actor in it is replaced.

    Attributes:
        first: Global index of its first environment.
        count: How many it has.
        life: How often the actor was replaced.
        actor: Who sits there now.
        deaths: Of the newest actors, since one of them answered.
    """

    first: int
    count: int
    life: int
    actor: Any
    deaths: int = 0

    def __str__(self) -> str:
        return f"environments {self.first} to {self.first + self.count - 1}"


class Crew:
    """Actors of one class, one in each seat.

    Starts a cluster on this machine where none is running, and then also stops it.

    Args:
        kind: The actor's class.
        arguments: What it is made with, for a seat.
        parts: (first, count) of each seat's environments; at least one.
        address: A running cluster's; None for the one this process is in, that of ROSTRAL_ADDRESS,
            or a new one.
        cpus_each: What an actor is counted for.
        options: Of the actors, beside that.

    Raises:
        UnschedulableError: The cluster has fewer CPUs than seats are asked for.
        InvalidSettingError: The address cannot be one, or the arguments cannot travel.
    """

    def __init__(
        self,
        kind: type,
        arguments: Callable[[Seat], tuple[Any, ...]],
        parts: Sequence[tuple[int, int]],
        *,
        address: str | None,
        cpus_each: float = 1.0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._rostral = engine()
        self._kind = kind
        self._arguments = arguments
        self._options = {**(options or {}), "num_cpus": cpus_each}
        self._owns_cluster = not self._rostral.is_initialized()
        self.seats: list[Seat] = []
        self.restarts = 0
        self._join(address, len(parts))
        try:
            if cpus_each:
                _check_cpus(len(parts), self._rostral.cluster_resources())
            for first, count in parts:
                seat = Seat(first, count, 0, None)
                seat.actor = self._start(seat)
                self.seats.append(seat)
        except BaseException:
            self.close()
            raise

    def put(self, value: Any) -> Any:
        """Puts what all shall read into the object store, once."""
        return self._rostral.put(value)

    def call(self, seat: Seat, method: str, *arguments: Any) -> Any:
        """Has the seat's actor do something; returns what to give to `result`."""
        return getattr(seat.actor, method).remote(*arguments)

    def ready(self, calls: Sequence[Any]) -> int:
        """Waits until one of the calls is done, well or badly; returns which."""
        done, _ = self._rostral.wait(list(calls), num_returns=1, timeout=RESULT_TIMEOUT_S)
        if not done:
            raise WorkersLostError(
                f"no result from any of {len(calls)} actors within {RESULT_TIMEOUT_S:g} s",
                hint="environments hang, or other programs hold the cluster's CPUs",
            )
        return next(i for i, call in enumerate(calls) if call == done[0])

    def all_done(self, calls: Sequence[Any]) -> bool:
        """Whether all of the calls are done, well or badly; does not block."""
        done, _ = self._rostral.wait(list(calls), num_returns=len(calls), timeout=0)
        return len(done) == len(calls)

    def result(self, seat: Seat, call: Any, again: Callable[[], Any]) -> Any:
        """Waits for a call. Replaces an actor that dies, within the budget, and asks `again`.

        Raises:
            WorkersLostError: Actors keep dying in this seat, or one does not answer.
            SimulationError: What the actor did failed.
        """
        while True:
            try:
                return self._answer(seat, call)
            except self._rostral.exceptions.ActorDiedError as error:
                self._replace(seat, error)
                call = again()

    def together(self, call: Callable[[Seat], Any], prepare: Callable[[], None]) -> list[Any]:
        """Has all actors do something that none can do without the others; waits for all.

        Where one dies all are replaced, for the others wait for it, and it begins again.

        Args:
            call: Has a seat's actor begin its part; returns the call.
            prepare: Called before, each time; the actors may be new.

        Raises:
            WorkersLostError: Actors keep dying, or do not answer.
            SimulationError: What one did failed.
        """
        while True:
            try:
                prepare()
                return self.gather([call(seat) for seat in self.seats])
            except self._rostral.exceptions.ActorDiedError as error:
                for seat in self.seats:
                    self._rostral.kill(seat.actor)
                for seat in self.seats:
                    self._replace(seat, error, count=seat is self.seats[0])

    def gather(self, calls: Sequence[Any]) -> list[Any]:
        """Waits for one call of each seat, and tells of the first that fails at once.

        Raises:
            ActorDiedError: An actor is dead; it was not replaced.
        """
        pending = list(calls)
        while pending:
            index = self.ready(pending)
            seat = self.seats[calls.index(pending[index])]
            self._answer(seat, pending.pop(index))
        return [self._answer(seat, call) for seat, call in zip(self.seats, calls, strict=True)]

    def close(self) -> None:
        """Ends the actors, and the cluster if it is ours. May be called twice."""
        seats, self.seats = self.seats, []
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
                # One more, because what takes no CPU is begun only where one is free.
                self._rostral.init("local", num_cpus=workers + 1)
        except ValueError as error:
            raise InvalidSettingError(str(error)) from error

    def _start(self, seat: Seat) -> Any:
        actor_class = self._rostral.remote(self._kind).options(**self._options)
        try:
            return actor_class.remote(*self._arguments(seat))
        except self._rostral.exceptions.NotPicklableError as error:
            raise InvalidSettingError(
                f"the environment's factory cannot be sent to actors: {error.message}",
                hint="make locks, files and the like inside the factory, or use workers=0",
            ) from error

    def _answer(self, seat: Seat, call: Any) -> Any:
        exceptions = self._rostral.exceptions
        try:
            answer = self._rostral.get(call, timeout=RESULT_TIMEOUT_S)
        except exceptions.ActorDiedError:
            raise
        except exceptions.GetTimeoutError as error:
            raise WorkersLostError(
                f"no result of {seat} within {RESULT_TIMEOUT_S:g} s",
                hint="an environment hangs, or other programs hold the cluster's CPUs",
            ) from error
        except exceptions.TaskError as error:
            # What an environment did is told as it is without actors.
            if isinstance(error.cause, RLError):
                raise error.cause from error
            raise SimulationError(f"the rollout actor of {seat} failed: {error}") from error
        seat.deaths = 0
        return answer

    def _replace(self, seat: Seat, death: Exception, *, count: bool = True) -> None:
        if getattr(death, "actor_init_failed", False):
            raise SimulationError(
                f"the rollout actor of {seat} could not be made: {death}"
            ) from death
        self.restarts += count
        seat.deaths += 1
        if seat.deaths > RESTARTS_MAX:
            raise WorkersLostError(
                f"rollout actors of {seat} died {seat.deaths} times without a result",
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


def split(envs: int, workers: int) -> list[tuple[int, int]]:
    """Divides environments into runs of neighbours of nearly equal length: (first, count) each.

    Raises:
        InvalidSettingError: There are more workers than environments.
    """
    if workers > envs:
        raise InvalidSettingError(
            f"{workers} workers cannot share {envs} environments",
            hint="raise envs or lower workers",
        )
    small, extra = divmod(envs, workers)
    parts: list[tuple[int, int]] = []
    first = 0
    for i in range(workers):
        count = small + (i < extra)
        parts.append((first, count))
        first += count
    return parts


def engine() -> ModuleType:
    """The engine, imported here, so that everything in one process works without loading it."""
    import rostral
    import rostral.exceptions

    return rostral


def _check_cpus(workers: int, resources: Mapping[str, float]) -> None:
    cpus = resources.get("CPU", 0.0)
    if workers > cpus:
        raise UnschedulableError(
            f"{workers} workers need a CPU each, the cluster has {cpus:g}", hint="lower workers"
        )
