"""Brings one object to many nodes along the tree of tree.py.

Owns the order and the threads; how a node is told to fetch is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for

from rostral_objectstore.transfer.tree import Branch, Node, plan_tree

FetchAt = Callable[[Node, Sequence[Node]], object]
"""Lets a node fetch the object from the first of the holders that can give it; blocks."""


def broadcast(
    root: Node,
    nodes: Sequence[Node],
    fetch_at: FetchAt[Node],
    *,
    fan_out: int = 1,
    at_once_max: int = 64,
) -> dict[Node, Exception | None]:
    """Brings the object that `root` holds to each of `nodes`, and says for each how it went.

    A node that has received serves the next. Below one that failed, the tree goes on: its children
    fetch from its parent. Blocks until every node has the object or has failed; the longest wait is
    that of `fetch_at` times the depth of the tree.

    Args:
        root: who has the object.
        nodes: who shall have it.
        fetch_at: called in threads with a node and its holders, the nearest first.
        fan_out: how many others a node serves at the same time; see `plan_tree`.
        at_once_max: threads, and so fetches at the same time.

    Returns: for each node None, or what its `fetch_at` raised.
    """
    results: dict[Node, Exception | None] = {}
    tree = plan_tree(root, nodes, fan_out=fan_out)
    waiting: set[Future[Branch[Node]]] = set()
    with ThreadPoolExecutor(at_once_max, thread_name_prefix="rostral-broadcast") as pool:

        def receive(branch: Branch[Node]) -> Branch[Node]:
            try:
                fetch_at(branch.node, branch.sources)
            except Exception as error:
                results[branch.node] = error
            else:
                results[branch.node] = None
            return branch

        def serve_next_round(branch: Branch[Node]) -> None:
            if branch.rounds:
                members = branch.rounds.pop(0)
                open_members[branch.node] = len(members)
                waiting.update(pool.submit(receive, member) for member in members)

        open_members: dict[Node, int] = {}
        parents = {
            member.node: parent
            for parent in [tree, *tree.descendants()]
            for members in parent.rounds
            for member in members
        }
        serve_next_round(tree)
        while waiting:
            done, waiting = wait_for(waiting, return_when="FIRST_COMPLETED")
            for future in done:
                branch = future.result()
                parent = parents[branch.node]
                open_members[parent.node] -= 1
                if open_members[parent.node] == 0:
                    serve_next_round(parent)
                serve_next_round(branch)
    return results
