"""Which columns an archived row shows besides its key and value, by table.

This file owns the columns, how they are taken from a row, and what may be asked of them. The same
columns answer queries of rows that are still in the log.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from rostral_gcs.errors import GcsError, InvalidArgumentError
from rostral_gcs.tables.events import EVENTS
from rostral_gcs.tables.registry import TableSpec, table_spec
from rostral_gcs.tables.tasks import TASKS, final_codes, task_columns

__all__ = ["RECORD_MEMORY", "SCHEMAS", "Cell", "Filter", "Schema", "check_filters", "schema_of"]

RECORD_MEMORY: Final = 176
"""Bytes that a record in the log's index is taken to cost, the growth of its dict included; what
``lineage_memory_max`` is divided by, on each backend."""

Cell = bytes | str | float | int
Kind = Literal["bytes", "text", "real", "integer"]

_TYPES: Final[dict[Kind, tuple[type, ...]]] = {
    "bytes": (bytes,),
    "text": (str,),
    "real": (int, float),
    "integer": (int,),
}
_EMPTY: Final[dict[Kind, Cell]] = {"bytes": b"", "text": "", "real": 0.0, "integer": 0}
_FILTERS_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class Schema:
    """One table's archived form.

    Attributes:
        table: The table's number.
        name: The table's name.
        columns: Names and kinds, in order.
        decode: A row's cells, in the order of the columns; raises for what is no such row.
        over_codes: The first bytes of values that may leave the log; None: all of them may.
    """

    table: int
    name: str
    columns: Mapping[str, Kind]
    decode: Callable[[bytes, bytes], tuple[Cell, ...]]
    over_codes: frozenset[int] | None

    def is_over(self, value: bytes) -> bool:
        """Whether a row may leave the log."""
        return self.over_codes is None or (value != b"" and value[0] in self.over_codes)

    def cells(self, key: bytes, value: bytes) -> tuple[Cell, ...]:
        """A row's cells. One that was not written by this client must not stop the rest: empty."""
        try:
            return self.decode(key, value)
        except GcsError:
            return tuple(_EMPTY[kind] for kind in self.columns.values())


@dataclass(frozen=True, slots=True)
class Filter:
    """A condition on one column. ``op`` is ``=``, ``>=`` or ``<``."""

    column: str
    op: str
    value: Cell

    def holds(self, cell: Cell) -> bool:
        """Whether a cell meets it; both have the column's kind."""
        if self.op == "=":
            return cell == self.value
        below: bool = cell < self.value  # type: ignore[operator]
        return below if self.op == "<" else not below


def _event_cells(key: bytes, value: bytes) -> tuple[Cell, ...]:
    row = EVENTS.decode(key, value, 0)
    return (
        row.time_s,
        row.kind,
        row.severity.value,
        row.source,
        row.message,
        row.node_id.binary() if row.node_id else b"",
        row.job_id.binary() if row.job_id else b"",
        row.subject_id,
    )


SCHEMAS: Final[dict[int, Schema]] = {
    schema.table: schema
    for schema in (
        Schema(
            table=table_spec(TASKS.name).number,
            name=TASKS.name,
            columns={
                "state": "text",
                "attempt": "integer",
                "submit_time_s": "real",
                "start_time_s": "real",
                "end_time_s": "real",
                "job_id": "bytes",
                "parent_id": "bytes",
                "function_id": "bytes",
                "actor_id": "bytes",
                "node_id": "bytes",
                "name": "text",
                "cause": "text",
            },
            decode=lambda _, value: task_columns(value),
            over_codes=final_codes(),
        ),
        Schema(
            table=table_spec(EVENTS.name).number,
            name=EVENTS.name,
            columns={
                "time_s": "real",
                "kind": "text",
                "severity": "text",
                "source": "text",
                "message": "text",
                "node_id": "bytes",
                "job_id": "bytes",
                "subject_id": "bytes",
            },
            decode=_event_cells,
            over_codes=None,
        ),
    )
}


def schema_of(spec: TableSpec) -> Schema:
    """The schema of a table that can be asked.

    Raises:
        InvalidArgumentError: The table has none.
    """
    schema = SCHEMAS.get(spec.number)
    if schema is None:
        names = ", ".join(one.name for one in SCHEMAS.values())
        raise InvalidArgumentError(
            f"table {spec.name} cannot be asked by column; these can: {names}", hint="scan it"
        )
    return schema


def check_filters(schema: Schema, filters: Sequence[Filter]) -> None:
    """Refuses columns that do not exist, and values of the wrong kind.

    Raises:
        InvalidArgumentError: Says which and what is allowed.
    """
    if len(filters) > _FILTERS_MAX:
        raise InvalidArgumentError(
            f"{len(filters)} conditions; the limit is {_FILTERS_MAX}", hint="ask for less"
        )
    for one in filters:
        kind = schema.columns.get(one.column)
        if kind is None:
            near = difflib.get_close_matches(one.column, schema.columns, 1)
            raise InvalidArgumentError(
                f"table {schema.name} has no column {one.column[:80]!r}; columns are "
                f"{', '.join(schema.columns)}",
                hint=f"did you mean {near[0]!r}?" if near else "check the spelling",
            )
        if one.op not in ("=", ">=", "<") or not isinstance(one.value, _TYPES[kind]):
            raise InvalidArgumentError(
                f"condition {one.column} {one.op[:8]!r} {str(one.value)[:40]!r}; allowed: =, >= or "
                f"< and a value of kind {kind}",
                hint="correct the condition",
            )
