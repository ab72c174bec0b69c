"""Placement groups as they lie in the GCS: the group's row, and what nodes say about it.

This file owns the conversion between rows and the views of ``core/group_commit.py``, and the form
of votes. The row itself is the message to the nodes: each follows the table and sees what is asked
of it. A node answers by a vote, a row of its own for each group, which it overwrites at each step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Literal

import msgspec

from rostral_gcs import BundleRow, PlacementGroupRow, PlacementGroupState
from rostral_gcs.ids import NodeID
from rostral_scheduler.core.group_commit import GroupState, GroupView
from rostral_scheduler.core.resources import ResourceSet

__all__ = ["VOTES", "Vote", "row_of", "view_of", "vote_key"]

VOTES: Final = "rostral.group_votes"
"""The namespace of votes in the key-value table."""


class Vote(msgspec.Struct, frozen=True):
    """What a node says of a group.

    Attributes:
        version: Of the row that it answers.
        step: Which step: ``prepare`` for PREPARED and RESCHEDULING, ``commit`` for CREATED.
        yes: It has set the bundles aside; it has them.
    """

    version: int
    step: Literal["prepare", "commit"]
    yes: bool


def vote_key(group_id: bytes, node_id: bytes) -> bytes:
    """The key of a node's vote on a group."""
    return group_id + node_id


def view_of(row: PlacementGroupRow) -> GroupView:
    """The row as the protocol sees it.

    Raises:
        RequestError: A bundle is not one that a scheduler can count.
    """
    return GroupView(
        group_id=row.group_id.binary(),
        version=row.version,
        state=GroupState(row.state.value),
        strategy=row.strategy,  # type: ignore[arg-type]
        bundles=tuple(ResourceSet.of(bundle.resources) for bundle in row.bundles),
        nodes=tuple(
            None if bundle.node_id is None else bundle.node_id.binary() for bundle in row.bundles
        ),
    )


def row_of(view: GroupView, row: PlacementGroupRow) -> PlacementGroupRow:
    """The row to write for a view; all that the protocol does not know stays as it is."""
    bundles = tuple(
        BundleRow(resources=bundle.resources, node_id=None if node is None else NodeID(node))
        for bundle, node in zip(row.bundles, view.nodes, strict=True)
    )
    state = PlacementGroupState(view.state.value)
    return replace(row, bundles=bundles, state=state, version=view.version)
