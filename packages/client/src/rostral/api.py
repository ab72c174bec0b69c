"""The functions that users type: init, remote, get, put, wait and their kin."""

from __future__ import annotations

import atexit
import contextlib
import inspect
import logging
import math
import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from rostral import _context
from rostral.actor import ActorClass, ActorHandle
from rostral.exceptions import (
    ClusterUnavailableError,
    NotConnectedError,
    RostralError,
    StoreUnavailableError,
    UnsupportedOptionError,
)
from rostral.launcher import NodeProcess, NodeSettings, start_node
from rostral.object_ref import ObjectRef
from rostral.options import ActorOptions, TaskOptions, changed
from rostral.output import print_line
from rostral.remote_function import RemoteFunction
from rostral.runtime import Runtime, TaskScope
from rostral.session import NodeRecord, live_records
from rostral_objectstore.client import StoreClient
from rostral_objectstore.control import ControlClient

logger = logging.getLogger("rostral")

_init_lock = threading.RLock()


class AlreadyInitializedError(RostralError, RuntimeError):
    """`init` was called twice."""


class Context(Mapping[str, Any]):
    """What `init` returns: facts about the connection; as a context manager, leaves the cluster at its end."""

    def __init__(self, record: NodeRecord, job_id: bytes, namespace: str) -> None:
        self._facts = {
            "node_id": record.node_id,
            "address": record.address,
            "session_dir": record.session_dir,
            "object_store_socket": record.store_socket,
            "scheduler_socket": record.scheduler_socket,
            "job_id": job_id.hex(),
            "namespace": namespace,
        }

    def __getitem__(self, key: str) -> Any:
        return self._facts[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._facts)

    def __len__(self) -> int:
        return len(self._facts)

    def __repr__(self) -> str:
        return f"Context(address={self['address']!r}, node_id={self['node_id']!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        shutdown()


def init(
    address: str | None = None,
    *,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    resources: dict[str, float] | None = None,
    labels: dict[str, str] | None = None,
    object_store_memory: int | None = None,
    ignore_reinit_error: bool = False,
    namespace: str | None = None,
    log_to_driver: bool = True,
    configure_logging: bool = True,
    logging_level: int = logging.INFO,
    include_dashboard: bool | None = None,
) -> Context:
    """Connects this process to a cluster as a driver, starting one on this machine if needed.

    Args:
        address: `"HOST:PORT"` of a cluster with a node of this user on this machine; `"auto"` for
        the node that runs
            here; `"local"` for a new cluster. None: ROSTRAL_ADDRESS, else a node of this user that
            runs here (unless the arguments shape a cluster), else a new cluster that ends with this
            process.
        num_cpus, num_gpus, resources, labels: what a new cluster's node offers. Default: this
        machine's CPUs. object_store_memory: bytes for objects of a new cluster. Default: 0.3 of the
        machine's memory. ignore_reinit_error: return the present context instead of raising when
        called again. namespace: where names of actors live. Default: one of this job's own.
        log_to_driver: print what workers print. configure_logging, logging_level: accepted for
        programs written for Ray; Rostral leaves logging alone. include_dashboard: there is none
        yet; True is refused.

    Raises: AlreadyInitializedError, ClusterUnavailableError (a ConnectionError), ValueError,
    TypeError, and what a node fails with at its start.
    """
    del configure_logging, logging_level
    with _init_lock:
        if _context.current_runtime() is not None:
            if ignore_reinit_error and _session.context is not None:
                return _session.context
            raise AlreadyInitializedError(
                "rostral.init() was called a second time",
                hint="call rostral.shutdown() first, or pass ignore_reinit_error=True",
            )
        if include_dashboard:
            raise UnsupportedOptionError("include_dashboard: this version has no dashboard")
        if namespace is not None and not isinstance(namespace, str):
            raise TypeError(f"namespace must be a string, not {type(namespace).__name__}")
        if namespace == "":
            raise ValueError("namespace must not be empty")
        shape = _check_shape(num_cpus, num_gpus, resources, labels, object_store_memory)
        record = _find_node(address, shape)
        node = None
        if record is None:
            node = start_node(NodeSettings(**shape))
            record = node.record
        try:
            return _connect(record, node, namespace, log_to_driver)
        except BaseException:
            if node is not None:
                node.stop()
            raise


