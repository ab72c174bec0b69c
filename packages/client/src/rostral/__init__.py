"""Rostral: tasks, actors and futures across processes and machines, at shared-memory speed."""

from rostral import _private as _private
from rostral import exceptions, experimental, util
from rostral.actor import ActorClass, ActorHandle, get_actor
from rostral.api import (
    available_resources,
    cluster_resources,
    get,
    kill,
    nodes,
    put,
    wait,
)
from rostral.cancellation import cancel
from rostral.context import Context
from rostral.decorator import remote
from rostral.driver import init, is_initialized, shutdown
from rostral.generator import DynamicObjectRefGenerator, ObjectRefGenerator
from rostral.interrupt import is_cancelled
from rostral.logging_config import LoggingConfig
from rostral.method_options import method
from rostral.object_ref import ObjectRef
from rostral.remote_function import RemoteFunction
from rostral.runtime_context import RuntimeContext, get_gpu_ids, get_runtime_context

__version__ = "0.1.0"

__all__ = [
    "ActorClass",
    "ActorHandle",
    "Context",
    "DynamicObjectRefGenerator",
    "LoggingConfig",
    "ObjectRef",
    "ObjectRefGenerator",
    "RemoteFunction",
    "RuntimeContext",
    "__version__",
    "available_resources",
    "cancel",
    "cluster_resources",
    "exceptions",
    "experimental",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "init",
    "is_cancelled",
    "is_initialized",
    "kill",
    "method",
    "nodes",
    "put",
    "remote",
    "shutdown",
    "util",
    "wait",
]
