"""A shard's decisions: versions, conflicts, sequence numbers. Pure: no I/O, no clock, no thread.

This file owns what a write does to the rows it meets. It is given the rows that it needs and
returns the changes to store; ``shard.py`` fetches and stores them (OSDI'18 §4.2.1: each row is
changed by single-key compare-and-set alone).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rostral_gcs.backends.base import Change, Row
from rostral_gcs.errors import ConflictError, GcsError, ImmutableError
from rostral_gcs.tables.registry import TableSpec

__all__ = ["Op", "OpResult", "WritePlanner", "decode_results", "encode_results", "encode_run"]


@dataclass(frozen=True, slots=True)
class Op:
    """One write: put, or delete when ``value`` is None.

    ``expected_version`` None: whatever the version; 0: the row must not exist. ``relaxed``: it is
    acknowledged as lineage is, whatever its table: a report that the next one replaces.
    """

    spec: TableSpec
    key: bytes
    value: bytes | None
    expected_version: int | None
    relaxed: bool = False

    @property
    def needs_row(self) -> bool:
        """Whether the present row decides what the write does."""
        return self.expected_version is not None or self.value is None or self.spec.immutable


OpResult = int | GcsError
"""The row's new version (0 after a delete), or why the write was refused."""


class WritePlanner:
    """Plans a group of writes one after the other, each seeing the ones before.

    Args:
        last_sequence: Of the last committed write.
        rows: The present rows that the ops need, by table number and key.
    """

    def __init__(self, last_sequence: int, rows: dict[tuple[int, bytes], Row]) -> None:
        self._sequence = last_sequence
        # None: deleted within this group.
        self._rows: dict[tuple[int, bytes], Row | None] = dict(rows)
        self.changes: list[Change] = []

    @property
    def last_sequence(self) -> int:
        """Of the last planned write."""
        return self._sequence

    def plan(self, op: Op) -> OpResult:
        """Plans one write; appends to ``changes`` what it changes, nothing when refused."""
        place = (op.spec.number, op.key)
        if op.needs_row:
            row = self._rows.get(place)
            refusal = _refusal(op, row)
            if refusal is not None:
                return refusal
            if op.spec.immutable and row is not None and op.value is not None:
                # The same bytes again: done already.
                return row.version
            if op.value is None and row is None:
                return 0
        self._sequence += 1
        self.changes.append(
            Change(self._sequence, op.spec.number, op.key, op.value, op.spec.watchable)
        )
        if op.value is None:
            self._rows[place] = None
            return 0
        self._rows[place] = Row(op.key, op.value, self._sequence)
        return self._sequence


def _refusal(op: Op, row: Row | None) -> GcsError | None:
    current_version = 0 if row is None else row.version
    if op.expected_version is not None and op.expected_version != current_version:
        return ConflictError(
            f"row {op.key[:40].hex()} of table {op.spec.name} has version {current_version}, "
            f"expected {op.expected_version}",
            hint="read the row again and decide anew",
            current_version=current_version,
        )
    if op.spec.immutable and row is not None and op.value not in (None, row.value):
        return ImmutableError(
            f"row {op.key[:40].hex()} of table {op.spec.name} is written already, with other bytes",
            hint="write the same bytes, or use another key",
        )
    return None


# --- Answers, as remembered for requests that come again ------------------------------------------

_RUN: Final = struct.Struct("<cQI")
_ONE: Final = struct.Struct("<cQ")


def encode_results(results: Sequence[OpResult]) -> bytes:
    """The remembered form. A run of consecutive versions, the usual case, takes 13 bytes in all."""
    parts: list[bytes] = []
    at = 0
    while at < len(results):
        result = results[at]
        if isinstance(result, ConflictError):
            parts.append(_ONE.pack(b"C", result.current_version))
        elif isinstance(result, GcsError):
            parts.append(_ONE.pack(b"I", 0))
        else:
            end = at + 1
            while end < len(results) and results[end] == result + end - at and result:
                end += 1
            parts.append(encode_run(result, end - at))
            at = end
            continue
        at += 1
    return b"".join(parts)


def encode_run(first: int, count: int) -> bytes:
    """The remembered form of as many consecutive versions."""
    return _RUN.pack(b"R", first, count)


def decode_results(payload: bytes, ops: Sequence[Op]) -> list[OpResult]:
    """The results again, for the request's same ops."""
    results: list[OpResult] = []
    at = 0
    while at < len(payload):
        if payload[at : at + 1] == b"R":
            _, first, count = _RUN.unpack_from(payload, at)
            results.extend(range(first, first + count) if first else [0] * count)
            at += _RUN.size
            continue
        kind, version = _ONE.unpack_from(payload, at)
        at += _ONE.size
        op = ops[len(results)]
        if kind == b"C":
            results.append(
                ConflictError(
                    f"row {op.key[:40].hex()} of table {op.spec.name} had version {version}, "
                    f"expected {op.expected_version}",
                    hint="read the row again and decide anew",
                    current_version=version,
                )
            )
        else:
            results.append(
                ImmutableError(
                    f"row {op.key[:40].hex()} of table {op.spec.name} is written already, with "
                    "other bytes",
                    hint="write the same bytes, or use another key",
                )
            )
    return results