def _check_shape(
    num_cpus: float | None,
    num_gpus: float | None,
    resources: dict[str, float] | None,
    labels: dict[str, str] | None,
    object_store_memory: int | None,
) -> dict[str, Any]:
    """The arguments that shape a new cluster, checked; those not given are left out."""
    shape: dict[str, Any] = {}
    for name, value in (("num_cpus", num_cpus), ("num_gpus", num_gpus)):
        if value is not None:
            _check_quantity(name, value)
            shape[name] = value
    if resources is not None:
        if not isinstance(resources, dict):
            raise TypeError(f"resources must be a dict, not {type(resources).__name__}")
        for name, value in resources.items():
            if name in ("CPU", "GPU"):
                raise ValueError(f"{name!r} in resources: use num_cpus or num_gpus instead")
            _check_quantity(f"resources[{name!r}]", value)
        shape["resources"] = resources
    if labels is not None:
        if not isinstance(labels, dict) or not all(
            isinstance(k, str) and isinstance(v, str) for k, v in labels.items()
        ):
            raise TypeError("labels must be a dict of strings to strings")
        shape["labels"] = labels
    if object_store_memory is not None:
        if isinstance(object_store_memory, bool) or not isinstance(object_store_memory, int):
            raise TypeError(
                f"object_store_memory must be a whole number of bytes, not {object_store_memory!r}"
            )
        shape["memory_bytes"] = object_store_memory
    return shape


def _check_quantity(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} is {value}: it must be finite and not negative")


def _find_node(address: str | None, shape: dict[str, Any]) -> NodeRecord | None:
    """The running node to join, or None to start one."""
    if address is not None and not isinstance(address, str):
        raise TypeError(f"address must be a string, not {type(address).__name__}")
    given = address if address is not None else os.environ.get("ROSTRAL_ADDRESS")
    if given == "local":
        return None
    if given is None:
        records = [] if shape else [record for record in live_records() if record.detached]
        return records[-1] if records else None
    if shape:
        raise ValueError(
            f"{', '.join(sorted(shape))} shape a new cluster, but the address {given!r} names one that runs already"
        )
    records = live_records()
    if given == "auto":
        records = [record for record in records if record.detached]
        if not records:
            raise ClusterUnavailableError(
                "address='auto', but no node of this user runs on this machine",
                hint="run: rostral start --head",
            )
        return records[-1]
    host, _, port = given.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"address is {given!r}: it must be HOST:PORT, 'auto' or 'local'")
    for record in reversed(records):
        if record.address == given or (
            record.address.rpartition(":")[2] == port and host in ("localhost", "127.0.0.1")
        ):
            return record
    try:
        socket.create_connection((host, int(port)), timeout=5.0).close()
    except OSError as error:
        raise ClusterUnavailableError(
            f"nothing listens at {given} ({error.strerror or error})",
            hint="is the cluster running? rostral status",
        ) from error
    raise ClusterUnavailableError(
        f"the cluster at {given} has no node of this user on this machine",
        hint=f"run: rostral start --address {given}",
    )


class _Session:
    """What `shutdown` has to undo."""

    def __init__(self) -> None:
        self.context: Context | None = None
        self.node: NodeProcess | None = None


_session = _Session()


