"""The placement group table: which bundles of resources are set aside together, and where.

This file owns PlacementGroupRow, its states and its codec. Who places a group when is the
schedulers' business; each step of theirs is a compare-and-set of the row.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.message import DecodeError

from rostral_gcs._proto import rows_pb2
from rostral_gcs.errors import InvalidArgumentError
from rostral_gcs.ids import JobID, NodeID, PlacementGroupID
from rostral_gcs.tables.checks import check_name, check_namespace, check_resources

__all__ = [
    "PLACEMENT_GROUPS",
    "PLACEMENT_GROUP_NAMES",
    "BundleRow",
    "PlacementGroupRow",
    "PlacementGroupState",
    "PlacementGroupTable",
    "placement_group_name_key",
]

PLACEMENT_GROUP_NAMES: Final = "placement_group_names"
_STRATEGIES: Final = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
_BUNDLES_MAX: Final = 10_000


# PENDING ──> PREPARED ──> CREATED ──> RESCHEDULING ──> CREATED
#    │  ^         │           │              │
#    │  └─────────┤           │              │
#    └────────────┴───────────┴──────────────┴──> REMOVED     (final)
class PlacementGroupState(enum.Enum):
    """Where a placement group is in its life; the drawing is above."""

    PENDING = "PENDING"
    """Waits for room."""
    PREPARED = "PREPARED"
    """Its nodes are chosen and asked to set the bundles aside; not all have said yes."""
    CREATED = "CREATED"
    """All bundles are set aside."""
    RESCHEDULING = "RESCHEDULING"
    """A node with bundles of it died; these wait for room elsewhere."""
    REMOVED = "REMOVED"
    """For good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleRow:
    """One bundle.

    Attributes:
        resources: What it sets aside, by name.
        node_id: Where; None while it is not placed.
    """

    resources: Mapping[str, float]
    node_id: NodeID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementGroupRow:
    """One placement group.

    Attributes:
        group_id: Its id.
        job_id: The job that made it.
        bundles: Its bundles, in the order of their indexes; at least one.
        name: Unique in its namespace while the group is not REMOVED; empty for none.
        namespace: Of the name.
        strategy: PACK, SPREAD, STRICT_PACK or STRICT_SPREAD.
        state: See PlacementGroupState.
        detached: Outlives its job.
        cause: Why it is RESCHEDULING or REMOVED, or cannot be placed; else empty.
        version: The stored row's version; 0 for a row not stored yet.
    """

    group_id: PlacementGroupID
    job_id: JobID
    bundles: tuple[BundleRow, ...]
    name: str = ""
    namespace: str = ""
    strategy: str = "PACK"
    state: PlacementGroupState = PlacementGroupState.PENDING
    detached: bool = False
    cause: str = ""
    version: int = field(default=0, compare=False)

    def check(self) -> None:
        """Refuses fields out of range.

        Raises:
            InvalidArgumentError: Says which field and what is allowed.
        """
        check_name("placement group name", self.name)
        check_namespace(self.namespace)
        if self.strategy not in _STRATEGIES:
            raise InvalidArgumentError(
                f"strategy is {self.strategy[:80]!r}; allowed: {', '.join(_STRATEGIES)}",
                hint="choose one of these",
            )
        if not 1 <= len(self.bundles) <= _BUNDLES_MAX:
            raise InvalidArgumentError(
                f"placement group has {len(self.bundles)} bundles; allowed: 1 to {_BUNDLES_MAX}",
                hint="correct the bundles",
            )
        for index, bundle in enumerate(self.bundles):
            check_resources(f"bundle {index}", bundle.resources)


class PlacementGroupTable:
    """Codec of the placement group table; keys are group ids."""

    name = "placement_groups"

    def key_of(self, row: PlacementGroupRow) -> bytes:
        """The group's id."""
        return row.group_id.binary()

    def encode(self, row: PlacementGroupRow) -> bytes:
        """The row's value, checked."""
        row.check()
        return rows_pb2.PlacementGroupValue(
            job_id=row.job_id.binary(),
            name=row.name,
            namespace=row.namespace,
            strategy=row.strategy,
            bundles=[
                rows_pb2.Bundle(
                    resources=bundle.resources,
                    node_id=bundle.node_id.binary() if bundle.node_id is not None else b"",
                )
                for bundle in row.bundles
            ],
            state=row.state.value,
            detached=row.detached,
            cause=row.cause,
        ).SerializeToString()

    def decode(self, key: bytes, value: bytes, version: int) -> PlacementGroupRow:
        """The row again."""
        try:
            found = rows_pb2.PlacementGroupValue.FromString(value)
            row = PlacementGroupRow(
                group_id=PlacementGroupID(key),
                job_id=JobID(found.job_id),
                bundles=tuple(
                    BundleRow(
                        resources=dict(bundle.resources),
                        node_id=NodeID(bundle.node_id) if bundle.node_id else None,
                    )
                    for bundle in found.bundles
                ),
                name=found.name,
                namespace=found.namespace,
                strategy=found.strategy,
                state=PlacementGroupState(found.state),
                detached=found.detached,
                cause=found.cause,
                version=version,
            )
        except (DecodeError, ValueError) as error:
            raise InvalidArgumentError(
                f"not a row of table placement_groups: {str(error)[:80]}",
                hint="write it with this client",
            ) from error
        row.check()
        return row


def placement_group_name_key(namespace: str, name: str) -> bytes:
    """The key of the claim on a name; its value is the group's id."""
    check_namespace(namespace)
    check_name("placement group name", name)
    return f"{namespace}/{name}".encode()


PLACEMENT_GROUPS = PlacementGroupTable()
