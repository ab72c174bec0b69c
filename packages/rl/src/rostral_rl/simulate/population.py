"""Plays whole episodes with many different nets at once: what evolution strategies feed on.

Nets are not sent. Candidate (pair, sign) of a generation is the common parameters plus or minus a
noise vector that both sides draw from the pair's own stream, so that messages are parameters once a
node and a few numbers a candidate. Both of a pair play the same episodes. Nothing that a candidate
does depends on who is played beside it, so the result is the same for any number of workers, to the
last bit.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rostral_rl import forward, spaces
from rostral_rl.arrays import FloatArray, IntArray, SpaceArray, Weights
from rostral_rl.errors import InvalidSettingError
from rostral_rl.forward import NetSpec
from rostral_rl.heads import HEADS
from rostral_rl.seeding import SeedTree, Stream
from rostral_rl.simulate.contract import check_finite, simulating
from rostral_rl.simulate.crew import Crew, split
from rostral_rl.simulate.make import EnvSource, make_seeded
from rostral_rl.simulate.slabs import Slab
from rostral_rl.threads import threads_for

CANDIDATES_MAX = 128
"""Candidates alive at once in a process; bounds memory where nets are large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What all candidates of one generation have in common.

    Attributes:
        number: Counts generations; names their streams.
        centre: (P,) float32, parameters, layer by layer, matrix before bias.
        sigma: Deviation of the noise.
        normaliser: "obs.mean" and "obs.std" that observations are scaled by; empty for none.
    """

    number: int
    centre: FloatArray
    sigma: float
    normaliser: Weights


@dataclass(frozen=True, slots=True)
class Scores:
    """How pairs did, in their order; row 0 of each is the candidate plus, row 1 minus.

    Attributes:
        returns: (N, 2, E) float64.
        lengths: (N, 2, E) int64.
        count: (N,) float64, observations that the moments are of.
        total: (N, D) float64, their sum.
        squares: (N, D) float64, the sum of their squares.
    """

    returns: npt.NDArray[np.float64]
    lengths: IntArray
    count: npt.NDArray[np.float64]
    total: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PopulationLayout:
    """What shall be played, wherever.

    Attributes:
        env: Gymnasium id or factory.
        spec: Shape of the nets.
        seed: Root of the seed tree.
        pairs: N, pairs of candidates in a generation.
        episodes: E, of each candidate.
        steps_max: An episode is cut off here, in steps.
    """

    env: EnvSource
    spec: NetSpec
    seed: int
    pairs: int
    episodes: int
    steps_max: int

    def noise(self, generation: int, pair: int) -> FloatArray:
        """The noise vector (P,) of one pair."""
        index = generation * self.pairs + pair
        generator = SeedTree(self.seed).generator(Stream.NOISE, index)
        return generator.standard_normal(parameter_count(self.spec), dtype=np.float32)

    def play(self, generation: Generation, first: int, count: int) -> Scores:
        """Plays pairs `first .. first + count - 1`."""
        chunk = max(1, CANDIDATES_MAX // (2 * self.episodes))
        parts = [
            self._play(generation, start, min(chunk, first + count - start))
            for start in range(first, first + count, chunk)
        ]
        return join_scores(parts)

    def _play(self, generation: Generation, first: int, count: int) -> Scores:
        pairs = range(first, first + count)
        noise = np.stack([self.noise(generation.number, pair) for pair in pairs])  # (N, P)
        step = np.float32(generation.sigma) * noise  # (N, P)
        centre = generation.centre
        nets = np.stack((centre + step, centre - step), axis=1)  # (N, 2, P)
        layers = unpack(self.spec, nets.reshape(2 * count, -1))
        tree = SeedTree(self.seed)
        base = (generation.number * self.pairs + first) * self.episodes
        seeds = [tree.seed(Stream.ENV, base + i) for i in range(count * self.episodes)]
        # (N, 2, E): both of a pair meet the same starts.
        both = np.array(seeds).reshape(count, 1, -1).repeat(2, axis=1)
        with simulating():
            return self._episodes(generation, layers, both)

    def _episodes(
        self, generation: Generation, layers: list[tuple[FloatArray, FloatArray]], seeds: IntArray
    ) -> Scores:
        shape = seeds.shape  # (N, 2, E)
        candidates, each = shape[0] * shape[1], shape[2]
        vector = make_seeded(self.env, seeds.ravel().tolist())
        head = HEADS[self.spec.head]
        try:
            slab = Slab.allocate(
                1,
                vector.count,
                observation_space=vector.observation_space,
                action_space=vector.action_space,
            )
            vector.reset(slab.obs[0])
            returns = np.zeros(vector.count)  # (N * 2 * E,)
            lengths = np.zeros(vector.count, np.int64)
            playing = np.ones(vector.count, np.bool_)
            width = self.spec.inputs
            total, squares = np.zeros((vector.count, width)), np.zeros((vector.count, width))
            for step in range(self.steps_max):
                raw = spaces.features(vector.observation_space, slab.obs[0])  # (N * 2 * E, D)
                seen = raw * playing[:, None]
                total += seen
                squares += np.square(seen, dtype=np.float64)
                scaled = forward.normalised(raw, generation.normaliser)
                outputs = forward_many(
                    self.spec, layers, scaled.reshape(candidates, each, width)
                ).reshape(vector.count, -1)
                chosen = head.mode(self.spec, forward.masked(self.spec, outputs, raw))
                slab.actions[0] = head.to_env(vector.action_space, chosen)
                vector.step(slab, 0)
                check_finite(slab, step)
                returns += np.where(playing, slab.reward[0], 0.0)
                lengths += playing & slab.valid[0]
                playing &= ~(slab.terminated[0] | slab.truncated[0])
                if not playing.any():
                    break
                slab.obs[0] = slab.obs[1]
        finally:
            vector.close()
        per_pair = (shape[0], -1, width)
        return Scores(
            returns=returns.reshape(shape),
            lengths=lengths.reshape(shape),
            count=lengths.reshape(shape[0], -1).sum(axis=1).astype(np.float64),
            total=total.reshape(per_pair).sum(axis=1),
            squares=squares.reshape(per_pair).sum(axis=1),
        )


class Population(Protocol):
    """Who plays a generation."""

    @property
    def restarts(self) -> int:
        """Workers replaced so far."""

    def play(self, generation: Generation) -> Scores:
        """All pairs, in order; blocks."""

    def close(self) -> None:
        """Frees actors. May be called twice."""


class InlinePopulation:
    """All candidates in this process."""

    def __init__(self, layout: PopulationLayout) -> None:
        self.restarts = 0
        self._layout = layout

    def play(self, generation: Generation) -> Scores:
        """See `Population.play`."""
        return self._layout.play(generation, 0, self._layout.pairs)

    def close(self) -> None:
        """See `Population.close`. Environments live no longer than a generation."""


class PopulationActor:
    """What runs inside an actor: a range of pairs."""

    def __init__(self, layout: PopulationLayout, first: int, count: int) -> None:
        self._layout = layout
        self._first = first
        self._count = count

    def play(self, generation: Generation) -> Scores:
        """Plays this actor's pairs, on one thread."""
        with threads_for(0):
            return self._layout.play(generation, self._first, self._count)


