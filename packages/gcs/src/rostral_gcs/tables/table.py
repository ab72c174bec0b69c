"""What a typed table offers: its name, and how rows become keys and values and back.

This file owns only the protocol; each table's own file has its row type and its codec.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

__all__ = ["RowT", "Table"]

RowT = TypeVar("RowT")


class Table(Protocol[RowT]):
    """A table of rows of type ``RowT``."""

    @property
    def name(self) -> str:
        """The table's name on the wire."""
        ...

    def key_of(self, row: RowT) -> bytes:
        """The key that the row is stored under."""
        ...

    def encode(self, row: RowT) -> bytes:
        """The row's value."""
        ...

    def decode(self, key: bytes, value: bytes, version: int) -> RowT:
        """The row again.

        Raises:
            InvalidArgumentError: The bytes are not a row of this table.
        """
        ...
