# mypy: ignore-errors
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Selector(_message.Message):
    __slots__ = ("labels",)
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    LABELS_FIELD_NUMBER: _ClassVar[int]
    labels: _containers.ScalarMap[str, str]
    def __init__(self, labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class NodeAffinity(_message.Message):
    __slots__ = ("node_id", "is_soft")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    IS_SOFT_FIELD_NUMBER: _ClassVar[int]
    node_id: bytes
    is_soft: bool
    def __init__(self, node_id: _Optional[bytes] = ..., is_soft: bool = ...) -> None: ...

class GroupBundle(_message.Message):
    __slots__ = ("group_id", "index")
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    group_id: bytes
    index: int
    def __init__(self, group_id: _Optional[bytes] = ..., index: _Optional[int] = ...) -> None: ...

class PlaceConstraints(_message.Message):
    __slots__ = ("resources", "selectors", "is_spread", "affinity", "bundle")
    class ResourcesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    SELECTORS_FIELD_NUMBER: _ClassVar[int]
    IS_SPREAD_FIELD_NUMBER: _ClassVar[int]
    AFFINITY_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    resources: _containers.ScalarMap[str, float]
    selectors: _containers.RepeatedCompositeFieldContainer[Selector]
    is_spread: bool
    affinity: NodeAffinity
    bundle: GroupBundle
    def __init__(self, resources: _Optional[_Mapping[str, float]] = ..., selectors: _Optional[_Iterable[_Union[Selector, _Mapping]]] = ..., is_spread: bool = ..., affinity: _Optional[_Union[NodeAffinity, _Mapping]] = ..., bundle: _Optional[_Union[GroupBundle, _Mapping]] = ...) -> None: ...

class TaskInput(_message.Message):
    __slots__ = ("object_id", "size_bytes", "node_ids")
    OBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    NODE_IDS_FIELD_NUMBER: _ClassVar[int]
    object_id: bytes
    size_bytes: int
    node_ids: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, object_id: _Optional[bytes] = ..., size_bytes: _Optional[int] = ..., node_ids: _Optional[_Iterable[bytes]] = ...) -> None: ...

class TaskToPlace(_message.Message):
    __slots__ = ("task_id", "attempt", "constraints", "function_id", "inputs", "run_time_s", "avoid_node_id")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    CONSTRAINTS_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_ID_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    RUN_TIME_S_FIELD_NUMBER: _ClassVar[int]
    AVOID_NODE_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: bytes
    attempt: int
    constraints: int
    function_id: bytes
    inputs: _containers.RepeatedCompositeFieldContainer[TaskInput]
    run_time_s: float
    avoid_node_id: bytes
    def __init__(self, task_id: _Optional[bytes] = ..., attempt: _Optional[int] = ..., constraints: _Optional[int] = ..., function_id: _Optional[bytes] = ..., inputs: _Optional[_Iterable[_Union[TaskInput, _Mapping]]] = ..., run_time_s: _Optional[float] = ..., avoid_node_id: _Optional[bytes] = ...) -> None: ...

class PlaceRequest(_message.Message):
    __slots__ = ("constraints", "tasks")
    CONSTRAINTS_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    constraints: _containers.RepeatedCompositeFieldContainer[PlaceConstraints]
    tasks: _containers.RepeatedCompositeFieldContainer[TaskToPlace]
    def __init__(self, constraints: _Optional[_Iterable[_Union[PlaceConstraints, _Mapping]]] = ..., tasks: _Optional[_Iterable[_Union[TaskToPlace, _Mapping]]] = ...) -> None: ...

class TaskPlaced(_message.Message):
    __slots__ = ("node_id", "address", "wait_s")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    node_id: bytes
    address: str
    wait_s: float
    def __init__(self, node_id: _Optional[bytes] = ..., address: _Optional[str] = ..., wait_s: _Optional[float] = ...) -> None: ...

class TaskInfeasible(_message.Message):
    __slots__ = ("message", "hint", "requested", "best")
    class RequestedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class BestEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_FIELD_NUMBER: _ClassVar[int]
    BEST_FIELD_NUMBER: _ClassVar[int]
    message: str
    hint: str
    requested: _containers.ScalarMap[str, float]
    best: _containers.ScalarMap[str, float]
    def __init__(self, message: _Optional[str] = ..., hint: _Optional[str] = ..., requested: _Optional[_Mapping[str, float]] = ..., best: _Optional[_Mapping[str, float]] = ...) -> None: ...

class TaskLater(_message.Message):
    __slots__ = ("retry_after_ms", "reason")
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    retry_after_ms: int
    reason: str
    def __init__(self, retry_after_ms: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class TaskAnswer(_message.Message):
    __slots__ = ("placed", "infeasible", "later")
    PLACED_FIELD_NUMBER: _ClassVar[int]
    INFEASIBLE_FIELD_NUMBER: _ClassVar[int]
    LATER_FIELD_NUMBER: _ClassVar[int]
    placed: TaskPlaced
    infeasible: TaskInfeasible
    later: TaskLater
    def __init__(self, placed: _Optional[_Union[TaskPlaced, _Mapping]] = ..., infeasible: _Optional[_Union[TaskInfeasible, _Mapping]] = ..., later: _Optional[_Union[TaskLater, _Mapping]] = ...) -> None: ...

class PlaceReply(_message.Message):
    __slots__ = ("answers",)
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    answers: _containers.RepeatedCompositeFieldContainer[TaskAnswer]
    def __init__(self, answers: _Optional[_Iterable[_Union[TaskAnswer, _Mapping]]] = ...) -> None: ...
