"""On which nodes a task may run, as far as it says so itself, and the refusal if there are none.

Pure. Which of them it gets is ``placement.py``'s choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rostral_scheduler.core.labels import NODE_ID_LABEL, Selector, matches, selector_of
from rostral_scheduler.core.resources import ResourceSet
from rostral_scheduler.errors import RequestError, UnschedulableError

__all__ = [
    "ANYWHERE",
    "NodeFacts",
    "Where",
    "check_here",
    "refusal",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """A living node, as the choice sees it."""

    node_id: bytes
    total: ResourceSet
    labels: Mapping[str, str]

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
        speculate: On a second one as well, if it takes much longer on the first than others of its
            kind: whichever has the result first.
    """

    node_id: bytes = b""
    soft: bool = False
    selectors: tuple[Selector, ...] = ()
    spread: bool = False
    speculate: bool = False

    @classmethod
    def of(cls, body: Mapping[str, object] | None) -> Where:
        """From a request's body. Raises RequestError."""
        if not body:
            return ANYWHERE
        selectors, node_id = body.get("selectors") or (), body.get("node_id") or b""
        # `bytes()` of a number would make as many of them.
        if not isinstance(selectors, list | tuple) or not isinstance(node_id, bytes):
            raise RequestError(
                f"a task may run where {str(body)[:80]} says",
                hint="node_id is bytes, and selectors are a list of tables",
            )
        return cls(
            node_id=node_id,
            soft=bool(body.get("soft")),
            selectors=tuple(selector_of(selector) for selector in selectors),
            spread=bool(body.get("spread")),
            speculate=bool(body.get("speculate")),
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


def refusal(
    nodes: Iterable[NodeFacts], shape: ResourceSet, where: Where
) -> UnschedulableError | None:
    """Why none of the nodes can ever run it; None: one can."""
    allowed = where.among(nodes)
    able = nodes if where.node_id and where.soft else allowed
    if any(node.can_ever(shape) for node in able):
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
