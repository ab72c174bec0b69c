"""The placement policy: where a task goes, and what is said when it can go nowhere."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from rostral_scheduler.core.node_view import NodeLoad, QueueLoad
from rostral_scheduler.core.placement import PlacementLimits, PlacementPolicy
from rostral_scheduler.core.placement_request import (
    Affinity,
    Answer,
    Constraints,
    InBundle,
    Infeasible,
    Later,
    Placed,
    TaskInput,
    TaskRequest,
)
from rostral_scheduler.core.resources import ResourceSet

NODES = [bytes([n]) * 16 for n in range(1, 9)]
ONE_CPU = Constraints.of({"CPU": 1})
GROUP = b"g" * 16


def load(
    node: int,
    *,
    cpus: float = 2,
    free: float | None = None,
    labels: Mapping[str, str] | None = None,
    queued: int = 0,
    run_time_s: float = 1.0,
    bandwidth: float = 1e6,
    is_draining: bool = False,
    **resources: float,
) -> NodeLoad:
    """A report of the n-th node."""
    return NodeLoad(
        node_id=NODES[node],
        address=f"10.0.0.{node}",
        total=ResourceSet.of({"CPU": cpus, **resources}),
        available=ResourceSet.of({"CPU": cpus if free is None else free, **resources}),
        labels=labels or {},
        queues=(QueueLoad(ONE_CPU.shape, queued, run_time_s),) if queued else (),
        run_time_s=run_time_s,
        bandwidth_bytes_per_s=bandwidth,
        is_draining=is_draining,
    )


def policy_of(*loads: NodeLoad, limits: PlacementLimits | None = None) -> PlacementPolicy:
    policy = PlacementPolicy(limits)
    for one in loads:
        policy.update_node(one, 0.0)
    return policy


class Asker:
    """Makes requests with new task ids."""

    def __init__(self, policy: PlacementPolicy) -> None:
        self.policy = policy
        self.count = 0

    def request(
        self, constraints: Constraints = ONE_CPU, *inputs: TaskInput, run_time_s: float = 1.0
    ) -> TaskRequest:
        self.count += 1
        task_id = self.count.to_bytes(16, "big")
        return TaskRequest(task_id, 0, constraints, inputs=inputs, run_time_s=run_time_s)

    def place(
        self, constraints: Constraints = ONE_CPU, *inputs: TaskInput, now_s: float = 1.0
    ) -> Answer:
        (answer,) = self.policy.place([self.request(constraints, *inputs)], now_s)
        return answer

    def node_of(
        self, constraints: Constraints = ONE_CPU, *inputs: TaskInput, now_s: float = 1.0
    ) -> int:
        """The number of the node that was chosen."""
        answer = self.place(constraints, *inputs, now_s=now_s)
        assert isinstance(answer, Placed), answer
        assert answer.address == f"10.0.0.{NODES.index(answer.node_id)}"
        return NODES.index(answer.node_id)


def test_the_shortest_queue_is_chosen() -> None:
    busy = [load(n, free=0, queued=10 - n) for n in range(4)]
    assert Asker(policy_of(*busy)).node_of() == 3


def test_a_queue_is_as_long_as_its_tasks_take() -> None:
    """Ten short tasks are served before two long ones."""
    policy = policy_of(
        load(0, free=0, queued=2, run_time_s=10.0), load(1, free=0, queued=10, run_time_s=0.1)
    )
    assert Asker(policy).node_of() == 1


def test_the_wait_is_the_queue_over_what_serves_it() -> None:
    """Four tasks of one second on two CPUs: two seconds, and half a one until somebody ends."""
    answer = Asker(policy_of(load(0, free=0, queued=4))).place(now_s=0.0)
    assert isinstance(answer, Placed)
    assert answer.wait_s == pytest.approx(2.5)


def test_a_wait_passes_with_time() -> None:
    policy = policy_of(load(0, free=0, queued=4))
    answer = Asker(policy).place(now_s=2.0)
    assert isinstance(answer, Placed)
    assert answer.wait_s == pytest.approx(0.5)


def test_nodes_without_a_difference_are_taken_in_the_order_of_their_ids() -> None:
    asker = Asker(policy_of(load(2), load(0), load(1)))
    assert [asker.node_of() for _ in range(6)] == [0, 0, 1, 1, 2, 2]


def test_a_salt_gives_another_order_of_equal_nodes() -> None:
    """Two schedulers do not send their bursts to the same nodes first."""
    orders = set()
    for salt in (b"", b"\xff" * 16, b"\x55" * 16):
        policy = PlacementPolicy(salt=salt)
        for node in range(8):
            policy.update_node(load(node, cpus=1), 0.0)
        asker = Asker(policy)
        orders.add(tuple(asker.node_of() for _ in range(8)))
    assert len(orders) == 3
    assert all(sorted(order) == list(range(8)) for order in orders)


def test_a_burst_spreads_before_any_report() -> None:
    """What the policy placed itself counts at once: 40 tasks on 4 nodes of 2 CPUs."""
    asker = Asker(policy_of(*[load(n) for n in range(4)]))
    chosen = [asker.node_of() for _ in range(40)]
    assert [chosen.count(n) for n in range(4)] == [10] * 4


def test_other_schedulers_are_taken_to_place_as_much_between_two_reports() -> None:
    """Of three, this one places two tasks: six are counted on a node with four CPUs."""
    policy = policy_of(load(0, cpus=4))
    policy.scheduler_count = 3
    asker = Asker(policy)
    first, second, third = (policy.place([asker.request()], 0.0)[0] for _ in range(3))
    assert isinstance(first, Placed)
    assert first.wait_s == 0.0
    assert isinstance(second, Placed)
    assert second.wait_s == 0.0, "three of four CPUs were counted"
    assert isinstance(third, Placed)
    assert third.wait_s == pytest.approx(2 / 4 + 1 / 4), "two wait, and somebody must end"


def test_a_report_takes_the_place_of_what_was_counted() -> None:
    """1. Both nodes are full by our count. 2. One reports that it is idle."""
    asker = Asker(policy_of(load(0), load(1)))
    for _ in range(8):
        asker.node_of()
    asker.policy.update_node(load(1), 10.0)
    assert [asker.node_of(now_s=10.0) for _ in range(2)] == [1, 1]


def test_a_report_that_was_on_its_way_does_not_hide_what_was_just_placed() -> None:
    limits = PlacementLimits(settle_s=0.5)
    asker = Asker(policy_of(load(0), load(1), limits=limits))
    assert [asker.node_of(now_s=1.0) for _ in range(2)] == [0, 0]
    asker.policy.update_node(load(0), 1.2)
    assert asker.node_of(now_s=1.2) == 1
    asker.policy.update_node(load(0), 1.6)
    assert asker.node_of(now_s=1.6) == 0


def test_a_task_goes_to_its_inputs_unless_the_queue_there_is_longer_than_the_transfer() -> None:
    """10 MB at 1 MB/s take ten seconds: worth a queue of eight, not of twelve."""
    big = TaskInput(b"o" * 20, 10_000_000, (NODES[1],))
    asker = Asker(policy_of(load(0), load(1, free=0, queued=16)))
    assert asker.node_of(ONE_CPU, big) == 1
    asker = Asker(policy_of(load(0), load(1, free=0, queued=24)))
    assert asker.node_of(ONE_CPU, big) == 0


def test_of_two_holders_the_one_with_more_bytes_is_chosen() -> None:
    inputs = (
        TaskInput(b"a" * 20, 3_000_000, (NODES[1],)),
        TaskInput(b"b" * 20, 5_000_000, (NODES[2], NODES[3])),
        TaskInput(b"c" * 20, 1_000_000, (NODES[3],)),
    )
    assert Asker(policy_of(*[load(n) for n in range(4)])).node_of(ONE_CPU, *inputs) == 3


def test_a_faster_link_outweighs_the_order_of_ids() -> None:
    big = TaskInput(b"o" * 20, 10_000_000, (NODES[7],))
    asker = Asker(policy_of(load(0), load(1, bandwidth=1e7), load(2)))
    assert asker.node_of(ONE_CPU, big) == 1


def test_holders_that_cannot_have_the_task_are_left_out() -> None:
    big = TaskInput(b"o" * 20, 10_000_000, (NODES[0], NODES[6]))
    asker = Asker(policy_of(load(0), load(1, GPU=1)))
    assert asker.node_of(Constraints.of({"GPU": 1}), big) == 1


def test_an_object_that_all_nodes_have_is_no_reason_to_wait() -> None:
    limits = PlacementLimits(holders_max=2)
    policy = policy_of(*[load(n, free=0, queued=9 - n) for n in range(8)], limits=limits)
    everywhere = TaskInput(b"o" * 20, 1000, tuple(NODES))
    assert Asker(policy).node_of(ONE_CPU, everywhere) == 7


def test_what_no_node_can_ever_have_is_said_with_what_the_best_has() -> None:
    answer = Asker(policy_of(load(0), load(1, cpus=4, GPU=1))).place(
        Constraints.of({"CPU": 8, "GPU": 1})
    )
    assert isinstance(answer, Infeasible)
    assert answer.requested.as_floats() == {"CPU": 8, "GPU": 1}
    assert answer.best.as_floats() == {"CPU": 4, "GPU": 1}
    assert "{'CPU': 8.0, 'GPU': 1.0}" in answer.message
    assert NODES[1].hex() in answer.message


def test_labels_choose_nodes_and_fallbacks_come_in_order() -> None:
    policy = policy_of(
        load(0, labels={"zone": "a"}), load(1, labels={"zone": "b"}), load(2, labels={"zone": "c"})
    )
    asker = Asker(policy)

    def node_of(selector: dict[str, str], *fallbacks: dict[str, str]) -> int:
        return asker.node_of(Constraints.of({"CPU": 0.1}, selector=selector, fallbacks=fallbacks))

    assert node_of({"zone": "b"}) == 1
    assert node_of({"zone": "!a"}) == 1
    assert node_of({"zone": "in(c, d)"}) == 2
    assert node_of({"zone": "!in(a, b)"}) == 2
    assert node_of({"zone": "x"}, {"zone": "y"}, {"zone": "c"}) == 2
    answer = asker.place(Constraints.of({"CPU": 1}, selector={"zone": "x"}))
    assert isinstance(answer, Infeasible)
    assert "'zone': 'x'" in answer.message


def test_spread_takes_turns_also_where_the_inputs_are_not() -> None:
    big = TaskInput(b"o" * 20, 10_000_000, (NODES[1],))
    asker = Asker(policy_of(*[load(n, cpus=4) for n in range(3)]))
    spread = Constraints.of({"CPU": 1}, strategy="SPREAD")
    assert [asker.node_of(spread, big) for _ in range(6)] == [0, 1, 2, 0, 1, 2]


def test_spread_does_not_flood_a_node_that_comes_later() -> None:
    asker = Asker(policy_of(load(0, cpus=64), load(1, cpus=64)))
    spread = Constraints.of({"CPU": 1}, strategy="SPREAD")
    for _ in range(20):
        asker.node_of(spread)
    asker.policy.update_node(load(2, cpus=64), 1.0)
    assert sorted(asker.node_of(spread) for _ in range(6)) == [0, 0, 1, 1, 2, 2]


def test_tasks_that_need_nothing_take_turns() -> None:
    asker = Asker(policy_of(*[load(n) for n in range(3)]))
    nothing = Constraints.of({})
    assert [asker.node_of(nothing) for _ in range(6)] == [0, 1, 2, 0, 1, 2]


def test_affinity_is_kept_however_long_the_queue() -> None:
    asker = Asker(policy_of(load(0), load(1, free=0, queued=100)))
    assert asker.node_of(Constraints.of({"CPU": 1}, strategy=Affinity(NODES[1]))) == 1


def test_hard_affinity_to_a_node_that_is_not_there_is_infeasible_and_soft_goes_elsewhere() -> None:
    asker = Asker(policy_of(load(0)))
    answer = asker.place(Constraints.of({"CPU": 1}, strategy=Affinity(NODES[5])))
    assert isinstance(answer, Infeasible)
    assert NODES[5].hex() in answer.message
    answer = asker.place(Constraints.of({"CPU": 9}, strategy=Affinity(NODES[0])))
    assert isinstance(answer, Infeasible)
    assert "{'CPU': 2.0}" in answer.message
    assert asker.node_of(Constraints.of({"CPU": 1}, strategy=Affinity(NODES[5], soft=True))) == 0


def test_a_draining_node_gets_nothing_and_comes_back() -> None:
    asker = Asker(policy_of(load(0, is_draining=True), load(1)))
    assert asker.node_of() == 1
    asker.policy.update_node(load(1, is_draining=True), 1.0)
    assert isinstance(asker.place(), Later)
    hard = Constraints.of({"CPU": 1}, strategy=Affinity(NODES[0]))
    assert isinstance(asker.place(hard), Later)
    asker.policy.update_node(load(0), 2.0)
    assert asker.node_of(now_s=2.0) == 0


def test_what_actors_and_groups_hold_is_waited_for_by_nobody() -> None:
    """1. One node is all set aside, and has the input. 2. With no other: later."""
    set_aside = NodeLoad(
        node_id=NODES[0],
        address="10.0.0.0",
        total=ResourceSet.of({"CPU": 2}),
        available=ResourceSet(),
        held=ResourceSet.of({"CPU": 2}),
    )
    small = TaskInput(b"o" * 20, 10, (NODES[0],))
    asker = Asker(policy_of(set_aside, load(1, free=0, queued=3)))
    assert asker.node_of(ONE_CPU, small, now_s=100.0) == 1
    asker.policy.remove_node(NODES[1])
    answer = asker.place(ONE_CPU, small, now_s=100.0)
    assert isinstance(answer, Later)
    assert "hold what it needs" in answer.reason
    asker.policy.update_node(load(0), 101.0)
    assert asker.node_of(now_s=101.0) == 0


def test_a_node_that_is_gone_gets_nothing() -> None:
    asker = Asker(policy_of(load(0), load(1)))
    assert asker.node_of() == 0
    asker.policy.remove_node(NODES[0])
    asker.policy.remove_node(NODES[7])
    assert asker.node_of() == 1
    asker.policy.remove_node(NODES[1])
    assert isinstance(asker.place(), Later)


def test_a_node_that_comes_back_with_less_is_a_new_node() -> None:
    asker = Asker(policy_of(load(0, cpus=8), load(1)))
    big = Constraints.of({"CPU": 4})
    assert asker.node_of(big) == 0
    asker.policy.update_node(load(0, cpus=2), 1.0)
    assert isinstance(asker.place(big), Infeasible)


def test_the_same_attempt_is_placed_once_while_its_node_lives() -> None:
    """Asked again, the answer is the same and nothing is counted twice; a new attempt may move."""
    asker = Asker(policy_of(load(0, cpus=1), load(1, cpus=1)))
    request = asker.request()
    first, again = asker.policy.place([request, request], 1.0)
    assert isinstance(first, Placed)
    assert isinstance(again, Placed)
    assert first.node_id == again.node_id == NODES[0]
    (other,) = asker.policy.place([request._replace(attempt=1)], 1.0)
    assert isinstance(other, Placed)
    assert other.node_id == NODES[1]
    asker.policy.remove_node(NODES[0])
    (elsewhere,) = asker.policy.place([request], 1.0)
    assert isinstance(elsewhere, Placed)
    assert elsewhere.node_id == NODES[1]


def test_a_node_to_avoid_gets_this_task_not_and_others_as_before() -> None:
    asker = Asker(policy_of(load(0), load(1)))
    big = TaskInput(b"o" * 20, 10_000_000, (NODES[0],))
    for request in (asker.request(), asker.request(ONE_CPU, big)):
        (answer,) = asker.policy.place([request._replace(avoid=NODES[0])], 1.0)
        assert isinstance(answer, Placed)
        assert answer.node_id == NODES[1]
    assert asker.node_of() == 0
    (alone,) = policy_of(load(0)).place([asker.request()._replace(avoid=NODES[0])], 1.0)
    assert isinstance(alone, Later)


def test_memory_of_placements_is_bounded() -> None:
    asker = Asker(policy_of(load(0), limits=PlacementLimits(remembered_max=10)))
    for _ in range(100):
        asker.node_of()
    assert len(asker.policy._placed) + len(asker.policy._placed_before) <= 20


def test_kinds_of_demand_that_are_not_used_are_forgotten() -> None:
    nodes = [load(n, cpus=100) for n in range(8)]
    asker = Asker(policy_of(*nodes, limits=PlacementLimits(entries_max=20)))
    for cpus in range(1, 50):
        asker.node_of(Constraints.of({"CPU": cpus / 10}))
    assert len(asker.policy._kinds) <= 3


def test_a_full_node_gets_no_more_than_it_may_queue() -> None:
    limits = PlacementLimits(queue_length_max=3)
    asker = Asker(policy_of(load(0, cpus=1), limits=limits))
    answers = [asker.place() for _ in range(6)]
    assert [type(answer) for answer in answers] == [Placed] * 4 + [Later] * 2
    assert "queue_length_max" in answers[-1].reason  # type: ignore[union-attr]


def test_run_times_of_functions_are_learned_from_reports() -> None:
    """Two nodes with one long and one short task each queued by ourselves."""
    policy = policy_of(load(0, cpus=1, free=0), load(1, cpus=1, free=0))
    report = load(2, cpus=0.5)
    policy.update_node(
        NodeLoad(
            node_id=report.node_id,
            total=report.total,
            available=report.available,
            run_times_s={b"long": 10.0, b"short": 0.1},
        ),
        0.0,
    )
    for number, function in enumerate((b"long", b"short", b"short", b"short")):
        request = TaskRequest(bytes([number]) * 16, 0, ONE_CPU, function_id=function)
        (answer,) = policy.place([request], 0.0)
        assert isinstance(answer, Placed)
        assert answer.node_id == NODES[number > 0]


def test_members_of_a_group_go_to_its_bundles() -> None:
    asker = Asker(policy_of(*[load(n) for n in range(3)]))
    third = Constraints.of({"CPU": 1}, strategy=InBundle(GROUP, 1))
    anywhere = Constraints.of({"CPU": 1}, strategy=InBundle(GROUP))
    assert isinstance(asker.place(third), Later)
    one = ResourceSet.of({"CPU": 1})
    asker.policy.set_group(GROUP, [(NODES[0], one), (NODES[2], one)])
    assert asker.node_of(third) == 2
    assert sorted(asker.node_of(anywhere) for _ in range(3)) == [0, 0, 2]
    wrong = asker.place(Constraints.of({"CPU": 2}, strategy=InBundle(GROUP)))
    assert isinstance(wrong, Infeasible)
    assert isinstance(
        asker.place(Constraints.of({"CPU": 1}, strategy=InBundle(GROUP, 5))), Infeasible
    )
    asker.policy.remove_group(GROUP)
    assert isinstance(asker.place(third), Later)


def test_limits_out_of_range_are_named() -> None:
    assert PlacementLimits().problems() == []
    assert PlacementLimits(walk_max=0, smoothing=float("nan")).problems() == [
        "smoothing is nan; allowed: a finite number above 0",
        "walk_max is 0; allowed: a finite number above 0",
    ]
