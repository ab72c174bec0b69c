"""A cluster on this machine whose every part is a service of its own, so that each may die alone.

Owns what there is and how it is configured: a GCS, global schedulers, and nodes of a store and a
local scheduler each. Who dies when is decided in `node_kills.py`.
"""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path
from typing import Any

from supervised import Service, Supervisor

from rostral_gcs.auth import write_token
from rostral_gcs.errors import RostralError
from rostral_objectstore import StoreClient
from rostral_objectstore.control import ControlClient

GLOBAL_SCHEDULERS = 2
STORE_BYTES = 128 << 20
CPUS = 2
ASK_TIMEOUT_S = 2.0
NODE_FILE = "rostral-services/local-scheduler/node.json"
"""Where drivers look, in the runtime directory of their user: each node has one of its own."""


class HostNode:
    """A node: its store, its local scheduler, and the folder that drivers there are given."""

    def __init__(self, folder: Path, number: int, supervisor: Supervisor, gcs: str) -> None:
        self.number = number
        self.folder = folder / f"n{number}"
        self.node_file = self.folder / NODE_FILE
        self.spill = self.folder / "spill"
        for path in (self.node_file.parent, self.spill):
            path.mkdir(parents=True, mode=0o700)
        self.folder.chmod(0o700)
        self.store_socket = str(self.folder / "store")
        self.scheduler_socket = str(self.folder / "sched")
        self.store = supervisor.add(
            Service(
                f"store{number}",
                ["rostral-objectstore", "serve", "--config", self._store_file(folder)],
                folder,
            )
        )
        self.scheduler = supervisor.add(
            Service(
                f"local{number}",
                ["rostral-scheduler", "local", "--config", self._scheduler_file(folder, gcs)],
                folder,
                {"XDG_RUNTIME_DIR": str(self.folder)},
            )
        )

    def _store_file(self, folder: Path) -> str:
        return _write(
            self.folder / "store.toml",
            socket_path=self.store_socket,
            memory_bytes=STORE_BYTES,
            spill_directories=[str(self.spill)],
            token_file=str(folder / "token"),
        )

    def _scheduler_file(self, folder: Path, gcs: str) -> str:
        return _write(
            self.folder / "sched.toml",
            store_socket=self.store_socket,
            socket_path=self.scheduler_socket,
            session_dir=str(self.folder / "session"),
            num_cpus=CPUS,
            gcs_address=gcs,
            token_file=str(folder / "token"),
            node_file=str(self.node_file),
            log_level="info",
        )

    def status(self) -> dict[str, Any] | None:
        """What the scheduler says of itself; None: there is none that answers."""
        try:
            client = ControlClient(self.scheduler_socket, timeout_s=ASK_TIMEOUT_S)
        except RostralError:
            return None
        with contextlib.closing(client):
            try:
                answer: dict[str, Any] = client.call("status", {})
            except RostralError:
                return None
            return answer

    def store_client(self) -> StoreClient:
        """A client of the store. Raises StoreUnavailableError."""
        return StoreClient.connect(self.store_socket)

    @property
    def is_ready(self) -> bool:
        """Whether drivers can come."""
        return self.store.is_ready and self.scheduler.is_ready


class ServiceCluster:
    """GCS, global schedulers and nodes under one supervisor. Not thread-safe."""

    def __init__(self, folder: Path, node_count: int) -> None:
        self.folder = folder
        self.token_file = folder / "token"
        write_token(self.token_file)
        self.supervisor = Supervisor()
        self.supervisor.start()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        token = ["--token-file", str(self.token_file)]
        data = ["--data-dir", str(folder / "gcs")]
        self.gcs = self.supervisor.add(
            Service(
                "gcs",
                ["rostral-gcs", "serve", "--port", str(port), *data, *token],
                folder,
            )
        )
        self.supervisor.wait_ready()
        gcs = ["--gcs", self.address, *token]
        self.placers = [
            self.supervisor.add(
                Service(f"global{number}", ["rostral-scheduler", "global", *gcs], folder)
            )
            for number in range(GLOBAL_SCHEDULERS)
        ]
        self.nodes = [
            HostNode(folder, number, self.supervisor, self.address) for number in range(node_count)
        ]

    def stop(self) -> dict[str, int | None]:
        """Ends everything in order; returns how each service ended."""
        return self.supervisor.stop()


def _write(path: Path, **values: Any) -> str:
    # What JSON has of these kinds of values is TOML as well.
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))
    return str(path)
