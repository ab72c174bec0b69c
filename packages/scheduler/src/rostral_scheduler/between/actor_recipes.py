"""How to make an actor once more when its node is gone: kept in the GCS.

This file owns the entries' keys and form. An entry is what its node was told to make the actor,
with the job that it is of: frames of `messages.py`, so nothing in it is unpickled.
"""

from __future__ import annotations

from rostral_gcs import AsyncGcsClient
from rostral_scheduler.between.messages import CreateActor, Job, decode, encode_into
from rostral_scheduler.between.parted_values import VALUE_BYTES_MAX, PartedValues
from rostral_scheduler.errors import LimitReachedError

__all__ = ["RECIPE_BYTES_MAX", "ActorRecipes"]

RECIPE_BYTES_MAX = VALUE_BYTES_MAX


class ActorRecipes:
    """The entries of all actors. Every method raises GcsError when the GCS cannot do it."""

    def __init__(self, client: AsyncGcsClient) -> None:
        self._values = PartedValues(client, "rostral.actors")

    async def write(self, job: Job, message: CreateActor) -> None:
        """Writes an actor's; may be repeated. Raises LimitReachedError for a too large one."""
        data = bytearray()
        encode_into([job, message], data, 0)
        if len(data) > RECIPE_BYTES_MAX:
            raise LimitReachedError(
                f"what actor {message.actor_id.hex()} is made from has {len(data)} bytes: with "
                f"more than {RECIPE_BYTES_MAX} it cannot be made again when its node dies",
                hint="have its constructor make or load what is large",
            )
        await self._values.write(message.actor_id, data)

    async def read(self, actor_id: bytes) -> tuple[Job, CreateActor] | None:
        """An actor's; None: there is none."""
        data = await self._values.read(actor_id)
        found = [] if data is None else decode(data)
        if len(found) == 2 and isinstance(found[0], Job) and isinstance(found[1], CreateActor):
            return found[0], found[1]
        return None

    async def actor_ids(self) -> set[bytes]:
        """Of which actors there is one."""
        return set(await self._values.keys(b""))

    async def remove(self, actor_id: bytes) -> None:
        """Removes an actor's, if there is one."""
        await self._values.remove(actor_id)
