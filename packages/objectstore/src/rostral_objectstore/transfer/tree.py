"""In which order an object reaches many nodes: a tree, planned before anything moves.

Pure. A node that has the object sends it to `fan_out` others at a time, so that the number of those
that have it grows by the factor `fan_out + 1` in each round, and the first sender sends a few times
instead of once for each node.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Node = TypeVar("Node", bound=Hashable)


@dataclass(slots=True)
class Branch(Generic[Node]):
    """A node, where it gets the object, and whom it gives it to."""

    node: Node
    sources: tuple[Node, ...]
    """Where to fetch: the parent first, then its parent, up to the root, which always has it."""

    rounds: list[list[Branch[Node]]] = field(default_factory=list)
    """Whom it serves: one list after the other, the members of a list at the same time."""

    def descendants(self) -> list[Branch[Node]]:
        """Everybody below, parents before children."""
        found = []
        for members in self.rounds:
            for branch in members:
                found += [branch, *branch.descendants()]
        return found


def plan_tree(root: Node, nodes: Sequence[Node], *, fan_out: int = 1) -> Branch[Node]:
    """The tree by which an object at `root` reaches each of `nodes`, which must differ.

    With `fan_out` 1 the holders double in each round, which is the least time in which whole
    objects can reach all when every node sends and receives at the same speed. A larger one makes
    a flatter tree: fewer steps for small objects, where the way counts more than the bytes.

    Raises: ValueError.
    """
    if fan_out < 1:
        raise ValueError(f"fan_out is {fan_out}: a node serves at least 1 at a time")
    if len({root, *nodes}) != len(nodes) + 1:
        raise ValueError("a node occurs twice in the broadcast, or is its root")
    tree = Branch(root, ())
    holders, rest = [tree], list(nodes)
    while rest:
        for holder in list(holders):
            taken, rest = rest[:fan_out], rest[fan_out:]
            if not taken:
                break
            members = [Branch(node, (holder.node, *holder.sources)) for node in taken]
            holder.rounds.append(members)
            holders += members
    return tree
