"""Placement groups: bundles of resources that are set aside together, for tasks and actors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from rostral import _context
from rostral.object_ref import ObjectRef
from rostral.options import TaskOptions, check_custom_resources, check_quantity
from rostral.remote_function import remote_function
from rostral.scheduling_strategies import PlacementGroupSchedulingStrategy

Strategy = Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]
STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
BUNDLES_MAX = 1000


class PlacementGroupInfo(TypedDict):
    """What is known of one group, under the names that Ray's users know."""

    placement_group_id: str
    name: str
    bundles: dict[int, dict[str, float]]
    bundles_to_node_id: dict[int, str]
    strategy: str
    state: str


class PlacementGroup:
    """Bundles of resources set aside for the tasks and actors that name the group.

    Picklable; equal and hashable by id. The group lives until it is removed, or its job ends; a
    detached one until it is removed.
    """

    def __init__(
        self, group_id: bytes, bundles: Sequence[Mapping[str, float]], *, stage: str = "PENDING"
    ) -> None:
        self._group_id = group_id
        self._bundles = [dict(bundle) for bundle in bundles]
        # As far as this process knows.
        self._stage = stage

    @property
    def id(self) -> str:
        """The group's id, hexadecimal."""
        return self._group_id.hex()

    @property
    def bundle_specs(self) -> list[dict[str, float]]:
        """The bundles, as they were asked for."""
        return [dict(bundle) for bundle in self._bundles]

    @property
    def bundle_count(self) -> int:
        """How many bundles there are."""
        return len(self._bundles)

    def ready(self) -> ObjectRef[PlacementGroup]:
        """A reference that is ready when all bundles are set aside; its value is the group.

        A group that is removed first gives TaskPlacementGroupRemovedError.
        """
        current = _context.runtime()
        ids = current.scope().context
        # Both kinds of id go on either way: a task that runs again may find the group placed where
        # it was not before, and must name all that follows as it did then.
        if self._has_bundles():
            ids.next_child_id()
            return current.put(self)
        ids.next_put_id()
        return self._member_task()

    def wait(self, timeout_seconds: float = 30) -> bool:
        """Blocks until all bundles are set aside; False when the time is over, or it was removed.

        Args:
            timeout_seconds: 0 polls.
        """
        if not self._has_bundles() and self._stage == "PENDING":
            seconds = check_quantity("timeout", timeout_seconds)
            _context.runtime().wait_sealed([self._member_task()], 1, seconds)
        return self._has_bundles()

    def _has_bundles(self) -> bool:
        """Whether they are set aside by now; asks unless that is known."""
        if self._stage != "CREATED":
            found = _context.runtime().ask("get_group", {"group_id": self._group_id})
            self._stage = found["state"]
        return self._stage == "CREATED"

    def _member_task(self) -> ObjectRef[PlacementGroup]:
        """A task that runs once the bundles are there, and fails when the group goes first."""
        member = PlacementGroupSchedulingStrategy(self)
        options = TaskOptions(num_cpus=0, scheduling_strategy=member)
        return remote_function(_ready, options).remote(self)

    def __repr__(self) -> str:
        return f"PlacementGroup({self.id}, {self._bundles})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlacementGroup) and other._group_id == self._group_id

    def __hash__(self) -> int:
        return hash(self._group_id)

    def __reduce__(self) -> tuple[Any, ...]:
        return PlacementGroup, (self._group_id, self._bundles)


def _ready(group: PlacementGroup) -> PlacementGroup:
    return group


