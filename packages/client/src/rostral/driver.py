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
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rostral import _context
from rostral.context import Context, facts_of
from rostral.exceptions import (
    AlreadyInitializedError,
    ClusterUnavailableError,
    RostralError,
    StoreUnavailableError,
    UnsupportedOptionError,
)
from rostral.init_arguments import (
    SHAPING,
    check_directory,
    check_namespace,
    check_others,
    check_shape,
)
from rostral.launcher import NodeProcess, NodeSettings, start_node
from rostral.logging_config import LoggingConfig
from rostral.logging_config import apply as apply_logging
from rostral.output import Terminal
from rostral.process_settings import exit_when_terminated, raise_file_limit
from rostral.progress import ProgressReporter
from rostral.runtime import Runtime, TaskScope
from rostral.runtime_env import RuntimeEnv, parse
from rostral.service_nodes import owner_of_others
from rostral.session import NodeRecord, live_records
from rostral.sweeper import Sweeper
from rostral_objectstore.client import StoreClient
from rostral_objectstore.control import ControlClient

CONNECT_TIMEOUT_S = 5.0

# What of a node's settings users type under another name.
USER_NAMES = {
    "memory_bytes": "object_store_memory",
    "spill_directory": "object_spilling_directory",
    "task_memory_bytes": "_memory",
}

_init_lock = threading.RLock()


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
    logging_level: int | str = logging.INFO,
    mode: Literal["cluster", "inline"] = "cluster",
    runtime_env: Mapping[str, Any] | None = None,
    logging_config: LoggingConfig | None = None,
    **others: object,
) -> Context:
    """Connects this process to a cluster as a driver, starting one on this machine if needed.

    Until `shutdown`, SIGTERM ends this process as `sys.exit` does, unless it has a handler of its
    own, and it may open more files (RLIMIT_NOFILE). Inline, nothing of the process is changed.

    Args:
        address: `"HOST:PORT"` of a cluster with a node of this user on this machine; `"auto"` for
            the node that runs here; `"local"` for a new cluster. None: ROSTRAL_ADDRESS or
            RAY_ADDRESS, else a node of this user that runs here (unless the arguments shape a
            cluster), else a new cluster that ends with this process.
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
        mode: `"inline"` runs everything in this process, tasks in the thread that submits them, for
            tests and debuggers; there are no other processes then and no sockets. It takes no
            address.
        runtime_env: What this job's tasks and actors have in their processes, unless they say
            otherwise; see `rostral.runtime_env.RuntimeEnv`.
        logging_config: How `logging` writes, here until `shutdown` and in this job's workers.
        others: What else Ray's programs pass. `_memory` is how much of the resource `memory` a new
            node offers, in bytes; what changes nothing here is accepted; what would be silently
            ignored is refused, as is what nobody knows.

    Raises:
        AlreadyInitializedError: It was called before (a RuntimeError); so it always was in a
            worker, where `ignore_reinit_error` gives the worker's own connection.
        ClusterUnavailableError: Nothing answers at the address (a ConnectionError).
        UnknownArgumentError: There is no such argument (a TypeError and a RuntimeError).
        UnsupportedOptionError: An argument of Ray's that cannot be had here (a ValueError).
        TypeError: An argument of the wrong type.
        ValueError: A value out of range, or a new cluster's shape together with an address.
        RostralError: What a node fails with at its start.
    """
    del configure_logging, logging_level
    with _init_lock:
        shape = check_others(init, others)
        present = _context.current_runtime()
        if present is not None:
            if ignore_reinit_error:
                return _session.context or Context(present.facts, shutdown)
            raise AlreadyInitializedError(
                "rostral.init() was called a second time",
                hint="call rostral.shutdown() first, or pass ignore_reinit_error=True",
            )
        check_namespace(namespace)
        environment = parse(runtime_env)
        if not isinstance(logging_config, LoggingConfig | None):
            raise TypeError(
                f"logging_config must be a LoggingConfig, not {type(logging_config).__name__}"
            )
        shape |= check_shape(num_cpus, num_gpus, resources, labels, object_store_memory)
        if object_spilling_directory is not None:
            shape["spill_directory"] = check_directory(object_spilling_directory)
        shaping = [USER_NAMES.get(name, name) for name in shape]
        shaping += [name for name in SHAPING if others.get(name) is not None]
        terminal = Terminal() if log_to_driver else None
        if mode == "inline":
            settings = NodeSettings(**shape)
            return _begin_inline(
                address, settings, namespace, environment, logging_config, terminal
            )
        if mode != "cluster":
            raise ValueError(f"mode is {mode!r}: it must be 'cluster' or 'inline'")
        record = _find_node(address, sorted({*shaping}))
        node = None
        if record is None:
            node = start_node(NodeSettings(**shape))
            record = node.record
        try:
            context = _connect(
                record,
                node,
                namespace,
                terminal=terminal,
                logging_config=logging_config,
            )
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


