"""The constants of _native/layout.h that Python code needs. test_layout.py holds them against the header."""

from enum import IntEnum

CHUNK_BYTES = 65536
SLOTS_MAX = 1024
NO_SLOT = 0xFFFF
RETRY_FOREVER = 0xFFFFFFFF
QUEUE_READY = 1
QUEUE_MAILBOX = 2


class SlotState(IntEnum):
    """Life of a client slot."""

    FREE = 0
    LIVE = 1
    DEAD = 2
    REPAIRED = 3


class SlotKind(IntEnum):
    """What an attached process is."""

    STORE = 1
    SCHEDULER = 2
    DRIVER = 3
    WORKER = 4
    ACTOR = 5
    CLIENT = 6


class ObjectState(IntEnum):
    """Life of an object; layout.h has the drawing."""

    FREE = 0
    PENDING = 1
    CREATED = 2
    SEALED = 3
    DELETING = 4
    LOST = 5


class ObjectFlag(IntEnum):
    """Flags of an object that callers may set."""

    ERROR = 1


class TaskState(IntEnum):
    """Life of a task; layout.h has the drawing."""

    FREE = 0
    WAITING = 1
    READY = 2
    CLAIMED = 3
    DONE = 4


class TaskFlag(IntEnum):
    """Flags of a task."""

    CANCELLED = 1
    ACTOR_CALL = 2
