"""Placement groups and checkpoints: named once, changed by version, read in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from rostral_gcs import (
    AsyncGcsClient,
    BundleRow,
    CheckpointRow,
    GcsServer,
    PlacementGroupRow,
    PlacementGroupState,
)
from rostral_gcs.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
)
from rostral_gcs.ids import ActorID, JobID, NodeID, PlacementGroupID

Play = Callable[..., None]


def _group(**changes: object) -> PlacementGroupRow:
    row = PlacementGroupRow(
        group_id=PlacementGroupID.from_random(),
        job_id=JobID.from_random(),
        bundles=(BundleRow(resources={"CPU": 1.0}), BundleRow(resources={"GPU": 0.5})),
    )
    return replace(row, **changes)  # type: ignore[arg-type]


def test_a_group_is_placed_by_compare_and_set(play: Play) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        row = await client.add_placement_group(_group(strategy="SPREAD", detached=True))
        assert await client.get_placement_group(row.group_id) == row
        placed = tuple(replace(bundle, node_id=NodeID.from_random()) for bundle in row.bundles)
        prepared = replace(row, state=PlacementGroupState.PREPARED, bundles=placed)
        stored = await client.update_placement_group(prepared)
        assert stored.version > row.version
        with pytest.raises(ConflictError):
            await client.update_placement_group(replace(row, cause="too late"))
        created = await client.change_placement_group(
            row.group_id, lambda now: replace(now, state=PlacementGroupState.CREATED)
        )
        assert (created.state, created.bundles) == (PlacementGroupState.CREATED, placed)
        assert await client.list_placement_groups() == [created]
        with pytest.raises(NotFoundError):
            await client.change_placement_group(PlacementGroupID.from_random(), lambda now: now)

    play(scenario)


def test_of_many_groups_that_want_a_name_one_has_it(play: Play) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        outcomes = await asyncio.gather(
            *(client.add_placement_group(_group(name="g", namespace="n")) for _ in range(10)),
            return_exceptions=True,
        )
        (winner,) = [one for one in outcomes if isinstance(one, PlacementGroupRow)]
        refused = [one for one in outcomes if isinstance(one, AlreadyExistsError)]
        assert {error.owner for error in refused} == {winner.group_id.hex()}
        assert await client.get_placement_group_by_name("g", namespace="n") == winner
        assert await client.get_placement_group_by_name("g") is None
        assert len(await client.list_placement_groups()) == 1
        await client.change_placement_group(
            winner.group_id, lambda now: replace(now, state=PlacementGroupState.REMOVED)
        )
        assert await client.get_placement_group_by_name("g", namespace="n") is None
        assert (await client.add_placement_group(_group(name="g", namespace="n"))).name == "g"

    play(scenario)


@pytest.mark.parametrize(
    "changes",
    [
        {"bundles": ()},
        {"strategy": "ELSEWHERE"},
        {"name": "a/b"},
        {"bundles": (BundleRow(resources={"CPU": -1.0}),)},
    ],
    ids=["no-bundles", "strategy", "name", "negative"],
)
def test_a_bad_group_is_refused(play: Play, changes: dict[str, object]) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        with pytest.raises(InvalidArgumentError, match="allowed"):
            await client.add_placement_group(_group(**changes))
        assert await client.list_placement_groups() == []

    play(scenario)


def test_checkpoints_are_listed_in_order_and_removed_below_a_number(play: Play) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        actor_id = ActorID.from_random()
        rows = [
            CheckpointRow(
                actor_id=actor_id,
                number=number,
                call_count=number * 10,
                location=f"/spill/{number}",
                size_bytes=5,
                digest=b"d",
                node_id=NodeID.from_random(),
                time_s=1.0,
            )
            for number in (300, 2, 1)
        ]
        for row in rows:
            await client.add_checkpoint(row)
        await client.add_checkpoint(replace(rows[0], actor_id=ActorID.from_random()))
        assert await client.list_checkpoints(actor_id) == rows[::-1]
        with pytest.raises(AlreadyExistsError, match="number 2"):
            await client.add_checkpoint(rows[1])
        await client.remove_checkpoints(actor_id, before=300)
        await client.remove_checkpoints(actor_id, before=300)
        assert await client.list_checkpoints(actor_id) == rows[:1]

    play(scenario, shard_count=3)
