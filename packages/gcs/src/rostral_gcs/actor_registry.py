"""Named actors: how a name is claimed, found and given back, by single-row compare-and-set alone.

This file owns the protocol. The actor's row is written first and the claim after it, so that a
claim always points at a row; a claim whose actor is DEAD or gone is free for the taking. Whoever
dies in between leaves a PENDING actor without a name, which the end of its job removes.
"""

from __future__ import annotations

from rostral_gcs.errors import AlreadyExistsError, ConflictError
from rostral_gcs.ids import ActorID
from rostral_gcs.row_client import RowClient
from rostral_gcs.tables.actors import (
    ACTOR_NAMES,
    ACTORS,
    ActorRow,
    ActorState,
    actor_name_key,
)

__all__ = ["find_actor", "register_actor", "release_name"]


async def register_actor(rows: RowClient, row: ActorRow) -> ActorRow:
    """Writes a new actor and claims its name, if it has one.

    Raises:
        AlreadyExistsError: The actor id exists, or a live actor has the name; ``owner`` tells it.
    """
    key = ACTORS.key_of(row)
    value = ACTORS.encode(row)
    try:
        version = await rows.write_one(ACTORS.name, key, value, 0)
    except ConflictError as error:
        raise AlreadyExistsError(
            f"actor {row.actor_id.hex()} exists already",
            hint="use a new actor id",
            owner=row.actor_id.hex(),
        ) from error
    stored = ACTORS.decode(key, value, version)
    if row.name:
        try:
            await _claim(rows, row)
        except AlreadyExistsError:
            await rows.write_one(ACTORS.name, key, None)
            raise
    return stored


async def find_actor(rows: RowClient, namespace: str, name: str) -> ActorRow | None:
    """The live actor of that name."""
    claims = await rows.read(ACTOR_NAMES, [actor_name_key(namespace, name)])
    if not claims:
        return None
    row = await rows.get(ACTORS, claims[0].value)
    return None if row is None or row.state is ActorState.DEAD else row


async def release_name(rows: RowClient, row: ActorRow) -> None:
    """Gives a dead actor's name back, unless another has taken it."""
    if not row.name:
        return
    key = actor_name_key(row.namespace, row.name)
    for claim in await rows.read(ACTOR_NAMES, [key]):
        if claim.value == row.actor_id.binary():
            try:
                await rows.write_one(ACTOR_NAMES, key, None, claim.version)
            except ConflictError:
                return  # Taken over meanwhile: theirs now.


async def _claim(rows: RowClient, row: ActorRow) -> None:
    key = actor_name_key(row.namespace, row.name)
    expected_version = 0
    while True:
        try:
            await rows.write_one(ACTOR_NAMES, key, row.actor_id.binary(), expected_version)
            return
        except ConflictError as error:
            claims = await rows.read(ACTOR_NAMES, [key])
            if not claims:
                expected_version = 0
                continue
            holder_id = ActorID(claims[0].value)
            holder = await rows.get(ACTORS, holder_id.binary())
            if holder is not None and holder.state is not ActorState.DEAD:
                raise AlreadyExistsError(
                    f"the name {row.name!r} in namespace {row.namespace!r} belongs to actor "
                    f"{holder_id.hex()}",
                    hint="choose another name, or get that actor by its name",
                    owner=holder_id.hex(),
                ) from error
            expected_version = claims[0].version
