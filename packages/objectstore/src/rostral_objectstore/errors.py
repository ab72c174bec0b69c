"""Errors of the object store.

RostralError (rostral_gcs)
└── ObjectStoreError
    ├── misuse: the caller must change something
    │   ├── ObjectAlreadyExistsError (ValueError)   an id was used twice
    │   ├── ObjectStateError (ValueError)           seal or abort of what is not ours to seal
    │   ├── ObjectKindError (TypeError)             the object's value is of another kind
    │   ├── StoreClosedError                        used after close, or in a forked child
    │   ├── QueueClosedError                        the consumer is gone
    │   ├── MissingExtraError (ImportError)         an optional dependency is not installed
    │   └── ObjectNotTransferableError (ValueError) it refers to objects of its node
    ├── environment: the caller can wait, or give the store more
    │   ├── ObjectStoreFullError                    no room, after all that could be freed was
    │   │   ├── OutOfDiskError                      nor does a disk take anything
    │   │   └── DeviceFullError                     no room in a GPU's share of the store
    │   ├── DeviceError                             a GPU, or its driver, refused
    │   │   └── DeviceUnavailableError              no such GPU for this process, or no CuPy
    │   ├── QueueFullError                          as many tasks are queued as the queue can hold
    │   ├── PendingCallsLimitError                  as many calls of a handle wait as it allows
    │   ├── OutOfMemoryError (MemoryError)          the machine has no pages left
    │   ├── TooManyClientsError                     all client slots are taken
    │   ├── StoreUnavailableError (ConnectionError) nothing listens at the socket
    │   │   └── StoreRestartedError                 the store that listens is not the one we knew
    │   ├── ObjectNotFoundError (LookupError)       the node does not know the object
    │   ├── ObjectElsewhereError                    sealed; its bytes are on another node
    │   ├── ObjectLostError                         sealed once; its bytes are nowhere any more
    │   │   ├── ObjectCorruptError                  its spill file is not what was written
    │   │   ├── DeviceLostError                     it lay on a GPU whose store process died
    │   │   ├── ObjectReconstructionFailedError     nor can it be made again
    │   │   └── ObjectFreedError                    given up by hand
    │   ├── ObjectTimeoutError (TimeoutError)       not sealed in time
    │   ├── ObjectFetchError                        no holder could give the object; says why each
    │   │   └── ObjectFetchTimeoutError (ObjectLostError, TimeoutError)  not in the time allowed
    │   └── SourceError                             why one holder could not; a fetch tries the next
    │       ├── NotHolderError (LookupError)        it does not have the object
    │       ├── SourceBusyError                     it serves as many as it can
    │       ├── SourceUnavailableError (ConnectionError) it is gone, or was never there
    │       ├── SourceStalledError (TimeoutError)   it sends nothing
    │       ├── SourceRefusedError (PermissionError) it refuses our token
    │       ├── ChunkInvalidError (ValueError)      what was asked or sent is not what it should be
    │       └── ChunkCorruptError                   a checksum does not fit the bytes
    └── ours: a defect or a version mix
        ├── SegmentError                            the shared segment is not what it should be
        ├── LayoutVersionError                      made by another version
        └── ProtocolError                           a message that cannot be understood
"""

from collections.abc import Sequence
from typing import Self

from rostral_gcs.errors import RostralError


class ObjectStoreError(RostralError):
    """Base of all errors of this package."""


class ObjectAlreadyExistsError(ObjectStoreError, ValueError):
    """An object with this id exists already."""


class ObjectStateError(ObjectStoreError, ValueError):
    """The object is not in a state that allows this, or not this process's to change."""


class ObjectKindError(ObjectStoreError, TypeError):
    """The value is of a kind that this call cannot store or read."""


class StoreClosedError(ObjectStoreError):
    """This process is no longer attached to the store."""


class QueueClosedError(ObjectStoreError):
    """Nothing will be taken from the queue any more."""


class QueueFullError(ObjectStoreError):
    """The queue holds as many tasks as it can."""


class PendingCallsLimitError(ObjectStoreError):
    """As many calls of a handle are pending as were allowed."""


class ObjectStoreFullError(ObjectStoreError):
    """There is no room in the store for the object."""


class OutOfDiskError(ObjectStoreFullError):
    """The store is full, and no spill directory takes anything.

    Attributes:
        path: the directory that was tried last.
        need_bytes: how much was to be written.
        free_bytes: what its file system has free.
    """

    path: str = ""
    need_bytes: int = 0
    free_bytes: int = 0


class DeviceFullError(ObjectStoreFullError):
    """There is no room for an array in a GPU's share of the store, nor can any be made.

    Attributes:
        device: the GPU's identity, as the driver has it.
        need_bytes: how much was asked for.
        capacity_bytes: the store's share of that GPU.
    """

    device: str = ""
    need_bytes: int = 0
    capacity_bytes: int = 0


