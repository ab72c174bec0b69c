"""The placement policy against exhaustive choice, after any history of reports and placements."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rostral_scheduler.core.labels import matches
from rostral_scheduler.core.node_view import NodeLoad, QueueLoad
from rostral_scheduler.core.placement import PlacementLimits, PlacementPolicy
from rostral_scheduler.core.placement_request import (
    Constraints,
    Infeasible,
    Later,
    Placed,
    TaskInput,
    TaskRequest,
)
from rostral_scheduler.core.resources import ResourceSet

NODES = [bytes([n]) * 16 for n in range(1, 13)]
CONSTRAINTS = [
    Constraints.of({"CPU": 1}),
    Constraints.of({"CPU": 2, "memory": 100}),
    Constraints.of({"CPU": 0.5}, selector={"zone": "a"}),
    Constraints.of({"CPU": 1}, selector={"zone": "x"}, fallbacks=[{"zone": "!a"}]),
    Constraints.of({"GPU": 1}),
    Constraints.of({"CPU": 64}),
]

LOADS = st.builds(
    lambda node, cpus, used, zone, queued, run_time_s, bandwidth, draining: NodeLoad(
        node_id=NODES[node],
        total=ResourceSet.of({"CPU": cpus, "memory": 200, "GPU": node % 3 == 0}),
        available=ResourceSet.of({"CPU": max(cpus - used, 0), "memory": 200, "GPU": node % 3 == 0}),
        labels={"zone": zone},
        queues=(QueueLoad(CONSTRAINTS[0].shape, queued, run_time_s),),
        run_time_s=run_time_s,
        bandwidth_bytes_per_s=bandwidth,
        is_draining=draining,
    ),
    node=st.integers(0, len(NODES) - 1),
    cpus=st.sampled_from([1, 2, 8]),
    used=st.integers(0, 8),
    zone=st.sampled_from("abc"),
    queued=st.integers(0, 20),
    run_time_s=st.floats(0.001, 10),
    bandwidth=st.floats(1e5, 1e8),
    draining=st.sampled_from([False, False, False, True]),
)
INPUTS = st.lists(
    st.builds(
        lambda size, holders: TaskInput(b"o" * 20, size, tuple(NODES[n] for n in holders)),
        size=st.integers(0, 10_000_000),
        holders=st.sets(st.integers(0, len(NODES) - 1), max_size=5),
    ),
    max_size=3,
)
STEPS = st.lists(
    st.one_of(
        LOADS,
        st.tuples(st.sampled_from(CONSTRAINTS), INPUTS, st.floats(0.001, 10)),
        st.integers(0, len(NODES) - 1),
        st.floats(0.001, 3),
    ),
    min_size=1,
    max_size=80,
)


def waits(policy: PlacementPolicy, request: TaskRequest, now_s: float) -> Iterator[float]:
    """Of every node that may have the task: how long it would wait there."""
    constraints = request.constraints
    for selector in constraints.selectors or ((),):
        meant = [
            node
            for node in policy.nodes.values()
            if node.has(constraints.shape) and matches(selector, node.labels)
        ]
        if not meant:
            continue
        for node in meant:
            if node.is_open:
                queue_s = max(0.0, node.start_s(constraints.shape, now_s) - now_s)
                missing = sum(
                    one.size_bytes for one in request.inputs if node.node_id not in one.node_ids
                )
                yield queue_s + missing / node.bandwidth
        return


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(STEPS, st.booleans())
def test_the_wait_is_within_a_tenth_of_the_best_that_exhaustive_choice_finds(
    steps: list[object], salted: bool
) -> None:
    """1. Nodes report, go, time passes. 2. Each placement is compared with every node."""
    policy = PlacementPolicy(PlacementLimits(), salt=b"\x5a" * 16 if salted else b"")
    now_s, count = 0.0, 0
    for step in steps:
        if isinstance(step, NodeLoad):
            policy.update_node(step, now_s)
        elif isinstance(step, int):
            policy.remove_node(NODES[step])
        elif isinstance(step, float):
            now_s += step
        elif isinstance(step, tuple):
            constraints, inputs, run_time_s = step
            count += 1
            request = TaskRequest(
                *(count.to_bytes(16, "big"), 0, constraints),
                inputs=tuple(inputs),
                run_time_s=run_time_s,
            )
            possible = list(waits(policy, request, now_s))
            (answer,) = policy.place([request], now_s)
            if isinstance(answer, Placed):
                assert answer.wait_s <= 1.1 * min(possible) + 1e-9
            else:
                assert not possible
                known = policy.nodes.values()
                can = any(node.has(constraints.shape) for node in known)
                assert isinstance(answer, Infeasible if known and not can else Infeasible | Later)


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(st.lists(LOADS, min_size=1, max_size=12), st.integers(1, 60))
def test_one_batch_is_placed_as_its_requests_one_by_one(loads: list[NodeLoad], count: int) -> None:
    """Each request of a batch sees what those before it were given."""
    answers = []
    for size in (1, count):
        policy = PlacementPolicy()
        for load in loads:
            policy.update_node(load, 0.0)
        requests = [
            TaskRequest(n.to_bytes(16, "big"), 0, CONSTRAINTS[n % 3], run_time_s=1.0)
            for n in range(count)
        ]
        batches = [requests[at : at + size] for at in range(0, count, size)]
        answers.append([answer for batch in batches for answer in policy.place(batch, 1.0)])
    assert answers[0] == answers[1]
