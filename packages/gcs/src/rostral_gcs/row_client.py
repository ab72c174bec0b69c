"""The part of the client that knows rows and no particular table: read, write, scan, change.

This file owns turning typed rows into operations and results into rows or errors. The tables' own
methods are in ``client.py``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rostral_gcs._proto import gcs_pb2
from rostral_gcs.batching import Batcher
from rostral_gcs.client_options import ClientOptions
from rostral_gcs.column_batching import ColumnBatcher
from rostral_gcs.connection import Connection
from rostral_gcs.error_wire import error_from_detail
from rostral_gcs.errors import ConflictError, GcsError, NotFoundError
from rostral_gcs.ids import NodeID
from rostral_gcs.protocol import REQUEST_ID_SIZE
from rostral_gcs.tables.registry import Durability, table_spec
from rostral_gcs.tables.table import RowT, Table

__all__ = ["RowClient"]

_PAGE_COUNT = 1000
_CHANGE_ATTEMPTS_MAX = 20


class RowClient:
    """Reads and writes rows of any table. Used on one event loop.

    Args:
        connection: Where to.
        options: Bounds.
    """

    def __init__(self, connection: Connection, options: ClientOptions) -> None:
        self._connection = connection
        self._writer: gcs_pb2.Writer | None = None
        # One for each durability class, so that lineage does not wait for the syncs of the rest.
        self._batchers = {durability: Batcher(self._send, options) for durability in Durability}
        self._options = options
        self._column_batchers: dict[str, ColumnBatcher] = {}

    def act_as(self, node_id: NodeID, epoch: int) -> None:
        """Makes every further write in the name of the node; a stale epoch is then fenced."""
        self._writer = gcs_pb2.Writer(node_id=node_id.binary(), epoch=epoch)

    async def close(self) -> None:
        """Sends what waits."""
        for batcher in self._batchers.values():
            await batcher.close()
        for columns in self._column_batchers.values():
            await columns.close()

    async def write(
        self, table: str, writes: Sequence[tuple[bytes, bytes | None, int | None]]
    ) -> list[int | GcsError]:
        """Writes (key, value or None to delete, expected version or None); versions or errors."""
        batcher = self._batchers[table_spec(table).durability]
        results = await batcher.write(
            [
                gcs_pb2.WriteOp(table=table, key=key, value=value, expected_version=expected)
                for key, value, expected in writes
            ]
        )
        return [
            error_from_detail(result.error) if result.HasField("error") else result.version
            for result in results
        ]

    async def write_columns(
        self, table: str, keys: Sequence[bytes], values: Sequence[bytes] | None
    ) -> None:
        """Writes rows whatever their versions, or deletes them when ``values`` is None.

        Raises:
            GcsError: They were refused, or nothing answered; then some may have been written.
        """
        batcher = self._column_batchers.get(table)
        if batcher is None:
            batcher = ColumnBatcher(
                partial(self._send_columns, table),
                self._options,
                lambda: self._connection.keeps_order,
            )
            self._column_batchers[table] = batcher
        await batcher.write(keys, values)

    async def write_one(
        self, table: str, key: bytes, value: bytes | None, expected_version: int | None = None
    ) -> int:
        """Writes one row and returns its version.

        Raises:
            ConflictError: It has another version.
            GcsError: It was refused, or nothing answered.
        """
        (result,) = await self.write(table, [(key, value, expected_version)])
        if isinstance(result, GcsError):
            raise result
        return result

    async def read(self, table: str, keys: Sequence[bytes]) -> list[gcs_pb2.Row]:
        """The rows that exist among the keys, in the keys' order."""
        rows: list[gcs_pb2.Row] = []
        for at in range(0, len(keys), _PAGE_COUNT):
            reply = await self._connection.call(
                "Read",
                gcs_pb2.ReadRequest(table=table, keys=keys[at : at + _PAGE_COUNT]),
                gcs_pb2.ReadReply,
            )
            rows.extend(reply.rows)
        return rows

    async def read_prefixes(self, table: str, prefixes: Sequence[bytes]) -> list[gcs_pb2.Row]:
        """All rows whose key begins with one of the prefixes, in the prefixes' order."""
        rows: list[gcs_pb2.Row] = []
        for at in range(0, len(prefixes), _PAGE_COUNT):
            reply = await self._connection.call(
                "Read",
                gcs_pb2.ReadRequest(table=table, prefixes=prefixes[at : at + _PAGE_COUNT]),
                gcs_pb2.ReadReply,
            )
            rows.extend(reply.rows)
        return rows

    async def get(self, table: Table[RowT], key: bytes) -> RowT | None:
        """One row, or None."""
        for row in await self.read(table.name, [key]):
            return table.decode(row.key, row.value, row.version)
        return None

    async def scan(self, table: Table[RowT], prefix: bytes = b"") -> list[RowT]:
        """All rows whose key has the prefix, in key order, page by page.

        Not a snapshot: rows written meanwhile may or may not be there.
        """
        rows: list[RowT] = []
        after_key = b""
        while True:
            page, after_key = await self.scan_page(table, prefix=prefix, after_key=after_key)
            rows.extend(page)
            if not after_key:
                return rows

    async def scan_page(
        self,
        table: Table[RowT],
        *,
        prefix: bytes = b"",
        after_key: bytes = b"",
        limit: int = _PAGE_COUNT,
    ) -> tuple[list[RowT], bytes]:
        """A page of rows in key order, and where the next begins; empty when this is the last.

        Raises:
            InvalidArgumentError: The limit is not 1 to 10,000.
        """
        reply = await self._connection.call(
            "Scan",
            gcs_pb2.ScanRequest(
                table=table.name, prefix=prefix, after_key=after_key, limit=max(0, limit)
            ),
            gcs_pb2.ScanReply,
        )
        rows = [table.decode(row.key, row.value, row.version) for row in reply.rows]
        return rows, reply.rows[-1].key if reply.more and reply.rows else b""

    async def query(
        self,
        table: Table[RowT],
        conditions: Sequence[tuple[str, str, bytes | str | float | int | None]],
        *,
        limit: int,
        page_token: bytes,
    ) -> tuple[list[RowT], bytes]:
        """A page of rows that meet all conditions (column, operator, value); None: no condition."""
        reply = await self._connection.call(
            "Query",
            gcs_pb2.QueryRequest(
                table=table.name,
                conditions=[
                    gcs_pb2.Condition(column=column, op=op, **_typed(value))
                    for column, op, value in conditions
                    if value is not None
                ],
                limit=max(0, limit),
                page_token=page_token,
            ),
            gcs_pb2.QueryReply,
        )
        rows = [table.decode(row.key, row.value, row.version) for row in reply.rows]
        return rows, reply.page_token

    async def change(
        self, table: Table[RowT], key: bytes, decide: Callable[[RowT], RowT | None]
    ) -> RowT:
        """Reads a row, writes what ``decide`` makes of it, and begins again on a conflict.

        Args:
            table: The table.
            key: The row's key.
            decide: From the present row to the new one, or None to leave it. May be called often.

        Returns:
            The row as it is now stored.

        Raises:
            NotFoundError: There is no such row.
            ConflictError: Others changed it each time, twenty times over.
        """
        conflict: ConflictError | None = None
        for _ in range(_CHANGE_ATTEMPTS_MAX):
            rows = await self.read(table.name, [key])
            if not rows:
                raise NotFoundError(
                    f"table {table.name} has no row {key[:40].hex()}", hint="check the id"
                )
            version = rows[0].version
            present = table.decode(key, rows[0].value, version)
            wanted = decide(present)
            if wanted is None:
                return present
            value = table.encode(wanted)
            try:
                version = await self.write_one(table.name, key, value, version)
            except ConflictError as error:
                conflict = error
                continue
            return table.decode(key, value, version)
        assert conflict is not None
        raise conflict

    async def _send(self, ops: Sequence[gcs_pb2.WriteOp]) -> Sequence[gcs_pb2.WriteResult]:
        # The id is made once, here, and travels with every retry below.
        request = gcs_pb2.WriteRequest(
            request_id=os.urandom(REQUEST_ID_SIZE), ops=ops, writer=self._writer
        )
        reply = await self._connection.call("Write", request, gcs_pb2.WriteReply)
        return reply.results

    async def _send_columns(
        self, table: str, keys: list[bytes], values: list[bytes] | None
    ) -> bool:
        request = gcs_pb2.WriteColumnsRequest(
            request_id=os.urandom(REQUEST_ID_SIZE),
            table=table,
            keys=b"".join(keys),
            sizes=None if values is None else list(map(len, values)),
            values=b"" if values is None else b"".join(values),
            writer=self._writer,
            delete=values is None,
        )
        _, attempts = await self._connection.call_counted(
            "WriteColumns", request, gcs_pb2.WriteColumnsReply
        )
        return attempts == 1


def _typed(value: bytes | str | float | int) -> dict[str, Any]:
    match value:
        case bytes():
            return {"as_bytes": value}
        case str():
            return {"as_text": value}
        case int():
            return {"as_integer": value}
    return {"as_real": value}
