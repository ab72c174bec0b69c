"""Options that older programs use, said as they are said now."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from rostral.scheduling_strategies import PlacementGroupSchedulingStrategy

if TYPE_CHECKING:
    from rostral.placement_group import PlacementGroup

GROUP, INDEX, CAPTURE = NAMES = (
    "placement_group",
    "placement_group_bundle_index",
    "placement_group_capture_child_tasks",
)


class LegacyKeywords(TypedDict, total=False):
    """What is deprecated, for type checkers."""

    placement_group: PlacementGroup | Literal["default"] | None
    placement_group_bundle_index: int
    placement_group_capture_child_tasks: bool | None


def without_legacy(changes: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options with `scheduling_strategy` in place of `placement_group` and what belongs to it.

    Warns of them. Raises TypeError; ValueError for a bundle of no group, and for both at once.
    """
    given = [name for name in NAMES if name in changes]
    if not given:
        return changes
    if changes.get("scheduling_strategy") is not None:
        raise ValueError(f"{given[0]} and scheduling_strategy say the same: give the latter only")
    warnings.warn(
        f"{', '.join(given)}: deprecated, use "
        "scheduling_strategy=PlacementGroupSchedulingStrategy(...)",
        DeprecationWarning,
        stacklevel=_users_level(),
    )
    kept = {name: value for name, value in changes.items() if name not in NAMES}
    kept["scheduling_strategy"] = _strategy(
        changes.get(GROUP, "default"), changes.get(INDEX, -1), changes.get(CAPTURE)
    )
    return kept


def _users_level() -> int:
    """The stack level, for our caller, of the first frame that is not this package's."""
    level, frame = 0, sys._getframe()
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("rostral."):
        level, frame = level + 1, frame.f_back
    return level


def _strategy(group: Any, index: object, captures: object) -> Any:
    if isinstance(index, bool) or not isinstance(index, int):
        raise TypeError(f"{INDEX} must be a whole number, not {type(index).__name__}")
    if captures is not None and not isinstance(captures, bool):
        raise TypeError(f"{CAPTURE} must be a bool, not {type(captures).__name__}")
    if group is None or group == "default":
        if index != -1:
            raise ValueError(f"{INDEX} is {index}, but there is no placement_group")
        return "DEFAULT" if group is None else None
    if not hasattr(group, "bundle_count"):
        raise TypeError(f"{GROUP} must be a PlacementGroup, not {type(group).__name__}")
    return PlacementGroupSchedulingStrategy(group, index, captures)
