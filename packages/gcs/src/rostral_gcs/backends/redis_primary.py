"""Finding the primary of a shard, whatever says which one it is, and beginning an epoch on it.

This file owns the search and its patience. In a group it also promotes (the rules are in
``redis_members.py``); Sentinel and Cluster do that themselves. What is found is *adopted*: a server
whose replication id is not the one that the epoch began with was promoted or restarted since, so a
new epoch begins. One that has a lower epoch than we know of was away, and is passed over.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any, Final

from rostral_gcs.backends.redis_layout import ADOPT, FORMAT, META_FIELDS, Keys, Meta
from rostral_gcs.backends.redis_link import LinkBrokenError, RedisLink, ReplyError, first_error
from rostral_gcs.backends.redis_members import Detach, Hold, Member, choose
from rostral_gcs.errors import (
    ConfigError,
    StorageError,
    StorageUnavailableError,
    VersionMismatchError,
)
from rostral_gcs.redis_options import RedisOptions, RedisTarget, Topology

__all__ = ["Identity", "Primary", "PrimaryFinder", "read_info", "set_role"]

logger = logging.getLogger("rostral.gcs.redis")

# More than any primary can have given out that its replica did not get: versions never come twice.
_EPOCH_SEQUENCES: Final = 1 << 32
_PAUSE_S_MIN: Final = 0.001
_PAUSE_S_MAX: Final = 0.1


@dataclass(slots=True)
class Identity:
    """What a store is: the same in all its shards.

    Attributes:
        cluster_id: 16 random bytes; a proposal until the first shard was opened.
        is_proposal: Whether an existing store's id is taken instead.
        shard_count: As configured.
    """

    cluster_id: bytes
    is_proposal: bool
    shard_count: int


@dataclass(frozen=True, slots=True)
class Primary:
    """A connection to the primary, and the shard's row when it was found."""

    link: RedisLink
    meta: Meta
    replid: str


