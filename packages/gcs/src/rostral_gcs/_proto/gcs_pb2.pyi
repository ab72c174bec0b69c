# mypy: ignore-errors
from rostral_gcs._proto import rows_pb2 as _rows_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ErrorDetail(_message.Message):
    __slots__ = ("code", "message", "hint", "attributes")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    hint: str
    attributes: _containers.ScalarMap[str, str]
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., hint: _Optional[str] = ..., attributes: _Optional[_Mapping[str, str]] = ...) -> None: ...

class HelloRequest(_message.Message):
    __slots__ = ("protocol_version",)
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    def __init__(self, protocol_version: _Optional[int] = ...) -> None: ...

class HelloReply(_message.Message):
    __slots__ = ("protocol_version", "cluster_id", "shard_count", "server_version", "frames_port")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    SHARD_COUNT_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    FRAMES_PORT_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    cluster_id: bytes
    shard_count: int
    server_version: str
    frames_port: int
    def __init__(self, protocol_version: _Optional[int] = ..., cluster_id: _Optional[bytes] = ..., shard_count: _Optional[int] = ..., server_version: _Optional[str] = ..., frames_port: _Optional[int] = ...) -> None: ...

class Writer(_message.Message):
    __slots__ = ("node_id", "epoch")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    node_id: bytes
    epoch: int
    def __init__(self, node_id: _Optional[bytes] = ..., epoch: _Optional[int] = ...) -> None: ...

class WriteOp(_message.Message):
    __slots__ = ("table", "key", "value", "expected_version")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    table: str
    key: bytes
    value: bytes
    expected_version: int
    def __init__(self, table: _Optional[str] = ..., key: _Optional[bytes] = ..., value: _Optional[bytes] = ..., expected_version: _Optional[int] = ...) -> None: ...

class WriteRequest(_message.Message):
    __slots__ = ("request_id", "ops", "writer")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    OPS_FIELD_NUMBER: _ClassVar[int]
    WRITER_FIELD_NUMBER: _ClassVar[int]
    request_id: bytes
    ops: _containers.RepeatedCompositeFieldContainer[WriteOp]
    writer: Writer
    def __init__(self, request_id: _Optional[bytes] = ..., ops: _Optional[_Iterable[_Union[WriteOp, _Mapping]]] = ..., writer: _Optional[_Union[Writer, _Mapping]] = ...) -> None: ...

class WriteResult(_message.Message):
    __slots__ = ("version", "error")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    version: int
    error: ErrorDetail
    def __init__(self, version: _Optional[int] = ..., error: _Optional[_Union[ErrorDetail, _Mapping]] = ...) -> None: ...

