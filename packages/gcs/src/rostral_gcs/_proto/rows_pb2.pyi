# mypy: ignore-errors
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class QueueReportValue(_message.Message):
    __slots__ = ("resources", "length", "run_time_s")
    class ResourcesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    RUN_TIME_S_FIELD_NUMBER: _ClassVar[int]
    resources: _containers.ScalarMap[str, float]
    length: int
    run_time_s: float
    def __init__(self, resources: _Optional[_Mapping[str, float]] = ..., length: _Optional[int] = ..., run_time_s: _Optional[float] = ...) -> None: ...

class FunctionRunTimeValue(_message.Message):
    __slots__ = ("function_id", "run_time_s")
    FUNCTION_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_TIME_S_FIELD_NUMBER: _ClassVar[int]
    function_id: bytes
    run_time_s: float
    def __init__(self, function_id: _Optional[bytes] = ..., run_time_s: _Optional[float] = ...) -> None: ...

class NodeReportValue(_message.Message):
    __slots__ = ("queues", "run_time_s", "run_times", "bandwidth_bytes_per_s", "is_draining", "resources_held")
    class ResourcesHeldEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    RUN_TIME_S_FIELD_NUMBER: _ClassVar[int]
    RUN_TIMES_FIELD_NUMBER: _ClassVar[int]
    BANDWIDTH_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    IS_DRAINING_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_HELD_FIELD_NUMBER: _ClassVar[int]
    queues: _containers.RepeatedCompositeFieldContainer[QueueReportValue]
    run_time_s: float
    run_times: _containers.RepeatedCompositeFieldContainer[FunctionRunTimeValue]
    bandwidth_bytes_per_s: float
    is_draining: bool
    resources_held: _containers.ScalarMap[str, float]
    def __init__(self, queues: _Optional[_Iterable[_Union[QueueReportValue, _Mapping]]] = ..., run_time_s: _Optional[float] = ..., run_times: _Optional[_Iterable[_Union[FunctionRunTimeValue, _Mapping]]] = ..., bandwidth_bytes_per_s: _Optional[float] = ..., is_draining: bool = ..., resources_held: _Optional[_Mapping[str, float]] = ...) -> None: ...

class NodeValue(_message.Message):
    __slots__ = ("address", "hostname", "store_socket", "scheduler_socket", "resources_total", "resources_available", "labels", "state", "epoch", "lease_s", "death_cause", "start_time_s", "end_time_s", "report", "scheduler_address")
    class ResourcesTotalEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class ResourcesAvailableEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    STORE_SOCKET_FIELD_NUMBER: _ClassVar[int]
    SCHEDULER_SOCKET_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LEASE_S_FIELD_NUMBER: _ClassVar[int]
    DEATH_CAUSE_FIELD_NUMBER: _ClassVar[int]
    START_TIME_S_FIELD_NUMBER: _ClassVar[int]
    END_TIME_S_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    SCHEDULER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    address: str
    hostname: str
    store_socket: str
    scheduler_socket: str
    resources_total: _containers.ScalarMap[str, float]
    resources_available: _containers.ScalarMap[str, float]
    labels: _containers.ScalarMap[str, str]
    state: str
    epoch: int
    lease_s: float
    death_cause: str
    start_time_s: float
    end_time_s: float
    report: NodeReportValue
    scheduler_address: str
    def __init__(self, address: _Optional[str] = ..., hostname: _Optional[str] = ..., store_socket: _Optional[str] = ..., scheduler_socket: _Optional[str] = ..., resources_total: _Optional[_Mapping[str, float]] = ..., resources_available: _Optional[_Mapping[str, float]] = ..., labels: _Optional[_Mapping[str, str]] = ..., state: _Optional[str] = ..., epoch: _Optional[int] = ..., lease_s: _Optional[float] = ..., death_cause: _Optional[str] = ..., start_time_s: _Optional[float] = ..., end_time_s: _Optional[float] = ..., report: _Optional[_Union[NodeReportValue, _Mapping]] = ..., scheduler_address: _Optional[str] = ...) -> None: ...

class JobValue(_message.Message):
    __slots__ = ("driver_pid", "hostname", "state", "start_time_s", "end_time_s", "namespace", "entrypoint", "node_id")
    DRIVER_PID_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    START_TIME_S_FIELD_NUMBER: _ClassVar[int]
    END_TIME_S_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    ENTRYPOINT_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    driver_pid: int
    hostname: str
    state: str
    start_time_s: float
    end_time_s: float
    namespace: str
    entrypoint: str
    node_id: bytes
    def __init__(self, driver_pid: _Optional[int] = ..., hostname: _Optional[str] = ..., state: _Optional[str] = ..., start_time_s: _Optional[float] = ..., end_time_s: _Optional[float] = ..., namespace: _Optional[str] = ..., entrypoint: _Optional[str] = ..., node_id: _Optional[bytes] = ...) -> None: ...

