"""What a freshly forked worker process is told: the argument of the worker module's ``main``.

This file owns that one record, and the signal that a worker must expect. It imports nothing slow:
the zygote and every worker read it.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["CANCEL_SIGNAL", "WorkerKind", "WorkerStart"]

WorkerKind = Literal["worker", "actor"]

CANCEL_SIGNAL: Final[int] = signal.SIGRTMIN + 5
"""Tells a worker that a task of its was cancelled. One that users' programs have no use for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStart:
    """Everything that a worker needs to join its node.

    Attributes:
        worker_id: Its id, 16 bytes.
        node_id: The node's id, 16 bytes.
        store_socket: Where to attach to the object store.
        scheduler_socket: Where to register with the local scheduler.
        session_dir: Where the node's logs lie.
        kind: ``worker`` runs tasks of the queue granted to it; ``actor`` serves one mailbox.
        actor_id: The actor that it becomes, 16 bytes; None for a worker.
        environment: Its runtime environment, encoded; empty: none.
        python_path: Goes at the head of its import path.
        working_dir: Its directory; empty: its job's.
    """

    worker_id: bytes
    node_id: bytes
    store_socket: str
    scheduler_socket: str
    session_dir: str
    kind: WorkerKind
    actor_id: bytes | None
    environment: str = ""
    python_path: tuple[str, ...] = ()
    working_dir: str = ""
