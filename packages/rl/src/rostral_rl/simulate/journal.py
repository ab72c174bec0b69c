"""What an environment's running episode can be played again from: its generator and its actions.

Gymnasium has no way to save an environment. Nearly all draw from `np_random` alone and are
otherwise determined by their actions, so that the generator's state before the reset, and the
actions since, bring one back exactly. The resumed training checks that it saw the same.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

EnvState: TypeAlias = dict[str, Any]
"""Plain values that JSON keeps exactly."""

ACTIONS_MAX = 20_000
"""Steps of an episode that are remembered; a longer one begins anew when a training is resumed."""


class Journal:
    """One environment's running episode."""

    def __init__(self) -> None:
        self._generator: dict[str, Any] | None = None  # None where the first reset's seed says all
        self._known = False
        self._actions: list[Any] = []

    def begin(self, env: Any) -> None:
        """An episode is about to begin with the stream that the environment has."""
        generator = env.unwrapped.np_random
        self._known = isinstance(generator, np.random.Generator)
        self._generator = generator.bit_generator.state if self._known else None
        self._actions.clear()

    def begin_seeded(self) -> None:
        """An episode has begun from the environment's own seed."""
        self._known, self._generator = True, None
        self._actions.clear()

    def add(self, action: Any) -> None:
        """A step is about to be taken."""
        if len(self._actions) <= ACTIONS_MAX:
            self._actions.append(action if isinstance(action, int) else action.tolist())

    def state(self) -> EnvState | None:
        """What brings the episode back; None where that cannot be told."""
        if not self._known or len(self._actions) > ACTIONS_MAX:
            return None
        return {"generator": self._generator, "actions": list(self._actions)}
