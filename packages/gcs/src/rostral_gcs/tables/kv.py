"""The key-value table: bytes under a key in a namespace, for whatever has no table of its own.

This file owns KvRow and the form of its keys.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rostral_gcs.errors import InvalidArgumentError, InvalidKeyError
from rostral_gcs.tables.checks import check_namespace

__all__ = ["KV", "KvRow", "KvTable", "kv_key", "kv_prefix"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KvRow:
    """One entry.

    Attributes:
        namespace: Free text without slash or control characters.
        key: Not empty.
        value: Opaque.
        version: The stored row's version; 0 for a row not stored yet.
    """

    namespace: str
    key: bytes
    value: bytes
    version: int = field(default=0, compare=False)


class KvTable:
    """Codec of the key-value table; keys are namespace, NUL, key."""

    name = "kv"

    def key_of(self, row: KvRow) -> bytes:
        """Namespace, NUL, key."""
        return kv_key(row.namespace, row.key)

    def encode(self, row: KvRow) -> bytes:
        """The value itself."""
        return row.value

    def decode(self, key: bytes, value: bytes, version: int) -> KvRow:
        """The row again."""
        namespace, separator, rest = key.partition(b"\0")
        if not separator:
            raise InvalidArgumentError(
                f"not a row of table kv: key {key[:40]!r} has no namespace",
                hint="write it with this client",
            )
        return KvRow(
            namespace=namespace.decode("utf-8", errors="replace"),
            key=rest,
            value=value,
            version=version,
        )


def kv_key(namespace: str, key: bytes) -> bytes:
    """The stored key.

    Raises:
        InvalidKeyError: The key is empty.
        InvalidArgumentError: The namespace has a slash or control characters.
    """
    if not key:
        raise InvalidKeyError("the key is empty", hint="give a key of 1 byte or more")
    return kv_prefix(namespace, key)


def kv_prefix(namespace: str, prefix: bytes = b"") -> bytes:
    """The stored prefix of all keys of the namespace that begin with ``prefix``."""
    check_namespace(namespace)
    return namespace.encode() + b"\0" + prefix


KV = KvTable()