def _begin_inline(
    address: str | None,
    settings: NodeSettings,
    namespace: str | None,
    environment: RuntimeEnv | None,
    logging_config: LoggingConfig | None,
    terminal: Terminal | None,
) -> Context:
    # Loads what only workers load otherwise.
    from rostral.inline.runtime import InlineRuntime, refuse_environment

    refuse_environment(environment)
    if address is not None:
        raise ValueError(f"address is {address!r}: mode='inline' takes none")
    job_id = os.urandom(16)
    runtime = InlineRuntime(settings, job_id, namespace or job_id.hex())
    runtime.at_close(Sweeper(runtime.tasks).stop)
    return _begin(runtime, None, logging_config, terminal)


def _begin(
    runtime: Runtime,
    node: NodeProcess | None,
    logging_config: LoggingConfig | None,
    terminal: Terminal | None,
) -> Context:
    """The session that `shutdown` ends."""
    if terminal is not None:
        runtime.reporter = ProgressReporter(terminal.show_progress)
        runtime.at_close(terminal.close)
        runtime.at_close(runtime.reporter.stop)
    if logging_config is not None:
        ids = {"job_id": runtime.job_id.hex(), "node_id": runtime.node_id.hex()}
        runtime.at_close(apply_logging(logging_config, ids))
    _context.set_runtime(runtime)
    _session.node = node
    _session.context = Context(runtime.facts, shutdown)
    _session.pid = os.getpid()
    atexit.register(shutdown)
    return _session.context


def _find_node(address: object, shaping: Sequence[str]) -> NodeRecord | None:
    """The running node to join, or None to start one; `shaping` is what was said of a new one."""
    if address is not None and not isinstance(address, str):
        raise TypeError(f"address must be a string, not {type(address).__name__}")
    given = address if address is not None else _address_of_environment()
    if given is not None and given.startswith("ray://"):
        raise UnsupportedOptionError(
            f"address is {given!r}: there is no proxy for drivers elsewhere",
            hint="run the driver on a node of the cluster",
        )
    if given == "local":
        return None
    if given is None:
        records = [] if shaping else [record for record in live_records() if record.detached]
        return records[-1] if records else None
    if shaping:
        raise ValueError(
            f"{', '.join(shaping)} shape a new cluster, but the address {given!r} names one "
            "that runs already"
        )
    if given == "auto":
        records = [record for record in live_records() if record.detached]
        if not records:
            raise ClusterUnavailableError(
                "address='auto', but no node of this user runs on this machine",
                hint=_whose_node_runs() or "run: rostral start --head",
            )
        return records[-1]
    return _node_at(given)


def _address_of_environment() -> str | None:
    return os.environ.get("ROSTRAL_ADDRESS") or os.environ.get("RAY_ADDRESS") or None


def _node_at(address: str) -> NodeRecord:
    """This user's node of the cluster at HOST:PORT."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"address is {address!r}: it must be HOST:PORT, 'auto' or 'local'")
    is_here = host in ("localhost", "127.0.0.1")
    records = [
        record
        for record in reversed(live_records())
        if record.address == address or (is_here and record.address.rpartition(":")[2] == port)
    ]
    if records:
        # Of several nodes on one machine, which are a test, the head.
        return next((record for record in records if record.head), records[0])
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise ClusterUnavailableError(
            f"nothing listens at {address} ({error.strerror or error})",
            hint="is the cluster running? rostral status",
        ) from error
    raise ClusterUnavailableError(
        f"the cluster at {address} has no node of this user on this machine",
        hint=_whose_node_runs() or f"run: rostral start --address {address}",
    )


def _whose_node_runs() -> str | None:
    owner = owner_of_others()
    return None if owner is None else f"user {owner}'s services run one: run this as that user"


def _connect(
    record: NodeRecord,
    node: NodeProcess | None,
    namespace: str | None,
    *,
    terminal: Terminal | None,
    logging_config: LoggingConfig | None,
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
                on_push=None if terminal is None else terminal.show,
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
                "logging_config": "" if logging_config is None else logging_config.encode(),
            },
        )
        undo.pop_all()
    facts = facts_of(record, job_id, namespace)
    runtime = Runtime(
        store,
        scheduler,
        job_id=job_id,
        namespace=namespace,
        node_id=bytes.fromhex(record.node_id),
        root=TaskScope(job_id, "driver"),
        facts=facts,
    )
    runtime.at_close(Sweeper(store.tasks).stop)
    runtime.at_close(raise_file_limit())
    runtime.at_close(exit_when_terminated())
    return _begin(runtime, node, logging_config, terminal)


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


def shutdown(*, wait_for_processes: bool = False) -> None:
    """Leaves the cluster; ends it too if this process started it. Idempotent; also runs at exit.

    Returns when what this process started has ended, whatever `wait_for_processes` says.
    """
    del wait_for_processes
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
