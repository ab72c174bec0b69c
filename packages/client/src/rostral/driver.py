"""A driver's beginning and end: finds or starts a node, connects to it, and leaves it.

Owns what `shutdown` has to undo. What a connected process can do is in `runtime.py`.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from rostral import _context
from rostral.exceptions import (
    AlreadyInitializedError,
    ClusterUnavailableError,
    RostralError,
    StoreUnavailableError,
    UnknownArgumentError,
    UnsupportedOptionError,
)
from rostral.launcher import NodeProcess, NodeSettings, start_node
from rostral.options import check_custom_resources, check_quantity
from rostral.output import print_line
from rostral.runtime import Runtime, TaskScope
from rostral.runtime_env import RuntimeEnv, parse
from rostral.session import NodeRecord, live_records
from rostral.sweeper import Sweeper
from rostral_objectstore.client import StoreClient
from rostral_objectstore.control import ControlClient

CONNECT_TIMEOUT_S = 5.0

_init_lock = threading.RLock()


class Context(Mapping[str, str]):
    """What `init` returns: facts about the connection. As a context manager, leaves the cluster."""

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

    def __getitem__(self, key: str) -> str:
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


class _Session:
    """What `shutdown` has to undo."""

    def __init__(self) -> None:
        self.context: Context | None = None
        self.node: NodeProcess | None = None
        # A forked child inherits all of this, and must not end what is its parent's.
        self.pid = 0


_session = _Session()


def init(
    address: str | None = None,
    *,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    resources: Mapping[str, float] | None = None,
    labels: Mapping[str, str] | None = None,
    object_store_memory: int | None = None,
    object_spilling_directory: str | None = None,
    ignore_reinit_error: bool = False,
    namespace: str | None = None,
    log_to_driver: bool = True,
    configure_logging: bool = True,
    logging_level: int = logging.INFO,
    include_dashboard: bool | None = None,
    runtime_env: Mapping[str, Any] | None = None,
    **unknown: object,
) -> Context:
    """Connects this process to a cluster as a driver, starting one on this machine if needed.

    Args:
        address: `"HOST:PORT"` of a cluster with a node of this user on this machine; `"auto"` for
            the node that runs here; `"local"` for a new cluster. None: ROSTRAL_ADDRESS, else a node
            of this user that runs here (unless the arguments shape a cluster), else a new cluster
            that ends with this process.
        num_cpus: CPUs that a new cluster's node offers. Default: this machine's.
        num_gpus: GPUs that it offers.
        resources: Further resources that it offers, by name.
        labels: Labels of the node.
        object_store_memory: Bytes for objects of a new cluster. Default: 0.3 of the machine's.
        object_spilling_directory: Where its objects go when that memory is short; made if it is not
            there. Default: in the session's directory, or on a disk if that lies in memory.
        ignore_reinit_error: Return the present context instead of raising when called again.
        namespace: Where names of actors live. Default: one of this job's own.
        log_to_driver: Print what workers print.
        configure_logging: Accepted for programs written for Ray; Rostral leaves logging alone.
        logging_level: Likewise.
        include_dashboard: There is none yet; True is refused.
        runtime_env: What this job's tasks and actors have in their processes, unless they say
            otherwise; see `rostral.runtime_env.RuntimeEnv`.
        unknown: What is refused, with the nearest name that exists.

    Raises:
        AlreadyInitializedError: It was called before (a RuntimeError).
        ClusterUnavailableError: Nothing answers at the address (a ConnectionError).
        UnknownArgumentError: There is no such argument (a TypeError).
        TypeError: An argument of the wrong type.
        ValueError: A value out of range, or a new cluster's shape together with an address.
        RostralError: What a node fails with at its start.
    """
    del configure_logging, logging_level
    with _init_lock:
        _refuse_unknown(unknown)
        if _context.current_runtime() is not None:
            if ignore_reinit_error and _session.context is not None:
                return _session.context
            raise AlreadyInitializedError(
                "rostral.init() was called a second time",
                hint="call rostral.shutdown() first, or pass ignore_reinit_error=True",
            )
        if include_dashboard:
            raise UnsupportedOptionError("include_dashboard: this version has no dashboard")
        _check_namespace(namespace)
        environment = parse(runtime_env)
        shape = _check_shape(num_cpus, num_gpus, resources, labels, object_store_memory)
        if object_spilling_directory is not None:
            shape["spill_directory"] = _check_directory(object_spilling_directory)
        record = _find_node(address, shape)
        node = None
        if record is None:
            node = start_node(NodeSettings(**shape))
            record = node.record
        try:
            context = _connect(record, node, namespace, log_to_driver=log_to_driver)
            try:
                _set_environment(environment)
            except BaseException:
                node = None  # `shutdown` ends it.
                shutdown()
                raise
            return context
        except BaseException:
            if node is not None:
                node.stop()
            raise


_context.start_on_first_use(init)


def _refuse_unknown(unknown: Mapping[str, object]) -> None:
    known = [name for name in init.__annotations__ if name not in ("unknown", "return")]
    for name in unknown:
        raise UnknownArgumentError.unknown(name, known)


def _check_namespace(namespace: object) -> None:
    if namespace is not None and not isinstance(namespace, str):
        raise TypeError(f"namespace must be a string, not {type(namespace).__name__}")
    if namespace == "":
        raise ValueError("namespace must not be empty")


def _check_shape(
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


def _check_directory(path: object) -> str:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"object_spilling_directory must be a path, not {type(path).__name__}")
    return os.path.abspath(os.fsdecode(path))


def _find_node(address: object, shape: Mapping[str, object]) -> NodeRecord | None:
    """The running node to join, or None to start one."""
    if address is not None and not isinstance(address, str):
        raise TypeError(f"address must be a string, not {type(address).__name__}")
    given = address if address is not None else os.environ.get("ROSTRAL_ADDRESS") or None
    if given == "local":
        return None
    if given is None:
        records = [] if shape else [record for record in live_records() if record.detached]
        return records[-1] if records else None
    if shape:
        raise ValueError(
            f"{', '.join(sorted(shape))} shape a new cluster, but the address {given!r} names one "
            "that runs already"
        )
    if given == "auto":
        records = [record for record in live_records() if record.detached]
        if not records:
            raise ClusterUnavailableError(
                "address='auto', but no node of this user runs on this machine",
                hint="run: rostral start --head",
            )
        return records[-1]
    return _node_at(given)


def _node_at(address: str) -> NodeRecord:
    """This user's node of the cluster at HOST:PORT."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"address is {address!r}: it must be HOST:PORT, 'auto' or 'local'")
    is_here = host in ("localhost", "127.0.0.1")
    for record in reversed(live_records()):
        if record.address == address or (is_here and record.address.rpartition(":")[2] == port):
            return record
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise ClusterUnavailableError(
            f"nothing listens at {address} ({error.strerror or error})",
            hint="is the cluster running? rostral status",
        ) from error
    raise ClusterUnavailableError(
        f"the cluster at {address} has no node of this user on this machine",
        hint=f"run: rostral start --address {address}",
    )


