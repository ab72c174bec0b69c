"""What goes on beside a shard's own connection to Redis: hints of others' writes, and the members.

This file owns two threads. One listens for the hint that each commit publishes, and wakes the
shard; hints get lost, so it also wakes it at regular times. The other looks after the members: when
as many replicas are in step as should have each write, writes begin to wait for them, and a server
of a group that was away becomes a replica of the primary. Neither touches rows.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from rostral_gcs.backends.redis_layout import META_FIELDS, RAISE_WAIT, Keys, Meta
from rostral_gcs.backends.redis_link import LinkBrokenError, RedisLink, ReplyError, first_error
from rostral_gcs.backends.redis_primary import read_info, set_role
from rostral_gcs.redis_options import RedisOptions, RedisTarget, Topology

__all__ = ["RedisKeeper", "Standing"]

logger = logging.getLogger("rostral.gcs.redis")


@dataclass(frozen=True, slots=True)
class Standing:
    """Who is the primary, as the shard's thread last knew it."""

    address: str
    replid: str
    epoch: int
    wait: int


class RedisKeeper:
    """The two threads of one shard.

    Args:
        target: The servers.
        options: Bounds and credentials.
        keys: The shard's.
        name: What our own hints say, to be passed over.
        standing: Tells the present primary; None while there is none.
        wake: Called when others may have written.
    """

    def __init__(
        self,
        target: RedisTarget,
        options: RedisOptions,
        keys: Keys,
        *,
        name: bytes,
        standing: Callable[[], Standing | None],
        wake: Callable[[], None],
    ) -> None:
        self._target = target
        self._options = options
        self._keys = keys
        self._name = name
        self._standing = standing
        self._wake = wake
        self._wanted = options.replicas_wanted(target)
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(turn,), name=name, daemon=True)
            for turn, name in ((self._listen, "gcs-redis-hints"), (self._tend, "gcs-redis-members"))
        ]
        self._links: dict[str, RedisLink] = {}
        # Members that follow nobody, by what their replication id was at the last look.
        self._detached: dict[str, str] = {}
        self._subscribed: tuple[str, RedisLink] | None = None

    def start(self) -> None:
        """Starts both threads."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Ends both threads and closes their connections."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        for link in self._links.values():
            link.close()
        if self._subscribed is not None:
            self._subscribed[1].close()

    def _run(self, turn: Callable[[Standing], None]) -> None:
        while not self._stopped.is_set():
            standing = self._standing()
            try:
                if standing is not None:
                    turn(standing)
                    continue
            except (LinkBrokenError, ReplyError) as error:
                # The shard's own connection meets the same and deals with it.
                logger.debug("redis=%s %s failed: %s", standing and standing.address, turn, error)
            self._stopped.wait(self._options.poll_s)

    # --- Hints -----------------------------------------------------------------------------

    def _listen(self, standing: Standing) -> None:
        """Waits for one hint, or as long as a poll."""
        address, link = self._subscribed or ("", None)
        if link is None or address != standing.address:
            if link is not None:
                link.close()
            link = RedisLink(standing.address, self._target, self._options)
            self._subscribed = (standing.address, link)
            sharded = self._target.topology is Topology.CLUSTER
            link.ask_one("SSUBSCRIBE" if sharded else "SUBSCRIBE", self._keys.hints)
        try:
            until_s = time.monotonic() + self._options.poll_s
            # In short steps, so that the end is not waited for.
            while not self._stopped.is_set() and time.monotonic() < until_s:
                message = link.read_push(min(0.1, self._options.poll_s))
                if message is not None and message[-1] != self._name:
                    break
        except LinkBrokenError:
            self._subscribed = None
            raise
        finally:
            self._wake()

    # --- Members ---------------------------------------------------------------------------

    def _tend(self, standing: Standing) -> None:
        if self._stopped.wait(self._options.poll_s):
            return
        if standing.wait < self._wanted and self._has_replicas(standing):
            self._raise_wait(standing)
        if self._target.topology is Topology.GROUP:
            for address in self._target.nodes:
                if address != standing.address:
                    with contextlib.suppress(LinkBrokenError, ReplyError):
                        self._tend_member(address, standing)

    def _has_replicas(self, standing: Standing) -> bool:
        """Whether a write reaches as many replicas as it should.

        Only trying tells: one that is said to be online may have to wait for its stream.
        """
        wait_ms = max(1, round(self._options.wait_timeout_s * 1000))
        replies = self._link(standing.address).ask(
            [("HSET", self._keys.meta, "touched", "1"), ("WAIT", self._wanted, wait_ms)]
        )
        error = first_error(replies)
        if error is not None:
            raise error
        return int(replies[1]) >= self._wanted

    def _raise_wait(self, standing: Standing) -> None:
        command = RAISE_WAIT.call_whole([self._keys.meta], [standing.epoch, self._wanted])
        if self._link(standing.address).ask_one(*command):
            logger.info("redis=%s writes wait for %d replicas", standing.address, self._wanted)
            self._wake()

    def _tend_member(self, address: str, standing: Standing) -> None:
        """Makes a server that was away a replica of the primary."""
        replies = self._link(address).ask(
            [("INFO", "replication"), ("HMGET", self._keys.meta, *META_FIELDS), ("DBSIZE",)]
        )
        error = first_error(replies)
        if error is not None:
            raise error
        info, meta = read_info(replies[0]), Meta.read(replies[1])
        if info.get("master_replid") == standing.replid:
            return
        if meta is None and replies[2] and info.get("role") == "master":
            logger.warning("redis=%s holds other data; it is left as it is", address)
            return
        if info.get("role") == "master":
            was_away = meta is None or meta.epoch < standing.epoch
            if meta is not None and meta.epoch == standing.epoch:
                was_away = self._is_left_over(address, info, meta, standing)
        else:
            was_away = info.get("master_link_status") == "down" and (
                info.get("master_sync_in_progress") == "0" and _followed(info) != standing.address
            )
        if was_away:
            host, _, port = standing.address.rpartition(":")
            if set_role(self._link(address), self._keys, meta, host.strip("[]"), port):
                logger.warning("redis=%s was away and follows %s now", address, standing.address)

    def _is_left_over(
        self, address: str, info: dict[str, str], meta: Meta, standing: Standing
    ) -> bool:
        """Whether a service took it from the primary for a failover that came to nothing.

        One that is on its way lasts milliseconds, so only what is so at two looks is left over.
        """
        replid = info.get("master_replid", "")
        was_so, self._detached[address] = self._detached.get(address) == replid, replid
        return was_so and meta.replid == standing.replid

    def _link(self, address: str) -> RedisLink:
        link = self._links.get(address)
        if link is None:
            link = RedisLink(
                address, self._target, self._options, timeout_s=self._options.connect_timeout_s
            )
            self._links[address] = link
        return link


def _followed(info: dict[str, str]) -> str:
    return f"{info.get('master_host', '')}:{info.get('master_port', '')}"
