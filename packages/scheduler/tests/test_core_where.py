"""On which of several nodes a task may run, and which of them gets it."""

from __future__ import annotations

import pytest

from rostral_scheduler.core.resources import ResourceSet
from rostral_scheduler.core.where import (
    ANYWHERE,
    NodeFacts,
    Where,
    check_here,
    choose_node,
    refusal,
)
from rostral_scheduler.errors import UnschedulableError

A, B, C = (bytes([i]) * 16 for i in (1, 2, 3))
ONE = ResourceSet.of({"CPU": 1})


def node(
    node_id: bytes, cpus: float = 2, *, zone: str = "", outstanding: int = 0, room: int = 9
) -> NodeFacts:
    return NodeFacts(
        node_id=node_id,
        total=ResourceSet.of({"CPU": cpus}),
        labels={"zone": zone} if zone else {},
        outstanding=outstanding,
        room=room,
    )


def test_the_node_with_the_least_for_its_size_gets_it() -> None:
    nodes = [node(A, 2, outstanding=1), node(B, 8, outstanding=2), node(C, 1)]
    assert choose_node(nodes, ONE, ANYWHERE) == (C, True)
    assert choose_node(nodes[:2], ONE, ANYWHERE) == (B, True)


def test_a_node_without_room_or_resources_gets_nothing() -> None:
    nodes = [node(A, 0.5), node(B, 8, room=0)]
    assert choose_node(nodes, ONE, ANYWHERE) == (None, True)
    assert choose_node(nodes[:1], ONE, ANYWHERE) == (None, False)


def test_affinity_is_hard_or_soft() -> None:
    nodes = [node(A), node(B)]
    assert choose_node(nodes, ONE, Where(node_id=B)) == (B, True)
    assert choose_node(nodes, ONE, Where(node_id=C)) == (None, False)
    assert choose_node(nodes, ONE, Where(node_id=C, soft=True))[0] in (A, B)
    small = [node(A), node(B, 0.5)]
    assert choose_node(small, ONE, Where(node_id=B, soft=True)) == (A, True)
    assert choose_node(small, ONE, Where(node_id=B)) == (None, False)


def test_the_first_selector_that_some_node_meets_holds() -> None:
    nodes = [node(A, zone="a"), node(B, zone="b")]
    where = Where.of({"selectors": [{"zone": "x"}, {"zone": "in(b, c)"}, {"zone": "a"}]})
    assert choose_node(nodes, ONE, where) == (B, True)
    by_id = Where.of({"selectors": [{"ray.io/node-id": A.hex()}]})
    assert choose_node(nodes, ONE, by_id) == (A, True)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (Where(node_id=C), "is not part of the cluster"),
        (Where.of({"selectors": [{"zone": "z"}]}), "no node has labels"),
        (Where(node_id=A), "can ever give it CPU=3"),
    ],
)
def test_a_refusal_says_what_is_lacking(where: Where, said: str) -> None:
    error = refusal([node(A), node(B)], ResourceSet.of({"CPU": 3}), where)
    assert error is not None
    assert said in error.message
    assert error.hint


def test_one_node_alone_is_asked_for_no_more_than_it_is() -> None:
    check_here(Where(node_id=C, soft=True), node(A), ONE)
    check_here(Where(spread=True), node(A), ONE)
    with pytest.raises(UnschedulableError):
        check_here(Where(node_id=C), node(A), ONE)
