"""The root of every Rostral error, and the errors of the Global Control Store.

This file owns the error classes, the code that each carries over RPC, HTTP, CLI and Python alike,
and how they read and pickle. It must import nothing of ours and nothing slow: every worker process
imports it. How an error crosses gRPC is in ``error_wire.py``.

The tree, in families by who must act::

    RostralError                     the root of all five packages
    └── GcsError
        ├── GcsMisuseError           the caller must change what it asks
        │   ├── InvalidArgumentError (ValueError)     INVALID_ARGUMENT
        │   │   ├── InvalidKeyError                   INVALID_KEY
        │   │   └── InvalidPathError                  INVALID_PATH
        │   ├── TooLargeError        (ValueError)     TOO_LARGE
        │   ├── NoSuchTableError     (LookupError)    NO_SUCH_TABLE
        │   ├── OutOfRangeError      (ValueError)     OUT_OF_RANGE
        │   ├── ClientClosedError                     CLIENT_CLOSED
        │   └── ForkedClientError                     FORKED_CLIENT
        ├── GcsStateError            the stored state says no: read again, then decide
        │   ├── ConflictError                         CONFLICT
        │   ├── AlreadyExistsError                    ALREADY_EXISTS
        │   ├── NotFoundError        (LookupError)    NOT_FOUND
        │   ├── ImmutableError                        IMMUTABLE
        │   ├── FencedError                           FENCED
        │   └── ResyncRequiredError                   RESYNC_REQUIRED
        ├── GcsEnvironmentError      whoever runs the cluster must act
        │   ├── GcsUnavailableError  (ConnectionError) UNAVAILABLE
        │   ├── GcsOverloadedError                    RESOURCE_EXHAUSTED
        │   ├── UnauthenticatedError (PermissionError) UNAUTHENTICATED
        │   ├── PermissionDeniedError (PermissionError) PERMISSION_DENIED
        │   ├── VersionMismatchError                  VERSION_MISMATCH
        │   ├── TokenFileError       (PermissionError) TOKEN_FILE
        │   ├── PortInUseError       (OSError)        PORT_IN_USE
        │   ├── DataDirLockedError                    DATA_DIR_LOCKED
        │   ├── InsecureBindError                     INSECURE_BIND
        │   ├── ControlPlaneFullError                 CONTROL_PLANE_FULL
        │   ├── ClusterMismatchError                  CLUSTER_MISMATCH
        │   ├── StorageError         (OSError)        STORAGE
        │   │   ├── CorruptError                      CORRUPT
        │   │   ├── StorageUnavailableError           STORAGE_UNAVAILABLE
        │   │   │   └── ShardsMovedError              SHARDS_MOVED
        │   │   ├── StorageFullError                  STORAGE_FULL
        │   │   ├── StorageDeniedError (PermissionError) STORAGE_DENIED
        │   │   ├── NotReplicatedError                NOT_REPLICATED
        │   │   └── StateMovedError                   STATE_MOVED
        │   └── ConfigError          (ValueError)     CONFIG
        └── GcsInternalError         our bug: please report it   INTERNAL
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

__all__ = [
    "AlreadyExistsError",
    "ClientClosedError",
    "ClusterMismatchError",
    "ConfigError",
    "ConflictError",
    "ControlPlaneFullError",
    "CorruptError",
    "DataDirLockedError",
    "FencedError",
    "ForkedClientError",
    "GcsEnvironmentError",
    "GcsError",
    "GcsInternalError",
    "GcsMisuseError",
    "GcsOverloadedError",
    "GcsStateError",
    "GcsUnavailableError",
    "ImmutableError",
    "InsecureBindError",
    "InvalidArgumentError",
    "InvalidKeyError",
    "InvalidPathError",
    "NoSuchTableError",
    "NotFoundError",
    "NotReplicatedError",
    "OutOfRangeError",
    "PermissionDeniedError",
    "PortInUseError",
    "ResyncRequiredError",
    "RostralError",
    "ShardsMovedError",
    "StateMovedError",
    "StorageDeniedError",
    "StorageError",
    "StorageFullError",
    "StorageUnavailableError",
    "TokenFileError",
    "TooLargeError",
    "UnauthenticatedError",
    "VersionMismatchError",
]


def _rebuild(cls: type[RostralError], state: dict[str, Any]) -> RostralError:
    """Makes an error again from its attributes, without calling a subclass's own ``__init__``."""
    error = cls.__new__(cls)
    error.__dict__.update(state)
    # OSError and friends fill ``args`` in __new__; set it so that repr() shows the message.
    error.args = (error.message,)
    return error


