"""Rows as columns: how a request's columns are cut up, by shard and by row.

This file owns that arithmetic. It knows no table and no message.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate, pairwise

from rostral_gcs.backends.base import Columns

__all__ = ["key_list", "split_columns", "value_list"]


def key_list(columns: Columns) -> list[bytes]:
    """The keys apart."""
    keys, size = columns.keys, columns.key_size
    return [keys[at : at + size] for at in range(0, len(keys), size)]


def value_list(columns: Columns) -> list[bytes]:
    """The values apart."""
    values = columns.values
    return [values[start:end] for start, end in pairwise(accumulate(columns.sizes, initial=0))]


def split_columns(columns: Columns, shard_of: Callable[[bytes], int]) -> dict[int, Columns]:
    """The columns of each shard, the rows of each in their order."""
    keys: dict[int, list[bytes]] = {}
    values: dict[int, list[bytes]] = {}
    for key, value in zip(key_list(columns), value_list(columns), strict=True):
        shard = shard_of(key)
        keys.setdefault(shard, []).append(key)
        values.setdefault(shard, []).append(value)
    return {
        shard: Columns(
            table=columns.table,
            first_sequence=0,
            key_size=columns.key_size,
            keys=b"".join(keys[shard]),
            sizes=list(map(len, values[shard])),
            values=b"".join(values[shard]),
        )
        for shard in keys
    }
