"""Who runs the samplers: this process, or actors of a Rostral cluster.

One call per fragment and never one per step. Weights go out as one object per update that all
workers read in place; a fragment is an object too, which its worker seals and the learner reads in
place, as read-only views. Which worker holds which environments does not change what they do:
streams are tied to the environment's global index.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rostral_rl.arrays import Weights
from rostral_rl.errors import InvalidSettingError
from rostral_rl.forward import NetSpec
from rostral_rl.seeding import SeedTree, Stream
from rostral_rl.simulate.crew import Crew, Seat, split
from rostral_rl.simulate.fragment import Fragment
from rostral_rl.simulate.halves import HalvesSampler, Plays
from rostral_rl.simulate.lag import LagBound
from rostral_rl.simulate.make import EnvSource, make_vector
from rostral_rl.simulate.sampler import Sampler, SamplerState
from rostral_rl.simulate.shared import SharedSource, SharedVector
from rostral_rl.simulate.vector import VectorEnv
from rostral_rl.threads import threads_for


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

    def sampler(self, first: int, count: int, *, life: int = 0) -> Plays:
        """Makes the sampler of environments `first .. first + count - 1`."""
        env = self.env
        if isinstance(env, SharedSource) and count >= 2 * env.processes:
            tree = SeedTree(self.seed)
            seeds = [tree.seed(Stream.ENV, first + i, life=life) for i in range(count)]
            halves = SharedVector.halves(env, seeds)
            starts = (first, first + halves[0].count)
            return HalvesSampler(
                [self._sampler(half, at, life) for half, at in zip(halves, starts, strict=True)]
            )
        vector = make_vector(env, count, seed=self.seed, first=first, life=life)
        return self._sampler(vector, first, life)

    def _sampler(self, vector: VectorEnv, first: int, life: int) -> Sampler:
        return Sampler(
            vector, spec=self.spec, horizon=self.horizon, seed=self.seed, first=first, life=life
        )


class Rollouts(Protocol):
    """A source of fragments."""

    @property
    def restarts(self) -> int:
        """Workers replaced so far."""

    def begin(self, weights: Weights, version: int) -> None:
        """Has the next fragments played while the caller does something else, where that can be."""

    def collect(self, weights: Weights, version: int) -> list[Fragment]:
        """One fragment from each worker, in the order of their environments; blocks.

        They are those that `begin` was called for, if it was for the same version.
        """

    def next(self, weights: Weights, version: int, bound: LagBound | None = None) -> Fragment:
        """The fragment of whoever is done first; it goes on with these, the newest, weights.

        So the fragment that comes may have been played with older ones; it says with which. Not to
        be mixed with `collect`.

        Args:
            weights: The newest.
            version: Updates done.
            bound: How much older they may be; None sets no limit.
        """

    def pids(self) -> list[int]:
        """Processes of the actors; none where this process simulates. Waits until they answer."""

    def states(self) -> list[SamplerState]:
        """What each environment needs to go on elsewhere, between two calls of `collect`."""

    def restore(self, states: Sequence[SamplerState]) -> None:
        """Goes on from `states`, however many workers there were."""

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

    def next(self, weights: Weights, version: int, bound: LagBound | None = None) -> Fragment:
        """See `Rollouts.next`."""
        return self._sampler.collect(weights, version)

    def pids(self) -> list[int]:
        """See `Rollouts.pids`."""
        return []

    def states(self) -> list[SamplerState]:
        """See `Rollouts.states`."""
        return self._sampler.states()

    def restore(self, states: Sequence[SamplerState]) -> None:
        """See `Rollouts.restore`."""
        self._sampler.restore(states)

    def close(self) -> None:
        """See `Rollouts.close`."""
        self._sampler.close()


class RolloutActor:
    """What runs inside an actor: one sampler."""

    def __init__(self, layout: Layout, first: int, count: int, life: int) -> None:
        self._sampler = layout.sampler(first, count, life=life)
        self._before: list[SamplerState] = []

    def collect(self, weights: Weights, version: int) -> Fragment:
        """Plays one fragment, on one thread: the other cores have workers of their own."""
        self._before = self._sampler.states()
        with threads_for(0):
            return self._sampler.collect(weights, version)

    def pid(self) -> int:
        """This process."""
        return os.getpid()

    def states(self, *, before: bool) -> list[SamplerState]:
        """Of the environments now, or before the newest fragment, which nobody has seen yet."""
        return self._before if before else self._sampler.states()

    def restore(self, states: Sequence[SamplerState]) -> None:
        """See `Rollouts.restore`."""
        self._sampler.restore(states)


@dataclass(frozen=True, slots=True)
class _Round:
    """Fragments on their way: one call for each seat, and what to ask a replacement for."""

    version: int
    weights: Any
    calls: list[Any]


class ActorRollouts:
    """Environments spread over rollout actors.

    An actor that dies is replaced, with fresh episodes in its environments.

    Args:
        layout: What to simulate.
        workers: Number of actors, each of one CPU; at most one per environment.
        address: As for `Crew`, whose errors this raises too.
    """

    def __init__(self, layout: Layout, *, workers: int, address: str | None = None) -> None:
        self._crew = Crew(
            RolloutActor,
            lambda seat: (layout, seat.first, seat.count, seat.life),
            split(layout.envs, workers),
            address=address,
        )
        self._round: _Round | None = None
        # For `next`: what each seat is playing, and with which weights; in the order of its start.
        self._flying: list[tuple[Seat, Any, tuple[Any, int]]] = []
        self._shared: tuple[Any, int] | None = None
        self._taken = 0  # fragments that were taken with `_shared`

    @property
    def restarts(self) -> int:
        """See `Rollouts`."""
        return self._crew.restarts

    def begin(self, weights: Weights, version: int) -> None:
        """See `Rollouts.begin`."""
        shared = self._crew.put(weights)
        calls = [self._crew.call(seat, "collect", shared, version) for seat in self._crew.seats]
        self._round = _Round(version, shared, calls)

    def collect(self, weights: Weights, version: int) -> list[Fragment]:
        """See `Rollouts.collect`."""
        if self._round is None or self._round.version != version:
            self.begin(weights, version)
        assert self._round is not None
        played, self._round = self._round, None
        return [
            self._finish(seat, call, (played.weights, played.version))
            for seat, call in zip(self._crew.seats, played.calls, strict=True)
        ]

    def next(self, weights: Weights, version: int, bound: LagBound | None = None) -> Fragment:
        """See `Rollouts.next`."""
        if self._shared is None or self._shared[1] != version:
            self._shared = (self._crew.put(weights), version)
            self._taken = 0
        busy = {seat for seat, _, _ in self._flying}
        for seat in self._crew.seats:
            if seat not in busy:
                self._launch(seat, self._shared)
        versions = [asked for _, _, (_, asked) in self._flying]
        due = bound is not None and bound.is_due(versions, version, self._taken)
        index = 0 if due else self._crew.ready([call for _, call, _ in self._flying])
        seat, call, asked = self._flying.pop(index)
        fragment = self._finish(seat, call, asked)
        self._taken += 1
        # At once, so that this seat plays while the caller learns.
        self._launch(seat, self._shared)
        return fragment

    def states(self) -> list[SamplerState]:
        """See `Rollouts.states`."""
        before = self._round is not None
        calls = [seat.actor.states.remote(before=before) for seat in self._crew.seats]
        states: list[SamplerState] = []
        for seat, call in zip(self._crew.seats, calls, strict=True):
            again = functools.partial(seat.actor.states.remote, before=before)
            states.extend(self._crew.result(seat, call, again))
        return states

    def pids(self) -> list[int]:
        """See `Rollouts.pids`."""
        calls = [self._crew.call(seat, "pid") for seat in self._crew.seats]
        return [
            self._crew.result(seat, call, functools.partial(self._crew.call, seat, "pid"))
            for seat, call in zip(self._crew.seats, calls, strict=True)
        ]

    def restore(self, states: Sequence[SamplerState]) -> None:
        """See `Rollouts.restore`."""
        for seat in self._crew.seats:
            part = list(states[seat.first : seat.first + seat.count])
            again = functools.partial(self._crew.call, seat, "restore", part)
            self._crew.result(seat, again(), again)

    def close(self) -> None:
        """See `Rollouts.close`."""
        self._round = None
        self._flying.clear()
        self._crew.close()

    def _launch(self, seat: Seat, asked: tuple[Any, int]) -> None:
        self._flying.append((seat, self._crew.call(seat, "collect", *asked), asked))

    def _finish(self, seat: Seat, call: Any, asked: tuple[Any, int]) -> Fragment:
        fragment: Fragment = self._crew.result(
            seat, call, lambda: self._crew.call(seat, "collect", *asked)
        )
        return fragment


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
