"""The client's methods for what schedulers agree on: placement groups and checkpoints.

This file owns these methods of ``AsyncGcsClient``, which has them as a base.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rostral_gcs.errors import AlreadyExistsError, ConflictError, GcsError
from rostral_gcs.ids import ActorID, PlacementGroupID
from rostral_gcs.name_claims import claim_name, find_owner, release_name
from rostral_gcs.row_client import RowClient
from rostral_gcs.tables.checkpoints import CHECKPOINTS, CheckpointRow
from rostral_gcs.tables.placement_groups import (
    PLACEMENT_GROUP_NAMES,
    PLACEMENT_GROUPS,
    PlacementGroupRow,
    PlacementGroupState,
    placement_group_name_key,
)

__all__ = ["PlacementMethods"]


class PlacementMethods:
    """Placement groups and checkpoints."""

    _rows: RowClient

    # --- Placement groups --------------------------------------------------------------------

    async def add_placement_group(self, row: PlacementGroupRow) -> PlacementGroupRow:
        """Adds a group and claims its name, if it has one.

        Raises:
            AlreadyExistsError: The id exists, or a group that is not REMOVED has the name.
            InvalidArgumentError: A name, the strategy or a bundle is out of bounds.
        """
        key = PLACEMENT_GROUPS.key_of(row)
        value = PLACEMENT_GROUPS.encode(row)
        try:
            version = await self._rows.write_one(PLACEMENT_GROUPS.name, key, value, 0)
        except ConflictError as error:
            raise AlreadyExistsError(
                f"placement group {row.group_id.hex()} exists already",
                hint="use a new id",
                owner=row.group_id.hex(),
            ) from error
        if row.name:
            try:
                await self._claim_group_name(row)
            except AlreadyExistsError:
                await self._rows.write_one(PLACEMENT_GROUPS.name, key, None)
                raise
        return replace(row, version=version)

    async def update_placement_group(self, row: PlacementGroupRow) -> PlacementGroupRow:
        """Writes the row if it still has the version that ``row`` was read with.

        A group that becomes REMOVED gives its name back.

        Raises:
            ConflictError: Somebody else changed it; read it again.
        """
        version = await self._rows.write_one(
            PLACEMENT_GROUPS.name,
            PLACEMENT_GROUPS.key_of(row),
            PLACEMENT_GROUPS.encode(row),
            row.version,
        )
        return await self._group_released(replace(row, version=version))

    async def change_placement_group(
        self,
        group_id: PlacementGroupID,
        decide: Callable[[PlacementGroupRow], PlacementGroupRow | None],
    ) -> PlacementGroupRow:
        """Reads the row, writes what ``decide`` makes of it, and begins again on a conflict.

        Args:
            group_id: The group.
            decide: From the present row to the new one, or None to leave it. May be called often,
                so it must have no side effects.

        Raises:
            NotFoundError: There is no such group.
        """
        row = await self._rows.change(PLACEMENT_GROUPS, group_id.binary(), decide)
        return await self._group_released(row)

    async def get_placement_group(self, group_id: PlacementGroupID) -> PlacementGroupRow | None:
        """The group, or None."""
        return await self._rows.get(PLACEMENT_GROUPS, group_id.binary())

    async def get_placement_group_by_name(
        self, name: str, *, namespace: str = ""
    ) -> PlacementGroupRow | None:
        """The group of that name that is not REMOVED, or None."""
        key = placement_group_name_key(namespace, name)
        owner = await find_owner(self._rows, PLACEMENT_GROUP_NAMES, key)
        if owner is None:
            return None
        row = await self._rows.get(PLACEMENT_GROUPS, owner)
        return None if row is None or row.state is PlacementGroupState.REMOVED else row

    async def list_placement_groups(self) -> list[PlacementGroupRow]:
        """All groups, removed ones included."""
        return await self._rows.scan(PLACEMENT_GROUPS)

    async def _claim_group_name(self, row: PlacementGroupRow) -> None:
        async def is_alive(owner: bytes) -> bool:
            holder = await self._rows.get(PLACEMENT_GROUPS, owner)
            return holder is not None and holder.state is not PlacementGroupState.REMOVED

        await claim_name(
            self._rows,
            PLACEMENT_GROUP_NAMES,
            placement_group_name_key(row.namespace, row.name),
            row.group_id.binary(),
            is_alive=is_alive,
            what=f"the placement group name {row.name!r} in namespace {row.namespace!r}",
        )

    async def _group_released(self, row: PlacementGroupRow) -> PlacementGroupRow:
        if row.state is PlacementGroupState.REMOVED and row.name:
            key = placement_group_name_key(row.namespace, row.name)
            await release_name(self._rows, PLACEMENT_GROUP_NAMES, key, row.group_id.binary())
        return row

    # --- Checkpoints -------------------------------------------------------------------------

    async def add_checkpoint(self, row: CheckpointRow) -> CheckpointRow:
        """Adds a checkpoint.

        Raises:
            AlreadyExistsError: The actor has a checkpoint of this number.
        """
        key = CHECKPOINTS.key_of(row)
        try:
            version = await self._rows.write_one(CHECKPOINTS.name, key, CHECKPOINTS.encode(row), 0)
        except ConflictError as error:
            raise AlreadyExistsError(
                f"actor {row.actor_id.hex()} has a checkpoint number {row.number} already",
                hint="count on from the newest",
                owner=row.actor_id.hex(),
            ) from error
        return replace(row, version=version)

    async def list_checkpoints(self, actor_id: ActorID) -> list[CheckpointRow]:
        """The actor's checkpoints, oldest first."""
        return await self._rows.scan(CHECKPOINTS, actor_id.binary())

    async def remove_checkpoints(self, actor_id: ActorID, *, before: int) -> None:
        """Removes the actor's checkpoints with a number below ``before``; may be repeated."""
        keys = [
            CHECKPOINTS.key_of(row)
            for row in await self.list_checkpoints(actor_id)
            if row.number < before
        ]
        for result in await self._rows.write(CHECKPOINTS.name, [(key, None, None) for key in keys]):
            if isinstance(result, GcsError):
                raise result