def _connect(
    record: NodeRecord, node: NodeProcess | None, namespace: str | None, *, log_to_driver: bool
) -> Context:
    job_id = os.urandom(16)
    namespace = namespace or job_id.hex()
    runtime: Runtime | None = None

    def lost() -> None:
        if runtime is not None:
            runtime.cluster_lost()

    with contextlib.ExitStack() as undo:
        try:
            store = StoreClient.connect(record.store_socket, kind="driver", job_id=job_id)
            undo.callback(store.close)
            scheduler = ControlClient(
                record.scheduler_socket,
                on_push=print_line if log_to_driver else None,
                on_close=lost,
            )
            undo.callback(scheduler.close)
        except StoreUnavailableError as error:
            raise ClusterUnavailableError(
                f"the node does not answer: {error.message}", hint="is it ending? rostral status"
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
        undo.pop_all()
    runtime = Runtime(
        store,
        scheduler,
        job_id=job_id,
        namespace=namespace,
        node_id=bytes.fromhex(record.node_id),
        root=TaskScope(job_id, "driver"),
    )
    runtime.at_close(Sweeper(store.tasks).stop)
    _context.set_runtime(runtime)
    _session.node = node
    _session.context = Context(record, job_id, namespace)
    _session.pid = os.getpid()
    atexit.register(shutdown)
    return _session.context


def _set_environment(environment: RuntimeEnv | None) -> None:
    """Makes it the one of everything that this driver submits. Raises ValueError, OSError."""
    if not environment:
        return
    runtime = _context.connected()
    runtime.environment = runtime.environment_for(environment)
    if environment.is_eager:
        runtime.ask("prepare_environment", {"environment": runtime.environment})


def _import_path() -> list[str]:
    """What a worker needs to import what this driver imports."""
    return [os.path.abspath(path) for path in sys.path]


def shutdown() -> None:
    """Leaves the cluster; ends it too if this process started it. Idempotent; also runs at exit."""
    with _init_lock:
        runtime = _context.current_runtime()
        if runtime is None or _session.context is None or _session.pid != os.getpid():
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