class FunctionValue(_message.Message):
    __slots__ = ("name", "size_bytes", "sha256", "inline_blob", "chunk_count")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    INLINE_BLOB_FIELD_NUMBER: _ClassVar[int]
    CHUNK_COUNT_FIELD_NUMBER: _ClassVar[int]
    name: str
    size_bytes: int
    sha256: bytes
    inline_blob: bytes
    chunk_count: int
    def __init__(self, name: _Optional[str] = ..., size_bytes: _Optional[int] = ..., sha256: _Optional[bytes] = ..., inline_blob: _Optional[bytes] = ..., chunk_count: _Optional[int] = ...) -> None: ...

class ActorValue(_message.Message):
    __slots__ = ("job_id", "name", "namespace", "class_name", "node_id", "worker_pid", "state", "death_cause", "detached", "max_restarts", "restarts")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    WORKER_PID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DEATH_CAUSE_FIELD_NUMBER: _ClassVar[int]
    DETACHED_FIELD_NUMBER: _ClassVar[int]
    MAX_RESTARTS_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    job_id: bytes
    name: str
    namespace: str
    class_name: str
    node_id: bytes
    worker_pid: int
    state: str
    death_cause: str
    detached: bool
    max_restarts: int
    restarts: int
    def __init__(self, job_id: _Optional[bytes] = ..., name: _Optional[str] = ..., namespace: _Optional[str] = ..., class_name: _Optional[str] = ..., node_id: _Optional[bytes] = ..., worker_pid: _Optional[int] = ..., state: _Optional[str] = ..., death_cause: _Optional[str] = ..., detached: bool = ..., max_restarts: _Optional[int] = ..., restarts: _Optional[int] = ...) -> None: ...

class Bundle(_message.Message):
    __slots__ = ("resources", "node_id")
    class ResourcesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    resources: _containers.ScalarMap[str, float]
    node_id: bytes
    def __init__(self, resources: _Optional[_Mapping[str, float]] = ..., node_id: _Optional[bytes] = ...) -> None: ...

class PlacementGroupValue(_message.Message):
    __slots__ = ("job_id", "name", "namespace", "strategy", "bundles", "state", "detached", "cause")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    BUNDLES_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DETACHED_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    job_id: bytes
    name: str
    namespace: str
    strategy: str
    bundles: _containers.RepeatedCompositeFieldContainer[Bundle]
    state: str
    detached: bool
    cause: str
    def __init__(self, job_id: _Optional[bytes] = ..., name: _Optional[str] = ..., namespace: _Optional[str] = ..., strategy: _Optional[str] = ..., bundles: _Optional[_Iterable[_Union[Bundle, _Mapping]]] = ..., state: _Optional[str] = ..., detached: bool = ..., cause: _Optional[str] = ...) -> None: ...

class CheckpointValue(_message.Message):
    __slots__ = ("node_id", "call_count", "size_bytes", "time_s", "location", "digest")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    CALL_COUNT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TIME_S_FIELD_NUMBER: _ClassVar[int]
    LOCATION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    node_id: bytes
    call_count: int
    size_bytes: int
    time_s: float
    location: str
    digest: bytes
    def __init__(self, node_id: _Optional[bytes] = ..., call_count: _Optional[int] = ..., size_bytes: _Optional[int] = ..., time_s: _Optional[float] = ..., location: _Optional[str] = ..., digest: _Optional[bytes] = ...) -> None: ...

class EventValue(_message.Message):
    __slots__ = ("severity", "source", "kind", "message", "node_id", "job_id", "subject_id", "attributes")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    severity: str
    source: str
    kind: str
    message: str
    node_id: bytes
    job_id: bytes
    subject_id: bytes
    attributes: _containers.ScalarMap[str, str]
    def __init__(self, severity: _Optional[str] = ..., source: _Optional[str] = ..., kind: _Optional[str] = ..., message: _Optional[str] = ..., node_id: _Optional[bytes] = ..., job_id: _Optional[bytes] = ..., subject_id: _Optional[bytes] = ..., attributes: _Optional[_Mapping[str, str]] = ...) -> None: ...
