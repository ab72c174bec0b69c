"""Holds environments to Gymnasium's interface: the first wrong answer is an error that names it."""

from __future__ import annotations

from typing import Any

from rostral_rl.errors import EnvContractError, RLError
from rostral_rl.spaces import Space, encode

CHECKED_STEPS = 2
"""Steps whose observations are compared with the space in full; it costs as much as a cheap step.
Later ones are held to its shape, and to being finite, by the arrays they are written to."""


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
