"""Plays whole episodes with a fixed policy and sums up what it scored."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rostral_rl import spaces
from rostral_rl.arrays import SpaceArray
from rostral_rl.errors import InvalidSettingError, ShapeError
from rostral_rl.policy import Policy
from rostral_rl.recurrent import RecurrentPolicy
from rostral_rl.seeding import SeedTree, Stream
from rostral_rl.simulate.make import EnvSource, make_vector
from rostral_rl.simulate.slabs import Slab
from rostral_rl.simulate.vector import VectorEnv

BATCH_MAX = 128
"""Environments alive at once; bounds memory when thousands of episodes are asked for."""
RESAMPLES = 2_000
"""Bootstrap resamples behind the confidence interval; more moves its ends by little."""

Act = Callable[[SpaceArray], SpaceArray]
"""Maps a batch of observations (N, *obs_shape) to actions (N, *action_shape)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Scores of complete episodes.

    Attributes:
        returns: Undiscounted return of each episode.
        lengths: Steps of each episode.
        mean: Mean return.
        iqm: Interquartile mean: of the middle half of the returns.
        ci_low: Lower end of the bootstrapped 95 % confidence interval of the mean.
        ci_high: Its upper end.
    """

    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    mean: float
    iqm: float
    ci_low: float
    ci_high: float

    def __str__(self) -> str:
        return (
            f"mean {self.mean:.1f}, IQM {self.iqm:.1f}, "
            f"95 % CI {self.ci_low:.1f} to {self.ci_high:.1f} over {len(self.returns)} episodes"
        )


def evaluate(
    policy: Policy, env: EnvSource, *, episodes: int, seed: int, sample: bool = False
) -> Evaluation:
    """Plays `episodes` episodes and summarises them; the same seed plays the same episodes.

    Args:
        policy: Its normaliser stays as it is.
        env: Gymnasium id or factory.
        episodes: How many, > 0.
        seed: Root of the evaluation's seed tree, whose streams training never uses.
        sample: Draw actions instead of taking the most likely.

    Raises:
        InvalidSettingError: `episodes` is not positive.
        ShapeError: The environment's spaces are not those of the policy.
        SimulationError: The environment failed.
    """
    act, begin = act_of(policy, SeedTree(seed).generator(Stream.ACTION) if sample else None)

    def check(vector: VectorEnv) -> None:
        for name in ("observation_space", "action_space"):
            ours, theirs = getattr(policy, name), getattr(vector, name)
            if not spaces.alike(ours, theirs):
                raise ShapeError(
                    f"the policy's {name} is {ours}, the environment's is {theirs}",
                    hint="evaluate it where it was trained",
                )

    returns, lengths = play(act, env, episodes=episodes, seed=seed, check=check, begin=begin)
    return summarise(returns, lengths, seed=seed)


def act_of(
    policy: Policy, generator: np.random.Generator | None = None
) -> tuple[Act, Callable[[], None]]:
    """How a policy acts on batches, greedily or drawing from `generator`, and how it forgets."""
    if isinstance(policy, RecurrentPolicy):
        player = policy.player(sample=generator is not None, generator=generator)
        return player, player.reset
    if generator is None:
        return policy.act, lambda: None

    def draws(obs: SpaceArray) -> SpaceArray:
        return policy(obs, sample=True, generator=generator)

    return draws, lambda: None


def play(
    act: Act,
    env: EnvSource,
    *,
    episodes: int,
    seed: int,
    first: int = 0,
    check: Callable[[VectorEnv], None] = lambda vector: None,
    begin: Callable[[], None] = lambda: None,
) -> tuple[list[float], list[int]]:
    """Plays one episode in each of `episodes` environments.

    One each, because taking the first N episodes to *finish* would favour the short ones.

    Args:
        act: Chooses the actions.
        env: Gymnasium id or factory.
        episodes: How many, > 0.
        seed: Root of the evaluation's seed tree.
        first: Global index of the first environment: its episode is the same whoever plays it.
        check: Shown the environments before they are played; raises what it holds against them.
        begin: Called before episodes begin, all at once: who acts forgets those before.

    Returns:
        Return and length of each episode, by environment.

    Raises:
        InvalidSettingError: `episodes` is not positive.
    """
    if episodes <= 0:
        raise InvalidSettingError(f"episodes must be > 0, got {episodes}")
    returns: list[float] = []
    lengths: list[int] = []
    for begun in range(0, episodes, BATCH_MAX):
        count = min(BATCH_MAX, episodes - begun)
        vector = make_vector(env, count, seed=seed, first=first + begun, stream=Stream.EVALUATION)
        try:
            check(vector)
            slab = Slab.allocate(
                1,
                count,
                observation_space=vector.observation_space,
                action_space=vector.action_space,
            )
            vector.reset(slab.obs[0])
            begin()
            score = np.zeros(count)  # (B,)
            length = np.zeros(count, np.int64)  # (B,)
            playing = np.ones(count, np.bool_)  # (B,)
            while playing.any():
                slab.actions[0] = act(slab.obs[0])
                vector.step(slab, 0)
                score += np.where(playing, slab.reward[0], 0.0)
                length += playing
                playing &= ~(slab.terminated[0] | slab.truncated[0])
                slab.obs[0] = slab.obs[1]
        finally:
            vector.close()
        returns.extend(score.tolist())
        lengths.extend(length.tolist())
    return returns, lengths


def summarise(returns: list[float], lengths: list[int], *, seed: int) -> Evaluation:
    """Mean, interquartile mean and a 95 % percentile-bootstrap interval of the mean."""
    scores = np.sort(np.array(returns))  # (E,)
    cut = math.floor(len(scores) / 4)
    generator = np.random.default_rng(seed)
    resampled = generator.choice(scores, size=(RESAMPLES, len(scores))).mean(axis=1)  # (RESAMPLES,)
    low, high = np.percentile(resampled, (2.5, 97.5))
    return Evaluation(
        returns=tuple(returns),
        lengths=tuple(lengths),
        mean=float(scores.mean()),
        iqm=float(scores[cut : len(scores) - cut].mean()),
        ci_low=float(low),
        ci_high=float(high),
    )
