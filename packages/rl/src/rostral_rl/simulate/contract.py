"""Holds environments to Gymnasium's interface: the first wrong answer is an error that names it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from rostral.exceptions import RostralError
from rostral_rl.errors import EnvContractError, RLError, SimulationError
from rostral_rl.simulate.slabs import Slab
from rostral_rl.spaces import Space, encode

CHECKED_STEPS = 2
"""Steps whose observations are compared with the space in full; it costs as much as a cheap step.
Later ones are held to its shape, and to being finite, by the arrays they are written to."""

_FIELD_WORDS = {"reward": "reward", "obs": "observation"}


@contextlib.contextmanager
def simulating() -> Iterator[None]:
    """What an environment raises within is a SimulationError with its words.

    Our own errors pass unchanged, and so does what the machine is to blame for.
    """
    try:
        yield
    except (RostralError, MemoryError):
        raise
    except Exception as error:
        raise SimulationError(f"an environment failed: {type(error).__name__}: {error}") from error


def check_finite(slab: Slab, step: int) -> None:
    """Holds rewards and observations of T steps to being numbers.

    Args:
        slab: Filled.
        step: Steps that its environments had taken before.

    Raises:
        EnvContractError: One is NaN or infinite.
    """
    for field, array in (("reward", slab.reward), ("obs", slab.obs)):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            t = int(np.argwhere(~np.isfinite(array))[0][0])
            raise EnvContractError(
                f"an environment returned a {_FIELD_WORDS[field]} that is not finite",
                step=step + t,
                field=field,
            )


class Contract:
    """Checks what environments of one observation space return.

    Args:
        space: Of one observation.

    Attributes:
        steps: Steps taken by the vector so far, for error texts.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self.steps = 0

    def reset(self, answer: Any) -> Any:
        """The observation that `reset` returned.

        Raises:
            EnvContractError: Not a tuple of an observation and a dict.
        """
        if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[1], dict):
            raise EnvContractError(
                f"reset returned {_short(answer)}",
                step=self.steps,
                field="reset",
                hint="Gymnasium wants (observation, info)",
            )
        return answer[0]

    def stepped(self, answer: Any) -> tuple[Any, Any, Any, Any, Any]:
        """What `step` returned.

        Raises:
            EnvContractError: Not a tuple of five.
        """
        if not isinstance(answer, tuple) or len(answer) != 5:
            raise EnvContractError(
                f"step returned {_short(answer)}",
                step=self.steps,
                field="step",
                hint="Gymnasium wants (observation, reward, terminated, truncated, info)",
            )
        return answer

    def observed(self, seen: Any, method: str) -> Any:
        """An observation as slabs keep it.

        Raises:
            EnvContractError: It is outside the space, or of another shape.
        """
        if self.steps < CHECKED_STEPS and not self._contains(seen):
            raise EnvContractError(
                f"{method} returned an observation outside its space: {_short(seen)}",
                step=self.steps,
                field="obs",
                hint=f"observation_space is {self._space}",
            )
        try:
            return encode(self._space, seen)
        except RLError as error:
            raise EnvContractError(
                f"{method} returned an observation that does not fit: {error.message}",
                step=self.steps,
                field="obs",
                hint=f"observation_space is {self._space}",
            ) from error

    def _contains(self, seen: Any) -> bool:
        if self._space.contains(seen):
            return True
        # Gymnasium's own environments return float32 where the space says float64 and the other way
        # round; bounds and shape are what counts.
        cast = getattr(seen, "astype", None)
        dtype = self._space.dtype
        return cast is not None and dtype is not None and self._space.contains(cast(dtype))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
