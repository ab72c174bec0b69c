"""Where a task or actor shall run, as users say it in `scheduling_strategy=`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rostral.exceptions import UnsupportedOptionError
from rostral_gcs.ids import NodeID

if TYPE_CHECKING:
    from rostral.placement_group import PlacementGroup


@dataclass(frozen=True, slots=True)
class Placement:
    """Membership of a placement group, as it travels.

    Attributes:
        group_id: 16 bytes.
        index: Of the bundle; -1 for any.
        captures: Whether tasks and actors that a member makes are members too.
    """

    group_id: bytes
    index: int
    captures: bool

    def request(self) -> dict[str, Any]:
        """As the scheduler is asked for it."""
        return {"group_id": self.group_id, "index": self.index}


class PlacementGroupSchedulingStrategy:
    """Runs a task or actor with what a placement group has set aside.

    Args:
        placement_group: The group.
        placement_group_bundle_index: Which of its bundles, from 0; -1 takes any.
        placement_group_capture_child_tasks: Whether tasks and actors that it makes run in the group
            too, unless they say `scheduling_strategy="DEFAULT"`.

    Raises:
        ValueError: The group has no such bundle.
    """

    def __init__(
        self,
        placement_group: PlacementGroup,
        placement_group_bundle_index: int = -1,
        placement_group_capture_child_tasks: bool | None = None,  # noqa: FBT001 - as in Ray
    ) -> None:
        count = placement_group.bundle_count
        if not -1 <= placement_group_bundle_index < count:
            raise ValueError(
                f"placement_group_bundle_index is {placement_group_bundle_index}: the group has "
                f"bundles 0 to {count - 1}; -1 takes any"
            )
        self.placement_group = placement_group
        self.placement_group_bundle_index = placement_group_bundle_index
        self.placement_group_capture_child_tasks = placement_group_capture_child_tasks

    def placement(self) -> Placement:
        """The membership in it."""
        return Placement(
            self.placement_group._group_id,
            self.placement_group_bundle_index,
            bool(self.placement_group_capture_child_tasks),
        )


class NodeAffinitySchedulingStrategy:
    """Runs a task or actor on one node.

    Args:
        node_id: The node's id: hexadecimal, or a NodeID.
        soft: Whether another node will do where that one is not there.

    Raises:
        TypeError: `node_id` or `soft` is of another type.
        ValueError: `node_id` is no node's id.
    """

    def __init__(self, node_id: str | NodeID, soft: bool) -> None:  # noqa: FBT001 - as in Ray
        if not isinstance(node_id, str | NodeID):
            raise TypeError(f"node_id must be a string, not {type(node_id).__name__}")
        if not isinstance(soft, bool):
            raise TypeError(f"soft must be a bool, not {type(soft).__name__}")
        self.node_id = (NodeID.from_hex(node_id) if isinstance(node_id, str) else node_id).hex()
        self.soft = soft

    def __repr__(self) -> str:
        return f"NodeAffinitySchedulingStrategy({self.node_id!r}, soft={self.soft})"


SchedulingStrategy = (
    Literal["DEFAULT", "SPREAD"]
    | PlacementGroupSchedulingStrategy
    | NodeAffinitySchedulingStrategy
    | Placement
    | None
)


def check_strategy(strategy: object) -> None:
    """Raises TypeError, ValueError, UnsupportedOptionError for what is none."""
    if strategy is None or isinstance(
        strategy, PlacementGroupSchedulingStrategy | NodeAffinitySchedulingStrategy | Placement
    ):
        return
    if not isinstance(strategy, str):
        raise TypeError(
            "scheduling_strategy must be 'DEFAULT', 'SPREAD', a PlacementGroupSchedulingStrategy "
            f"or a NodeAffinitySchedulingStrategy, not {type(strategy).__name__}"
        )
    if strategy not in ("DEFAULT", "SPREAD"):
        raise UnsupportedOptionError(
            f"scheduling_strategy is {strategy!r}", hint="it is 'DEFAULT' or 'SPREAD'"
        )


def placement_of(strategy: SchedulingStrategy) -> Placement | None:
    """The membership that a strategy asks for, if it does."""
    if isinstance(strategy, PlacementGroupSchedulingStrategy):
        return strategy.placement()
    return strategy if isinstance(strategy, Placement) else None
