"""Which server of a group is to be the primary: every case of the rules, without a server."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rostral_gcs.backends.redis_layout import Meta
from rostral_gcs.backends.redis_members import Adopt, Decision, Detach, Hold, Member, choose

META = Meta(
    epoch=3,
    generation=10,
    last_sequence=10,
    trimmed_sequence=0,
    base_sequence=0,
    history_size=0,
    wait=1,
    replid="epoch-3",
    gaps=(),
    archived=0,
    layout="",
)


def _primary(name: str, replid: str = "epoch-3", **meta: int) -> Member:
    row = replace(META, **meta)  # type: ignore[arg-type]
    return Member(address=name, is_primary=True, replid=replid, offset=100, meta=row)


def _replica(name: str, replid: str = "epoch-3", *, offset: int = 100, **meta: int) -> Member:
    row = replace(META, **meta)  # type: ignore[arg-type]
    return Member(address=name, is_primary=False, replid=replid, offset=offset, meta=row)


def _fresh(name: str, *, is_primary: bool = True, replid: str = "") -> Member:
    return Member(address=name, is_primary=is_primary, replid=replid or name, offset=0, meta=None)


@pytest.mark.parametrize(
    ("members", "servers", "decision"),
    [
        pytest.param([_primary("a"), _replica("b")], 2, Adopt("a", None), id="nothing happened"),
        pytest.param([_replica("b")], 2, Detach(("b",)), id="of two the primary is silent"),
        pytest.param(
            [_primary("b", "own")], 2, Adopt("b", 0), id="what was detached goes on alone"
        ),
        pytest.param(
            [_replica("b")], 3, Hold("1 of 3 servers answer; 2 are needed"), id="one of three"
        ),
        pytest.param(
            [_replica("b"), _replica("c")], 3, Detach(("b", "c")), id="two of three are detached"
        ),
        pytest.param(
            [_primary("b", "own-b"), _primary("c", "own-c", generation=11)],
            3,
            Adopt("c", 1, ("b",)),
            id="who has most becomes the primary",
        ),
        pytest.param(
            [_primary("b", "own-b"), _fresh("c")],
            3,
            Adopt("b", 1, ("c",)),
            id="one that holds nothing yet counts as one that answers",
        ),
        pytest.param(
            [_primary("a", "restarted"), _replica("b", generation=11)],
            2,
            Detach(("b",)),
            id="a primary that lost writes in a restart is not taken back",
        ),
        pytest.param(
            [_primary("a", "restarted"), _replica("b", "restarted")],
            2,
            Adopt("a", 1),
            id="a primary that restarted with its replica goes on",
        ),
        pytest.param(
            [_replica("b", wait=0)],
            2,
            Hold("the server that acknowledged writes alone does not answer"),
            id="a copy that may lack writes is not promoted",
        ),
        pytest.param(
            [_primary("a", "restarted", wait=0)],
            2,
            Adopt("a", None),
            id="who acknowledged alone goes on",
        ),
        pytest.param(
            [_primary("a", epoch=2, replid="epoch-3"), _primary("b", "epoch-3")],
            2,
            Adopt("b", None),
            id="the higher epoch is the right one",
        ),
        pytest.param(
            [_primary("a", epoch=1)],
            2,
            Hold("only servers of epoch 1 answer, the newest is 2"),
            id="an epoch that is over",
        ),
    ],
)
def test_choice(members: list[Member], servers: int, decision: Decision) -> None:
    assert choose(members, server_count=servers, wanted=1, known_epoch=2) == decision


@pytest.mark.parametrize(
    ("members", "decision"),
    [
        ([_fresh("a"), _fresh("b")], Adopt("a", None, ("b",))),
        ([_fresh("a", is_primary=False, replid="b"), _fresh("b")], Adopt("b", None)),
        ([_fresh("a")], Hold("1 of 2 servers answer, and none holds the shard")),
        (
            [_fresh("a", is_primary=False), _fresh("b", is_primary=False)],
            Hold("all servers are replicas of others"),
        ),
    ],
)
def test_choice_among_fresh_servers(members: list[Member], decision: Decision) -> None:
    assert choose(members, server_count=2, wanted=1, known_epoch=0) == decision


def test_servers_that_hold_nothing_are_not_fresh_once_we_know_better() -> None:
    held = choose([_fresh("a"), _fresh("b")], server_count=2, wanted=1, known_epoch=4)
    assert held == Hold("no server that answers holds the shard; the newest epoch is 4")