class PrimaryFinder:
    """Finds one shard's primary, for one thread.

    Args:
        target: Where to look.
        options: Bounds and credentials.
        keys: The shard's.
        identity: Of the store.
    """

    def __init__(
        self, target: RedisTarget, options: RedisOptions, keys: Keys, identity: Identity
    ) -> None:
        self.known_epoch = 0
        self._target = target
        self._options = options
        self._keys = keys
        self._identity = identity
        self._wanted = options.replicas_wanted(target)
        # Open connections to members, so that a failover need not begin with connecting.
        self._links: dict[str, RedisLink] = {}
        self._probes: dict[str, RedisLink] = {}
        self._hint = ""
        self._seed = 0

    def find(self, deadline_s: float) -> Primary:
        """Finds and adopts the primary.

        Args:
            deadline_s: On the monotonic clock; at least one attempt is made.

        Raises:
            StorageUnavailableError: There is none until then; the message says why.
            StorageDeniedError: We are not let in.
            ConfigError: The store has another cluster id or shard count.
            VersionMismatchError: It has another format.
        """
        pause_s = _PAUSE_S_MIN
        silent: set[str] = set()
        while True:
            reason = ""
            try:
                found = self._attempt(silent)
                if isinstance(found, Primary):
                    return found
                reason = found
            except LinkBrokenError as error:
                reason = str(error)
            except ReplyError as error:
                if not error.is_passing:
                    raise error.typed() from error
                reason = str(error)
                if error.code == "MOVED":
                    self._hint = error.moved_to
            if time.monotonic() >= deadline_s:
                raise StorageUnavailableError(
                    f"no Redis primary for shard {self._keys.meta.decode()} among "
                    f"{', '.join(self._target.nodes)}: {reason}",
                    hint="start the servers, or see their logs; nothing is lost by waiting",
                )
            if reason:
                silent.clear()
                time.sleep(pause_s)
                pause_s = min(_PAUSE_S_MAX, pause_s * 2)

    def note_moved(self, address: str) -> None:
        """A server said that this other one has the shard."""
        self._hint = address

    def is_deposed(self) -> bool:
        """Whether a server of a higher epoch answers: ours was replaced while we were cut off."""
        if self._target.topology is not Topology.GROUP:
            return False
        return any(
            member.meta is not None and member.meta.epoch > self.known_epoch
            for member in self._survey(set())
        )

    def close(self) -> None:
        """Closes all connections."""
        for links in (self._links, self._probes):
            for link in links.values():
                link.close()
            links.clear()

    # --- Candidates ------------------------------------------------------------------------

    def _attempt(self, silent: set[str]) -> Primary | str:
        """A primary, or why there is none; an empty reason asks to go on at once."""
        match self._target.topology:
            case Topology.GROUP:
                return self._attempt_group(silent)
            case Topology.SENTINEL:
                return self._adopt(self._ask_sentinels(), None)
            case Topology.CLUSTER:
                return self._attempt_cluster()
            case Topology.SINGLE:
                return self._adopt(self._target.nodes[0], None)

    def _attempt_cluster(self) -> Primary | str:
        address, self._hint = self._hint, ""
        if not address:
            address = self._target.nodes[self._seed % len(self._target.nodes)]
            self._seed += 1
        try:
            return self._adopt(address, None)
        except ReplyError as error:
            if error.code == "MOVED" and error.moved_to != address:
                self._hint = error.moved_to
                return ""
            raise

    def _ask_sentinels(self) -> str:
        last: LinkBrokenError | ReplyError | None = None
        for address in self._target.nodes:
            try:
                found = self.link_to(address, sentinel=True).ask_one(
                    "SENTINEL", "get-master-addr-by-name", self._target.sentinel_name
                )
            except (LinkBrokenError, ReplyError) as error:
                last = error
                continue
            if found is None:
                raise ConfigError(
                    f"Sentinel at {address} knows no {self._target.sentinel_name!r}",
                    hint="name the group as in sentinel.conf: redis+sentinel://HOST:PORT/NAME",
                    problems=(f"Sentinel has no group {self._target.sentinel_name!r}",),
                )
            return f"{found[0].decode()}:{int(found[1])}"
        assert last is not None
        raise last

    def _attempt_group(self, silent: set[str]) -> Primary | str:
        members = self._survey(silent)
        decision = choose(
            members,
            server_count=len(self._target.nodes),
            wanted=self._wanted,
            known_epoch=self.known_epoch,
        )
        if isinstance(decision, Hold):
            return decision.reason
        if isinstance(decision, Detach):
            metas = {member.address: member.meta for member in members}
            for address in decision.addresses:
                # Another service may have been quicker, and this one follow its choice already.
                if set_role(self._probe(address), self._keys, metas[address], "NO", "ONE"):
                    logger.warning("redis=%s left its primary, which does not answer", address)
            # Whoever did not answer just now need not be asked again for the next look.
            silent.update(set(self._target.nodes) - {member.address for member in members})
            return ""
        # First, so that none of them can be taken back by the old primary and acknowledge for it.
        metas = {member.address: member.meta for member in members}
        host, _, port = decision.address.rpartition(":")
        for address in decision.followers:
            probe = self._probe(address)
            if not set_role(probe, self._keys, metas[address], host.strip("[]"), port):
                return f"{address} has changed while it was looked at"
        return self._adopt(decision.address, decision.wait)

    def _survey(self, silent: set[str]) -> list[Member]:
        members: list[Member] = []
        for address in self._target.nodes:
            if address in silent:
                continue
            try:
                info, fields = self._probe(address).ask(
                    [("INFO", "replication"), ("HMGET", self._keys.meta, *META_FIELDS)]
                )
            except LinkBrokenError:
                continue
            error = first_error([info, fields])
            if error is not None:
                if error.is_passing:
                    continue  # Loading, or busy: it does not count as one that answers.
                raise error
            found = read_info(info)
            members.append(
                Member(
                    address=address,
                    is_primary=found.get("role") == "master",
                    replid=found.get("master_replid", ""),
                    offset=int(found.get("master_repl_offset", "0")),
                    meta=Meta.read(fields),
                )
            )
        return members

    # --- Adopting --------------------------------------------------------------------------

    def _adopt(self, address: str, wait: int | None) -> Primary | str:
        link = self.link_to(address)
        info = read_info(link.ask_one("INFO", "replication"))
        if info.get("role") != "master":
            return f"{address} is a replica"
        replid = info.get("master_replid", "")
        keys = [self._keys.meta]
        arguments: list[object] = [
            replid,
            self.known_epoch,
            "" if wait is None else wait,
            _EPOCH_SEQUENCES,
            FORMAT,
            self._identity.cluster_id.hex(),
            self._identity.shard_count,
        ]
        replies = link.ask(
            [ADOPT.call_whole(keys, arguments), ("HMGET", self._keys.meta, *META_FIELDS)]
        )
        error = first_error(replies)
        if error is not None:
            raise error
        answer: list[Any] = replies[0]
        if answer[0] == b"gone":
            return f"{address} holds no such shard any more"
        if answer[0] == b"behind":
            return f"{address} has epoch {int(answer[1])} and was away: {self.known_epoch} is known"
        self._check_identity(address, *(bytes(value or b"").decode() for value in answer[1:5]))
        meta = Meta.read(replies[1])
        assert meta is not None
        self.known_epoch = max(self.known_epoch, meta.epoch)
        return Primary(link, meta, replid)

    def _check_identity(
        self, address: str, format_number: str, cluster_id: str, shard_count: str, grown: str
    ) -> None:
        identity = self._identity
        if format_number != FORMAT:
            raise VersionMismatchError(
                f"the store in Redis at {address} has format {format_number}, this version reads "
                f"{FORMAT}",
                hint="use the rostral-gcs version that wrote it",
            )
        if grown == str(identity.shard_count):
            # One that has grown is served by what it was made with, or by what it has now.
            identity.shard_count = int(shard_count)
        if int(shard_count) != identity.shard_count:
            raise ConfigError(
                f"the store in Redis at {address} was made with shard_count {shard_count}, asked "
                f"for {identity.shard_count}",
                hint=f"start with {shard_count} shards; `rostral-gcs add-shards` adds to them",
                problems=(f"shard_count is {identity.shard_count}; this store has {shard_count}",),
            )
        if identity.is_proposal:
            identity.cluster_id, identity.is_proposal = bytes.fromhex(cluster_id), False
        elif identity.cluster_id.hex() != cluster_id:
            raise StorageError(
                f"shard {self._keys.meta.decode()} at {address} is of another cluster",
                hint="check that the redis_urls are of one cluster",
            )

    def link_to(self, address: str, *, sentinel: bool = False) -> RedisLink:
        """The connection for work at a server, made at the first use."""
        link = self._links.get(address)
        if link is None:
            timeout_s = self._options.connect_timeout_s if sentinel else None
            link = RedisLink(
                address, self._target, self._options, sentinel=sentinel, timeout_s=timeout_s
            )
            self._links[address] = link
        return link

    def _probe(self, address: str) -> RedisLink:
        """A connection for questions, which gives up sooner than one for work."""
        link = self._probes.get(address)
        if link is None:
            link = RedisLink(
                address,
                self._target,
                self._options,
                timeout_s=self._options.connect_timeout_s,
            )
            self._probes[address] = link
        return link


def set_role(link: RedisLink, keys: Keys, seen: Meta | None, host: str, port: str) -> bool:
    """Has a server follow another (``NO``, ``ONE``: nobody), if its epoch is still the one seen.

    Services that decide at the same time must not undo what another has done since they looked.

    Returns:
        False: the shard's row has changed, and nothing was done.

    Raises:
        LinkBrokenError: As for ``RedisLink.ask``.
        ReplyError: A command was refused.
    """
    epoch = None if seen is None else str(seen.epoch).encode()
    link.ask_one("WATCH", keys.meta)
    if link.ask_one("HGET", keys.meta, "epoch") != epoch:
        link.ask_one("UNWATCH")
        return False
    replies = link.ask([("MULTI",), ("REPLICAOF", host, port), ("EXEC",)])
    error = first_error(replies)
    if error is not None:
        raise error
    return replies[2] is not None


def read_info(text: bytes) -> dict[str, str]:
    """The fields of an ``INFO`` reply."""
    pairs = (line.split(":", 1) for line in text.decode().splitlines() if ":" in line)
    return {name: value.strip() for name, value in pairs}
