"""Two-phase commit of placement groups: each step, each refusal, each death, by exact actions."""

from __future__ import annotations

from dataclasses import replace

from rostral_scheduler.core.bundles import Reservations
from rostral_scheduler.core.group_commit import (
    Commit,
    GroupCoordinator,
    GroupState,
    GroupView,
    Prepare,
    Release,
    WriteGroup,
)
from rostral_scheduler.core.group_member import GroupMember, ReadGroup, TakeBack
from rostral_scheduler.core.group_nodes import NodeRoom
from rostral_scheduler.core.resources import UNITS, NodeResources, ResourceSet

GROUP = b"g" * 16
A, B, C = b"a" * 16, b"b" * 16, b"c" * 16
ONE = ResourceSet.of({"CPU": 1})
PENDING = GroupView(
    group_id=GROUP,
    version=1,
    state=GroupState.PENDING,
    strategy="STRICT_SPREAD",
    bundles=(ONE, ONE),
    nodes=(None, None),
)
PREPARED = replace(PENDING, version=2, state=GroupState.PREPARED, nodes=(A, B))
CREATED = replace(PREPARED, version=3, state=GroupState.CREATED)


def rooms(*node_ids: bytes) -> list[NodeRoom]:
    return [NodeRoom(node_id, {"CPU": 2 * UNITS}) for node_id in node_ids]


def prepare(node_id: bytes, index: int, version: int = 2) -> Prepare:
    return Prepare(node_id, GROUP, version, ((index, ONE),))


def member(node_id: bytes = A, cpus: int = 1) -> tuple[GroupMember, NodeResources]:
    resources = NodeResources(ResourceSet.of({"CPU": cpus}))
    return GroupMember(node_id, Reservations(resources)), resources


def test_a_group_is_prepared_on_all_nodes_and_then_committed() -> None:
    """1. Chosen. 2. Row written, nodes asked. 3. All say yes: committed by the row. 4. Told."""
    coordinator = GroupCoordinator()
    assert coordinator.handle_row(PENDING, 0.0) == []
    assert coordinator.handle_tick(0.0, rooms(A, B), {A, B}) == [
        WriteGroup(replace(PREPARED, version=1))
    ]
    assert coordinator.handle_row(PREPARED, 0.1) == [prepare(A, 0), prepare(B, 1)]
    assert coordinator.handle_prepared(A, 2, 0.2, accepted=True) == []
    assert coordinator.handle_prepared(B, 2, 0.2, accepted=True) == [
        WriteGroup(replace(CREATED, version=2))
    ]
    assert coordinator.handle_row(CREATED, 0.3) == [Commit(A, GROUP, 3), Commit(B, GROUP, 3)]
    assert coordinator.handle_committed(A, 3, 0.4, known=True) == []
    assert coordinator.handle_tick(0.9, [], {A, B}) == [Commit(B, GROUP, 3)]
    assert coordinator.handle_committed(B, 3, 0.9, known=True) == []
    assert coordinator.handle_tick(9.0, [], {A, B}) == []


def test_without_room_nothing_is_written() -> None:
    coordinator = GroupCoordinator()
    coordinator.handle_row(PENDING, 0.0)
    assert coordinator.handle_tick(0.0, rooms(A), {A}) == []


def test_a_no_takes_the_attempt_back_and_lets_the_others_go() -> None:
    coordinator = GroupCoordinator()
    coordinator.handle_row(PREPARED, 0.0)
    coordinator.handle_prepared(A, 2, 0.1, accepted=True)
    back = replace(PENDING, version=2)
    assert coordinator.handle_prepared(B, 2, 0.1, accepted=False) == [WriteGroup(back)]
    assert coordinator.handle_row(replace(PENDING, version=3), 0.2) == [
        Release(A, GROUP, 3),
        Release(B, GROUP, 3),
    ]
    coordinator.handle_released(A, 3)
    assert coordinator.handle_tick(0.8, [], {A, B}) == [Release(B, GROUP, 3)]
    assert coordinator.handle_tick(9.0, [], {A}) == [], "a dead node has nothing to give back"


def test_answers_to_another_attempt_say_nothing() -> None:
    coordinator = GroupCoordinator()
    coordinator.handle_row(replace(PREPARED, version=5), 0.0)
    assert coordinator.handle_prepared(A, 2, 0.1, accepted=True) == []
    assert coordinator.handle_prepared(B, 2, 0.1, accepted=False) == []
    assert coordinator.handle_prepared(B, 5, 0.1, accepted=True) == []
    assert coordinator.handle_row(PREPARED, 0.2) == [], "older than what is known"


def test_a_node_that_dies_is_replaced_and_the_others_keep_theirs() -> None:
    """1. CREATED on A and B; B dies. 2. Its bundle alone is chosen anew. 3. Asked, committed."""
    coordinator = GroupCoordinator()
    coordinator.handle_row(CREATED, 0.0)
    lost = replace(CREATED, state=GroupState.RESCHEDULING, nodes=(A, None))
    assert coordinator.handle_tick(1.0, rooms(A, C), {A, C}) == [WriteGroup(lost)]
    coordinator.handle_row(replace(lost, version=4), 1.1)
    (write,) = coordinator.handle_tick(1.2, rooms(A, C), {A, C})
    assert write == WriteGroup(replace(lost, version=4, nodes=(A, C)))
    asked = coordinator.handle_row(replace(lost, version=5, nodes=(A, C)), 1.3)
    assert asked == [prepare(A, 0, 5), prepare(C, 1, 5)]
    coordinator.handle_prepared(A, 5, 1.4, accepted=True)
    (write,) = coordinator.handle_prepared(C, 5, 1.4, accepted=True)
    assert isinstance(write, WriteGroup)
    assert (write.view.state, write.view.nodes) == (GroupState.CREATED, (A, C))


