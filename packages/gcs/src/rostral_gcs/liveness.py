"""Which nodes live: leases, epochs and fencing. Pure: no I/O, no clock; time comes in.

This file owns the rules by which a node stays alive, is found dead and is kept from writing after
that. It learns the node table from committed changes only, so it holds nothing that a restart
would lose: a restarted server gives every live node a whole lease again. ``service.py`` feeds it
and writes the rows that it returns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from rostral_gcs.errors import FencedError, InvalidArgumentError, NotFoundError
from rostral_gcs.ids import NodeID
from rostral_gcs.tables.node_report import NodeReport
from rostral_gcs.tables.nodes import NodeRow, NodeState

__all__ = ["NodeLiveness"]


@dataclass(slots=True)
class _Known:
    row: NodeRow
    # On the caller's monotonic clock, seconds.
    deadline_s: float


class NodeLiveness:
    """The leases of all nodes.

    Args:
        lease_s_min: Shortest lease a node may ask for, seconds.
        lease_s_max: Longest lease, seconds.
        pause_s_min: When nobody has called for this long, we ourselves were stopped, and so could
            hear no renewal: the time does not count against the leases.
    """

    def __init__(self, *, lease_s_min: float, lease_s_max: float, pause_s_min: float) -> None:
        self._pause_s_min = pause_s_min
        self._last_call_s: float | None = None
        self._lease_s_min = lease_s_min
        self._lease_s_max = lease_s_max
        self._nodes: dict[NodeID, _Known] = {}

    def check_row(self, row: NodeRow) -> None:
        """Refuses a lease out of bounds, before the row is written.

        Raises:
            InvalidArgumentError: The lease is out of bounds.
        """
        if not self._lease_s_min <= row.lease_s <= self._lease_s_max:
            raise InvalidArgumentError(
                f"lease_s of node {row.node_id.hex()} is {row.lease_s}; allowed: "
                f"{self._lease_s_min} to {self._lease_s_max}",
                hint="ask for a lease within the bounds",
            )

    def handle_row(self, row: NodeRow, now_s: float) -> None:
        """Takes in a committed row: a new epoch starts a new lease, an old one keeps its own."""
        known = self._nodes.get(row.node_id)
        if known is not None and known.row.version >= row.version:
            return
        if known is not None and known.row.epoch == row.epoch:
            known.row = row
            return
        self._nodes[row.node_id] = _Known(row, now_s + row.lease_s)

    def handle_deleted(self, node_id: NodeID) -> None:
        """Takes in a committed delete."""
        self._nodes.pop(node_id, None)

    def check_writer(self, node_id: NodeID, epoch: int) -> NodeRow:
        """The node's row, if it may act under this epoch.

        Raises:
            NotFoundError: There is no such node: it must register again.
            FencedError: It is dead, or another epoch is current.
        """
        known = self._nodes.get(node_id)
        if known is None:
            raise NotFoundError(f"node {node_id.hex()} is unknown", hint="register it again")
        row = known.row
        if row.state is not NodeState.ALIVE or row.epoch != epoch:
            raise FencedError(
                f"node {node_id.hex()} with epoch {epoch} is fenced: it is {row.state.value} with "
                f"epoch {row.epoch}" + (f" ({row.death_cause})" if row.death_cause else ""),
                hint="stop all work of this node, then register it again",
                current_epoch=row.epoch,
            )
        return row

    def renew(self, node_id: NodeID, epoch: int, now_s: float) -> NodeRow:
        """Starts the node's lease anew and returns its row.

        Raises:
            NotFoundError: There is no such node: it must register again.
            FencedError: It is dead, or another epoch is current, or the lease has run out.
        """
        self._forgive_pause(now_s)
        row = self.check_writer(node_id, epoch)
        known = self._nodes[node_id]
        if known.deadline_s < now_s:
            # Its death is being written; a renewal in between must not bring it back.
            raise FencedError(
                f"the lease of node {node_id.hex()} ran out",
                hint="stop all work of this node, then register it again",
                current_epoch=row.epoch,
            )
        known.deadline_s = now_s + row.lease_s
        return row

    def extend(self, node_id: NodeID, deadline_s: float) -> None:
        """Takes in that somebody else has heard of the node: its lease runs until then."""
        known = self._nodes.get(node_id)
        if known is not None:
            known.deadline_s = max(known.deadline_s, deadline_s)

    def expired(self, now_s: float) -> list[NodeRow]:
        """The live nodes whose lease ran out, as rows to be written DEAD. Call it regularly."""
        self._forgive_pause(now_s)
        return [
            replace(
                known.row,
                state=NodeState.DEAD,
                death_cause=f"did not renew its lease of {known.row.lease_s} s",
            )
            for known in self._nodes.values()
            if known.row.state is NodeState.ALIVE and known.deadline_s < now_s
        ]

    def _forgive_pause(self, now_s: float) -> None:
        last_s, self._last_call_s = self._last_call_s, now_s
        if last_s is not None and now_s - last_s > self._pause_s_min:
            for known in self._nodes.values():
                known.deadline_s += now_s - last_s


def with_resources(
    row: NodeRow,
    resources_available: Mapping[str, float] | None,
    report: NodeReport | None = None,
) -> NodeRow | None:
    """The row with other free resources and another report; None when nothing changed."""
    resources = row.resources_available if resources_available is None else resources_available
    changed = replace(
        row,
        resources_available=dict(resources),
        report=row.report if report is None else report,
    )
    return None if changed == row else changed
