"""What a policy server needs of a policy; ours, ONNX files and what users write all fit it.

A `Servable` maps observations to actions and remembers nothing. A `Recurrent` one is given, for
each row, the state that it returned after the row before, so that it remembers nothing either: the
server keeps the states, by session.
"""

from __future__ import annotations

from typing import Protocol, TypeGuard

from rostral_rl import spaces
from rostral_rl.arrays import FloatArray, SpaceArray
from rostral_rl.policy import PolicyInfo


class Described(Protocol):
    """A policy that says what it reads and writes, and where it comes from."""

    @property
    def observation_space(self) -> spaces.Space:
        """The space of one observation."""

    @property
    def action_space(self) -> spaces.Space:
        """The space of one action."""

    @property
    def info(self) -> PolicyInfo:
        """Provenance, and the version that answers carry."""


class Servable(Described, Protocol):
    """A policy without memory. `act` is called from one thread at a time."""

    def act(self, batch: SpaceArray) -> SpaceArray:
        """Actions (N, ...) of observations (N, *shape) that are known to fit the space."""


class Recurrent(Described, Protocol):
    """A policy with memory, which it is handed."""

    @property
    def state_width(self) -> int:
        """S, numbers of state that a row has."""

    def step(self, batch: SpaceArray, state: FloatArray) -> tuple[SpaceArray, FloatArray]:
        """Acts once.

        Args:
            batch: (N, *shape), known to fit the observation space.
            state: (N, S) float32; zeros where an episode begins.

        Returns:
            Actions (N, ...), and the states (N, S) to be handed in next.
        """


AnyServable = Servable | Recurrent


def is_recurrent(policy: AnyServable) -> TypeGuard[Recurrent]:
    """Whether the policy wants a state."""
    return hasattr(policy, "state_width")
