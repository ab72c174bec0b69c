"""Evaluation while training goes on: in actors of their own, or between two updates.

Every evaluation plays the same episodes, on streams that training never uses, so that two of them
differ by the policy alone. Actors play while others simulate and learn; a policy that comes while
they are busy waits, and a newer one takes its place.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Protocol

from rostral_rl.policy import Policy
from rostral_rl.simulate.crew import Crew, split
from rostral_rl.simulate.make import EnvSource
from rostral_rl.threads import threads_for
from rostral_rl.train.parts.evaluate import Evaluation, act_of, play, summarise


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationPlan:
    """What every evaluation of a training plays.

    Attributes:
        env: Gymnasium id or factory.
        episodes: How many, > 0.
        seed: Root of the evaluation's seed tree.
    """

    env: EnvSource
    episodes: int
    seed: int


@dataclass(frozen=True, slots=True)
class Scored:
    """One evaluation.

    Attributes:
        version: Update after which the policy was as it was evaluated.
        result: What it scored.
    """

    version: int
    result: Evaluation

    def metrics(self) -> dict[str, float]:
        """The columns of the metrics files."""
        return {
            "eval_update": float(self.version),
            "eval_return": self.result.mean,
            "eval_iqm": self.result.iqm,
        }


NO_METRICS = dict.fromkeys(("eval_update", "eval_return", "eval_iqm"), math.nan)
"""The same columns before the first evaluation is done."""


class Evaluator(Protocol):
    """Who evaluates."""

    def begin(self, policy: Policy) -> None:
        """Has a policy evaluated; blocks only where there is nobody else to do it."""

    def poll(self) -> Scored | None:
        """An evaluation that was finished since the last call, if there is one; does not block."""

    def drain(self) -> Scored | None:
        """Waits for what is under way; returns the newest."""

    def close(self) -> None:
        """Ends the actors. May be called twice."""


class InlineEvaluator:
    """In this process."""

    def __init__(self, plan: EvaluationPlan) -> None:
        self._plan = plan
        self._done: Scored | None = None

    def begin(self, policy: Policy) -> None:
        """See `Evaluator.begin`."""
        returns, lengths = _play(self._plan, policy, 0, self._plan.episodes)
        result = summarise(returns, lengths, seed=self._plan.seed)
        self._done = Scored(policy.info.version, result)

    def poll(self) -> Scored | None:
        """See `Evaluator.poll`."""
        done, self._done = self._done, None
        return done

    def drain(self) -> Scored | None:
        """See `Evaluator.drain`."""
        return self.poll()

    def close(self) -> None:
        """See `Evaluator.close`."""


class EvaluationActor:
    """What runs inside an actor: some of the episodes."""

    def __init__(self, plan: EvaluationPlan, first: int, count: int) -> None:
        self._plan = plan
        self._first = first
        self._count = count

    def play(self, policy: Policy) -> tuple[list[float], list[int]]:
        """Returns and lengths of this actor's episodes."""
        with threads_for(0):
            return _play(self._plan, policy, self._first, self._count)


class ActorEvaluator:
    """In actors that share the episodes. They take no CPU from the rollout actors' share.

    Args:
        plan: What is played.
        actors: How many; at most one per episode.
        address: As for `Crew`, whose errors this raises too.
    """

    def __init__(self, plan: EvaluationPlan, *, actors: int, address: str | None = None) -> None:
        self._plan = plan
        self._crew = Crew(
            EvaluationActor,
            lambda seat: (plan, seat.first, seat.count),
            split(plan.episodes, actors),
            address=address,
            cpus_each=0.0,
        )
        self._playing: tuple[int, Any, list[Any]] | None = None  # version, policy, calls
        self._waiting: Policy | None = None

    def begin(self, policy: Policy) -> None:
        """See `Evaluator.begin`."""
        if self._playing is not None:
            self._waiting = policy
            return
        shared = self._crew.put(policy)
        calls = [self._crew.call(seat, "play", shared) for seat in self._crew.seats]
        self._playing = (policy.info.version, shared, calls)

    def poll(self) -> Scored | None:
        """See `Evaluator.poll`."""
        if self._playing is None or not self._crew.all_done(self._playing[2]):
            return None
        return self._take()

    def drain(self) -> Scored | None:
        """See `Evaluator.drain`."""
        newest: Scored | None = None
        while self._playing is not None:
            newest = self._take()
        return newest

    def close(self) -> None:
        """See `Evaluator.close`."""
        self._playing = self._waiting = None
        self._crew.close()

    def _take(self) -> Scored:
        assert self._playing is not None
        version, shared, calls = self._playing
        returns: list[float] = []
        lengths: list[int] = []
        for seat, call in zip(self._crew.seats, calls, strict=True):
            again = functools.partial(self._crew.call, seat, "play", shared)
            scores, steps = self._crew.result(seat, call, again)
            returns += scores
            lengths += steps
        self._playing = None
        if self._waiting is not None:
            policy, self._waiting = self._waiting, None
            self.begin(policy)
        return Scored(version, summarise(returns, lengths, seed=self._plan.seed))


def make_evaluator(plan: EvaluationPlan, *, actors: int, address: str | None = None) -> Evaluator:
    """Chooses who evaluates: this process for `actors=0`, else that many actors."""
    if actors == 0:
        return InlineEvaluator(plan)
    return ActorEvaluator(plan, actors=actors, address=address)


def _play(
    plan: EvaluationPlan, policy: Policy, first: int, count: int
) -> tuple[list[float], list[int]]:
    act, begin = act_of(policy)
    return play(act, plan.env, episodes=count, seed=plan.seed, first=first, begin=begin)
