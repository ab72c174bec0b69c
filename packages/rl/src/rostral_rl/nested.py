"""Dict and Tuple observations: flattened to one float vector where they enter the package.

Slabs, fragments, replay and nets see one array per observation. The policy keeps the space as the
user knows it, so that what is served and loaded takes the same dicts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeGuard

import numpy as np
from gymnasium import spaces

from rostral_rl.arrays import FloatArray, SpaceArray
from rostral_rl.errors import ShapeError

MASK_KEY = "action_mask"
"""Key of a Dict observation that says which choices of a Discrete action are allowed now."""

Nested: TypeAlias = spaces.Dict | spaces.Tuple  # type: ignore[type-arg]


def is_nested(space: spaces.Space[Any]) -> TypeGuard[Nested]:
    """Whether observations of `space` are dicts or tuples."""
    return isinstance(space, spaces.Dict | spaces.Tuple)


def parts(space: Nested) -> list[tuple[Any, spaces.Space[Any]]]:
    """Key, or position, and space of each part, in the order in which they are flattened."""
    if isinstance(space, spaces.Dict):
        return list(space.spaces.items())
    return list(enumerate(space.spaces))


def flatten(
    space: Nested, obs: Any, part_features: Callable[[spaces.Space[Any], Any], FloatArray]
) -> FloatArray:
    """Puts the features of all parts side by side.

    Args:
        space: The nested space.
        obs: A dict or tuple that holds, for each part, a batch of N.
        part_features: Features (N, D) of one part's batch.

    Returns:
        (N, sum of D) float32.

    Raises:
        ShapeError: A part is missing.
    """
    columns: list[FloatArray] = []
    for key, part in parts(space):
        try:
            columns.append(part_features(part, obs[key]))
        except (KeyError, IndexError, TypeError) as error:
            raise ShapeError(
                f"observation has no part {key!r}", hint=f"expected {space}"
            ) from error
    if len({len(column) for column in columns}) != 1:
        raise ShapeError("parts of the observation are of different lengths", hint=f"{space}")
    return np.concatenate(columns, axis=1)


def stored(space: spaces.Space[Any], width: int) -> spaces.Space[Any]:
    """The space as slabs keep it: itself, or for a nested one the vector it is flattened to."""
    if not is_nested(space):
        return space
    return spaces.Box(-np.inf, np.inf, (width,), np.float32)


def mask_at(
    space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    feature_count: Callable[[spaces.Space[Any]], int],
) -> int | None:
    """First feature of the action mask; None where observations hold none that fits the actions."""
    if not isinstance(space, spaces.Dict) or not isinstance(action_space, spaces.Discrete):
        return None
    offset = 0
    for key, part in parts(space):
        if key == MASK_KEY and not is_nested(part) and feature_count(part) == action_space.n:
            return offset
        offset += feature_count(part)
    return None


def as_single(array: SpaceArray) -> SpaceArray:
    """One observation as a batch of one."""
    return np.asarray(array)[None]
