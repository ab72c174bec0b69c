"""Which server of a group is the primary, or is to become it. Pure: no I/O, no clock.

This file owns the rules by which a group of servers keeps every acknowledged write, without a third
party:

1. With N servers and writes acknowledged when W have them, any N - W + 1 servers have at least one
   copy of each. So that many must answer before one of them is promoted, and the one that has most
   becomes the primary.
2. Before that they are taken away from the old primary. It then reaches fewer than W and
   acknowledges nothing more, dead or alive.
3. The new primary begins a new epoch, and writes from then on wait only for those that came with
   it. A server of an older epoch is not used any more; it becomes a replica and starts afresh.
4. A copy that says that writes wait for nobody was not told otherwise: it may lack what its primary
   acknowledged alone, so only that primary itself may go on.

Several services may come to decide at once: what they do is idempotent, and the epoch is raised by
compare-and-set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rostral_gcs.backends.redis_layout import Meta

__all__ = ["Adopt", "Decision", "Detach", "Hold", "Member", "choose"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """What a server that answered said of itself.

    Attributes:
        address: Where.
        is_primary: Whether it takes writes.
        replid: Its replication id: its own as a primary, its primary's as a replica in step.
        offset: How much of the replication stream it has.
        meta: The shard's row there; None: it holds no such shard.
    """

    address: str
    is_primary: bool
    replid: str
    offset: int
    meta: Meta | None


@dataclass(frozen=True, slots=True)
class Adopt:
    """Use this server.

    ``wait``: how many replicas to wait for from the new epoch on; None: as before.
    ``followers``: servers that are to become its replicas.
    """

    address: str
    wait: int | None
    followers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Detach:
    """Take these replicas away from their primary, and look again."""

    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hold:
    """Nothing can be done yet; ``reason`` says why."""

    reason: str


Decision = Adopt | Detach | Hold


def choose(
    members: Sequence[Member], *, server_count: int, wanted: int, known_epoch: int
) -> Decision:
    """Decides what to do for a primary.

    Args:
        members: The servers that answered, in the order of the configuration.
        server_count: How many there are.
        wanted: How many replicas should have each write.
        known_epoch: The highest epoch that we have seen; 0 for none.
    """
    copies = [(member, member.meta) for member in members if member.meta is not None]
    if not copies:
        return _choose_fresh(members, server_count, known_epoch)
    epoch = max(meta.epoch for _, meta in copies)
    if epoch < known_epoch:
        return Hold(f"only servers of epoch {epoch} answer, the newest is {known_epoch}")
    newest = [(member, meta) for member, meta in copies if meta.epoch == epoch]
    for member, meta in newest:
        if member.is_primary and member.replid == meta.replid:
            return Adopt(member.address, None)
    best, best_meta = max(newest, key=_completeness)
    if best_meta.wait == 0:
        if best.is_primary:
            return Adopt(best.address, None)
        return Hold("the server that acknowledged writes alone does not answer")
    # One that lags, or holds nothing yet, counts too: what was acknowledged is then elsewhere.
    needed = server_count - best_meta.wait
    if len(members) < needed:
        return Hold(f"{len(members)} of {server_count} servers answer; {needed} are needed")
    others = [member for member in members if member is not best]
    following = [member for member in others if best.is_primary and member.replid == best.replid]
    attached = [
        member.address for member in members if not member.is_primary and member not in following
    ]
    if attached:
        return Detach(tuple(attached))
    followers = tuple(member.address for member in others if member not in following)
    return Adopt(best.address, min(wanted, len(others)), followers)


def _choose_fresh(members: Sequence[Member], server_count: int, known_epoch: int) -> Decision:
    if known_epoch:
        return Hold(f"no server that answers holds the shard; the newest epoch is {known_epoch}")
    if len(members) < server_count:
        # One that does not answer may hold it.
        return Hold(f"{len(members)} of {server_count} servers answer, and none holds the shard")
    primaries = [member for member in members if member.is_primary]
    if not primaries:
        return Hold("all servers are replicas of others")
    followed = {member.replid for member in members if not member.is_primary}
    best = next((member for member in primaries if member.replid in followed), primaries[0])
    followers = tuple(member.address for member in primaries if member is not best)
    return Adopt(best.address, None, followers)


def _completeness(copy: tuple[Member, Meta]) -> tuple[int, bool, int]:
    member, meta = copy
    return meta.generation, member.is_primary, member.offset