class WriteReply(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[WriteResult]
    def __init__(self, results: _Optional[_Iterable[_Union[WriteResult, _Mapping]]] = ...) -> None: ...

class WriteColumnsRequest(_message.Message):
    __slots__ = ("request_id", "writer", "table", "keys", "sizes", "values", "delete")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    WRITER_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    DELETE_FIELD_NUMBER: _ClassVar[int]
    request_id: bytes
    writer: Writer
    table: str
    keys: bytes
    sizes: _containers.RepeatedScalarFieldContainer[int]
    values: bytes
    delete: bool
    def __init__(self, request_id: _Optional[bytes] = ..., writer: _Optional[_Union[Writer, _Mapping]] = ..., table: _Optional[str] = ..., keys: _Optional[bytes] = ..., sizes: _Optional[_Iterable[int]] = ..., values: _Optional[bytes] = ..., delete: bool = ...) -> None: ...

class WriteColumnsReply(_message.Message):
    __slots__ = ("count",)
    COUNT_FIELD_NUMBER: _ClassVar[int]
    count: int
    def __init__(self, count: _Optional[int] = ...) -> None: ...

class Row(_message.Message):
    __slots__ = ("key", "value", "version")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    value: bytes
    version: int
    def __init__(self, key: _Optional[bytes] = ..., value: _Optional[bytes] = ..., version: _Optional[int] = ...) -> None: ...

class ReadRequest(_message.Message):
    __slots__ = ("table", "keys", "prefixes")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    PREFIXES_FIELD_NUMBER: _ClassVar[int]
    table: str
    keys: _containers.RepeatedScalarFieldContainer[bytes]
    prefixes: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, table: _Optional[str] = ..., keys: _Optional[_Iterable[bytes]] = ..., prefixes: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ReadReply(_message.Message):
    __slots__ = ("rows",)
    ROWS_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[Row]
    def __init__(self, rows: _Optional[_Iterable[_Union[Row, _Mapping]]] = ...) -> None: ...

class ScanRequest(_message.Message):
    __slots__ = ("table", "prefix", "after_key", "limit")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    AFTER_KEY_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    table: str
    prefix: bytes
    after_key: bytes
    limit: int
    def __init__(self, table: _Optional[str] = ..., prefix: _Optional[bytes] = ..., after_key: _Optional[bytes] = ..., limit: _Optional[int] = ...) -> None: ...

class ScanReply(_message.Message):
    __slots__ = ("rows", "more")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[Row]
    more: bool
    def __init__(self, rows: _Optional[_Iterable[_Union[Row, _Mapping]]] = ..., more: bool = ...) -> None: ...

class Condition(_message.Message):
    __slots__ = ("column", "op", "as_bytes", "as_text", "as_real", "as_integer")
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    OP_FIELD_NUMBER: _ClassVar[int]
    AS_BYTES_FIELD_NUMBER: _ClassVar[int]
    AS_TEXT_FIELD_NUMBER: _ClassVar[int]
    AS_REAL_FIELD_NUMBER: _ClassVar[int]
    AS_INTEGER_FIELD_NUMBER: _ClassVar[int]
    column: str
    op: str
    as_bytes: bytes
    as_text: str
    as_real: float
    as_integer: int
    def __init__(self, column: _Optional[str] = ..., op: _Optional[str] = ..., as_bytes: _Optional[bytes] = ..., as_text: _Optional[str] = ..., as_real: _Optional[float] = ..., as_integer: _Optional[int] = ...) -> None: ...

class QueryRequest(_message.Message):
    __slots__ = ("table", "conditions", "limit", "page_token")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    table: str
    conditions: _containers.RepeatedCompositeFieldContainer[Condition]
    limit: int
    page_token: bytes
    def __init__(self, table: _Optional[str] = ..., conditions: _Optional[_Iterable[_Union[Condition, _Mapping]]] = ..., limit: _Optional[int] = ..., page_token: _Optional[bytes] = ...) -> None: ...

class QueryReply(_message.Message):
    __slots__ = ("rows", "page_token")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[Row]
    page_token: bytes
    def __init__(self, rows: _Optional[_Iterable[_Union[Row, _Mapping]]] = ..., page_token: _Optional[bytes] = ...) -> None: ...

class Cursor(_message.Message):
    __slots__ = ("shard", "sequence")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    shard: int
    sequence: int
    def __init__(self, shard: _Optional[int] = ..., sequence: _Optional[int] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("table", "prefix", "cursors", "cluster_id")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    CURSORS_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    table: str
    prefix: bytes
    cursors: _containers.RepeatedCompositeFieldContainer[Cursor]
    cluster_id: bytes
    def __init__(self, table: _Optional[str] = ..., prefix: _Optional[bytes] = ..., cursors: _Optional[_Iterable[_Union[Cursor, _Mapping]]] = ..., cluster_id: _Optional[bytes] = ...) -> None: ...

class WatchEvent(_message.Message):
    __slots__ = ("key", "value", "version", "shard")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    value: bytes
    version: int
    shard: int
    def __init__(self, key: _Optional[bytes] = ..., value: _Optional[bytes] = ..., version: _Optional[int] = ..., shard: _Optional[int] = ...) -> None: ...

class WatchReply(_message.Message):
    __slots__ = ("events", "cursors", "synced")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    CURSORS_FIELD_NUMBER: _ClassVar[int]
    SYNCED_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[WatchEvent]
    cursors: _containers.RepeatedCompositeFieldContainer[Cursor]
    synced: bool
    def __init__(self, events: _Optional[_Iterable[_Union[WatchEvent, _Mapping]]] = ..., cursors: _Optional[_Iterable[_Union[Cursor, _Mapping]]] = ..., synced: bool = ...) -> None: ...

class AddShardsRequest(_message.Message):
    __slots__ = ("shard_count",)
    SHARD_COUNT_FIELD_NUMBER: _ClassVar[int]
    shard_count: int
    def __init__(self, shard_count: _Optional[int] = ...) -> None: ...

class AddShardsReply(_message.Message):
    __slots__ = ("shard_count", "moved_rows", "blocked_s")
    SHARD_COUNT_FIELD_NUMBER: _ClassVar[int]
    MOVED_ROWS_FIELD_NUMBER: _ClassVar[int]
    BLOCKED_S_FIELD_NUMBER: _ClassVar[int]
    shard_count: int
    moved_rows: int
    blocked_s: float
    def __init__(self, shard_count: _Optional[int] = ..., moved_rows: _Optional[int] = ..., blocked_s: _Optional[float] = ...) -> None: ...

class RenewNodeLeaseRequest(_message.Message):
    __slots__ = ("node_id", "epoch", "has_resources", "resources_available", "report")
    class ResourcesAvailableEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    HAS_RESOURCES_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    node_id: bytes
    epoch: int
    has_resources: bool
    resources_available: _containers.ScalarMap[str, float]
    report: _rows_pb2.NodeReportValue
    def __init__(self, node_id: _Optional[bytes] = ..., epoch: _Optional[int] = ..., has_resources: bool = ..., resources_available: _Optional[_Mapping[str, float]] = ..., report: _Optional[_Union[_rows_pb2.NodeReportValue, _Mapping]] = ...) -> None: ...

class RenewNodeLeaseReply(_message.Message):
    __slots__ = ("lease_s",)
    LEASE_S_FIELD_NUMBER: _ClassVar[int]
    lease_s: float
    def __init__(self, lease_s: _Optional[float] = ...) -> None: ...
