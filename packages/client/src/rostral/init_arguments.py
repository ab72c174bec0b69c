"""The arguments of `init`: those that shape a new cluster, and those that Ray's programs pass.

Each is checked where it is given. What has a meaning here is used; what changes nothing that a
program could see is accepted; whatever else would be silently ignored is refused.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

from rostral.exceptions import UnknownArgumentError, UnsupportedOptionError
from rostral.options import check_custom_resources, check_quantity

# Ray's hidden arguments that change nothing here, and what they must be.
HARMLESS: dict[str, tuple[type, ...]] = {
    "_system_config": (dict,),
    "_plasma_directory": (str,),
    "_metrics_export_port": (int,),
    "_enable_object_reconstruction": (bool,),
    "_redis_username": (str,),
    "_redis_password": (str,),
    "_node_name": (str,),
    "_temp_dir": (str, os.PathLike),
    "dashboard_host": (str,),
    "dashboard_port": (int,),
    "logging_format": (str,),
}
# Those that would be a promise that nobody keeps, and why they are refused.
REFUSED = {
    "include_dashboard": "this version has no dashboard",
    "job_config": "give runtime_env, namespace and the others to init itself",
    "enable_resource_isolation": "this version makes no cgroups",
    "cgroup_path": "this version makes no cgroups",
    "system_reserved_cpu": "this version makes no cgroups; give num_cpus less",
    "system_reserved_memory": "this version makes no cgroups; give _memory less",
    "proxy_server_url": "there is no dashboard to reach",
    "_tracing_startup_hook": "there is no tracing",
}
LOCAL_ADDRESSES = ("127.0.0.1", "localhost", "::1")
# Which of them shape a new cluster, so that they do not go with an address.
SHAPING = (
    "_enable_object_reconstruction",
    "_memory",
    "_node_ip_address",
    "_node_name",
    "_system_config",
)


def check_others(init: Callable[..., Any], others: Mapping[str, object]) -> dict[str, Any]:
    """What of the arguments that `init` does not name shapes a new cluster.

    Raises: UnknownArgumentError, naming the nearest; UnsupportedOptionError; TypeError; ValueError.
    """
    named = [
        parameter.name
        for parameter in inspect.signature(init).parameters.values()
        if parameter.kind is not parameter.VAR_KEYWORD
    ]
    shape: dict[str, Any] = {}
    for name, value in others.items():
        if name in HARMLESS:
            _check_type(name, value, HARMLESS[name])
        elif name in REFUSED:
            if value:
                raise UnsupportedOptionError(f"{name}: {REFUSED[name]}")
        elif name == "_memory":
            if value is not None:
                shape["task_memory_bytes"] = int(check_quantity(name, value))
        elif name == "_node_ip_address":
            _check_type(name, value, (str,))
            if value not in (None, *LOCAL_ADDRESSES):
                raise UnsupportedOptionError(
                    f"_node_ip_address is {value!r}: a cluster that init starts is this machine's",
                    hint="for others to reach it, run: rostral start --head --bind ADDRESS",
                )
        else:
            raise UnknownArgumentError.unknown(name, [*named, *HARMLESS, *REFUSED, *SHAPING])
    return shape


def _check_type(name: str, value: object, types: tuple[type, ...]) -> None:
    is_right = isinstance(value, types) and (bool in types or not isinstance(value, bool))
    if value is not None and not is_right:
        raise TypeError(f"{name} must be {types[0].__name__}, not {type(value).__name__}")


def check_namespace(namespace: object) -> None:
    """Raises TypeError, ValueError."""
    if namespace is not None and not isinstance(namespace, str):
        raise TypeError(f"namespace must be a string, not {type(namespace).__name__}")
    if namespace == "":
        raise ValueError("namespace must not be empty")


def check_shape(
    num_cpus: object,
    num_gpus: object,
    resources: object,
    labels: object,
    object_store_memory: object,
) -> dict[str, Any]:
    """The arguments that shape a new cluster, checked; those not given are left out."""
    shape: dict[str, Any] = {}
    for name, value in (("num_cpus", num_cpus), ("num_gpus", num_gpus)):
        if value is not None:
            shape[name] = check_quantity(name, value)
    if resources is not None:
        shape["resources"] = check_custom_resources(resources)
    if labels is not None:
        if not isinstance(labels, Mapping) or not all(
            isinstance(part, str) for item in labels.items() for part in item
        ):
            raise TypeError("labels must be a dict of strings to strings")
        shape["labels"] = dict(labels)
    if object_store_memory is not None:
        if isinstance(object_store_memory, bool) or not isinstance(object_store_memory, int):
            raise TypeError(
                f"object_store_memory must be a whole number of bytes, not {object_store_memory!r}"
            )
        if object_store_memory <= 0:
            raise ValueError(
                f"object_store_memory is {object_store_memory}: it must be above 0 bytes"
            )
        shape["memory_bytes"] = object_store_memory
    return shape


def check_directory(path: object) -> str:
    """Where objects are spilled to, as an absolute path. Raises TypeError."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"object_spilling_directory must be a path, not {type(path).__name__}")
    return os.path.abspath(os.fsdecode(path))
