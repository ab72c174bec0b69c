"""Errors as they cross between nodes: a code of a closed list, and a text for people.

Nothing of a peer's answer chooses a class that is not in the list.
"""

from __future__ import annotations

from typing import Any

from rostral_gcs.errors import RostralError
from rostral_objectstore.errors import (
    ChunkInvalidError,
    NotHolderError,
    ObjectNotTransferableError,
    SourceBusyError,
    SourceError,
    SourceRefusedError,
    SourceUnavailableError,
)
from rostral_objectstore.transfer.extra import flight, pa

TEXT_MAX = 300
"""Bytes of what a peer says that are looked at."""

_UNAVAILABLE = b"UNAVAILABLE"
_BY_CODE: dict[bytes, type[RostralError]] = {
    b"BUSY": SourceBusyError,
    b"CHUNK_INVALID": ChunkInvalidError,
    b"NOT_HOLDER": NotHolderError,
    b"NOT_TRANSFERABLE": ObjectNotTransferableError,
}
_CODES = {kind: code for code, kind in _BY_CODE.items()}


def code_of(error: RostralError) -> bytes:
    """How an error is named on its way."""
    return _CODES.get(type(error), _UNAVAILABLE)


def error_of(code: bytes, text: str) -> RostralError:
    """The error with this name. One that is not in the list: the source is unavailable."""
    return _BY_CODE.get(code, SourceUnavailableError)(text[:TEXT_MAX])


def to_flight(error: RostralError) -> Exception:
    """What a server raises so that the other side can tell what it was."""
    made: Exception = flight.FlightServerError(error.message, code_of(error))
    return made


def from_flight(error: Exception) -> RostralError:
    """What a failed call means. Anything that is not understood: the source is unavailable."""
    kind = _BY_CODE.get(bytes(getattr(error, "extra_info", b"") or b""))
    text = _first_words(error)
    if kind is not None:
        return kind(text)
    if isinstance(error, flight.FlightUnauthenticatedError | flight.FlightUnauthorizedError):
        return SourceRefusedError(
            f"it refused our token: {text}", hint="both nodes need the same token file"
        )
    if isinstance(error, flight.FlightTimedOutError):
        return SourceUnavailableError(f"it did not answer in time: {text}")
    if isinstance(error, pa.ArrowInvalid):
        return ChunkInvalidError(f"what it sent is not a chunk: {text}")
    return SourceUnavailableError(text)


def is_call_error(error: Any) -> bool:
    """Whether a call to a peer failed, rather than something of ours."""
    return isinstance(error, pa.ArrowException | SourceError | OSError)


def _first_words(error: Exception) -> str:
    # gRPC appends its own view of the same thing.
    text = str(error).partition(". gRPC client debug context")[0].partition(". Detail:")[0]
    return text[:TEXT_MAX]
