"""Rostral: tasks, actors and futures across processes and machines, at shared-memory speed."""

from rostral import exceptions
from rostral.actor import ActorHandle, get_actor, method
from rostral.api import (
    available_resources,
    cluster_resources,
    get,
    init,
    is_initialized,
    kill,
    nodes,
    put,
    remote,
    shutdown,
    wait,
)
from rostral.object_ref import ObjectRef

__version__ = "0.1.0"

__all__ = [
    "ActorHandle",
    "ObjectRef",
    "__version__",
    "available_resources",
    "cluster_resources",
    "exceptions",
    "get",
    "get_actor",
    "init",
    "is_initialized",
    "kill",
    "method",
    "nodes",
    "put",
    "remote",
    "shutdown",
    "wait",
]
