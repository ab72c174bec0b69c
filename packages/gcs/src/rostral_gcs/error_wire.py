"""How an error crosses gRPC: a status code for any client, our detail for our own.

This file owns the mapping between the classes of ``errors.py``, gRPC status codes and the
``ErrorDetail`` message. It decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NoReturn, cast

import grpc
import grpc.aio

from rostral_gcs import errors
from rostral_gcs._proto import gcs_pb2
from rostral_gcs.errors import GcsError, GcsInternalError, GcsUnavailableError

__all__ = ["abort_with", "error_from_detail", "error_from_rpc", "error_to_detail"]

_TRAILER: Final = "rostral-error-bin"

_STATUS: Final[dict[type[GcsError], grpc.StatusCode]] = {
    errors.InvalidArgumentError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidKeyError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidPathError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.TooLargeError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NoSuchTableError: grpc.StatusCode.NOT_FOUND,
    errors.OutOfRangeError: grpc.StatusCode.OUT_OF_RANGE,
    errors.ConflictError: grpc.StatusCode.ABORTED,
    errors.AlreadyExistsError: grpc.StatusCode.ALREADY_EXISTS,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.ImmutableError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.FencedError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ResyncRequiredError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.GcsOverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDeniedError: grpc.StatusCode.PERMISSION_DENIED,
    errors.VersionMismatchError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ControlPlaneFullError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.ClusterMismatchError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.StorageError: grpc.StatusCode.INTERNAL,
    errors.CorruptError: grpc.StatusCode.DATA_LOSS,
    errors.StorageUnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.ShardsMovedError: grpc.StatusCode.UNAVAILABLE,
    errors.StorageFullError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.StorageDeniedError: grpc.StatusCode.INTERNAL,
    errors.NotReplicatedError: grpc.StatusCode.UNAVAILABLE,
    errors.StateMovedError: grpc.StatusCode.UNAVAILABLE,
    errors.GcsInternalError: grpc.StatusCode.INTERNAL,
}
_BY_CODE: Final[dict[str, type[GcsError]]] = {cls.code: cls for cls in _STATUS if cls.code}

# The attributes that travel, by class; the text form of each is enough to make it again.
_INTEGERS: Final = ("current_version", "current_epoch", "first_available", "last_sequence")
_SIZES: Final = ("limit_bytes", "offset")
_TEXTS: Final = ("owner", "path")


def error_to_detail(error: GcsError) -> gcs_pb2.ErrorDetail:
    """The message form of an error."""
    attributes = {
        name: str(getattr(error, name))
        for name in (*_INTEGERS, *_SIZES, *_TEXTS)
        if hasattr(error, name)
    }
    return gcs_pb2.ErrorDetail(
        code=error.code or "INTERNAL",
        message=error.message,
        hint=error.hint or "",
        attributes=attributes,
    )


def error_from_detail(detail: gcs_pb2.ErrorDetail) -> GcsError:
    """The error that ``error_to_detail`` was given; an unknown code becomes GcsInternalError."""
    cls = _BY_CODE.get(detail.code, GcsInternalError)
    error = cls(detail.message, hint=detail.hint or None)
    for name, text in detail.attributes.items():
        if name in _TEXTS:
            setattr(error, name, text)
        elif name in (*_INTEGERS, *_SIZES):
            setattr(error, name, int(text))
    return error


async def abort_with(context: grpc.aio.ServicerContext[Any, Any], error: GcsError) -> NoReturn:
    """Ends the call with the error. Always raises, as grpc's own abort does."""
    detail = error_to_detail(error)
    # Trailing metadata is limited to 8 KiB in all by default; our messages quote at most 80 chars.
    trailer = ((_TRAILER, detail.SerializeToString()),)
    status = _STATUS.get(type(error), grpc.StatusCode.INTERNAL)
    await context.abort(status, str(error)[:1000], trailer)
    raise AssertionError("abort returned")


def _pairs(metadata: object) -> Iterable[tuple[str, str | bytes]]:
    # grpc.aio gives an iterable of pairs or None; its published stubs know only one of the two.
    return cast("Iterable[tuple[str, str | bytes]]", metadata or ())


def error_from_rpc(failure: grpc.aio.AioRpcError, address: str) -> GcsError:
    """The typed error of a failed call, from our trailer or, without one, from the status code.

    Args:
        failure: What grpc raised.
        address: The address called, for the message.
    """
    for name, value in _pairs(failure.trailing_metadata()):
        if name == _TRAILER and isinstance(value, bytes):
            return error_from_detail(gcs_pb2.ErrorDetail.FromString(value))
    status = failure.code()
    text = (failure.details() or "")[:200]
    if status in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return GcsUnavailableError(
            f"no GCS answers at {address}: {text}",
            hint="check the address, and that `rostral-gcs serve` runs there",
            address=address,
        )
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return errors.TooLargeError(
            f"a message to or from {address} passes the size limit: {text}",
            hint="send or ask for less in one call",
        )
    if status is grpc.StatusCode.UNIMPLEMENTED:
        return errors.VersionMismatchError(
            f"what answers at {address} is not a GCS of this version: {text}",
            hint="run the same rostral-gcs version on both sides",
        )
    return GcsInternalError(f"call to {address} failed with {status.name}: {text}")
