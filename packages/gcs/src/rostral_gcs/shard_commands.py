"""What waits for a shard's thread: writes, rows to append, and questions.

This file owns the forms of the commands and what can be told of one by looking at it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rostral_gcs.backends.base import Backend, Columns
from rostral_gcs.shard_core import Op, OpResult
from rostral_gcs.tables.registry import Durability

__all__ = ["Append", "Command", "Read", "Write", "is_critical", "wanted_rows", "weight"]

_T = TypeVar("_T")


@dataclass(slots=True)
class Write:
    """Operations to plan and commit, and where their results go."""

    request_id: bytes
    ops: Sequence[Op]
    future: asyncio.Future[list[OpResult]]


@dataclass(slots=True)
class Append:
    """Rows of an appended table, all or none."""

    request_id: bytes
    # Its first sequence is not known yet.
    columns: Columns
    future: asyncio.Future[None]


@dataclass(slots=True)
class Read(Generic[_T]):
    """A question to the backend, and where its answer goes."""

    query: Callable[[Backend], _T]
    future: asyncio.Future[_T]


Command = Write | Append | Read[object]


def weight(command: Command) -> int:
    """How many operations it counts for in a group."""
    if isinstance(command, Write):
        return len(command.ops)
    return len(command.columns.sizes) if isinstance(command, Append) else 1


def is_critical(ops: Sequence[Op]) -> bool:
    """Whether one of them must be safe on disk before it is acknowledged."""
    return any(op.spec.durability is Durability.CRITICAL and not op.relaxed for op in ops)


def wanted_rows(writes: Sequence[Write]) -> dict[int, list[bytes]]:
    """The keys, by table, of the rows that decide what the writes do."""
    wanted: dict[int, dict[bytes, None]] = {}
    for write in writes:
        for op in write.ops:
            if op.needs_row:
                wanted.setdefault(op.spec.number, {})[op.key] = None
    return {table: list(keys) for table, keys in wanted.items()}