class RostralError(Exception):
    """The root of every error that Rostral raises on purpose.

    Pickles with all its attributes, subclasses with attributes of their own included, whatever the
    signature of their ``__init__``.

    Args:
        message: What happened, and to which id. No trailing full stop.
        hint: What to do about it, or None.

    Attributes:
        code: The stable upper-case code that the same error carries over RPC, HTTP and CLI; None
            for errors that never leave the process.
    """

    code: ClassVar[str | None] = None

    message: str
    hint: str | None

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        text = self.message if self.code is None else f"{self.code}: {self.message}"
        return text if self.hint is None else f"{text}; {self.hint}"

    def __reduce__(self) -> tuple[Any, ...]:
        # The default reduce of exceptions calls cls(*args), which breaks every subclass with a
        # keyword of its own; the attributes are the whole state, so they are what travels.
        return _rebuild, (type(self), dict(self.__dict__))


class GcsError(RostralError):
    """The base of all errors of the Global Control Store."""


# --- The caller must change what it asks --------------------------------------------------------


class GcsMisuseError(GcsError):
    """The request is wrong in itself; sending it again will not help."""


class InvalidArgumentError(GcsMisuseError, ValueError):
    """An argument is outside what is allowed; the message says which and what is."""

    code = "INVALID_ARGUMENT"


class InvalidKeyError(InvalidArgumentError):
    """A key is empty or longer than the limit."""

    code = "INVALID_KEY"


class InvalidPathError(InvalidArgumentError):
    """A path leads out of the folder that it must be in."""

    code = "INVALID_PATH"


