"""What Python code needs of _native/layout.h: constants, and records as dicts.

test_layout.py holds the constants against the header, where they are defined and explained.
"""

from enum import IntEnum
from typing import TypedDict

CHUNK_BYTES = 65536
SLOTS_MAX = 1024
NO_SLOT = 0xFFFF
RETRY_FOREVER = 0xFFFFFFFF
QUEUE_READY = 1
QUEUE_MAILBOX = 2
LANES_MAX = 64


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
    SPILLED = 6
    FREED = 7


class ObjectFlag(IntEnum):
    """Flags of an object that callers may set; COMPOUND only with bytes that another store gave."""

    ERROR = 1
    COMPOUND = 4


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
    CANCEL_CHILDREN = 4
    INTERRUPT = 8
    STREAM = 16
    LATE = 32
    DYNAMIC = 64
    LOGGED = 128


class SlotInfo(TypedDict):
    """One client slot, its fields read one by one without a lock."""

    slot: int
    state: int
    pid: int
    start_time: int
    kind: int
    generation: int
    worker_id: bytes
    job_id: bytes
    sleeping: int
    claiming: int
    running: int
    blocked: int
    queue: int
    queue_ack: int
    idle: int
    finished_count: int


class ObjectRecord(TypedDict):
    """One object of the node. `holders` are slots; `containers` counts objects that refer to it."""

    id: bytes
    state: int
    size: int
    holders: list[int]
    containers: int
    is_error: bool


class TaskInfo(TypedDict):
    """One task of the node. `loc`, `queue` and `returns` are locators, `submitter` is a slot."""

    loc: int
    id: bytes
    state: int
    slot: int
    queue: int
    submitter: int
    attempt: int
    retries_left: int
    flags: int
    function: int
    returns: list[int]
    deadline_ns: int


class Audit(TypedDict):
    """What lies in the segment: records in use, bits of holders, locks, index entries, blocks."""

    objects: int
    tasks: int
    holds: int
    locks: int
    index_entries: int
    blocks: int