def test_a_node_that_has_forgotten_a_committed_group_has_lost_its_bundles() -> None:
    coordinator = GroupCoordinator()
    coordinator.handle_row(CREATED, 0.0)
    (write,) = coordinator.handle_committed(A, 3, 0.1, known=False)
    assert isinstance(write, WriteGroup)
    assert (write.view.state, write.view.nodes) == (GroupState.RESCHEDULING, (None, B))


def test_a_node_that_restarted_is_asked_again_what_it_has() -> None:
    coordinator = GroupCoordinator()
    coordinator.handle_row(CREATED, 0.0)
    for node_id in (A, B):
        coordinator.handle_committed(node_id, 3, 0.1, known=True)
    assert coordinator.handle_restarted(B, 0.2) == [Commit(B, GROUP, 3)]
    assert coordinator.handle_restarted(C, 0.2) == []


def test_a_removed_group_is_released_by_whoever_sees_its_row() -> None:
    coordinator = GroupCoordinator()
    removed = replace(CREATED, version=4, state=GroupState.REMOVED)
    assert coordinator.handle_row(removed, 0.0) == [Release(A, GROUP, 4), Release(B, GROUP, 4)]
    assert not coordinator.is_done
    coordinator.handle_released(A, 4)
    coordinator.handle_released(B, 4)
    assert coordinator.is_done


def test_a_coordinator_that_comes_later_goes_on_from_the_row() -> None:
    first, second = GroupCoordinator(), GroupCoordinator()
    first.handle_row(PREPARED, 0.0)
    first.handle_prepared(A, 2, 0.1, accepted=True)
    assert second.handle_row(PREPARED, 5.0) == [prepare(A, 0), prepare(B, 1)]
    second.handle_prepared(A, 2, 5.1, accepted=True)
    assert second.handle_prepared(B, 2, 5.1, accepted=True) == [
        WriteGroup(replace(CREATED, version=2))
    ]


def test_a_member_sets_aside_once_and_answers_again() -> None:
    one, resources = member()
    assert one.handle_prepare(GROUP, 2, {0: ONE}, 0.0)
    assert one.handle_prepare(GROUP, 2, {0: ONE}, 1.0)
    assert resources.available["CPU"] == 0
    assert not one.handle_prepare(b"h" * 16, 2, {0: ONE}, 1.0), "there is no room for another"
    assert one.handle_commit(GROUP, 3)
    one.handle_release(GROUP, 2)
    assert resources.available["CPU"] == 0, "a late message of an attempt before"
    one.handle_release(GROUP, 4)
    assert resources.available["CPU"] == UNITS
    assert not one.handle_commit(GROUP, 4)


def test_a_member_whose_coordinator_died_takes_the_attempt_back_before_it_gives_back() -> None:
    """1. Its time is up. 2. The row is as it was: taken back there. 3. Only then given back."""
    one, resources = member()
    one.handle_prepare(GROUP, 2, {0: ONE}, 0.0)
    assert one.handle_tick(4.9) == []
    assert one.handle_tick(5.0) == [ReadGroup(GROUP)]
    assert one.handle_tick(5.5) == []
    assert one.handle_row(GROUP, PREPARED) == [TakeBack(replace(PENDING, version=2))]
    assert resources.available["CPU"] == 0
    assert one.handle_row(GROUP, replace(PENDING, version=3)) == []
    assert resources.available["CPU"] == UNITS
    resources.check_invariants()


def test_a_member_whose_coordinator_died_after_the_commit_keeps_its_bundles() -> None:
    one, resources = member()
    one.handle_prepare(GROUP, 2, {0: ONE}, 0.0)
    one.handle_tick(5.0)
    assert one.handle_row(GROUP, CREATED) == []
    assert one.parts[GROUP].committed
    assert one.handle_tick(6.0) == [ReadGroup(GROUP)]
    assert one.handle_tick(7.0) == []
    assert resources.available["CPU"] == 0
    assert one.handle_tick(66.0) == [ReadGroup(GROUP)]
    removed = replace(CREATED, version=9, state=GroupState.REMOVED)
    assert one.handle_row(GROUP, removed) == []
    assert resources.available["CPU"] == UNITS


def test_a_member_that_the_row_no_longer_names_gives_back() -> None:
    for row in (None, replace(PREPARED, version=4, nodes=(B, C))):
        one, resources = member()
        one.handle_prepare(GROUP, 2, {0: ONE}, 0.0)
        one.handle_row(GROUP, row)
        assert resources.available["CPU"] == UNITS
    one, resources = member()
    one.handle_prepare(GROUP, 2, {0: ONE}, 0.0)
    one.handle_row(GROUP, replace(PENDING, version=1))
    assert resources.available["CPU"] == 0, "a row that is older than the attempt"


def test_a_newer_attempt_takes_the_place_of_an_older_one() -> None:
    one, resources = member(cpus=2)
    two = ResourceSet.of({"CPU": 2})
    assert one.handle_prepare(GROUP, 2, {0: ONE}, 0.0)
    assert one.handle_prepare(GROUP, 4, {1: two}, 0.0)
    assert resources.available["CPU"] == 0
    assert not one.handle_prepare(GROUP, 3, {0: ONE}, 0.0), "late"
    assert one.parts[GROUP].bundles == {1: two}
