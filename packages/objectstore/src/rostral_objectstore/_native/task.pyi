from typing import TypeVar, overload

from rostral_objectstore._native.pending import PendingCalls
from rostral_objectstore._native.segment import Segment
from rostral_objectstore._native.stream import StreamReader
from rostral_objectstore._native.table import Handle, ObjectTable

_H = TypeVar("_H", bound=Handle)
_Needed = TypeVar("_Needed", bound=Handle)
_Kept = TypeVar("_Kept", bound=Handle)

class TaskContext:
    def __init__(self, task_id: bytes) -> None: ...
    def task_id(self) -> bytes: ...
    def next_put_id(self) -> bytes: ...
    def next_child_id(self) -> bytes: ...

class ClaimedTask:
    @property
    def loc(self) -> int: ...
    @property
    def id(self) -> bytes: ...
    @property
    def function(self) -> int: ...
    @property
    def payload(self) -> bytes: ...
    @property
    def returns(self) -> tuple[int, ...]: ...
    @property
    def dependencies(self) -> tuple[int, ...]: ...
    @property
    def flags(self) -> int: ...
    @property
    def attempt(self) -> int: ...
    @property
    def submitter(self) -> int: ...

class Tasks:
    def __init__(self, table: ObjectTable) -> None: ...
    @property
    def segment(self) -> Segment: ...
    @overload
    def submit(
        self,
        cls: type[_H],
        context: TaskContext,
        queue_loc: int,
        function: int,
        payload: bytes,
        dependencies: list[_Needed],
        nested: list[_Kept],
        return_count: int,
        retries: int,
        flags: int,
        in_order: bool,
        task_id: bytes | None = None,
        pending: PendingCalls | None = None,
        deadline_ns: int = 0,
    ) -> list[_H]: ...
    @overload
    def submit(
        self,
        cls: type[_H],
        context: TaskContext,
        queue_loc: int,
        function: int,
        payload: bytes,
        dependencies: list[_Needed],
        nested: list[_Kept],
        return_count: int,
        retries: int,
        flags: int,
        in_order: bool,
        task_id: None,
        pending: PendingCalls | None,
        deadline_ns: int,
        room: int,
    ) -> list[_H] | StreamReader[_H]: ...
    def sweep(self) -> int: ...
    @property
    def unfinished_count(self) -> int: ...
    def next(self, mailbox: int, timeout_ns: int, watched: list[_H]) -> ClaimedTask | None: ...
    def wait(self, mailbox: int, timeout_ns: int, watched: list[_H], seen: int) -> bool: ...
    def finish(self, claimed: ClaimedTask) -> None: ...
    def forget(self, claimed: ClaimedTask) -> None: ...
    def is_cancelled(self, claimed: ClaimedTask) -> bool: ...
    def flags(self, claimed: ClaimedTask) -> int: ...
    def mark_running(self, claimed: ClaimedTask) -> None: ...