class ActorPopulation:
    """Pairs spread over actors; one that dies is replaced, and plays the same again.

    Args:
        layout: What to play.
        workers: Number of actors, each of one CPU; at most one per pair.
        address: As for `Crew`, whose errors this raises too.
    """

    def __init__(
        self, layout: PopulationLayout, *, workers: int, address: str | None = None
    ) -> None:
        self._crew = Crew(
            PopulationActor,
            lambda seat: (layout, seat.first, seat.count),
            split(layout.pairs, workers),
            address=address,
        )

    @property
    def restarts(self) -> int:
        """See `Population.restarts`."""
        return self._crew.restarts

    def play(self, generation: Generation) -> Scores:
        """See `Population.play`."""
        shared = self._crew.put(generation)
        seats = self._crew.seats
        asks = [functools.partial(self._crew.call, seat, "play", shared) for seat in seats]
        calls: list[Any] = [ask() for ask in asks]
        return join_scores(
            [
                self._crew.result(seat, call, ask)
                for seat, call, ask in zip(seats, calls, asks, strict=True)
            ]
        )

    def close(self) -> None:
        """See `Population.close`."""
        self._crew.close()


def make_population(
    layout: PopulationLayout, *, workers: int, address: str | None = None
) -> Population:
    """This process for `workers=0`, else that many actors; errors as for `make_rollouts`."""
    if workers < 0:
        raise InvalidSettingError(f"workers must be >= 0, got {workers}")
    if workers == 0:
        return InlinePopulation(layout)
    return ActorPopulation(layout, workers=workers, address=address)


def join_scores(parts: list[Scores]) -> Scores:
    """Puts the scores of neighbouring ranges of pairs together."""
    return Scores(*(np.concatenate([getattr(p, name) for p in parts]) for name in Scores.__slots__))


def parameter_count(spec: NetSpec) -> int:
    """P, the parameters of a net."""
    return sum((before + 1) * after for before, after in pairwise(spec.widths))


def unpack(spec: NetSpec, nets: FloatArray) -> list[tuple[FloatArray, FloatArray]]:
    """Flat parameters (K, P) to a matrix (K, in, out) and a bias (K, 1, out) for each layer."""
    layers, at = [], 0
    for before, after in pairwise(spec.widths):
        weight = nets[:, at : at + before * after].reshape(-1, before, after)
        at += before * after
        layers.append((np.ascontiguousarray(weight), nets[:, None, at : at + after].copy()))
        at += after
    return layers


def forward_many(
    spec: NetSpec, layers: list[tuple[FloatArray, FloatArray]], x: SpaceArray
) -> FloatArray:
    """Maps features (K, E, D), of E environments for each of K nets, to outputs (K, E, A)."""
    for i, (weight, bias) in enumerate(layers):
        x = np.matmul(x, weight) + bias
        if i < len(layers) - 1:
            x = np.tanh(x) if spec.activation == "tanh" else np.maximum(x, 0.0)
    return np.asarray(x, np.float32)
