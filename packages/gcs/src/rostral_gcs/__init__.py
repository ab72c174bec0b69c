"""The Global Control Store of Rostral: control state that is sharded, durable and watchable.

Names are loaded at first use (PEP 562), so that importing the package, its errors or its ids costs
a few milliseconds and brings no gRPC: every worker process does so.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from rostral_gcs import errors, ids

if TYPE_CHECKING:
    from rostral_gcs.auth import bearer_metadata, generate_token, load_token, write_token
    from rostral_gcs.client import AsyncGcsClient
    from rostral_gcs.client_options import ClientOptions
    from rostral_gcs.client_watch import WatchEvent, WatchKind, WatchPosition
    from rostral_gcs.config import GcsConfig
    from rostral_gcs.credentials import TlsFiles
    from rostral_gcs.interceptor import TokenInterceptor
    from rostral_gcs.service import GcsServer
    from rostral_gcs.sync_client import GcsClient
    from rostral_gcs.tables.actors import ACTORS, ActorRow, ActorState
    from rostral_gcs.tables.checkpoints import CHECKPOINTS, CheckpointRow
    from rostral_gcs.tables.events import EVENTS, EventRow, EventSeverity
    from rostral_gcs.tables.functions import FunctionRow
    from rostral_gcs.tables.jobs import JOBS, JobRow, JobState
    from rostral_gcs.tables.kv import KV, KvRow
    from rostral_gcs.tables.node_report import NodeReport, QueueReport
    from rostral_gcs.tables.nodes import NODES, NodeRow, NodeState
    from rostral_gcs.tables.objects import OBJECTS, ObjectLocation, ObjectRow
    from rostral_gcs.tables.placement_groups import (
        PLACEMENT_GROUPS,
        BundleRow,
        PlacementGroupRow,
        PlacementGroupState,
    )
    from rostral_gcs.tables.tasks import TASKS, TaskRow, TaskState
    from rostral_gcs.tokens import Scope, Tokens

__version__ = "0.1.0"

_HOMES = {
    "ACTORS": "tables.actors",
    "ActorRow": "tables.actors",
    "ActorState": "tables.actors",
    "AsyncGcsClient": "client",
    "BundleRow": "tables.placement_groups",
    "CHECKPOINTS": "tables.checkpoints",
    "CheckpointRow": "tables.checkpoints",
    "ClientOptions": "client_options",
    "EVENTS": "tables.events",
    "EventRow": "tables.events",
    "EventSeverity": "tables.events",
    "FunctionRow": "tables.functions",
    "GcsClient": "sync_client",
    "GcsConfig": "config",
    "GcsServer": "service",
    "JOBS": "tables.jobs",
    "JobRow": "tables.jobs",
    "JobState": "tables.jobs",
    "KV": "tables.kv",
    "KvRow": "tables.kv",
    "NODES": "tables.nodes",
    "NodeReport": "tables.node_report",
    "NodeRow": "tables.nodes",
    "NodeState": "tables.nodes",
    "OBJECTS": "tables.objects",
    "ObjectLocation": "tables.objects",
    "ObjectRow": "tables.objects",
    "PLACEMENT_GROUPS": "tables.placement_groups",
    "PlacementGroupRow": "tables.placement_groups",
    "PlacementGroupState": "tables.placement_groups",
    "QueueReport": "tables.node_report",
    "TASKS": "tables.tasks",
    "TaskRow": "tables.tasks",
    "TaskState": "tables.tasks",
    "Scope": "tokens",
    "TlsFiles": "credentials",
    "TokenInterceptor": "interceptor",
    "Tokens": "tokens",
    "WatchEvent": "client_watch",
    "WatchKind": "client_watch",
    "WatchPosition": "client_watch",
    "bearer_metadata": "auth",
    "generate_token": "auth",
    "load_token": "auth",
    "write_token": "auth",
}

__all__ = [
    "ACTORS",
    "ActorRow",
    "ActorState",
    "AsyncGcsClient",
    "BundleRow",
    "CHECKPOINTS",
    "CheckpointRow",
    "ClientOptions",
    "EVENTS",
    "EventRow",
    "EventSeverity",
    "FunctionRow",
    "GcsClient",
    "GcsConfig",
    "GcsServer",
    "JOBS",
    "JobRow",
    "JobState",
    "KV",
    "KvRow",
    "NODES",
    "NodeReport",
    "NodeRow",
    "NodeState",
    "OBJECTS",
    "ObjectLocation",
    "ObjectRow",
    "PLACEMENT_GROUPS",
    "PlacementGroupRow",
    "PlacementGroupState",
    "QueueReport",
    "TASKS",
    "TaskRow",
    "TaskState",
    "Scope",
    "TlsFiles",
    "TokenInterceptor",
    "Tokens",
    "WatchEvent",
    "WatchKind",
    "WatchPosition",
    "bearer_metadata",
    "errors",
    "generate_token",
    "ids",
    "load_token",
    "write_token",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
