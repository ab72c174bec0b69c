"""The parts of a transfer that touch no network: plans, trees, budgets, rosters, messages."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rostral_gcs.errors import ConfigError
from rostral_objectstore.errors import ChunkInvalidError
from rostral_objectstore.transfer.bandwidth import ByteBudget
from rostral_objectstore.transfer.chunk_plan import ChunkPlan
from rostral_objectstore.transfer.config import FetchConfig, TransferServerConfig
from rostral_objectstore.transfer.credentials import Credentials, is_loopback, split_address
from rostral_objectstore.transfer.digests import Digests
from rostral_objectstore.transfer.messages import (
    ChunkHeader,
    ObjectFacts,
    Ticket,
    decode_header,
    decode_ticket,
    digest_of,
)
from rostral_objectstore.transfer.roster import Roster
from rostral_objectstore.transfer.tree import Branch, plan_tree

CREDENTIALS = Credentials(token_file="token")

# ---- chunks


@settings(deadline=None)
@given(
    size=st.integers(1, 2000),
    chunk=st.integers(1, 64),
    stretch=st.integers(1, 20),
    streams=st.integers(1, 5),
    seed=st.integers(0, 1 << 32),
)
def test_every_byte_arrives_once_however_often_streams_end_early(
    size: int, chunk: int, stretch: int, streams: int, seed: int
) -> None:
    """Streams take stretches, bring a random part of each and give the rest back."""
    luck = random.Random(seed)
    plan = ChunkPlan(size_bytes=size, chunk_bytes=chunk, stretch_chunks_max=stretch)
    brought = bytearray(size)
    while not plan.complete:
        taken = [part for _ in range(streams) if (part := plan.take(streams)) is not None]
        assert taken
        for part in taken:
            assert 1 <= len(part) <= stretch
            count = luck.randint(0, len(part))
            for index in part[:count]:
                offset, length = plan.place(range(index, index + 1))
                assert not any(brought[offset : offset + length])
                brought[offset : offset + length] = b"\1" * length
                plan.arrived(index)
            plan.give_back(part[count:])
        plan.check_invariants()
    assert all(brought)
    assert plan.take(1) is None


def test_streams_share_what_is_missing() -> None:
    plan = ChunkPlan(size_bytes=100, chunk_bytes=10, stretch_chunks_max=64)
    assert plan.take_first() == range(1)
    assert plan.take(2) == range(1, 6)
    assert plan.place(range(9, 10)) == (90, 10)


def test_the_last_stretches_are_no_shorter_than_it_costs_to_ask_for_them() -> None:
    plan = ChunkPlan(size_bytes=100, chunk_bytes=10, stretch_chunks_max=64)
    taken = [plan.take(2) for _ in range(4)]
    assert taken == [range(5), range(5, 9), range(9, 10), None]


def test_a_chunk_that_arrives_twice_is_a_defect() -> None:
    plan = ChunkPlan(size_bytes=10, chunk_bytes=10, stretch_chunks_max=1)
    plan.take_first()
    plan.arrived(0)
    with pytest.raises(ValueError, match="twice"):
        plan.arrived(0)


# ---- the tree


@given(count=st.integers(0, 70), fan_out=st.integers(1, 5))
def test_a_tree_reaches_every_node_once_in_logarithmic_rounds(count: int, fan_out: int) -> None:
    tree = plan_tree("root", [f"node{i}" for i in range(count)], fan_out=fan_out)
    below = tree.descendants()
    assert sorted(branch.node for branch in below) == sorted(f"node{i}" for i in range(count))
    for branch in [tree, *below]:
        assert all(1 <= len(members) <= fan_out for members in branch.rounds)
        for members in branch.rounds:
            assert all(m.sources == (branch.node, *branch.sources) for m in members)
    assert rounds_until_all_have_it(tree) == math.ceil(round(math.log(count + 1, fan_out + 1), 9))


def rounds_until_all_have_it(branch: Branch[str]) -> int:
    """Each round of a node takes one step, and its members begin with theirs after it."""
    return max(
        (
            step + rounds_until_all_have_it(member)
            for step, members in enumerate(branch.rounds, start=1)
            for member in members
        ),
        default=0,
    )


def test_a_node_cannot_occur_twice_in_a_tree() -> None:
    with pytest.raises(ValueError, match="twice"):
        plan_tree("a", ["b", "b"])
    with pytest.raises(ValueError, match="twice"):
        plan_tree("a", ["a"])
    with pytest.raises(ValueError, match="fan_out"):
        plan_tree("a", ["b"], fan_out=0)


# ---- the budget


def test_a_burst_is_free_and_more_costs_time() -> None:
    budget = ByteBudget(rate_bytes_s=100, burst_bytes=50, now_s=10.0)
    assert budget.spend(50, 10.0) == 0
    assert budget.spend(100, 10.0) == 1.0
    assert (
        budget.spend(100, 10.5) == 1.5
    )  # half of the first debt is paid, and its own comes on top
    assert budget.spend(0, 20.0) == 0


def test_no_more_than_a_burst_gathers_in_a_pause() -> None:
    budget = ByteBudget(rate_bytes_s=100, burst_bytes=50, now_s=0.0)
    assert budget.spend(60, 1000.0) == pytest.approx(0.1)


def test_a_clock_that_steps_back_pays_nothing() -> None:
    budget = ByteBudget(rate_bytes_s=100, burst_bytes=50, now_s=10.0)
    budget.spend(50, 10.0)
    assert budget.spend(10, 5.0) == pytest.approx(0.1)
    assert budget.spend(0, 10.0) == pytest.approx(0.1)


# ---- the roster


def roster(*holders: str, at_once: int = 2) -> Roster:
    return Roster(holders, at_once=at_once, pause_s=1.0, pause_s_max=3.0)


def test_the_first_holders_share_the_streams_and_others_wait_their_turn() -> None:
    holders = roster("a", "b", "c")
    assert [holders.choose(0.0) for _ in range(4)] == ["a", "b", "a", "b"]
    holders.drop("a", "gone")
    assert holders.choose(0.0) == "c"
    holders.release("a")
    assert holders.failures == {"a": "gone"}


def test_a_busy_holder_rests_longer_each_time() -> None:
    holders = roster("a")
    for pause in (1.0, 2.0, 3.0, 3.0):
        holders.rest("a", 100.0)
        assert holders.wakes_at_s() == 100.0 + pause
    assert holders.choose(102.9) is None
    assert holders.choose(103.0) == "a"


def test_a_roster_is_empty_when_all_have_failed_with_their_first_reasons() -> None:
    holders = roster("a", "b")
    for holder, reason in (("a", "one"), ("a", "two"), ("b", "three")):
        holders.drop(holder, reason)
    assert holders.empty
    assert holders.failures == {"a": "one", "b": "three"}


# ---- messages

FACTS = ObjectFacts(id=bytes(range(20)), kind=3, flags=2, size=1 << 40)


def test_messages_come_back_as_they_were() -> None:
    ticket = Ticket(FACTS.id, 1 << 39, 12345)
    assert decode_ticket(ticket.encode()) == ticket
    header = ChunkHeader(FACTS, 1 << 39, 0xFFFFFFFFFFFFFFFF)
    assert decode_header(header.encode()) == header


@given(st.binary(max_size=100))
def test_what_is_no_message_is_refused(data: bytes) -> None:
    for decode in (decode_ticket, decode_header):
        with pytest.raises(ChunkInvalidError):
            decode(data)


def test_another_version_is_refused_with_both_numbers() -> None:
    encoded = bytearray(Ticket(FACTS.id).encode())
    encoded[4] = 9
    with pytest.raises(ChunkInvalidError, match=r"version 9 .* we speak 1"):
        decode_ticket(bytes(encoded))


def test_a_reserved_field_is_zero() -> None:
    for message, decode, at in (
        (Ticket(FACTS.id).encode(), decode_ticket, 28),
        (ChunkHeader(FACTS, 0, 0).encode(), decode_header, 36),
    ):
        assert message[at] == 0
        with pytest.raises(ChunkInvalidError, match="reserved"):
            decode(message[:at] + b"\1" + message[at + 1 :])


def test_a_checksum_depends_on_the_place() -> None:
    assert digest_of(b"same", 0) != digest_of(b"same", 1 << 20)


# ---- addresses and settings


@pytest.mark.parametrize(
    "address",
    ["", "host", "host:", ":1", "h:65536", "h:1/x", "h:1?a", "u@h:1", "h:-1", "::1:80", "a b:1"],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="not an address"):
        split_address(address)


def test_only_loopback_is_loopback() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.9.9.9", "::1", "localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "10.0.0.1", "localhost.evil.example"]))


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "10.0.0.1:70", "some.host:1"])
def test_a_server_that_others_can_reach_needs_tls(address: str) -> None:
    config = TransferServerConfig(credentials=CREDENTIALS, address=address)
    with pytest.raises(ConfigError, match="give a TLS certificate"):
        config.validate()


def test_a_token_does_not_leave_the_machine_without_tls() -> None:
    config = FetchConfig(credentials=CREDENTIALS)
    assert config.check_holders(["127.0.0.1:1", "127.0.0.1:1"]) == ("127.0.0.1:1",)
    with pytest.raises(ConfigError, match="another machine"):
        config.check_holders(["127.0.0.1:1", "10.0.0.1:1"])


def test_a_list_of_holders_is_neither_empty_nor_endless() -> None:
    config = FetchConfig(credentials=CREDENTIALS)
    with pytest.raises(ConfigError, match="no holder"):
        config.check_holders([])
    with pytest.raises(ConfigError, match="at most 64"):
        config.check_holders(["127.0.0.1:1"] * 65)


def test_everything_wrong_with_the_settings_is_said_at_once() -> None:
    half = Credentials(token_file="token", tls_certificate_file="cert")
    with pytest.raises(ConfigError) as caught:
        TransferServerConfig(
            credentials=half,
            address="nonsense",
            bandwidth_bytes_s=10,
            burst_bytes=10,
            streams_max=0,
            stall_timeout_s=0,
        ).validate()
    assert len(caught.value.problems) == 6
    with pytest.raises(ConfigError) as caught:
        FetchConfig(
            credentials=half,
            timeout_s=float("nan"),
            holders_at_once=0,
            busy_pause_s_max=0,
            idle_connections_max=-1,
            stretch_bytes_max=1,
        ).validate()
    assert len(caught.value.problems) == 6


# ---- checksums that are kept


def test_checksums_are_kept_until_there_are_too_many() -> None:
    digests = Digests(chunks_max=3)
    first, second = (b"a" * 20, 1, 1), (b"b" * 20, 2, 1)
    for offset in (0, 1):
        digests.keep(first, offset, 10 + offset)
    digests.keep(second, 0, 20)
    assert (digests.get(first, 1), digests.get(second, 0)) == (11, 20)
    digests.keep(second, 1, 21)
    assert (digests.get(first, 0), digests.get(second, 1)) == (None, 21)


def test_checksums_of_an_earlier_life_are_not_those_of_this_one() -> None:
    digests = Digests()
    digests.keep((b"a" * 20, 1, 1), 0, 10)
    assert digests.get((b"a" * 20, 1, 2), 0) is None
