"""Where this user's nodes keep their sockets and files, and how a process of the user finds them.

One directory per user, mode 0700, refused when it is another's. In it `nodes/`, one record per
running node, and one directory per node with its sockets, token, logs and tables. Records of dead
nodes are cleaned up by whoever looks; a pid that was reused is told by its start time.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from dataclasses import asdict, dataclass
from pathlib import Path

from rostral.exceptions import ClusterUnavailableError
from rostral.service_nodes import own_nodes
from rostral_objectstore.takeover import process_start_time


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    """One running node of this user on this machine."""

    node_id: str
    pid: int
    start_time: int
    head: bool
    address: str
    """HOST:PORT of the cluster's GCS."""
    session_dir: str
    store_socket: str
    scheduler_socket: str
    token_file: str
    detached: bool
    """Started by `rostral start`, not by a driver: it stays when drivers leave."""
    is_service: bool = False
    """Of a service manager, which alone starts and stops it."""

    def is_alive(self) -> bool:
        """Whether the very process that wrote the record still runs."""
        return process_start_time(self.pid) == self.start_time and not _is_zombie(self.pid)


def _is_zombie(pid: int) -> bool:
    """Whether it is dead and only waits for its parent, which in a container may never look."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return True


def runtime_dir() -> Path:
    """This user's directory for sockets; made if needed.

    Raises ClusterUnavailableError when it is not ours alone.
    """
    base = os.environ.get("ROSTRAL_RUNTIME_DIR")
    if base is None:
        import tempfile  # not at the top: it brings much along

        xdg = os.environ.get("XDG_RUNTIME_DIR")
        base = (
            str(Path(xdg) / "rostral")
            if xdg and Path(xdg).is_dir()
            else (str(Path(tempfile.gettempdir()) / f"rostral-{os.getuid()}"))
        )
    path = Path(base)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise ClusterUnavailableError(
            f"{path} is not a directory that belongs to this user alone",
            hint="remove it, or set ROSTRAL_RUNTIME_DIR to a directory of yours with mode 0700",
        )
    return path


def cache_dir() -> Path | None:
    """Where this user keeps what is dear to make again; made if needed. None: nowhere."""
    base = os.environ.get("ROSTRAL_CACHE_DIR")
    if base is None:
        base = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "rostral")
    path = Path(os.path.expanduser(base))
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None  # No home, as for many a service: then the session's directory must do.
    return path if os.access(path, os.W_OK) else None


def new_session_dir() -> Path:
    """A fresh directory for one node."""
    path = runtime_dir() / f"session-{os.getpid()}-{secrets.token_hex(3)}"
    path.mkdir(mode=0o700)
    (path / "logs").mkdir(mode=0o700)
    return path


def _records_dir() -> Path:
    path = runtime_dir() / "nodes"
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def write_record(record: NodeRecord) -> None:
    """Announces a node to the other processes of this user."""
    path = _records_dir() / f"{record.node_id}.json"
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(asdict(record)))
    unfinished.rename(path)


def remove_record(node_id: str) -> None:
    """Takes a node's announcement back."""
    (_records_dir() / f"{node_id}.json").unlink(missing_ok=True)


def service_records() -> list[NodeRecord]:
    """Of this user's nodes that run as services, alive or not."""
    found = []
    for fields in own_nodes():
        try:
            found.append(
                NodeRecord(**fields, head=False, token_file="", detached=True, is_service=True)
            )
        except TypeError:
            continue  # of another version: its sockets would not understand us either
    return found


def live_records() -> list[NodeRecord]:
    """The running nodes of this user, newest last. Cleans up after dead ones."""
    alive = [record for record in service_records() if record.is_alive()]
    for path in sorted(_records_dir().glob("*.json"), key=lambda p: p.stat().st_mtime):
        try:
            record = NodeRecord(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            path.unlink(missing_ok=True)
            continue
        if record.is_alive():
            alive.append(record)
        else:
            path.unlink(missing_ok=True)
            remove_session_dir(record.session_dir)
    return alive


def remove_session_dir(session_dir: str) -> None:
    """Removes a node's directory, and nothing that is not one."""
    path = Path(session_dir)
    if path.parent == runtime_dir() and path.name.startswith("session-"):
        import shutil  # not at the top: it brings much along

        shutil.rmtree(path, ignore_errors=True)
