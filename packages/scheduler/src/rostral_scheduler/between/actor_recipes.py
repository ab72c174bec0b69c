"""How to make an actor once more when its node is gone: kept in the GCS, in parts.

This file owns the entries' keys and form. An entry is what its node was told to make the actor,
with the job that it is of: frames of `messages.py`, so nothing in it is unpickled.
"""

from __future__ import annotations

from rostral_gcs import AsyncGcsClient
from rostral_scheduler.between.messages import CreateActor, Job, decode, encode_into
from rostral_scheduler.errors import LimitReachedError

__all__ = ["RECIPE_BYTES_MAX", "ActorRecipes"]

NAMESPACE = "rostral.actors"
_PART_BYTES = 384 << 10
RECIPE_BYTES_MAX = 16 << 20
_COUNT_BYTES = 4


class ActorRecipes:
    """The entries of all actors. Every method raises GcsError when the GCS cannot do it."""

    def __init__(self, client: AsyncGcsClient) -> None:
        self._client = client

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
        parts = [data[at : at + _PART_BYTES] for at in range(0, len(data), _PART_BYTES)]
        for index, part in reversed(list(enumerate(parts))):
            # The first, which says how many there are, comes last.
            head = len(parts).to_bytes(_COUNT_BYTES, "big") if index == 0 else b""
            await self._client.kv_put(
                _key(message.actor_id, index), head + bytes(part), namespace=NAMESPACE
            )

    async def read(self, actor_id: bytes) -> tuple[Job, CreateActor] | None:
        """An actor's; None: there is none."""
        first = await self._client.kv_get(_key(actor_id, 0), namespace=NAMESPACE)
        if first is None:
            return None
        count = int.from_bytes(first.value[:_COUNT_BYTES], "big")
        data = [first.value[_COUNT_BYTES:]]
        for index in range(1, count):
            part = await self._client.kv_get(_key(actor_id, index), namespace=NAMESPACE)
            if part is None:
                return None
            data.append(part.value)
        found = decode(b"".join(data))
        if len(found) == 2 and isinstance(found[0], Job) and isinstance(found[1], CreateActor):
            return found[0], found[1]
        return None

    async def remove(self, actor_id: bytes) -> None:
        """Removes an actor's, if there is one."""
        for key in await self._client.kv_keys(actor_id, namespace=NAMESPACE):
            await self._client.kv_delete(key, namespace=NAMESPACE)


def _key(actor_id: bytes, index: int) -> bytes:
    return actor_id + index.to_bytes(2, "big")