class DeviceError(ObjectStoreError):
    """A GPU or its driver refused what the store asked of it."""


class DeviceUnavailableError(DeviceError):
    """This process has no such GPU, or nothing to use it with; the hint says what to install."""


class OutOfMemoryError(ObjectStoreError, MemoryError):
    """The machine has no memory left for the store."""

    def __new__(cls, *args: object, **keywords: object) -> Self:
        """MemoryError's own refuses a class whose first base is another exception."""
        return Exception.__new__(cls, *args)


class TooManyClientsError(ObjectStoreError):
    """Every client slot of the store is taken."""


class StoreUnavailableError(ObjectStoreError, ConnectionError):
    """No store answers at the socket."""


class StoreRestartedError(StoreUnavailableError):
    """Another store listens now: what this process shares with the former one, it shares alone."""


class ObjectNotFoundError(ObjectStoreError, LookupError):
    """The node does not know the object."""


class ObjectElsewhereError(ObjectStoreError):
    """The object is sealed, but its bytes are not on this node."""


class ObjectLostError(ObjectStoreError):
    """The object was sealed, but its bytes are nowhere any more.

    Attributes:
        object_ref_hex: the object's id in hexadecimal; empty when not known.
        owner_address, call_site: empty here, where an object needs no owner and remembers no line
            of code; for programs that print them.
    """

    object_ref_hex: str
    owner_address: str = ""
    call_site: str = ""

    def __init__(self, message: str, *, hint: str | None = None, object_ref_hex: str = "") -> None:
        super().__init__(message, hint=hint)
        self.object_ref_hex = object_ref_hex


class ObjectCorruptError(ObjectLostError):
    """The object was spilled, and its file is not what was written.

    Attributes:
        path: the file.
        offset: where in it the object begins, in bytes.
    """

    path: str = ""
    offset: int = 0


class DeviceLostError(ObjectLostError):
    """The array lay in the memory of a GPU, and the process that owned that memory is dead."""


class ObjectReconstructionFailedError(ObjectLostError):
    """All copies of the object are gone, and it cannot be made again.

    Attributes:
        reason: why not, in a word: `put`, `cut`, `spent`.
    """

    reason: str = ""


class ObjectFreedError(ObjectLostError):
    """The object was given up by hand, with `free`, while somebody still held it."""

    @classmethod
    def of(cls, object_ref_hex: str) -> Self:
        """The error of whoever reads the object."""
        return cls(
            f"object {object_ref_hex} was freed by hand, and its value is gone",
            hint="free an object only when nobody will read it any more",
            object_ref_hex=object_ref_hex,
        )


class ObjectTimeoutError(ObjectStoreError, TimeoutError):
    """The object was not sealed in time.

    Attributes:
        missing: ids of all objects that were waited for and are not there, in hexadecimal.
    """

    missing: list[str]

    def __init__(
        self, message: str, *, hint: str | None = None, missing: Sequence[str] = ()
    ) -> None:
        super().__init__(message, hint=hint)
        self.missing = list(missing)


class MissingExtraError(ObjectStoreError, ImportError):
    """An optional dependency is not installed; the hint says which extra brings it."""


class ObjectNotTransferableError(ObjectStoreError, ValueError):
    """The object's value refers to objects of its own node."""

    code = "NOT_TRANSFERABLE"


class ObjectFetchError(ObjectStoreError):
    """No holder could give the object. The message names each and its reason."""


class ObjectFetchTimeoutError(ObjectFetchError, ObjectLostError, TimeoutError):
    """The object did not arrive in the time allowed: for whoever asked, it is lost."""


class SourceError(ObjectStoreError):
    """One holder could not give the object, or a part of it."""


class NotHolderError(SourceError, LookupError):
    """The node does not have the object, or not sealed."""

    code = "NOT_HOLDER"


class SourceBusyError(SourceError):
    """The node serves as many as it can."""

    code = "BUSY"


class SourceUnavailableError(SourceError, ConnectionError):
    """Nothing answers there, or the connection broke."""


class SourceStalledError(SourceError, TimeoutError):
    """The node sends nothing, or too slowly."""


class SourceRefusedError(SourceError, PermissionError):
    """The node refuses our token."""


class ChunkInvalidError(SourceError, ValueError):
    """A range or chunk does not lie in the object, or is not of it."""

    code = "CHUNK_INVALID"


class ChunkCorruptError(SourceError):
    """The bytes are not those that their checksum was made of."""

    code = "CORRUPT"


class SegmentError(ObjectStoreError):
    """The shared segment is not what it should be."""


class LayoutVersionError(SegmentError):
    """The shared segment was made by another version of this package."""


class ProtocolError(ObjectStoreError):
    """The other side of the socket sent what this version does not understand."""
