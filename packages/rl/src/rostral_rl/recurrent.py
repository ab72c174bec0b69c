"""Policies with memory: what they remember is handed in and out, or kept by a player."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rostral_rl import forward, spaces
from rostral_rl.arrays import BoolArray, FloatArray, SpaceArray
from rostral_rl.errors import ShapeError, UsageError
from rostral_rl.net import read
from rostral_rl.policy import Policy, draw


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrentPolicy(Policy):
    """A policy whose actions depend on what it saw before in the episode.

    It remembers nothing itself: `step` takes the state and returns the next. `player` keeps it.
    """

    def __call__(
        self,
        obs: npt.ArrayLike,
        *,
        sample: bool = False,
        generator: np.random.Generator | None = None,
    ) -> SpaceArray:
        """Refuses.

        Raises:
            UsageError: Always: an action without the state before it would be a guess.
        """
        raise UsageError(
            "a policy with memory cannot act on one observation by itself",
            hint="act = policy.player(); act(obs); act.reset() where an episode begins",
        )

    @property
    def state_width(self) -> int:
        """S, numbers of state that a row has."""
        return self.spec.state_width

    def act(self, batch: SpaceArray) -> SpaceArray:
        """The best actions, (N, ...), at the first step of N episodes."""
        return self.step(batch, self.start(len(batch)))[0]

    def outputs(self, batch: SpaceArray) -> FloatArray:
        """What the net says, (N, A), at the first step of N episodes."""
        inputs = read(self.spec, self.observation_space, batch)  # (N, D)
        return self._net.step(inputs, self.start(len(batch)))[0]

    def start(self, count: int) -> FloatArray:
        """The state (N, S) of `count` episodes that begin."""
        return np.zeros((count, self.state_width), np.float32)

    def step(
        self,
        batch: SpaceArray,
        state: FloatArray,
        *,
        sample: bool = False,
        generator: np.random.Generator | None = None,
    ) -> tuple[SpaceArray, FloatArray]:
        """Acts once, for each of N episodes.

        Args:
            batch: (N, *shape), known to fit the observation space.
            state: (N, S) float32, as the step before returned it; zeros where an episode begins.
            sample: Draw actions instead of taking the best.
            generator: Of the draws; a fresh unseeded one by default.

        Returns:
            Actions (N, ...), and the states (N, S) for the next step.
        """
        inputs = read(self.spec, self.observation_space, batch)  # (N, D)
        outputs, _, state = self._net.step(inputs, state)  # (N, A), _, (N, S)
        raw = draw(self, outputs, generator) if sample else forward.mode(self.spec, outputs)
        return self.to_env(raw), state

    def player(
        self, *, sample: bool = False, generator: np.random.Generator | None = None
    ) -> Player:
        """Something to call with observations, one after the other; see `Player`."""
        return Player(self, sample=sample, generator=generator)


class Player:
    """Plays one episode, or N side by side, and remembers for the policy. Not thread-safe.

    Args:
        policy: Whose memory to keep.
        sample: Draw actions instead of taking the best.
        generator: Of the draws.
    """

    def __init__(
        self,
        policy: RecurrentPolicy,
        *,
        sample: bool = False,
        generator: np.random.Generator | None = None,
    ) -> None:
        self._policy = policy
        self._sample = sample
        self._generator = generator
        self._state: FloatArray | None = None  # (N, S)

    def __call__(self, obs: npt.ArrayLike) -> SpaceArray:
        """Chooses actions.

        Args:
            obs: One observation, or a batch of N; as many each time.

        Raises:
            ShapeError: They do not fit the observation space, or are not as many as before.
        """
        batch, single = spaces.as_batch(self._policy.observation_space, obs)
        if self._state is None:
            self._state = self._policy.start(len(batch))
        if len(self._state) != len(batch):
            raise ShapeError(
                f"{len(batch)} observations came, the memory is of {len(self._state)} episodes",
                hint="call reset() before another number of episodes",
            )
        actions, self._state = self._policy.step(
            batch, self._state, sample=self._sample, generator=self._generator
        )
        return np.asarray(actions[0]) if single else actions

    def reset(self, begins: BoolArray | None = None) -> None:
        """Forgets: everything, or the episodes of the mask `begins` (N,) alone."""
        if begins is None:
            self._state = None
        elif self._state is not None:
            self._state = np.where(begins[:, None], np.float32(0.0), self._state)
