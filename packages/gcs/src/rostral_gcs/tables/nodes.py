"""The node table: which nodes there are, what they have, and whether they live (OSDI'18 §4.2.1).

This file owns NodeRow, its states and its codec. Who may change a state when is ``liveness.py``.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from rostral_gcs._proto import rows_pb2
from rostral_gcs.errors import InvalidArgumentError
from rostral_gcs.ids import NodeID
from rostral_gcs.tables.checks import check_resources, check_seconds
from rostral_gcs.tables.node_report import NodeReport, decode_report, encode_report

__all__ = ["NODES", "NodeRow", "NodeState", "NodeTable"]


class NodeState(enum.Enum):
    """ALIVE -> DEAD; a dead node comes back only by registering again, with a higher epoch."""

    ALIVE = "ALIVE"
    DEAD = "DEAD"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRow:
    """One node.

    Attributes:
        node_id: Its id.
        address: The host that other nodes reach it at.
        hostname: What the machine calls itself.
        store_socket: Path of the object store's Unix socket, for processes on the node.
        scheduler_socket: Path of the local scheduler's Unix socket, for processes on the node.
        scheduler_address: ``host:port`` where other nodes' schedulers reach the local scheduler;
            empty: it takes no tasks from them.
        resources_total: All it has, by name.
        resources_available: What was free at the last report.
        labels: Free key-value labels for placement.
        report: What waits there and how long it takes, at the last report.
        state: ALIVE or DEAD.
        epoch: Counts the registrations of this id, from 1; 0 before the first. A write with a lower
            one is fenced.
        lease_s: How long it lives without renewing, in seconds on the server's monotonic clock.
        death_cause: Why it is DEAD; empty while ALIVE.
        start_time_s: When it registered, Unix time.
        end_time_s: When it was found dead, Unix time; 0 while ALIVE.
        version: The stored row's version; 0 for a row not stored yet.
    """

    node_id: NodeID
    address: str
    hostname: str = ""
    store_socket: str = ""
    scheduler_socket: str = ""
    scheduler_address: str = ""
    resources_total: Mapping[str, float] = field(default_factory=dict)
    resources_available: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    report: NodeReport = field(default_factory=NodeReport)
    state: NodeState = NodeState.ALIVE
    epoch: int = 0
    lease_s: float = 10.0
    death_cause: str = ""
    start_time_s: float = 0.0
    end_time_s: float = 0.0
    version: int = field(default=0, compare=False)

    def check(self) -> None:
        """Refuses fields out of range.

        Raises:
            InvalidArgumentError: Says which field and what is allowed.
        """
        check_resources("resources_total", self.resources_total)
        check_resources("resources_available", self.resources_available)
        check_seconds("lease_s", self.lease_s)
        check_seconds("start_time_s", self.start_time_s)
        check_seconds("end_time_s", self.end_time_s)


class NodeTable:
    """Codec of the node table; keys are node ids."""

    name = "nodes"

    def key_of(self, row: NodeRow) -> bytes:
        """The node's id."""
        return row.node_id.binary()

    def encode(self, row: NodeRow) -> bytes:
        """The row's value, checked."""
        row.check()
        return rows_pb2.NodeValue(
            address=row.address,
            hostname=row.hostname,
            store_socket=row.store_socket,
            scheduler_socket=row.scheduler_socket,
            scheduler_address=row.scheduler_address,
            resources_total=row.resources_total,
            resources_available=row.resources_available,
            labels=row.labels,
            report=encode_report(row.report),
            state=row.state.value,
            epoch=row.epoch,
            lease_s=row.lease_s,
            death_cause=row.death_cause,
            start_time_s=row.start_time_s,
            end_time_s=row.end_time_s,
        ).SerializeToString()

    def decode(self, key: bytes, value: bytes, version: int) -> NodeRow:
        """The row again."""
        try:
            found = rows_pb2.NodeValue.FromString(value)
            row = NodeRow(
                node_id=NodeID(key),
                address=found.address,
                hostname=found.hostname,
                store_socket=found.store_socket,
                scheduler_socket=found.scheduler_socket,
                scheduler_address=found.scheduler_address,
                resources_total=dict(found.resources_total),
                resources_available=dict(found.resources_available),
                labels=dict(found.labels),
                report=decode_report(found.report),
                state=NodeState(found.state),
                epoch=found.epoch,
                lease_s=found.lease_s,
                death_cause=found.death_cause,
                start_time_s=found.start_time_s,
                end_time_s=found.end_time_s,
                version=version,
            )
        except (DecodeError, ValueError) as error:
            raise InvalidArgumentError(
                f"not a row of table nodes: {str(error)[:80]}", hint="write it with this client"
            ) from error
        row.check()
        return row


NODES = NodeTable()
