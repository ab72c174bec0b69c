"""What waits for a shard's thread: writes, rows to append, and questions.

This file owns the forms of the commands and what can be told of one by looking at it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from rostral_gcs.backends.base import Answer, Backend, Columns
from rostral_gcs.shard_core import Op, OpResult, encode_run
from rostral_gcs.tables.registry import Durability

__all__ = [
    "Append",
    "Command",
    "Read",
    "Write",
    "is_critical",
    "plan_appends",
    "wanted_rows",
    "weight",
]

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


def plan_appends(
    appends: Sequence[Append], answered: Collection[bytes], last_sequence: int, time_s: float
) -> tuple[list[Columns], list[Answer], int]:
    """Gives the rows their sequences; those of requests that were answered already are left out.

    Returns:
        The columns to write, their requests' answers, and the last sequence given out.
    """
    columns: list[Columns] = []
    answers: dict[bytes, Answer] = {}
    for append in appends:
        if append.request_id in answers or append.request_id in answered:
            continue
        first, count = last_sequence + 1, len(append.columns.sizes)
        columns.append(replace(append.columns, first_sequence=first))
        payload = encode_run(first, count)
        answers[append.request_id] = Answer(append.request_id, payload, time_s)
        last_sequence += count
    return columns, list(answers.values()), last_sequence
