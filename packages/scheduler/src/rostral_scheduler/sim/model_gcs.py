"""A model of the GCS for the deterministic simulation: rows, compare-and-set, leases and fencing.

This file owns the model's server and the calls of its clients. Liveness is the real policy
(``rostral_gcs.liveness``); rows are a dict, since what the store does with them is tested where it
lives. Committed rows outlive a crash, as they do there; calls under way do not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from rostral_gcs.errors import FencedError, GcsError, NotFoundError
from rostral_gcs.ids import NodeID
from rostral_gcs.liveness import NodeLiveness, with_resources
from rostral_gcs.tables.nodes import NodeRow, NodeState
from rostral_scheduler.sim.network import Network

__all__ = [
    "Follower",
    "GcsCalls",
    "ModelGcs",
    "Poll",
    "Read",
    "Register",
    "Renew",
    "Row",
    "Write",
    "is_gone",
]

NAME = "gcs"
_RESEND_S = 0.3


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it is stored: its version is its place in the order of all writes."""

    table: str
    key: bytes
    version: int
    value: object


@dataclass(frozen=True, slots=True)
class Register:
    """Answered with the node's row, its epoch set."""

    row: NodeRow
    request_id: tuple[str, int]


@dataclass(frozen=True, slots=True)
class Renew:
    """Answered with True, or with FencedError or NotFoundError."""

    node_id: NodeID
    epoch: int
    row: NodeRow


@dataclass(frozen=True, slots=True)
class Read:
    """Answered with the row or None."""

    table: str
    key: bytes


@dataclass(frozen=True, slots=True)
class Write:
    """Answered with the row that is stored after it: the caller sees whether it is its own."""

    table: str
    key: bytes
    value: object
    expected_version: int


@dataclass(frozen=True, slots=True)
class Poll:
    """Answered with the rows written after that version, in order."""

    after: int


@dataclass(frozen=True, slots=True)
class _Call:
    number: int
    request: object


@dataclass(frozen=True, slots=True)
class _Reply:
    number: int
    answer: object


class ModelGcs:
    """The server."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.rows: dict[tuple[str, bytes], Row] = {}
        self._log: list[Row] = []
        self._registered: dict[tuple[str, int], NodeRow] = {}
        self.fenced_calls = 0
        self._starts = 0
        self.start()

    def start(self) -> None:
        """Serves, at first or again; every live node has a whole lease."""
        self._liveness = NodeLiveness(lease_s_min=0.1, lease_s_max=60.0, pause_s_min=1.0)
        self._starts += 1
        for (table, _), row in self.rows.items():
            if table == "nodes":
                assert isinstance(row.value, NodeRow)
                self._liveness.handle_row(row.value, self._network.now_s)
        self._network.attach(NAME, self._handle)
        self._bury(self._starts)

    def crash(self) -> None:
        """Hears nothing until it starts again."""
        self._starts += 1
        self._network.detach(NAME)

    def _bury(self, started: int) -> None:
        if started != self._starts:
            return
        for row in self._liveness.expired(self._network.now_s):
            self._write_node(row)
        self._network.after(0.1, lambda: self._bury(started))

    def _handle(self, source: str, message: object) -> None:
        assert isinstance(message, _Call)
        try:
            answer = self._answer(message.request)
        except GcsError as error:
            self.fenced_calls += isinstance(error, FencedError)
            answer = error
        self._network.send(NAME, source, _Reply(message.number, answer))

    def _answer(self, request: object) -> object:
        match request:
            case Register():
                return self._register(request)
            case Renew():
                known = self._liveness.renew(request.node_id, request.epoch, self._network.now_s)
                changed = with_resources(known, request.row.resources_available, request.row.report)
                if changed is not None:
                    self._write_node(changed)
                return True
            case Read():
                return self.rows.get((request.table, request.key))
            case Write():
                present = self.rows.get((request.table, request.key))
                version = 0 if present is None else present.version
                if version == request.expected_version:
                    return self._store(request.table, request.key, request.value)
                return present
            case Poll():
                return self._log[request.after :]
        raise AssertionError(request)

    def _register(self, request: Register) -> NodeRow:
        # The same request again gets the same answer, as the GCS promises by its request ids.
        if request.request_id in self._registered:
            return self._registered[request.request_id]
        node_id = request.row.node_id
        present = self.rows.get(("nodes", node_id.binary()))
        known = None if present is None else present.value
        assert known is None or isinstance(known, NodeRow)
        epoch = 1 if known is None else known.epoch + 1
        row = self._write_node(replace(request.row, epoch=epoch, state=NodeState.ALIVE))
        self._registered[request.request_id] = row
        return row

    def _write_node(self, row: NodeRow) -> NodeRow:
        row = replace(row, version=len(self._log) + 1)
        self._store("nodes", row.node_id.binary(), row)
        self._liveness.handle_row(row, self._network.now_s)
        return row

    def _store(self, table: str, key: bytes, value: object) -> Row:
        row = Row(table, key, len(self._log) + 1, value)
        self._log.append(row)
        self.rows[table, key] = row
        return row


class GcsCalls:
    """One process's calls of the GCS: sent again until they are answered, or the process is dead.

    Args:
        network: Where.
        name: Of the process.
        alive: Whether it still is the process that made the calls.
    """

    def __init__(self, network: Network, name: str, alive: Callable[[], bool]) -> None:
        self._network = network
        self._name = name
        self._alive = alive
        self._waiting: dict[int, Callable[[object], None]] = {}

    def call(self, request: object, answered: Callable[[object], None]) -> None:
        """Calls; ``answered`` gets the answer, once."""
        # Not the same as any of a former life: a late answer must find nobody.
        number = self._network.number()
        self._waiting[number] = answered
        self._send(number, request)

    def _send(self, number: int, request: object) -> None:
        if number in self._waiting and self._alive():
            self._network.send(self._name, NAME, _Call(number, request))
            self._network.after(_RESEND_S, lambda: self._send(number, request))

    def handle(self, message: object) -> bool:
        """Takes an answer; whether the message was one."""
        if not isinstance(message, _Reply):
            return False
        answered = self._waiting.pop(message.number, None)
        if answered is not None and self._alive():
            answered(message.answer)
        return True


class Follower:
    """Follows all rows, by asking again and again for what is new: a watch that may reconnect.

    Args:
        network: Where.
        calls: Of the process.
        alive: Whether it still is.
        changed: Is told of each row, in order.
    """

    def __init__(
        self,
        network: Network,
        calls: GcsCalls,
        alive: Callable[[], bool],
        changed: Callable[[Row], None],
        interval_s: float = 0.1,
    ) -> None:
        self._network, self._calls, self._alive = network, calls, alive
        self._changed = changed
        self._interval_s = interval_s
        self._position = 0
        self._poll()

    def _poll(self) -> None:
        if self._alive():
            self._calls.call(Poll(self._position), self._answered)

    def _answered(self, answer: object) -> None:
        assert isinstance(answer, list)
        for row in answer:
            self._position = row.version
            self._changed(row)
        self._network.after(self._interval_s, self._poll)


def is_gone(answer: object) -> bool:
    """Whether an answer says that the node must stop, or register anew."""
    return isinstance(answer, FencedError | NotFoundError)
