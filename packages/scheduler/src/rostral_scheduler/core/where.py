"""On which nodes a task may run, as far as it says so itself, and the choice among them.

Pure: nodes, and how much each has of ours, come in; a node's id comes out. What a node can give at
all is its resources' affair.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rostral_scheduler.core.labels import NODE_ID_LABEL, Selector, matches, selector_of
from rostral_scheduler.core.resources import CPU, UNITS, ResourceSet
from rostral_scheduler.errors import UnschedulableError

__all__ = [
    "ANYWHERE",
    "NodeFacts",
    "Where",
    "at_once",
    "check_here",
    "choose_node",
    "refusal",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """A living node, as the choice sees it."""

    node_id: bytes
    total: ResourceSet
    labels: Mapping[str, str]
    outstanding: int = 0
    """Tasks of this origin that it has not finished."""
    room: int = 1
    """How many more of them it may be given."""

    def can_ever(self, shape: ResourceSet) -> bool:
        """Whether it has the shape when it is idle."""
        return all(units <= self.total.get(name) for name, units in shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """A constraint on nodes.

    Attributes:
        node_id: The one that it must, or (`soft`) should be; empty: none in particular.
        soft: Any other will do where that one is not there.
        selectors: Labels; the first that some node meets holds. Empty: any.
        spread: As evenly over the nodes as can be.
    """

    node_id: bytes = b""
    soft: bool = False
    selectors: tuple[Selector, ...] = ()
    spread: bool = False

    @classmethod
    def of(cls, body: Mapping[str, object] | None) -> Where:
        """From a request's body."""
        if not body:
            return ANYWHERE
        selectors = body.get("selectors") or ()
        assert isinstance(selectors, list | tuple)
        return cls(
            node_id=bytes(body.get("node_id") or b""),  # type: ignore[call-overload]
            soft=bool(body.get("soft")),
            selectors=tuple(selector_of(selector) for selector in selectors),
            spread=bool(body.get("spread")),
        )

    def among(self, nodes: Iterable[NodeFacts]) -> list[NodeFacts]:
        """Those that it allows, of the living."""
        nodes = list(nodes)
        if self.node_id:
            named = [node for node in nodes if node.node_id == self.node_id]
            return named or (nodes if self.soft else [])
        for selector in self.selectors:
            meant = [
                node
                for node in nodes
                if matches(selector, {NODE_ID_LABEL: node.node_id.hex(), **node.labels})
            ]
            if meant:
                return meant
        return [] if self.selectors else nodes


ANYWHERE = Where()


def choose_node(
    nodes: Iterable[NodeFacts], shape: ResourceSet, where: Where
) -> tuple[bytes | None, bool]:
    """The node for one more task, and whether there is one at all that could ever have it.

    The one with the least of ours for what it can run at once; None: each has all that it may have.
    """
    feasible = [node for node in where.among(nodes) if node.can_ever(shape)]
    if where.node_id and where.soft and not feasible:
        feasible = [node for node in nodes if node.can_ever(shape)]
    free = [node for node in feasible if node.room > 0]
    if not free:
        return None, bool(feasible)
    return min(free, key=lambda n: (n.outstanding / at_once(n, shape), n.node_id)).node_id, True


def at_once(node: NodeFacts, shape: ResourceSet) -> float:
    """How many tasks of the shape an idle node runs at the same time; what takes nothing, as CPUs.

    At least a little, so that it can be divided by.
    """
    fits = [node.total.get(name) / units for name, units in shape]
    return max(min(fits, default=node.total.get(CPU) / UNITS), 0.01)


def refusal(
    nodes: Iterable[NodeFacts], shape: ResourceSet, where: Where
) -> UnschedulableError | None:
    """Why none of the nodes can ever run it; None: one can."""
    allowed = where.among(nodes)
    if choose_node(nodes, shape, where)[1]:
        return None
    if where.node_id and not allowed:
        return UnschedulableError(
            f"node {where.node_id.hex()} is not part of the cluster, and must be the one",
            hint="take the id of a node that rostral.nodes() lists, or soft=True",
        )
    if where.selectors and not allowed:
        first, *others = [dict(selector) for selector in where.selectors]
        instead = [{"label_selector": other} for other in others]
        return UnschedulableError(
            f"no node has labels as in label_selector={first}"
            + (f" or fallback_strategy={instead}" if instead else ""),
            hint="rostral.nodes() lists the labels of nodes; a node has them from its start",
        )
    needs = ", ".join(f"{name}={amount:g}" for name, amount in shape.as_floats().items())
    return UnschedulableError(
        f"no node that may run this can ever give it {needs}",
        hint="ask for less, or add a node that has it; rostral.nodes() lists what there is",
    )


def check_here(where: Where, node: NodeFacts, shape: ResourceSet) -> None:
    """Raises UnschedulableError if the one node there is must not run it.

    Whether it has the shape is for its ledger to say, which names what is lacking.
    """
    if not where.among([node]):
        error = refusal([node], shape, where)
        assert error is not None
        raise error
