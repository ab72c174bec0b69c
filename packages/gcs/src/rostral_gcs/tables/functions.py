"""The function table: remote functions and actor classes as their job exported them.

This file owns FunctionRow, its codec, and how a large blob is cut into chunk rows: the header row
is written last, so that whoever sees it can read all chunks. Blobs are opaque: never unpickled
here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from rostral_gcs._proto import rows_pb2
from rostral_gcs.errors import GcsInternalError, InvalidArgumentError, TooLargeError
from rostral_gcs.ids import FunctionID

__all__ = [
    "BLOB_SIZE_MAX",
    "FUNCTIONS",
    "FUNCTION_CHUNKS",
    "FunctionRow",
    "chunk_keys",
    "encode_function",
    "join_function",
    "open_header",
]

FUNCTIONS: Final = "functions"
FUNCTION_CHUNKS: Final = "function_chunks"

BLOB_SIZE_MAX: Final = 100 * 1000 * 1000
"""Largest function blob in bytes. A closure this size is a mistake; data belongs in objects."""

CHUNK_SIZE: Final = 256 * 1024
"""A chunk row's size in bytes: half the value limit, and few enough to fit many in a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionRow:
    """One function.

    Attributes:
        function_id: Its id.
        name: Its qualified name, for people.
        blob: The pickled function, opaque.
    """

    function_id: FunctionID
    name: str
    blob: bytes


def encode_function(row: FunctionRow) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The function's chunk rows (none when the blob fits in the header) and the header's value.

    Raises:
        TooLargeError: The blob passes BLOB_SIZE_MAX.
    """
    size_bytes = len(row.blob)
    if size_bytes > BLOB_SIZE_MAX:
        raise TooLargeError(
            f"function {row.name[:80]!r} is {size_bytes} bytes; the limit is {BLOB_SIZE_MAX}",
            hint="put large data it closes over into objects and pass references",
            limit_bytes=BLOB_SIZE_MAX,
        )
    if size_bytes <= CHUNK_SIZE:
        chunks = []
    else:
        parts = [row.blob[at : at + CHUNK_SIZE] for at in range(0, size_bytes, CHUNK_SIZE)]
        chunks = list(zip(chunk_keys(row.function_id, len(parts)), parts, strict=True))
    header = rows_pb2.FunctionValue(
        name=row.name[:1024],
        size_bytes=size_bytes,
        sha256=hashlib.sha256(row.blob).digest(),
        inline_blob=b"" if chunks else row.blob,
        chunk_count=len(chunks),
    )
    return chunks, header.SerializeToString()


def open_header(value: bytes) -> rows_pb2.FunctionValue:
    """Parses a header's value.

    Raises:
        InvalidArgumentError: It is none.
    """
    try:
        return rows_pb2.FunctionValue.FromString(value)
    except DecodeError as error:
        raise InvalidArgumentError("not a row of table functions") from error


def chunk_keys(function_id: FunctionID, chunk_count: int) -> list[bytes]:
    """The keys of the chunk rows, in order."""
    return [function_id.binary() + index.to_bytes(4, "big") for index in range(chunk_count)]


def join_function(
    function_id: FunctionID, header: rows_pb2.FunctionValue, chunks: list[bytes]
) -> FunctionRow:
    """Puts the function together and checks its hash.

    Raises:
        GcsInternalError: Chunks are missing or damaged.
    """
    blob = b"".join(chunks) if header.chunk_count else header.inline_blob
    if hashlib.sha256(blob).digest() != header.sha256:
        raise GcsInternalError(f"function {function_id.hex()} is damaged in the store")
    return FunctionRow(function_id=function_id, name=header.name, blob=blob)
