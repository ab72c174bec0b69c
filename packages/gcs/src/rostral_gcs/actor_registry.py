"""Named actors: an actor's row first, then the claim on its name (``name_claims.py``).

This file owns what counts as alive. Whoever dies between row and claim leaves a PENDING actor
without a name, which the end of its job removes.
"""

from __future__ import annotations

from rostral_gcs.errors import AlreadyExistsError, ConflictError
from rostral_gcs.name_claims import claim_name, find_owner, release_name
from rostral_gcs.row_client import RowClient
from rostral_gcs.tables.actors import (
    ACTOR_NAMES,
    ACTORS,
    ActorRow,
    ActorState,
    actor_name_key,
)

__all__ = ["find_actor", "register_actor", "release_actor_name"]


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
    owner = await find_owner(rows, ACTOR_NAMES, actor_name_key(namespace, name))
    if owner is None:
        return None
    row = await rows.get(ACTORS, owner)
    return None if row is None or row.state is ActorState.DEAD else row


async def release_actor_name(rows: RowClient, row: ActorRow) -> None:
    """Gives a dead actor's name back, unless another has taken it."""
    if row.name:
        key = actor_name_key(row.namespace, row.name)
        await release_name(rows, ACTOR_NAMES, key, row.actor_id.binary())


async def _claim(rows: RowClient, row: ActorRow) -> None:
    async def is_alive(owner: bytes) -> bool:
        holder = await rows.get(ACTORS, owner)
        return holder is not None and holder.state is not ActorState.DEAD

    await claim_name(
        rows,
        ACTOR_NAMES,
        actor_name_key(row.namespace, row.name),
        row.actor_id.binary(),
        is_alive=is_alive,
        what=f"the actor name {row.name!r} in namespace {row.namespace!r}",
    )
