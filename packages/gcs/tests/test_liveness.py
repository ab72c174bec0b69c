"""Leases, epochs and fencing, without a clock or a server."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rostral_gcs import NodeRow, NodeState
from rostral_gcs.errors import FencedError, InvalidArgumentError, NotFoundError
from rostral_gcs.ids import NodeID
from rostral_gcs.liveness import NodeLiveness, with_resources

NODE = NodeRow(node_id=NodeID(b"n" * 16), address="h", epoch=1, lease_s=10.0, version=1)


@pytest.fixture
def liveness() -> NodeLiveness:
    """One node, registered at time 100."""
    made = NodeLiveness(lease_s_min=1.0, lease_s_max=60.0, pause_s_min=50.0)
    made.handle_row(NODE, 100.0)
    return made


def test_a_lease_runs_out_when_not_renewed(liveness: NodeLiveness) -> None:
    assert liveness.expired(110.0) == []
    (dead,) = liveness.expired(110.1)
    assert (dead.state, dead.version) == (NodeState.DEAD, NODE.version)
    assert "did not renew its lease of 10.0 s" in dead.death_cause


def test_renewing_starts_the_lease_anew(liveness: NodeLiveness) -> None:
    liveness.renew(NODE.node_id, 1, 109.0)
    assert liveness.expired(118.0) == []
    assert len(liveness.expired(119.5)) == 1


def test_an_update_of_the_row_does_not_renew_the_lease(liveness: NodeLiveness) -> None:
    liveness.handle_row(replace(NODE, version=2, resources_available={"CPU": 1.0}), 109.0)
    assert len(liveness.expired(110.1)) == 1


def test_a_pause_of_the_server_kills_no_node(liveness: NodeLiveness) -> None:
    assert liveness.expired(105.0) == []
    # Nobody called for a minute: the server was stopped, and renewals wait in its sockets.
    assert liveness.expired(165.0) == []
    assert len(liveness.expired(170.1)) == 1


def test_a_renewal_after_a_pause_of_the_server_is_heard(liveness: NodeLiveness) -> None:
    assert liveness.expired(105.0) == []
    liveness.renew(NODE.node_id, 1, 165.0)
    assert liveness.expired(175.0) == []


def test_a_lease_that_ran_out_cannot_be_renewed(liveness: NodeLiveness) -> None:
    with pytest.raises(FencedError, match="ran out"):
        liveness.renew(NODE.node_id, 1, 110.1)


def test_a_dead_node_is_fenced(liveness: NodeLiveness) -> None:
    liveness.handle_row(replace(NODE, version=2, state=NodeState.DEAD, death_cause="power"), 101.0)
    with pytest.raises(FencedError, match="power") as caught:
        liveness.renew(NODE.node_id, 1, 102.0)
    assert caught.value.current_epoch == 1
    assert liveness.expired(1000.0) == []


def test_a_new_epoch_fences_the_old_one(liveness: NodeLiveness) -> None:
    liveness.handle_row(replace(NODE, version=5, epoch=2), 200.0)
    with pytest.raises(FencedError):
        liveness.check_writer(NODE.node_id, 1)
    assert liveness.check_writer(NODE.node_id, 2).epoch == 2
    assert liveness.expired(205.0) == []


def test_an_older_version_is_ignored(liveness: NodeLiveness) -> None:
    liveness.handle_row(replace(NODE, version=3, state=NodeState.DEAD), 101.0)
    liveness.handle_row(replace(NODE, version=2), 102.0)
    with pytest.raises(FencedError):
        liveness.check_writer(NODE.node_id, 1)


def test_unknown_and_deleted_nodes_must_register(liveness: NodeLiveness) -> None:
    liveness.handle_deleted(NODE.node_id)
    with pytest.raises(NotFoundError, match="register it again"):
        liveness.renew(NODE.node_id, 1, 101.0)


@pytest.mark.parametrize("lease_s", [0.5, 61.0])
def test_a_lease_out_of_bounds_is_refused(liveness: NodeLiveness, lease_s: float) -> None:
    with pytest.raises(InvalidArgumentError, match=r"allowed: 1\.0 to 60\.0"):
        liveness.check_row(replace(NODE, lease_s=lease_s))


def test_unchanged_resources_need_no_write() -> None:
    row = replace(NODE, resources_available={"CPU": 1.0})
    assert with_resources(row, {"CPU": 1.0}) is None
    changed = with_resources(row, {"CPU": 0.5})
    assert changed is not None
    assert changed.resources_available == {"CPU": 0.5}