class TooLargeError(GcsMisuseError, ValueError):
    """A value, key or request passes its size limit.

    Attributes:
        limit_bytes: The limit that was passed, in bytes; 0 when not known.
    """

    code = "TOO_LARGE"
    limit_bytes: int

    def __init__(self, message: str, *, hint: str | None = None, limit_bytes: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.limit_bytes = limit_bytes


class NoSuchTableError(GcsMisuseError, LookupError):
    """The named table does not exist; the message lists those that do."""

    code = "NO_SUCH_TABLE"


class OutOfRangeError(GcsMisuseError, ValueError):
    """A sequence number lies in the future of the shard: it belongs to another or a newer store.

    Attributes:
        last_sequence: The newest sequence number that the shard has given out.
    """

    code = "OUT_OF_RANGE"
    last_sequence: int

    def __init__(self, message: str, *, hint: str | None = None, last_sequence: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.last_sequence = last_sequence


class ClientClosedError(GcsMisuseError):
    """A method of a client was called after ``close()``."""

    code = "CLIENT_CLOSED"


class ForkedClientError(GcsMisuseError):
    """A client made before a fork was used in the child; gRPC does not survive a fork."""

    code = "FORKED_CLIENT"


# --- The stored state says no -------------------------------------------------------------------


class GcsStateError(GcsError):
    """The request is well formed but the stored state refuses it; read again, then decide."""


class ConflictError(GcsStateError):
    """A compare-and-set found another version than the one expected.

    Attributes:
        current_version: The version the row has now; 0 when the row does not exist.
    """

    code = "CONFLICT"
    current_version: int

    def __init__(self, message: str, *, hint: str | None = None, current_version: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.current_version = current_version


class AlreadyExistsError(GcsStateError):
    """What was to be made exists: a live node id, an actor name, a job id.

    Attributes:
        owner: The id that holds the name or key, as hex text; empty when there is none to tell.
    """

    code = "ALREADY_EXISTS"
    owner: str

    def __init__(self, message: str, *, hint: str | None = None, owner: str = "") -> None:
        super().__init__(message, hint=hint)
        self.owner = owner


class NotFoundError(GcsStateError, LookupError):
    """The row that the call needs does not exist."""

    code = "NOT_FOUND"


class ImmutableError(GcsStateError):
    """A row of a write-once table was written again with different bytes."""

    code = "IMMUTABLE"


class FencedError(GcsStateError):
    """The writer's epoch is not the node's current one, or its node is marked dead: it must stop.

    Attributes:
        current_epoch: The epoch the node's row has now; 0 when there is no such node.
    """

    code = "FENCED"
    current_epoch: int

    def __init__(self, message: str, *, hint: str | None = None, current_epoch: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.current_epoch = current_epoch


class ResyncRequiredError(GcsStateError):
    """A watch asked to resume from history that has been trimmed: start again from a snapshot.

    Attributes:
        first_available: The oldest sequence number from which the shard can still resume.
    """

    code = "RESYNC_REQUIRED"
    first_available: int

    def __init__(self, message: str, *, hint: str | None = None, first_available: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.first_available = first_available


# --- Whoever runs the cluster must act ----------------------------------------------------------


class GcsEnvironmentError(GcsError):
    """The machine, the network or the configuration is at fault."""


class GcsUnavailableError(GcsEnvironmentError, ConnectionError):
    """Nothing answered at the address within the time allowed. Writes may or may not have happened.

    Attributes:
        address: The address tried, ``host:port``.
    """

    code = "UNAVAILABLE"
    address: str

    def __init__(self, message: str, *, hint: str | None = None, address: str = "") -> None:
        super().__init__(message, hint=hint)
        self.address = address


class GcsOverloadedError(GcsEnvironmentError):
    """A bounded queue is full; try again after a pause."""

    code = "RESOURCE_EXHAUSTED"


class UnauthenticatedError(GcsEnvironmentError, PermissionError):
    """The call carried no token or the wrong one."""

    code = "UNAUTHENTICATED"


class PermissionDeniedError(GcsEnvironmentError, PermissionError):
    """The token is one of the cluster's, and is not good for this; the message says what is."""

    code = "PERMISSION_DENIED"


class VersionMismatchError(GcsEnvironmentError):
    """Client and server, or server and data directory, speak different versions."""

    code = "VERSION_MISMATCH"


class TokenFileError(GcsEnvironmentError, PermissionError):
    """The token file is missing, not a regular file, not ours, open to others, or malformed."""

    code = "TOKEN_FILE"


class PortInUseError(GcsEnvironmentError, OSError):
    """The address to bind is taken by another process.

    Attributes:
        port: The port that was asked for.
    """

    code = "PORT_IN_USE"
    port: int

    def __init__(self, message: str, *, hint: str | None = None, port: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.port = port


class DataDirLockedError(GcsEnvironmentError):
    """Another server has the data directory open.

    Attributes:
        pid: The process that holds the lock; 0 when it could not be read.
    """

    code = "DATA_DIR_LOCKED"
    pid: int

    def __init__(self, message: str, *, hint: str | None = None, pid: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.pid = pid


class InsecureBindError(GcsEnvironmentError):
    """A bind to anything but loopback without TLS, not asked for outright."""

    code = "INSECURE_BIND"


class ControlPlaneFullError(GcsEnvironmentError):
    """Lineage fills the memory allowed for it and cannot be moved to files; nothing was written.

    Submit no more until it is over. It ends by itself when tasks end or the disk has room again.
    """

    code = "CONTROL_PLANE_FULL"


class ClusterMismatchError(GcsEnvironmentError):
    """A backup, a position or a peer belongs to another cluster."""

    code = "CLUSTER_MISMATCH"


class StorageError(GcsEnvironmentError, OSError):
    """The disk or the database file failed: full, read-only, damaged."""

    code = "STORAGE"


class CorruptError(StorageError):
    """A stored file is damaged in a way that no crash explains.

    Attributes:
        path: The file.
        offset: Where in it, in bytes; 0 when that is not known.
    """

    code = "CORRUPT"
    path: str
    offset: int

    def __init__(
        self, message: str, *, hint: str | None = None, path: str = "", offset: int = 0
    ) -> None:
        super().__init__(message, hint=hint)
        self.path = path
        self.offset = offset


class StorageUnavailableError(StorageError):
    """The storage does not answer, or not yet: no primary, loading, busy. Try again later."""

    code = "STORAGE_UNAVAILABLE"


class ShardsMovedError(StorageUnavailableError):
    """Shards are being added, or were. The server looks where the rows are now, by itself."""

    code = "SHARDS_MOVED"


class StorageFullError(StorageError):
    """The storage takes no more: out of memory, or its own disk fails. Nothing was written."""

    code = "STORAGE_FULL"


class StorageDeniedError(StorageError, PermissionError):
    """The storage does not let the server in, or forbids a command."""

    code = "STORAGE_DENIED"


class NotReplicatedError(StorageError):
    """Fewer replicas than required have a write; it may last or be lost. Ask again: it is safe."""

    code = "NOT_REPLICATED"


class StateMovedError(StorageError):
    """The stored state moved on while a write was planned. The server plans it again by itself."""

    code = "STATE_MOVED"


class ConfigError(GcsEnvironmentError, ValueError):
    """The configuration is wrong; lists every fault at once, and nothing was started.

    Attributes:
        problems: One line for each fault: the field, its value, what is allowed.
    """

    code = "CONFIG"
    problems: tuple[str, ...]

    def __init__(
        self, message: str, *, hint: str | None = None, problems: Sequence[str] = ()
    ) -> None:
        super().__init__(message, hint=hint)
        self.problems = tuple(problems)


# --- Our bug ------------------------------------------------------------------------------------


class GcsInternalError(GcsError):
    """Something that cannot happen did; the message says what, please report it."""

    code = "INTERNAL"