def _connect(
    record: NodeRecord, node: NodeProcess | None, namespace: str | None, log_to_driver: bool
) -> Context:
    job_id = os.urandom(16)
    namespace = namespace or job_id.hex()
    try:
        store = StoreClient.connect(record.store_socket, kind="driver", job_id=job_id)
    except StoreUnavailableError as error:
        raise ClusterUnavailableError(
            f"the node's store does not answer: {error.message}"
        ) from error
    runtime: Runtime | None = None

    def lost() -> None:
        if runtime is not None:
            runtime.cluster_lost()

    try:
        scheduler = ControlClient(
            record.scheduler_socket, on_push=print_line if log_to_driver else None, on_close=lost
        )
    except StoreUnavailableError as error:
        store.close()
        raise ClusterUnavailableError(
            f"the node's scheduler does not answer: {error.message}"
        ) from error
    scheduler.call(
        "register_driver",
        {
            "slot": store.slot,
            "job_id": job_id,
            "namespace": namespace,
            "entrypoint": sys.argv[0],
            "sys_path": _import_path(),
            "cwd": os.getcwd(),
        },
    )
    runtime = Runtime(
        store,
        scheduler,
        job_id=job_id,
        namespace=namespace,
        node_id=bytes.fromhex(record.node_id),
        root=TaskScope(job_id, "driver"),
    )
    _context.set_runtime(runtime)
    _session.node = node
    _session.context = Context(record, job_id, namespace)
    atexit.register(shutdown)
    return _session.context


def _import_path() -> list[str]:
    """What a worker needs to import what this driver imports."""
    return [os.path.abspath(path) for path in sys.path]


def shutdown() -> None:
    """Leaves the cluster; ends it too if this process started it. Idempotent; also runs at exit."""
    with _init_lock:
        runtime = _context.current_runtime()
        if runtime is None or _session.context is None:
            return
        atexit.unregister(shutdown)
        _context.set_runtime(None)
        with contextlib.suppress(RostralError):
            runtime.scheduler.call("unregister_driver", {})
        runtime.close()
        node, _session.node, _session.context = _session.node, None, None
        if node is not None:
            node.stop()


def is_initialized() -> bool:
    """Whether this process is connected to a cluster."""
    return _context.current_runtime() is not None


def remote(*args: Any, **options: Any) -> Any:
    """Makes a function or class run in the cluster: `@remote`, `@remote(num_cpus=2)` or `remote(f)`.

    Raises: UnsupportedOptionError, TypeError or ValueError for wrong options; AssertionError for
    anything but one function or class, or options, as in Ray.
    """
    if len(args) == 1 and not options and (inspect.isclass(args[0]) or callable(args[0])):
        return _make_remote(args[0], {})
    if args or not options:
        raise AssertionError(
            "@remote goes on a function or class, bare or with keyword options: @remote(num_cpus=2, max_retries=3)"
        )
    # Wrong names and types show where they are written, not where the decorator is applied.
    for cls in (TaskOptions, ActorOptions):
        with contextlib.suppress(UnsupportedOptionError):
            changed(cls(), options)
            break
    else:
        changed(TaskOptions(), options)
    return lambda target: _make_remote(target, options)


def _make_remote(target: Any, options: dict[str, Any]) -> Any:
    if isinstance(target, RemoteFunction | ActorClass):
        raise TypeError(f"{target!r} is remote already")
    if inspect.isclass(target):
        return ActorClass(target, changed(ActorOptions(), options))
    if callable(target):
        if inspect.iscoroutinefunction(target) or inspect.isgeneratorfunction(target):
            raise UnsupportedOptionError(
                f"{getattr(target, '__qualname__', target)}: coroutine and generator functions cannot be remote yet",
                hint="make it a method of an actor, or return a list",
            )
        return RemoteFunction(target, changed(TaskOptions(), options))
    raise TypeError(f"@remote goes on a function or class, not on {type(target).__name__}")


def put(value: Any) -> ObjectRef[Any]:
    """Stores a value, copied once into the node's shared memory.

    Raises: TypeError for a reference; NotPicklableError; ObjectStoreFullError.
    """
    return _context.runtime().put(value)


def get(refs: Any, *, timeout: float | None = None) -> Any:
    """The value of a reference, or a list of values for a list. Blocks until they are there.

    Arrays come back as read-only views of shared memory. Raises the task's error at the first
    reference whose task failed, GetTimeoutError after `timeout` seconds (0 polls; None or -1 wait
    for ever), TypeError for what is no reference, ValueError for a tuple.
    """
    if timeout is not None:
        if isinstance(timeout, bool) or not isinstance(timeout, int | float):
            raise TypeError(f"timeout must be a number of seconds, not {type(timeout).__name__}")
        if timeout == -1:
            timeout = None
        elif not timeout >= 0:
            raise ValueError(f"timeout is {timeout}: it must be -1, or 0 or more seconds")
    current = _context.runtime()
    if isinstance(refs, ObjectRef):
        return current.get((refs,), timeout)[0]
    if isinstance(refs, list):
        for index, ref in enumerate(refs):
            if not isinstance(ref, ObjectRef):
                raise TypeError(
                    f"get() was given a list whose item {index} is {type(ref).__name__}, not ObjectRef"
                )
        return current.get(refs, timeout)
    if isinstance(refs, tuple):
        raise ValueError("get() takes a reference or a list of references, not a tuple")
    raise TypeError(f"get() takes a reference or a list of references, not {type(refs).__name__}")


