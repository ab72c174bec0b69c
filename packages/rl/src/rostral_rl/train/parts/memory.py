"""What a net with memory needs beside features: where it stood, and where it has to forget."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rostral_rl.arrays import FloatArray
from rostral_rl.simulate.fragment import Fragment
from rostral_rl.train.parts.device import on_device


@dataclass(frozen=True, slots=True)
class Memory:
    """Of T steps of m environments, whose rows are (T * m) samples, the first step's first.

    Attributes:
        state: (m, S) float32, before the first step.
        keeps: (T, m) float32, 0 where an episode begins and the state is forgotten, else 1.
    """

    state: Tensor
    keeps: Tensor

    @classmethod
    def of(cls, fragment: Fragment) -> Memory:
        """That of a whole fragment."""
        return cls(torch.from_numpy(np.array(fragment["state"])), torch.from_numpy(keeps(fragment)))

    def columns(self, index: Tensor) -> Memory:
        """That of some environments (m,) int64."""
        return Memory(self.state[index], self.keeps[:, index])

    def on(self, device: str) -> Memory:
        """The same on a device."""
        return Memory(on_device(self.state, device), on_device(self.keeps, device))

    def rows(self, index: Tensor) -> Tensor:
        """The samples (T * m,) of some environments (m,), the first step's first."""
        steps, count = self.keeps.shape
        return (torch.arange(steps)[:, None] * count + index).reshape(-1)


def keeps(fragment: Fragment) -> FloatArray:
    """(T, B) float32: 0 in the row after an end, or after a step that was spent on a reset.

    What came before the first row is in the fragment's state already.
    """
    forgets = fragment["terminated"] | fragment["truncated"] | ~fragment["valid"]  # (T, B)
    result = np.ones(forgets.shape, np.float32)
    result[1:] -= forgets[:-1]
    return result