def placement_group(
    bundles: Sequence[Mapping[str, float]],
    strategy: Strategy = "PACK",
    name: str = "",
    lifetime: Literal["detached"] | None = None,
) -> PlacementGroup:
    """Asks for bundles of resources, all or none; returns at once.

    Args:
        bundles: Resources by name (`CPU`, `GPU`, `memory` in bytes, custom ones), for each bundle.
        strategy: How bundles are spread over nodes; the STRICT ones are demands, not wishes.
        name: Where other drivers find it (`get_placement_group`); unique in the cluster.
        lifetime: "detached" outlives this driver.

    Raises:
        ValueError: No bundles, an empty or negative one, an unknown strategy or lifetime; the name
            is taken.
        TypeError: Something of the wrong type.
        UnschedulableError: The cluster can never have the bundles.
    """
    checked = _check_bundles(bundles)
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy is {strategy!r}: it must be one of {', '.join(STRATEGIES)}")
    if lifetime not in (None, "detached"):
        raise ValueError(f"lifetime is {lifetime!r}: it must be None or 'detached'")
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, not {type(name).__name__}")
    current = _context.runtime()
    group_id = current.scope().context.next_child_id()
    answer = current.ask(
        "create_group",
        {
            "group_id": group_id,
            "job_id": current.job_id,
            "name": name,
            "bundles": checked,
            "strategy": strategy,
            "detached": lifetime == "detached",
        },
    )
    return PlacementGroup(group_id, checked, stage=answer["state"])


def _check_bundles(bundles: object) -> list[dict[str, float]]:
    if isinstance(bundles, str | bytes | Mapping) or not isinstance(bundles, Sequence):
        raise ValueError(f"bundles must be a list of dicts, not {type(bundles).__name__}")
    if not 1 <= len(bundles) <= BUNDLES_MAX:
        raise ValueError(f"there are {len(bundles)} bundles: 1 to {BUNDLES_MAX} are allowed")
    return [_check_bundle(index, bundle) for index, bundle in enumerate(bundles)]


def _check_bundle(index: int, bundle: object) -> dict[str, float]:
    if not isinstance(bundle, Mapping):
        raise ValueError(f"bundle {index} must be a dict, not {type(bundle).__name__}")
    known = {n: check_quantity(n, q) for n, q in bundle.items() if n in ("CPU", "GPU", "memory")}
    custom = check_custom_resources({n: q for n, q in bundle.items() if n not in known})
    amounts = {name: quantity for name, quantity in (known | custom).items() if quantity > 0}
    if not amounts:
        raise ValueError(f"bundle {index} asks for nothing: {dict(bundle)!r}")
    return amounts


def remove_placement_group(group: PlacementGroup) -> None:
    """Gives the bundles back. Its tasks and actors end with it; of a removed group: nothing."""
    if not isinstance(group, PlacementGroup):
        raise TypeError(
            f"remove_placement_group() takes a placement group, not {type(group).__name__}"
        )
    group._stage = "REMOVED"
    current = _context.runtime()
    current.ask("remove_group", {"group_id": group._group_id})
    current.forget_group(group._group_id)


def get_placement_group(name: str) -> PlacementGroup:
    """The group of that name. Raises PlacementGroupNotFoundError (a ValueError)."""
    if not name:
        raise ValueError("get_placement_group() needs the name of a group")
    found = _context.runtime().ask("get_group", {"name": name})
    return PlacementGroup(found["group_id"], found["bundles"])


def placement_group_table(
    group: PlacementGroup | None = None,
) -> dict[str, PlacementGroupInfo] | PlacementGroupInfo:
    """What is known of a group, or of all groups by id, removed ones too."""
    current = _context.runtime()
    if group is not None:
        return _info(current.ask("get_group", {"group_id": group._group_id}))
    groups = current.ask("list_groups", {})["groups"]
    return {found["group_id"].hex(): _info(found) for found in groups}


def _info(found: Mapping[str, Any]) -> PlacementGroupInfo:
    return PlacementGroupInfo(
        placement_group_id=found["group_id"].hex(),
        name=found["name"],
        bundles=dict(enumerate(found["bundles"])),
        bundles_to_node_id={i: node.hex() for i, node in enumerate(found["node_ids"]) if node},
        strategy=found["strategy"],
        state=found["state"],
    )


def get_current_placement_group() -> PlacementGroup | None:
    """The group that the running task or actor is part of; None outside of any, and in a driver."""
    placement = _context.runtime().scope().placement
    if placement is None:
        return None
    found = _context.runtime().ask("get_group", {"group_id": placement.group_id})
    return PlacementGroup(found["group_id"], found["bundles"])
