"""Where the bundles of a group go: each strategy's promise, against trying all ways."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rostral_scheduler.core.group_nodes import GroupStrategy, NodeRoom, choose_nodes
from rostral_scheduler.core.resources import UNITS, ResourceSet


def room(number: int, **amounts: float) -> NodeRoom:
    return NodeRoom(bytes([number]), {name: int(v * UNITS) for name, v in amounts.items()})


def bundle(**amounts: float) -> ResourceSet:
    return ResourceSet.of(amounts)


def numbers(chosen: list[bytes] | None) -> list[int] | None:
    return None if chosen is None else [node_id[0] for node_id in chosen]


def test_strict_pack_takes_the_fullest_node_that_has_room_for_all() -> None:
    nodes = [room(1, CPU=2), room(2, CPU=16), room(3, CPU=4)]
    bundles = [bundle(CPU=1), bundle(CPU=3)]
    assert numbers(choose_nodes(bundles, nodes, "STRICT_PACK")) == [3, 3]
    assert choose_nodes([bundle(CPU=9), bundle(CPU=9)], nodes, "STRICT_PACK") is None


def test_pack_uses_few_nodes_where_one_is_not_enough() -> None:
    nodes = [room(number, CPU=4) for number in range(1, 6)]
    chosen = numbers(choose_nodes([bundle(CPU=2)] * 6, nodes, "PACK"))
    assert chosen is not None
    assert sorted(Counter(chosen).values()) == [2, 2, 2]
    assert numbers(choose_nodes([bundle(CPU=2)] * 2, nodes, "PACK")) == [1, 1]


def test_spread_is_even_where_there_are_too_few_nodes() -> None:
    nodes = [room(1, CPU=4), room(2, CPU=4)]
    chosen = numbers(choose_nodes([bundle(CPU=1)] * 4, nodes, "SPREAD"))
    assert chosen is not None
    assert Counter(chosen) == {1: 2, 2: 2}


def test_strict_spread_finds_the_one_way_that_there_is() -> None:
    """The small bundle must leave the large node to the one that needs it."""
    nodes = [room(1, CPU=8), room(2, CPU=1), room(3, CPU=1, GPU=1)]
    bundles = [bundle(CPU=1), bundle(GPU=1), bundle(CPU=8)]
    assert numbers(choose_nodes(bundles, nodes, "STRICT_SPREAD")) == [2, 3, 1]
    assert choose_nodes([bundle(CPU=1)] * 4, nodes, "STRICT_SPREAD") is None


def test_a_thousand_bundles_are_matched_without_recursion() -> None:
    """Each bundle fits on two neighbours, so that finding a way moves long chains."""
    nodes = [NodeRoom(n.to_bytes(2, "big"), {"CPU": UNITS, f"r{n}": 1}) for n in range(600)]
    bundles = [bundle(CPU=1) for _ in range(600)]
    chosen = choose_nodes(bundles, nodes, "STRICT_SPREAD")
    assert chosen is not None
    assert len(set(chosen)) == 600


ROOMS = st.lists(
    st.fixed_dictionaries({"CPU": st.integers(0, 4), "GPU": st.integers(0, 2)}),
    min_size=0,
    max_size=4,
)
BUNDLES = st.lists(
    st.sampled_from(
        [bundle(CPU=1), bundle(CPU=2), bundle(CPU=1, GPU=1), bundle(GPU=2), bundle(CPU=3)]
    ),
    min_size=1,
    max_size=4,
)


def fits(bundles: Sequence[ResourceSet], chosen: Sequence[bytes], nodes: list[NodeRoom]) -> bool:
    used: Counter[tuple[bytes, str]] = Counter()
    for one, node_id in zip(bundles, chosen, strict=True):
        for name, units in one:
            used[node_id, name] += units
    has = {node.node_id: node.room for node in nodes}
    return all(units <= has[node_id].get(name, 0) for (node_id, name), units in used.items())


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(ROOMS, BUNDLES, st.sampled_from(["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]))
def test_what_is_chosen_fits_and_strict_ways_are_found_if_there_are_any(
    rooms: list[dict[str, int]], bundles: list[ResourceSet], strategy: GroupStrategy
) -> None:
    nodes = [
        NodeRoom(bytes([number]), {name: units * UNITS for name, units in one.items()})
        for number, one in enumerate(rooms)
    ]
    ids = [node.node_id for node in nodes]
    ways = [
        way
        for way in itertools.product(ids, repeat=len(bundles))
        if fits(bundles, way, nodes)
        and (strategy != "STRICT_PACK" or len(set(way)) == 1)
        and (strategy != "STRICT_SPREAD" or len(set(way)) == len(way))
    ]
    chosen = choose_nodes(bundles, nodes, strategy)
    if chosen is not None:
        assert tuple(chosen) in ways
    elif strategy.startswith("STRICT"):
        assert not ways
    if chosen is not None and strategy == "PACK":
        assert len(set(chosen)) == 1 or not any(len(set(way)) == 1 for way in ways)
    if chosen is not None and strategy == "SPREAD" and any(len(set(w)) == len(w) for w in ways):
        assert len(set(chosen)) == len(bundles)
