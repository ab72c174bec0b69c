"""On which nodes the bundles of a placement group go: PACK, SPREAD, STRICT_PACK, STRICT_SPREAD.

This file owns the choice, as a pure function of what is free on each node. Whether the nodes then
have it is theirs to say (``group_commit.py``): what is known of them is always a little old.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rostral_scheduler.core.amounts import covers, subtract
from rostral_scheduler.core.resources import ResourceSet

__all__ = ["GroupStrategy", "NodeRoom", "choose_nodes"]

GroupStrategy = Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]


@dataclass(frozen=True, slots=True)
class NodeRoom:
    """What a node has for bundles; by name, in units."""

    node_id: bytes
    room: Mapping[str, int]


def choose_nodes(
    bundles: Sequence[ResourceSet], nodes: Sequence[NodeRoom], strategy: GroupStrategy
) -> list[bytes] | None:
    """The node of each bundle, or None when there is no room for all of them as the strategy wants.

    STRICT_PACK: all on one node. PACK: on few nodes. STRICT_SPREAD: on as many nodes as there are
    bundles; found if there is a way at all. SPREAD: as evenly as can be. Nodes are compared by room
    and then by id, so the choice is the same wherever it is made.
    """
    ordered = sorted(nodes, key=lambda node: node.node_id)
    match strategy:
        case "STRICT_PACK":
            return _on_one_node(bundles, ordered)
        case "STRICT_SPREAD":
            return _one_on_each(bundles, ordered)
        case "PACK":
            return _on_one_node(bundles, ordered) or _on_few_nodes(bundles, ordered)
        case "SPREAD":
            return _one_on_each(bundles, ordered) or _evenly(bundles, ordered)


def _on_one_node(bundles: Sequence[ResourceSet], nodes: Sequence[NodeRoom]) -> list[bytes] | None:
    """The fullest node that has room: large rooms stay whole."""
    fitting = [node for node in nodes if len(_filled(bundles, node.room)) == len(bundles)]
    if not fitting:
        return None
    wanted = {name for bundle in bundles for name, _ in bundle}
    best = min(fitting, key=lambda node: sum(node.room.get(name, 0) for name in wanted))
    return [best.node_id] * len(bundles)


def _on_few_nodes(bundles: Sequence[ResourceSet], nodes: Sequence[NodeRoom]) -> list[bytes] | None:
    """Again and again the node that takes most of what is left."""
    chosen: dict[int, bytes] = {}
    unused = list(nodes)
    while len(chosen) < len(bundles):
        left = [index for index in _largest_first(bundles) if index not in chosen]
        # Idle nodes are mostly alike: each kind of room is filled once.
        known: dict[tuple[tuple[str, int], ...], list[int]] = {}
        best: tuple[int, NodeRoom] | None = None
        for node in unused:
            kind = tuple(sorted(node.room.items()))
            if kind not in known:
                known[kind] = _filled([bundles[index] for index in left], node.room)
            if known[kind] and (best is None or len(known[kind]) > best[0]):
                best = len(known[kind]), node
        if best is None:
            return None
        node = best[1]
        for at in known[tuple(sorted(node.room.items()))]:
            chosen[left[at]] = node.node_id
        unused.remove(node)
    return [chosen[index] for index in range(len(bundles))]


def _filled(bundles: Sequence[ResourceSet], room: Mapping[str, int]) -> list[int]:
    """Indexes of the bundles that fit there together, taken in their order."""
    left = dict(room)
    taken = []
    for index, bundle in enumerate(bundles):
        if covers(left, bundle):
            subtract(left, bundle)
            taken.append(index)
    return taken


def _one_on_each(bundles: Sequence[ResourceSet], nodes: Sequence[NodeRoom]) -> list[bytes] | None:
    """A matching of bundles and nodes, by augmenting paths; without recursion."""
    if len(bundles) > len(nodes):
        return None
    fits: dict[ResourceSet, list[int]] = {}
    for bundle in bundles:
        if bundle not in fits:
            fits[bundle] = [at for at, node in enumerate(nodes) if covers(dict(node.room), bundle)]
    bundle_on: dict[int, int] = {}
    for bundle_index in _largest_first(bundles):
        path = _path_to_free_node(bundle_index, bundles, fits, bundle_on)
        if path is None:
            return None
        for bundle_moved, node in path:
            bundle_on[node] = bundle_moved
    node_of = {bundle_index: nodes[at].node_id for at, bundle_index in bundle_on.items()}
    return [node_of[index] for index in range(len(bundles))]


def _path_to_free_node(
    start: int,
    bundles: Sequence[ResourceSet],
    fits: Mapping[ResourceSet, list[int]],
    bundle_on: Mapping[int, int],
) -> list[tuple[int, int]] | None:
    """Moves (bundle, node) that end at a node without a bundle, breadth first."""
    came_from: dict[int, tuple[int, int | None]] = {}
    waiting: list[tuple[int, int | None]] = [(start, None)]
    for bundle, held in waiting:
        for node in fits[bundles[bundle]]:
            if node in came_from:
                continue
            came_from[node] = bundle, held
            if node not in bundle_on:
                path, at = [], node
                while True:
                    mover, before = came_from[at]
                    path.append((mover, at))
                    if before is None:
                        return path
                    at = before
            waiting.append((bundle_on[node], node))
    return None


def _evenly(bundles: Sequence[ResourceSet], nodes: Sequence[NodeRoom]) -> list[bytes] | None:
    """Each bundle on the node that has fewest of them and room; the largest bundles first."""
    left = [dict(node.room) for node in nodes]
    counts = [0] * len(nodes)
    chosen: dict[int, bytes] = {}
    for index in _largest_first(bundles):
        fitting = [at for at in range(len(nodes)) if covers(left[at], bundles[index])]
        if not fitting:
            return None
        at = min(fitting, key=counts.__getitem__)
        subtract(left[at], bundles[index])
        counts[at] += 1
        chosen[index] = nodes[at].node_id
    return [chosen[index] for index in range(len(bundles))]


def _largest_first(bundles: Sequence[ResourceSet]) -> list[int]:
    """Rare resources count more than CPUs: who needs them has least choice."""
    return sorted(
        range(len(bundles)),
        key=lambda index: (len(bundles[index].items), sum(units for _, units in bundles[index])),
        reverse=True,
    )
