"""The ids of Rostral: one small class for each kind, fixed-length bytes inside.

This file owns how ids look, compare, pickle and derive from one another. It must import nothing of
ours and nothing slow: every worker process imports it. Ids of different kinds never compare equal,
so that a task id put where an actor id belongs is found by the type checker and, failing that, by
the first lookup (OSDI'18 §4.2.1: all control state is keyed by ids).
"""

from __future__ import annotations

import os
import struct
from typing import ClassVar, Final, Self, final

__all__ = [
    "ActorID",
    "BaseID",
    "FunctionID",
    "JobID",
    "NodeID",
    "ObjectID",
    "PlacementGroupID",
    "TaskID",
    "WorkerID",
]

_INDEX: Final = struct.Struct("<I")
_NAME_PERSON: Final = b"rostral.object"


class BaseID:
    """Fixed-length bytes with a kind. Immutable by convention, hashable, ordered within its kind.

    Args:
        binary: Exactly ``SIZE`` bytes.

    Raises:
        TypeError: ``binary`` is not bytes.
        ValueError: ``binary`` has another length than ``SIZE``.
    """

    __slots__ = ("_binary",)

    SIZE: ClassVar[int] = 16

    def __init__(self, binary: bytes) -> None:
        if type(binary) is not bytes:
            raise TypeError(f"{type(self).__name__} needs bytes, got {type(binary).__name__}")
        if len(binary) != self.SIZE:
            raise ValueError(f"{type(self).__name__} needs {self.SIZE} bytes, got {len(binary)}")
        self._binary = binary

    @classmethod
    def from_random(cls) -> Self:
        """A new id from the system's random source."""
        return cls(os.urandom(cls.SIZE))

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """The id that ``hex()`` wrote.

        Raises:
            ValueError: ``text`` is not hexadecimal or has the wrong length.
        """
        try:
            binary = bytes.fromhex(text)
        except ValueError as error:
            raise ValueError(f"{cls.__name__} is not hexadecimal: {text[:80]!r}") from error
        return cls(binary)

    @classmethod
    def nil(cls) -> Self:
        """The id that stands for none: all bytes zero."""
        return cls(bytes(cls.SIZE))

    def is_nil(self) -> bool:
        """Whether this is the ``nil()`` id."""
        return not any(self._binary)

    def binary(self) -> bytes:
        """The bytes of the id, as they go into keys and records."""
        return self._binary

    def hex(self) -> str:
        """The id in lower-case hexadecimal, as it goes into logs and errors."""
        return self._binary.hex()

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._binary == other._binary

    def __lt__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._binary < other._binary

    def __hash__(self) -> int:
        # bytes keep their hash, so this is a field read after the first call.
        return hash(self._binary)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._binary.hex()})"

    def __reduce__(self) -> tuple[type[Self], tuple[bytes]]:
        return type(self), (self._binary,)


@final
class NodeID(BaseID):
    """A node: one machine's store and local scheduler, from start to stop. 16 bytes."""

    __slots__ = ()


@final
class JobID(BaseID):
    """A job: one driver from ``init`` to its end. 16 bytes."""

    __slots__ = ()


@final
class WorkerID(BaseID):
    """A worker process. 16 bytes."""

    __slots__ = ()


@final
class ActorID(BaseID):
    """An actor, the same over all its restarts. 16 bytes."""

    __slots__ = ()


@final
class TaskID(BaseID):
    """A task, the same over all its attempts. 16 bytes."""

    __slots__ = ()


@final
class PlacementGroupID(BaseID):
    """A placement group. 16 bytes."""

    __slots__ = ()


@final
class FunctionID(BaseID):
    """A remote function or actor class as exported by a job. 16 bytes."""

    __slots__ = ()


@final
class ObjectID(BaseID):
    """An object: the id of the task that makes it, then a little-endian uint32 index. 20 bytes.

    An object id thus names its lineage (OSDI'18 §4.2.1), and no lookup is needed to find which task
    to run again.
    """

    __slots__ = ()

    SIZE: ClassVar[int] = TaskID.SIZE + _INDEX.size

    @classmethod
    def for_task(cls, task_id: TaskID, index: int) -> ObjectID:
        """The id of the task's object number ``index``.

        Args:
            task_id: The task that makes the object.
            index: 0 <= index < 2**32.

        Raises:
            ValueError: ``index`` is out of range.
        """
        try:
            return cls(task_id.binary() + _INDEX.pack(index))
        except struct.error as error:
            raise ValueError(f"object index must be in [0, 2**32), got {index}") from error

    @classmethod
    def from_name(cls, name: str) -> ObjectID:
        """The id of the object that users call by a name: the same in every process, for ever.

        It is the 20-byte BLAKE2b digest of the name in UTF-8, personalised with
        ``rostral.object``, so that a program in another language can find the object too.

        Raises:
            ValueError: ``name`` is empty.
        """
        if not name:
            raise ValueError("an object's name must not be empty")
        # Here, because most processes that need ids never name an object.
        from hashlib import blake2b

        return cls(blake2b(name.encode(), digest_size=cls.SIZE, person=_NAME_PERSON).digest())

    def task_id(self) -> TaskID:
        """The task that makes this object."""
        return TaskID(self._binary[: TaskID.SIZE])

    def index(self) -> int:
        """Which of the task's objects this is."""
        index: int = _INDEX.unpack_from(self._binary, TaskID.SIZE)[0]
        return index
