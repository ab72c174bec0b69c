"""The seed tree: one root seed, and a stream of its own for everything that draws.

A stream is named by what it is for and by the *global* index of the environment it serves, never by
the worker that happens to run it. So environment 5 sees the same resets and the same action noise
whether it lives in one process with seven others or alone in the third of eight actors.
"""

from __future__ import annotations

import enum
import operator

import numpy as np

from rostral_rl.errors import InvalidSettingError


class Stream(enum.IntEnum):
    """What a stream is for. Recorded results depend on the numbers: append, never renumber."""

    ENV = 0
    ACTION = 1
    NET = 2
    SHUFFLE = 3
    EVALUATION = 4
    NOISE = 5


class SeedTree:
    """Derives independent streams from a root seed.

    Args:
        root: The seed the user gave, >= 0.

    Raises:
        InvalidSettingError: `root` is negative or not an integer.
    """

    def __init__(self, root: int) -> None:
        try:
            self.root = operator.index(root)
        except TypeError as error:
            raise InvalidSettingError(f"seed must be an integer >= 0, got {root!r}") from error
        if self.root < 0:
            raise InvalidSettingError(f"seed must be an integer >= 0, got {root!r}")

    def _sequence(self, stream: Stream, index: int, life: int) -> np.random.SeedSequence:
        return np.random.SeedSequence(self.root, spawn_key=(int(stream), index, life))

    def seed(self, stream: Stream, index: int = 0, *, life: int = 0) -> int:
        """A 31-bit seed, which is what `Env.reset(seed=)` and `torch.manual_seed` both accept.

        Args:
            stream: What it is for.
            index: Global index of the environment; 0 where there is only one of the kind.
            life: How often this environment was replaced after its worker died. Were the seed the
                same, the replacement would live through the very episodes that its predecessor had
                already reported.
        """
        return int(self._sequence(stream, index, life).generate_state(1, np.uint32)[0] >> 1)

    def generator(self, stream: Stream, index: int = 0, *, life: int = 0) -> np.random.Generator:
        """A generator for draws made by this package itself; arguments as for `seed`."""
        return np.random.Generator(np.random.PCG64(self._sequence(stream, index, life)))
