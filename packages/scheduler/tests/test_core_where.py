"""On which of several nodes a task may run."""

from __future__ import annotations

import pytest

from rostral_scheduler.core.resources import ResourceSet
from rostral_scheduler.core.where import (
    ANYWHERE,
    NodeFacts,
    Where,
    check_here,
    refusal,
)
from rostral_scheduler.errors import RequestError, UnschedulableError

A, B, C = (bytes([i]) * 16 for i in (1, 2, 3))
ONE = ResourceSet.of({"CPU": 1})


def node(node_id: bytes, cpus: float = 2, *, zone: str = "") -> NodeFacts:
    return NodeFacts(
        node_id=node_id,
        total=ResourceSet.of({"CPU": cpus}),
        labels={"zone": zone} if zone else {},
    )


def test_what_some_node_can_ever_have_is_not_refused() -> None:
    nodes = [node(A, 0.5), node(B, 8, zone="b")]
    for where in (
        ANYWHERE,
        Where(node_id=B),
        Where(node_id=A, soft=True),
        Where(node_id=C, soft=True),
        Where.of({"selectors": [{"zone": "x"}, {"zone": "in(b, c)"}, {"zone": "a"}]}),
        Where.of({"selectors": [{"ray.io/node-id": B.hex()}]}),
    ):
        assert refusal(nodes, ONE, where) is None
    for where in (Where(node_id=A), Where(node_id=C)):
        assert refusal(nodes, ONE, where) is not None
    assert refusal(nodes[:1], ONE, ANYWHERE) is not None


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


@pytest.mark.parametrize(
    "body",
    [{"node_id": 1 << 40}, {"selectors": "zone=a"}, {"node_id": "ab"}, {"selectors": {1: 2}}],
)
def test_a_place_of_another_form_is_refused(body: dict[str, object]) -> None:
    with pytest.raises(RequestError, match="selectors are a list"):
        Where.of(body)


def test_one_node_alone_is_asked_for_no_more_than_it_is() -> None:
    check_here(Where(node_id=C, soft=True), node(A), ONE)
    check_here(Where(spread=True), node(A), ONE)
    with pytest.raises(UnschedulableError):
        check_here(Where(node_id=C), node(A), ONE)
