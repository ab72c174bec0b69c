"""Starting and stopping the node process from a driver or the command line."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import rostral_gcs.errors as gcs_errors
import rostral_objectstore.errors as store_errors
import rostral_scheduler.errors as scheduler_errors
from rostral import exceptions
from rostral.exceptions import ClusterUnavailableError, RostralError
from rostral.session import NodeRecord, new_session_dir, remove_record, remove_session_dir

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """What a node process is started with."""

    session_dir: str = ""
    head: bool = True
    gcs_address: str | None = None
    """Cluster to join; None for a head, which serves its own GCS."""
    token_file: str | None = None
    bind: str = "127.0.0.1"
    port: int = 0
    num_cpus: float | None = None
    num_gpus: float = 0.0
    resources: dict[str, float] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    memory_bytes: int | None = None
    """Room for objects; None for the store's default."""
    task_memory_bytes: int = 0
    """The resource `memory` that tasks and actors ask for."""
    spill_directory: str | None = None
    """Where objects go when memory is short; None: the node finds a place."""
    worker_memory_bytes: int | None = None
    """What the workers may have of their own, together; None: as much as there is."""
    detached: bool = False
    insecure: bool = False
    """Lets a head bind beyond loopback without TLS."""
    tls_certificate_file: str | None = None
    tls_key_file: str | None = None
    tls_ca_file: str | None = None
    """The files of the node's TLS towards the GCS, and of a head's GCS; absolute paths."""


class NodeProcess:
    """A node that this process started."""

    def __init__(self, process: subprocess.Popen[bytes], record: NodeRecord) -> None:
        self.process = process
        self.record = record

    def stop(self) -> None:
        """Ends the node and everything it started; returns when it is gone."""
        if self.process.stdin is not None:
            # The node's lifeline: it stops when its standard input ends, so also when we die.
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        # It has done so itself, unless it was killed.
        remove_record(self.record.node_id)
        if not self.record.detached:
            remove_session_dir(self.record.session_dir)


def start_node(settings: NodeSettings, within: Sequence[str] = ()) -> NodeProcess:
    """Starts a node process and waits until it serves.

    Args:
        settings: Its.
        within: The command line that runs it, which must put it into its own place; empty: none.

    Raises: what the node failed with (a port in use, a store too large, nothing at the address,
    ...).
    """
    session_dir = new_session_dir()
    try:
        return _start_in(session_dir, settings, within)
    except BaseException:  # Ctrl-C too: nobody else knows of the directory.
        remove_session_dir(str(session_dir))
        raise


def _start_in(session_dir: Path, settings: NodeSettings, within: Sequence[str]) -> NodeProcess:
    values = {**asdict(settings), "session_dir": str(session_dir)}
    ready_read, ready_write = os.pipe()
    log_path = session_dir / "logs" / "node.log"
    try:
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [
                    *(*within, sys.executable, "-m", "rostral.node"),
                    *(json.dumps(values), str(ready_write)),
                ],
                stdin=subprocess.DEVNULL if settings.detached else subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(ready_write,),
                start_new_session=True,
            )
    finally:
        os.close(ready_write)
    try:
        answer = _read_answer(ready_read)
        if "record" in answer:
            return NodeProcess(process, NodeRecord(**answer["record"]))
    except BaseException:
        _end(process)
        raise
    finally:
        os.close(ready_read)
    _end(process)
    raise _start_error(answer, log_path.read_text(errors="replace")[-2000:])


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a node that does not serve yet, with what it has started so far."""
    process.terminate()
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _read_answer(fd: int) -> dict[str, Any]:
    deadline = time.monotonic() + START_TIMEOUT_S
    received = b""
    while True:
        readable, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            return {"name": "", "message": f"it was not ready within {START_TIMEOUT_S} s"}
        part = os.read(fd, 65536)
        received += part
        if not part:
            try:
                answer: dict[str, Any] = json.loads(received)
            except ValueError:
                return {"name": "", "message": "it ended while it was starting"}
            return answer


def _start_error(answer: dict[str, Any], log_tail: str) -> Exception:
    cls = next(
        (
            getattr(module, answer["name"])
            for module in (exceptions, gcs_errors, store_errors, scheduler_errors)
            if hasattr(module, answer["name"])
        ),
        None,
    )
    if isinstance(cls, type) and issubclass(cls, RostralError):
        return cls(answer["message"], hint=answer.get("hint"))
    return ClusterUnavailableError(
        f"the node could not start: {answer['message']}\n{log_tail}".rstrip()
    )


def stop_node(record: NodeRecord, *, force: bool = False, grace_s: float = STOP_TIMEOUT_S) -> None:
    """Ends a node that another process started, and kills it if it takes longer than `grace_s`.

    Returns when it is gone.
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(record.pid, signal.SIGKILL if force else signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while record.is_alive():
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(record.pid, signal.SIGKILL)
            deadline += STOP_TIMEOUT_S
        time.sleep(0.005)
    remove_record(record.node_id)
    remove_session_dir(record.session_dir)
