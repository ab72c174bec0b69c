"""The checks that every request passes before anything is done for it.

This file owns the limits' refusals: what was wrong, which limit, what to do. It has no side
effects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rostral_gcs._proto import gcs_pb2
from rostral_gcs.archive.schema import Filter
from rostral_gcs.config import GcsConfig
from rostral_gcs.errors import (
    GcsError,
    InvalidArgumentError,
    InvalidKeyError,
    TooLargeError,
)
from rostral_gcs.protocol import REQUEST_ID_SIZE
from rostral_gcs.shard_core import Op
from rostral_gcs.tables.actors import ACTORS
from rostral_gcs.tables.jobs import JOBS
from rostral_gcs.tables.nodes import NODES
from rostral_gcs.tables.placement_groups import PLACEMENT_GROUPS
from rostral_gcs.tables.registry import TableSpec, table_spec

__all__ = [
    "check_columns",
    "check_keys",
    "check_prefix",
    "check_prefixes",
    "check_query",
    "check_request_id",
    "check_scan",
    "parse_op",
]

# Tables whose rows the server decodes before it stores them: low in rate, read by everybody.
_DECODED: Final = {table.name: table for table in (NODES, JOBS, ACTORS, PLACEMENT_GROUPS)}


def parse_op(message: gcs_pb2.WriteOp, config: GcsConfig) -> Op | GcsError:
    """The op, or why it is refused. An error is returned, since others of the batch go on."""
    try:
        spec = table_spec(message.table)
        _check_key(message.key, config)
        value = message.value if message.HasField("value") else None
        if spec.pinned:
            return InvalidArgumentError(
                f"table {spec.name} is the store's own and cannot be written",
                hint="add shards with `rostral-gcs add-shards`",
            )
        if spec.key_size and len(message.key) != spec.key_size:
            return InvalidKeyError(
                f"key of {len(message.key)} bytes for table {spec.name}; its keys have "
                f"{spec.key_size}",
                hint="write it with this client",
            )
        if spec.appended and value is None:
            return InvalidArgumentError(
                f"rows of table {spec.name} cannot be deleted",
                hint="they are moved to files when they are old",
            )
        if value is not None:
            if len(value) > config.value_size_max:
                return TooLargeError(
                    f"value of {len(value)} bytes for key {message.key[:40].hex()} of table "
                    f"{spec.name}; the limit is {config.value_size_max}",
                    hint="store large data as an object and keep its id here",
                    limit_bytes=config.value_size_max,
                )
            table = _DECODED.get(spec.name)
            if table is not None:
                table.decode(message.key, value, 0)
    except GcsError as error:
        return error
    expected = message.expected_version if message.HasField("expected_version") else None
    return Op(spec, message.key, value, expected)


def check_columns(message: gcs_pb2.WriteColumnsRequest, config: GcsConfig) -> TableSpec:
    """Refuses columns that do not fit together or pass a limit. Returns the table."""
    spec = table_spec(message.table)
    if not spec.key_size:
        raise InvalidArgumentError(
            f"table {spec.name} cannot be written by columns", hint="its keys differ in size"
        )
    count, rest = divmod(len(message.keys), spec.key_size)
    if rest or not count:
        raise InvalidKeyError(
            f"{len(message.keys)} bytes of keys for table {spec.name}; its keys have "
            f"{spec.key_size} each",
            hint="send whole keys, at least one",
        )
    if count > config.batch_ops_max:
        raise TooLargeError(
            f"{count} rows in one request; the limit is {config.batch_ops_max}",
            hint="send smaller batches",
        )
    if message.delete and spec.appended:
        raise InvalidArgumentError(
            f"rows of table {spec.name} cannot be deleted",
            hint="they are moved to files when they are old",
        )
    sizes = message.sizes
    expected = 0 if message.delete else count
    if len(sizes) != expected or sum(sizes) != len(message.values):
        raise InvalidArgumentError(
            f"{len(sizes)} sizes, {sum(sizes)} bytes in all, for {count} keys and "
            f"{len(message.values)} bytes of values",
            hint="send one size for each value; none when deleting",
        )
    if sizes and max(sizes) > config.value_size_max:
        raise TooLargeError(
            f"value of {max(sizes)} bytes for table {spec.name}; the limit is "
            f"{config.value_size_max}",
            hint="store large data as an object and keep its id here",
            limit_bytes=config.value_size_max,
        )
    return spec


def check_keys(keys: Sequence[bytes], config: GcsConfig) -> None:
    """Refuses too many keys, and keys that could not have been written."""
    if len(keys) > config.batch_ops_max:
        raise InvalidArgumentError(
            f"{len(keys)} keys in one request; the limit is {config.batch_ops_max}",
            hint="ask in smaller batches",
        )
    for key in keys:
        _check_key(key, config)


def check_prefixes(prefixes: Sequence[bytes], config: GcsConfig) -> None:
    """Refuses too many prefixes, and prefixes longer than any key."""
    if len(prefixes) > config.batch_ops_max:
        raise InvalidArgumentError(
            f"{len(prefixes)} prefixes in one request; the limit is {config.batch_ops_max}",
            hint="ask in smaller batches",
        )
    for prefix in prefixes:
        check_prefix(prefix, config)


def check_query(message: gcs_pb2.QueryRequest, config: GcsConfig) -> list[Filter]:
    """The query's conditions. Refuses limits out of bounds and conditions without a value."""
    if not 1 <= message.limit <= config.scan_limit_max:
        raise InvalidArgumentError(
            f"query limit is {message.limit}; allowed: 1 to {config.scan_limit_max}",
            hint="ask for a page at a time and continue with its token",
        )
    filters: list[Filter] = []
    for one in message.conditions:
        field = one.WhichOneof("value")
        if field is None:
            raise InvalidArgumentError(
                f"the condition on {one.column[:60]!r} has no value; allowed: bytes, text, numbers",
                hint="give one",
            )
        filters.append(Filter(one.column, one.op, getattr(one, field)))
    return filters


def check_request_id(request_id: bytes) -> None:
    """Refuses an id of the wrong length."""
    if len(request_id) != REQUEST_ID_SIZE:
        raise InvalidArgumentError(
            f"request_id has {len(request_id)} bytes; it must have {REQUEST_ID_SIZE}",
            hint="send random bytes, the same ones when sending again",
        )


def check_scan(message: gcs_pb2.ScanRequest, config: GcsConfig) -> None:
    """Refuses limits and prefixes out of bounds."""
    if not 1 <= message.limit <= config.scan_limit_max:
        raise InvalidArgumentError(
            f"scan limit is {message.limit}; allowed: 1 to {config.scan_limit_max}",
            hint="ask for a page at a time and continue after its last key",
        )
    check_prefix(message.prefix, config)


def check_prefix(prefix: bytes, config: GcsConfig) -> None:
    """Refuses a prefix longer than any key."""
    if len(prefix) > config.key_size_max:
        raise TooLargeError(
            f"prefix of {len(prefix)} bytes; the limit is {config.key_size_max}",
            hint="no key is that long",
            limit_bytes=config.key_size_max,
        )


def _check_key(key: bytes, config: GcsConfig) -> None:
    if not key:
        raise InvalidKeyError("the key is empty", hint="give a key of 1 byte or more")
    if len(key) > config.key_size_max:
        raise TooLargeError(
            f"key of {len(key)} bytes; the limit is {config.key_size_max}",
            hint="use a shorter key, a hash for example",
            limit_bytes=config.key_size_max,
        )
