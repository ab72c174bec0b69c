"""A global scheduler in the deterministic simulation: the real placement and group policies.

This file owns only the messages around them. It may crash at any time and comes back with nothing;
what it knows it reads from the rows again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rostral_gcs.tables.nodes import NodeRow, NodeState
from rostral_scheduler.core.group_commit import (
    Commit,
    GroupAction,
    GroupCoordinator,
    GroupState,
    GroupView,
    Prepare,
    Release,
    WriteGroup,
)
from rostral_scheduler.core.group_nodes import NodeRoom
from rostral_scheduler.core.placement import PlacementPolicy
from rostral_scheduler.core.placement_request import Answer, TaskRequest
from rostral_scheduler.core.resources import ResourceSet
from rostral_scheduler.global_.placer import load_of
from rostral_scheduler.sim.model_gcs import Follower, GcsCalls, Row, Write
from rostral_scheduler.sim.network import Network

__all__ = [
    "Committed",
    "ModelGlobal",
    "PlaceAnswer",
    "PlaceAsked",
    "Prepared",
    "Released",
    "name_of",
    "versioned",
]

_TICK_S = 0.2


@dataclass(frozen=True, slots=True)
class PlaceAsked:
    """From an owner; answered with PlaceAnswer."""

    number: int
    request: TaskRequest


@dataclass(frozen=True, slots=True)
class PlaceAnswer:
    """To the owner."""

    number: int
    answer: Answer


@dataclass(frozen=True, slots=True)
class Prepared:
    """A node's answer to Prepare."""

    node_id: bytes
    group_id: bytes
    version: int
    accepted: bool


@dataclass(frozen=True, slots=True)
class Committed:
    """A node's answer to Commit."""

    node_id: bytes
    group_id: bytes
    version: int
    known: bool


@dataclass(frozen=True, slots=True)
class Released:
    """A node's answer to Release."""

    node_id: bytes
    group_id: bytes
    version: int


def name_of(node_id: bytes) -> str:
    """The network's name of a node."""
    return f"node{int.from_bytes(node_id, 'big')}"


class ModelGlobal:
    """One global scheduler."""

    def __init__(self, network: Network, name: str) -> None:
        self._network = network
        self.name = name
        self._life = 0
        self.start()

    def start(self) -> None:
        """Begins with nothing, at first or again."""
        self._life += 1
        life = self._life

        def alive() -> bool:
            return life == self._life

        self._alive = alive
        self._policy = PlacementPolicy(salt=self._network.rng.randbytes(16))
        self._rooms: dict[bytes, NodeRoom] = {}
        self._epochs: dict[bytes, int] = {}
        self._groups: dict[bytes, GroupCoordinator] = {}
        self._calls = GcsCalls(self._network, self.name, alive)
        self._network.attach(self.name, self._handle)
        Follower(self._network, self._calls, alive, self._row_changed)
        self._tick(life)

    def crash(self) -> None:
        """Is dead until it starts again."""
        self._life += 1
        self._network.detach(self.name)

    def _row_changed(self, row: Row) -> None:
        if isinstance(row.value, NodeRow):
            node_id = row.value.node_id.binary()
            if row.value.epoch > self._epochs.get(node_id, row.value.epoch):
                for coordinator in self._groups.values():
                    self._carry_out(coordinator.handle_restarted(node_id, self._network.now_s))
            self._epochs[node_id] = row.value.epoch
            if row.value.state is NodeState.ALIVE:
                load = load_of(row.value)
                self._policy.update_node(load, self._network.now_s)
                self._rooms[node_id] = NodeRoom(node_id, dict(load.available))
            else:
                self._policy.remove_node(node_id)
                self._rooms.pop(node_id, None)
        elif isinstance(row.value, GroupView):
            self._take_group(versioned(row))

    def _take_group(self, view: GroupView) -> None:
        coordinator = self._groups.setdefault(view.group_id, GroupCoordinator())
        self._carry_out(coordinator.handle_row(view, self._network.now_s))
        known = coordinator.view
        if known is not None and known.state is GroupState.CREATED:
            placed: list[tuple[bytes, ResourceSet]] = []
            for node_id, bundle in zip(known.nodes, known.bundles, strict=True):
                assert node_id is not None
                placed.append((node_id, bundle))
            self._policy.set_group(known.group_id, placed)
        else:
            self._policy.remove_group(view.group_id)

    def _tick(self, life: int) -> None:
        if life != self._life:
            return
        nodes = self._policy.nodes
        rooms = [room for node_id, room in self._rooms.items() if nodes[node_id].is_open]
        for coordinator in self._groups.values():
            actions = coordinator.handle_tick(self._network.now_s, rooms, set(self._rooms))
            self._carry_out(actions)
        self._network.after(_TICK_S, lambda: self._tick(life))

    def _carry_out(self, actions: list[GroupAction]) -> None:
        for action in actions:
            match action:
                case WriteGroup(view=view):
                    write = Write("groups", view.group_id, view, view.version)
                    self._calls.call(write, self._written)
                case Prepare() | Commit() | Release():
                    self._network.send(self.name, name_of(action.node_id), action)

    def _written(self, answer: object) -> None:
        # Ours or somebody else's: the row as it is. Its view carries its version.
        if isinstance(answer, Row) and isinstance(answer.value, GroupView):
            self._take_group(versioned(answer))

    def _handle(self, source: str, message: object) -> None:
        now_s = self._network.now_s
        match message:
            case PlaceAsked(number=number, request=request):
                (answer,) = self._policy.place([request], now_s)
                self._network.send(self.name, source, PlaceAnswer(number, answer))
            case Prepared(group_id=group_id) if group_id in self._groups:
                coordinator = self._groups[group_id]
                self._carry_out(
                    coordinator.handle_prepared(
                        message.node_id, message.version, now_s, accepted=message.accepted
                    )
                )
            case Committed(group_id=group_id) if group_id in self._groups:
                coordinator = self._groups[group_id]
                self._carry_out(
                    coordinator.handle_committed(
                        message.node_id, message.version, now_s, known=message.known
                    )
                )
            case Released(group_id=group_id) if group_id in self._groups:
                self._groups[group_id].handle_released(message.node_id, message.version)
            case _:
                self._calls.handle(message)


def versioned(row: Row) -> GroupView:
    """The view of a group's row, with the version that it is stored under."""
    assert isinstance(row.value, GroupView)
    return replace(row.value, version=row.version)