def wait(
    refs: list[ObjectRef[Any]],
    *,
    num_returns: int = 1,
    timeout: float | None = None,
    fetch_local: bool = True,
) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
    """Waits until `num_returns` of the references are ready, or the timeout (seconds) is over.

    Returns (ready, others), each in the order given; never more than `num_returns` ready ones. A
    failed task counts as ready. Raises TypeError, and ValueError for duplicates, a wrong
    `num_returns` or a negative timeout.
    """
    del fetch_local  # every object of this version is local
    if not isinstance(refs, list):
        raise TypeError(f"wait() takes a list of references, not {type(refs).__name__}")
    for index, ref in enumerate(refs):
        if not isinstance(ref, ObjectRef):
            raise TypeError(
                f"wait() was given a list whose item {index} is {type(ref).__name__}, not ObjectRef"
            )
    if isinstance(num_returns, bool) or not isinstance(num_returns, int):
        raise TypeError(f"num_returns must be a whole number, not {type(num_returns).__name__}")
    if timeout is not None and not timeout >= 0:
        raise ValueError(f"timeout is {timeout}: it must be 0 or more seconds")
    if not refs:
        return [], []
    if len(set(refs)) != len(refs):
        raise ValueError("wait() was given the same reference twice")
    if not 1 <= num_returns <= len(refs):
        raise ValueError(
            f"num_returns is {num_returns}: it must be from 1 to the number of references, {len(refs)}"
        )
    current = _context.runtime()
    current.wait_sealed(refs, num_returns, -1 if timeout is None else int(timeout * 1e9))
    is_sealed = current.table.is_sealed
    ready: list[ObjectRef[Any]] = []
    others: list[ObjectRef[Any]] = []
    for ref in refs:
        (ready if len(ready) < num_returns and is_sealed(ref) else others).append(ref)
    return ready, others


def kill(actor: ActorHandle, *, no_restart: bool = True) -> None:
    """Ends an actor at once: its running and queued calls raise ActorDiedError.

    Raises ValueError for a non-handle.
    """
    if not isinstance(actor, ActorHandle):
        raise ValueError(f"kill() takes an actor handle, not {type(actor).__name__}")
    _context.runtime().ask("kill_actor", {"actor_id": actor._actor_id, "no_restart": no_restart})


def nodes() -> list[dict[str, Any]]:
    """The nodes of the cluster: NodeID, Alive, Resources, Available, Labels, NodeManagerAddress, ..."""
    listed = _connected().ask("nodes", {})["nodes"]
    return [
        {
            "NodeID": node["node_id"].hex(),
            "Alive": node["alive"],
            "NodeManagerAddress": node["address"],
            "NodeManagerHostname": node["hostname"],
            "ObjectStoreSocketName": node["store_socket"],
            "Resources": node["resources"],
            "Available": node["available"],
            "Labels": node["labels"],
            "DeathReasonMessage": node["death_cause"],
        }
        for node in listed
    ]


def cluster_resources() -> dict[str, float]:
    """What all living nodes offer together."""
    return dict(_connected().ask("cluster_resources", {})["resources"])


def available_resources() -> dict[str, float]:
    """What of it is free at this moment."""
    return dict(_connected().ask("available_resources", {})["resources"])


def _connected() -> Runtime:
    runtime = _context.current_runtime()
    if runtime is None:
        raise NotConnectedError(
            "rostral is not connected to a cluster", hint="call rostral.init() first"
        )
    return runtime
