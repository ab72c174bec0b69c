"""Values of the GCS's key-value table that may be larger than one entry: written in parts.

This file owns how a value is cut, and the order of its parts: whoever sees the first sees all.
"""

from __future__ import annotations

from rostral_gcs import AsyncGcsClient

__all__ = ["PART_KEY_BYTES", "VALUE_BYTES_MAX", "PartedValues"]

_PART_BYTES = 384 << 10
VALUE_BYTES_MAX = 16 << 20
_COUNT_BYTES = 4
PART_KEY_BYTES = 2
"""Of a part's number, at the end of its key."""


class PartedValues:
    """The values of one namespace. Every method raises GcsError when the GCS cannot do it."""

    def __init__(self, client: AsyncGcsClient, namespace: str) -> None:
        self._client, self._namespace = client, namespace

    async def write(self, key: bytes, data: bytes | bytearray) -> None:
        """Writes a value; may be repeated. It must be small enough."""
        parts = [data[at : at + _PART_BYTES] for at in range(0, len(data), _PART_BYTES)]
        for index, part in reversed(list(enumerate(parts))):
            # The first, which says how many there are, comes last.
            head = len(parts).to_bytes(_COUNT_BYTES, "big") if index == 0 else b""
            await self._client.kv_put(
                _part_key(key, index), head + bytes(part), namespace=self._namespace
            )

    async def read(self, key: bytes) -> bytes | None:
        """A value; None: there is none."""
        first = await self._client.kv_get(_part_key(key, 0), namespace=self._namespace)
        if first is None:
            return None
        count = int.from_bytes(first.value[:_COUNT_BYTES], "big")
        data = [first.value[_COUNT_BYTES:]]
        for index in range(1, count):
            part = await self._client.kv_get(_part_key(key, index), namespace=self._namespace)
            if part is None:
                return None
            data.append(part.value)
        return b"".join(data)

    async def keys(self, prefix: bytes) -> list[bytes]:
        """The keys of all values that begin so, in order."""
        found = await self._client.kv_keys(prefix, namespace=self._namespace)
        return [key[:-PART_KEY_BYTES] for key in found if key.endswith(bytes(PART_KEY_BYTES))]

    async def remove(self, prefix: bytes) -> None:
        """Removes all values whose keys begin so."""
        for key in await self._client.kv_keys(prefix, namespace=self._namespace):
            await self._client.kv_delete(key, namespace=self._namespace)


def _part_key(key: bytes, index: int) -> bytes:
    return key + index.to_bytes(PART_KEY_BYTES, "big")
