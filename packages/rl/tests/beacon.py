"""A task that is seen in a picture, for tests of nets with convolutions."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Beacon(gymnasium.Env[Any, Any]):
    """One step: a bright column on the left or the right of a noisy picture; go there."""

    observation_space = spaces.Box(0, 255, (8, 10, 1), np.uint8)
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        self.right = False

    def _picture(self) -> Any:
        picture = self.np_random.integers(100, size=(8, 10, 1), dtype=np.uint8)
        self.right = bool(self.np_random.integers(2))
        picture[:, 5 * self.right + int(self.np_random.integers(5))] = 250
        return picture

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return self._picture(), {}

    def step(self, action: Any) -> Any:
        reward = 1.0 if bool(action) == self.right else -1.0
        return self._picture(), reward, True, False, {}
