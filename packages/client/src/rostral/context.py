"""What `init` returns: facts about the connection, and a way to end it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from rostral.session import NodeRecord


def facts_of(record: NodeRecord, job_id: bytes, namespace: str) -> dict[str, str]:
    """The facts about a driver's connection to a node, by name."""
    return {
        "node_id": record.node_id,
        "address": record.address,
        "session_dir": record.session_dir,
        "object_store_socket": record.store_socket,
        "scheduler_socket": record.scheduler_socket,
        "job_id": job_id.hex(),
        "namespace": namespace,
    }


class Context(Mapping[str, str]):
    """Facts about a connection, by name. As a context manager, leaves the cluster at its end.

    Keys: `node_id`, `address` (of the GCS), `session_dir`, `object_store_socket`,
    `scheduler_socket`, `job_id`, `namespace`; and the names that Ray's users know, such as
    `gcs_address` and `raylet_socket_name`.

    Attributes:
        dashboard_url: empty: there is no dashboard.
        python_version: of this process.
    """

    dashboard_url = ""
    python_version = platform.python_version()

    def __init__(self, facts: Mapping[str, str], leave: Callable[[], None]) -> None:
        self._facts = {
            **facts,
            "gcs_address": facts["address"],
            "node_ip_address": facts["address"].rpartition(":")[0],
            "object_store_address": facts["object_store_socket"],
            "raylet_socket_name": facts["scheduler_socket"],
            "webui_url": self.dashboard_url,
        }
        self._leave = leave

    @property
    def address_info(self) -> dict[str, str]:
        """All facts, as a dict."""
        return dict(self._facts)

    def disconnect(self) -> None:
        """Leaves the cluster, as `rostral.shutdown` does. Idempotent."""
        self._leave()

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
    ) -> Any:
        self._leave()
