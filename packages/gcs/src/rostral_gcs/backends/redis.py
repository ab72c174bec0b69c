"""The Redis backend: one shard's rows in a Redis that others may share with us.

This file owns what each call of a backend becomes in Redis, and how far a failure is dealt with
here. Reads are tried again until there is a primary; a commit never is, since only the shard can
plan it anew: it raises StateMovedError, and the request ids say what had been done after all.

What is told to anybody has been confirmed: before rows or changes of a generation are handed out
for the first time, as many replicas have it as a write waits for. So nothing that was read or
watched is taken back by a failover, except what a single server without replicas loses itself.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from rostral_gcs.archive.schema import Filter
from rostral_gcs.backends.base import Answer, Change, Columns, Gathered, Opened, Row
from rostral_gcs.backends.redis_archive import Archiving, RedisArchive
from rostral_gcs.backends.redis_calls import APPENDED, append_call, commit_call
from rostral_gcs.backends.redis_flusher import RedisFlusher
from rostral_gcs.backends.redis_keeper import RedisKeeper, Standing
from rostral_gcs.backends.redis_known import KnownRows
from rostral_gcs.backends.redis_layout import (
    APPEND,
    COMMIT,
    FORGET,
    LEASES_LEFT,
    LEASES_RENEW,
    META_FIELDS,
    ORDER,
    SCAN,
    TRIM,
    Keys,
    Meta,
    pack_changes,
    unpack_changes,
    unpack_row,
    upper_bound,
)
from rostral_gcs.backends.redis_link import (
    Command,
    LinkBrokenError,
    NotYetError,
    RedisLink,
    ReplyError,
    first_error,
)
from rostral_gcs.backends.redis_moving import RedisShards
from rostral_gcs.backends.redis_primary import Identity, Primary, PrimaryFinder
from rostral_gcs.backends.redis_work import Call, Work, ask_all, ask_together
from rostral_gcs.errors import (
    NotReplicatedError,
    StateMovedError,
    StorageError,
)
from rostral_gcs.redis_options import RedisOptions, Topology

__all__ = ["RedisBackend"]

logger = logging.getLogger("rostral.gcs.redis")

_PAUSE_S_MIN: Final = 0.001
_PAUSE_S_MAX: Final = 0.1
# After replicas were missed, how long further requests wait for them only once each.
_SHORT_S: Final = 1.0
_HISTORY_PACKS: Final = 64
# When nobody else has heard a hint, none is published for so long.
_ALONE_S: Final = 0.1
# How long a reply may take that somebody's event loop waits for.
_PATIENCE_S: Final = 0.002
# Batches of appended keys that are put in order at a time, about a millisecond for each.
_ORDER_BATCHES: Final = 4
# With more of them waiting, whoever appends puts as many in order as it adds, and more.
_UNORDERED_MAX: Final = 4096


class RedisBackend(RedisShards):
    """A shard's rows in Redis.

    Args:
        options: Checked.
        shard: Its index.
        identity: Of the store, shared by its shards; the first one opened settles it.
        archiving: Where rows go that are over, and when.
    """

    def __init__(
        self, options: RedisOptions, shard: int, identity: Identity, archiving: Archiving
    ) -> None:
        self._options = options
        self._target = options.target(shard)
        super().__init__(Keys(options.prefix, shard))
        self._finder = PrimaryFinder(self._target, options, self._keys, identity)
        self._primary: Primary | None = None
        self._meta: Meta | None = None
        self._known = KnownRows(leave_out=APPENDED)
        self._identity = identity
        self._archiving = archiving
        self._shard = shard
        self._archive = RedisArchive(
            archiving.form,
            self._keys,
            lambda: RedisBackend(options, shard, identity, archiving),
        )
        # Tables to which rows were appended whose keys may not be in order yet.
        self._unordered: set[int] = set()
        self._opened = False
        # The newest generation that as many replicas have as must.
        self._confirmed = -1
        self._short_until_s = 0.0
        # Tells our own hints from others'.
        self._name = os.urandom(8)
        self.flusher = RedisFlusher(
            self._archive, self._keys, name=self._name, rows_max=archiving.rows_max
        )
        self._wake: Callable[[], None] | None = None
        self._patience_s: float | None = None
        self._alone_until_s = 0.0
        self._keeper: RedisKeeper | None = None

    def listen(self, wake: Callable[[], None]) -> None:
        """Sets what is called, from any thread, when others may have written."""
        self._wake = wake

    def open(self) -> Opened:
        """Finds the primary; makes the shard when there is none."""
        self._opened = True
        # Who was here before may have left some.
        self._unordered = set(APPENDED)
        try:
            opened = self.refresh()
            self._archive.open(self._archiving.place(self._identity.cluster_id, self._shard))
            for table in APPENDED:
                (count,) = self._read([("HLEN", self._keys.rows(table))])
                self.flusher.note(table, count)
        except BaseException:
            self.close()
            raise
        if self._wake is not None:
            self._keeper = RedisKeeper(
                self._target,
                self._options,
                self._keys,
                name=self._name,
                standing=self._standing,
                wake=self._wake,
            )
            self._keeper.start()
        return opened

    def close(self) -> None:
        """Closes the connections."""
        self.flusher.close()
        self._archive.close()
        self._opened = False
        if self._keeper is not None:
            self._keeper.close()
            self._keeper = None
        self._finder.close()
        self._primary = None

    def refresh(self) -> Opened:
        """What there is now, whoever wrote it."""
        self._read_unmoved([])
        return self._known_meta().opened

    def gather(self, request_ids: Sequence[bytes], keys: Mapping[int, Sequence[bytes]]) -> Gathered:
        """Answers and rows that a group of writes must know, in one round trip or in none.

        When all rows that are wanted are known from the last commit, that is enough: the next one
        is refused if it is not so any more, or if a request has an answer.
        """
        wanted = [(table, part) for table, part in keys.items() if part]
        if self._opened and self._meta is not None and self._primary is not None:
            known = self._known.find(self._meta.moment, keys)
            if known is not None:
                return Gathered(answers={}, rows=known, standing=self._meta.opened)
        work: list[Work] = []
        if request_ids:
            work.append(("HMGET", self._keys.answers, *request_ids))
        work += [("HMGET", self._keys.rows(table), *part) for table, part in wanted]
        # The meta row comes first: a commit in between is then refused, and nothing is missed.
        replies = self._read(work, meta_first=True)
        answers: dict[bytes, bytes] = {}
        if request_ids:
            found = zip(request_ids, replies.pop(0), strict=True)
            answers = {request_id: payload for request_id, payload in found if payload is not None}
        rows = {
            (table, key): unpack_row(key, stored)
            for (table, part), values in zip(wanted, replies, strict=True)
            for key, stored in zip(part, values, strict=True)
            if stored is not None
        }
        meta = self._known_meta()
        self._known.learn(meta.moment, keys, rows)
        return Gathered(answers=answers, rows=rows, standing=meta.opened)

    def read(self, table: int, keys: Sequence[bytes]) -> dict[bytes, Row]:
        """The rows that exist among the keys, in Redis or in files."""
        found = self.live_rows(table, keys)
        if table in APPENDED and len(found) < len(keys) and self.meta.archived:
            gone = [key for key in keys if key not in found]
            # A row leaves Redis after its file is known, and that is read after the rows.
            found |= self._archive.read(table, gone, self.meta.archived, self.ask)
        return found

    def query(
        self, table: int, filters: Sequence[Filter], *, limit: int, token: bytes
    ) -> tuple[list[Row], bytes]:
        """A page of rows in Redis and in files; see ``RedisArchive.query``."""
        return self._archive.query(table, filters, limit=limit, token=token)

    @property
    def meta(self) -> Meta:
        """The shard's row, as of the last question."""
        return self._known_meta()

    def ask(self, work: Sequence[Work]) -> list[Any]:
        """Replies to what may be done twice; asks again while there is no primary."""
        return self._read(work)

    def live_rows(self, table: int, keys: Sequence[bytes]) -> dict[bytes, Row]:
        """The rows in Redis that exist among the keys."""
        if not keys:
            return {}
        (values,) = self._read_unmoved([("HMGET", self._keys.rows(table), *keys)])
        return {
            key: unpack_row(key, stored)
            for key, stored in zip(keys, values, strict=True)
            if stored is not None
        }

    def scan(
        self, table: int, prefix: bytes, after_key: bytes, limit: int, size_max: int
    ) -> tuple[list[Row], bool]:
        """A page of rows in key order."""
        lower = b"(" + after_key if after_key >= prefix and after_key else b"[" + prefix
        while table in APPENDED and self._order(table):
            pass
        keys = [self._keys.index(table), self._keys.rows(table)]
        arguments: list[object] = [lower, upper_bound(prefix), limit, size_max]
        (found,) = self._read_unmoved([Call(SCAN, keys, arguments)])
        rows = [unpack_row(found[at], found[at + 1]) for at in range(1, len(found), 2)]
        return rows, bool(found[0])

    def commit(
        self, changes: Sequence[Change], answers: Sequence[Answer], *, durable: bool
    ) -> None:
        """Applies all or nothing, if nobody has committed since ``gather``.

        Both classes of durability wait for the replicas: it costs a fraction of a millisecond, and
        so a failover takes back nothing that a watcher has seen.
        """
        del durable
        meta = self._meta_before(changes[0].sequence if changes else None)
        after, keys, arguments = commit_call(self._keys, meta, changes, answers)
        hint = any(change.watchable for change in changes)
        self._commit(meta, after, Call(COMMIT, keys, arguments), hint=hint)
        self._known.apply(meta.moment, after.moment, changes)

    def can_commit_at_once(
        self, keys: Mapping[int, Sequence[bytes]], *, size: int, last_sequence: int
    ) -> bool:
        """Whether it takes one round trip to a primary that is known."""
        meta = self._meta
        if meta is None or self._primary is None or meta.last_sequence != last_sequence:
            return False
        return self._opened and self._known.find(meta.moment, keys) is not None

    def commit_at_once(
        self, changes: Sequence[Change], answers: Sequence[Answer], *, durable: bool
    ) -> None:
        """As ``commit``; whoever waits longer than a moment looks later what became of it."""
        self._patience_s = _PATIENCE_S
        try:
            self.commit(changes, answers, durable=durable)
        finally:
            self._patience_s = None

    def append(self, columns: Sequence[Columns], answers: Sequence[Answer]) -> None:
        """Stores the rows as those of any table; they have no history."""
        self.flusher.poll()
        self.flusher.check_room(columns)
        meta = self._meta_before(columns[0].first_sequence if columns else None)
        after, keys, arguments = append_call(self._keys, meta, columns, answers)
        waiting, *counts = self._commit(meta, after, Call(APPEND, keys, arguments), hint=False)
        self._known.apply(meta.moment, after.moment, ())
        self._unordered.update(part.table for part in columns)
        for part, count in zip(columns, counts, strict=True):
            self.flusher.note(part.table, count)
        if waiting > _UNORDERED_MAX:
            for part in columns:
                self._order(part.table)

    @property
    def is_settled(self) -> bool:
        """Whether the keys of all that we appended are in order."""
        return not self._unordered

    def settle(self) -> None:
        """Puts some more of the keys in order."""
        for table in list(self._unordered):
            if not self._order(table):
                self._unordered.discard(table)

    def _order(self, table: int) -> int:
        """Puts a few batches of appended keys in order; how many are left."""
        keys = [self._keys.index(table), self._keys.pending(table)]
        (left,) = self._read([Call(ORDER, keys, [_ORDER_BATCHES])])
        return int(left)

    def _meta_before(self, first_sequence: int | None) -> Meta:
        meta = self._known_meta()
        self._check_writable(meta)
        if first_sequence is not None and first_sequence != meta.last_sequence + 1:
            raise StateMovedError(
                f"sequence {first_sequence} does not follow {meta.last_sequence}",
                hint="plan the writes again",
            )
        return meta

    def _commit(self, before: Meta, after: Meta, call: Call, *, hint: bool) -> list[int]:
        applied, wait, told = self._commit_once(before, call, hint=hint)
        if not applied:
            self._meta = None
            raise StateMovedError(
                "the shard was written to meanwhile, or the request is answered already",
                hint="plan the writes again",
            )
        self._meta = replace(after, wait=wait)
        self._confirmed = after.generation
        return told

    def recall(self, request_id: bytes) -> bytes | None:
        """The remembered payload of a request."""
        (payloads,) = self._read([("HMGET", self._keys.answers, request_id)])
        payload: bytes | None = payloads[0]
        return payload

    def forget(self, before_s: float) -> None:
        """Drops answers older than the time, some thousands at once."""
        keys = [self._keys.answers, self._keys.times]
        while self._read([Call(FORGET, keys, [repr(before_s)])])[0] == 1000:
            pass

    def history(self, after_sequence: int, limit: int, size_max: int) -> list[Change]:
        """Watchable changes after the sequence."""
        changes: list[Change] = []
        size = 0
        while True:
            start = changes[-1].sequence if changes else after_sequence
            bounds = (f"({start}", "+inf", "LIMIT", 0, _HISTORY_PACKS)
            (packs,) = self._read_unmoved([("ZRANGEBYSCORE", self._keys.history, *bounds)])
            for pack in packs:
                for change in unpack_changes(pack):
                    if change.sequence <= after_sequence:
                        continue
                    if len(changes) == limit or size > size_max:
                        return changes
                    changes.append(change)
                    size += len(change.value or b"")
            if len(packs) < _HISTORY_PACKS:
                return changes

    def trim(self, up_to_sequence: int) -> int:
        """Drops old history."""
        replaced = self._pack_across(up_to_sequence)
        keys = [self._keys.meta, self._keys.history]
        dropped = 0
        while True:
            arguments: list[object] = [up_to_sequence, *replaced]
            ((count, size),) = self._read([Call(TRIM, keys, arguments)])
            dropped += int(size)
            replaced = (b"", b"", b"")
            if count < 256:
                return dropped

    def share_leases(self, leases_s: Mapping[bytes, float]) -> None:
        """Has the leases run, by the primary's clock, which all services share."""
        arguments: list[object] = []
        for one, lease_s in leases_s.items():
            arguments += (one, round(lease_s * 1000))
        self._read([Call(LEASES_RENEW, [self._keys.leases], arguments)])

    def remaining_leases(self, ids: Sequence[bytes]) -> dict[bytes, float]:
        """Those that still run, in seconds."""
        (left,) = self._read([Call(LEASES_LEFT, [self._keys.leases], list(ids))])
        return {one: ms / 1000 for one, ms in zip(ids, left, strict=True) if ms > 0}

    # --- Reading, until there is a primary -------------------------------------------------

    def _read(self, work: Sequence[Work], *, meta_first: bool = False) -> list[Any]:
        """Does the work and confirms what it saw; again, while there is no primary.

        Only for what may be done twice.
        """
        self._check_open()
        deadline_s = time.monotonic() + self._options.deadline_s
        meta_row: Work = ("HMGET", self._keys.meta, *META_FIELDS)
        everything = [meta_row, *work] if meta_first else [*work, meta_row]
        pause_s = _PAUSE_S_MIN
        while True:
            try:
                primary = self._reach(deadline_s)
                replies = ask_all(primary.link, everything, self._finder.link_to)
                fields = replies.pop(0) if meta_first else replies.pop()
                self._take_meta(primary, fields)
                self._confirm(primary, deadline_s)
                return replies
            except LinkBrokenError as error:
                self._lose(error)
                failure: ReplyError | None = None
            except ReplyError as error:
                if not error.is_passing:
                    raise error.typed() from error
                failure = error
                if error.is_elsewhere:
                    self._lose(error)
            if failure is not None:
                if time.monotonic() >= deadline_s:
                    raise failure.typed() from failure
                time.sleep(pause_s)
                pause_s = min(_PAUSE_S_MAX, pause_s * 2)

    def _reach(self, deadline_s: float) -> Primary:
        if self._primary is None:
            self._primary = self._finder.find(deadline_s)
            self._take_found(self._primary)
        return self._primary

    def _take_found(self, primary: Primary) -> None:
        logger.info(
            "redis=%s is the primary of %s, epoch=%d wait=%d",
            primary.link.address,
            self._keys.meta.decode(),
            primary.meta.epoch,
            primary.meta.wait,
        )

    def _lose(self, error: LinkBrokenError | ReplyError) -> None:
        logger.info("redis=%s", error)
        if self._primary is not None:
            self._primary.link.close()
        self._primary = None
        self._meta = None
        if isinstance(error, ReplyError) and error.moved_to:
            self._finder.note_moved(error.moved_to)

    def _take_meta(self, primary: Primary, fields: Sequence[bytes | None]) -> None:
        meta = Meta.read(fields)
        if meta is None:
            self._primary = None
            raise StorageError(
                f"shard {self._keys.meta.decode()} is gone from Redis at {primary.link.address}",
                hint="somebody has emptied that Redis: restore it from its append-only file",
            )
        self._finder.known_epoch = max(self._finder.known_epoch, meta.epoch)
        self._meta = meta
        self._layout = meta.layout

    def _known_meta(self) -> Meta:
        self._check_open()
        if self._meta is None:
            raise StateMovedError("the shard was not read yet", hint="gather first")
        return self._meta

    # --- Replicas --------------------------------------------------------------------------

    def _confirm(self, primary: Primary, deadline_s: float) -> None:
        """Waits until replicas have what was seen just now, unless they had it before."""
        meta = self._known_meta()
        if meta.generation == self._confirmed:
            return
        if meta.wait:
            # WAIT speaks of this connection's own writes, so there must be one.
            touch: list[Work] = [("HSET", self._keys.meta, "touched", "1"), self._wait(meta)]
            link, replies = ask_together(primary.link, touch, self._finder.link_to)
            error = first_error(replies)
            if error is not None:
                raise error
            self._await_replicas(link, replies[1], meta.wait, deadline_s)
        self._confirmed = meta.generation

    def _await_replicas(
        self, link: RedisLink, acknowledged: int, wait: int, deadline_s: float
    ) -> None:
        """Waits until ``wait`` replicas have this connection's last write.

        Raises:
            LinkBrokenError: The connection broke, or the primary is one no more.
            NotReplicatedError: They are not there within the time.
        """
        while acknowledged < wait:
            now_s = time.monotonic()
            if self._finder.is_deposed():
                raise LinkBrokenError(link.address, "another server is the primary now")
            if now_s >= deadline_s or now_s < self._short_until_s:
                self._short_until_s = now_s + _SHORT_S
                raise NotReplicatedError(
                    f"{acknowledged} of {wait} replicas of Redis at {link.address} have "
                    "the newest writes",
                    hint="start the replicas, or lower redis_wait_replicas",
                )
            acknowledged = link.ask_one("WAIT", wait, self._wait_ms)

    def _wait(self, meta: Meta) -> Command:
        return ("WAIT", meta.wait, self._wait_ms)

    @property
    def _wait_ms(self) -> int:
        return max(1, round(self._options.wait_timeout_s * 1000))

    # --- Committing, once ------------------------------------------------------------------

    def _commit_once(self, before: Meta, call: Call, *, hint: bool) -> tuple[bool, int, list[int]]:
        """Runs the script; whether it was applied, how many replicas it waits for, what else."""
        primary = self._primary
        if primary is None:
            raise StateMovedError("there is no primary just now", hint="gather first")
        wait = before.wait
        behind: list[Work] = [("WAIT", wait, self._wait_ms)] if wait else []
        # Our own keeper hears it, too: where that is all, it would be woken for nothing.
        hint = hint and time.monotonic() >= self._alone_until_s
        if hint:
            sharded = self._target.topology is Topology.CLUSTER
            behind.append(("SPUBLISH" if sharded else "PUBLISH", self._keys.hints, self._name))
        try:
            link, replies = ask_together(
                primary.link,
                [call, *behind],
                self._finder.link_to,
                patience_s=self._patience_s,
            )
            if isinstance(replies[0], ReplyError):
                raise replies[0]
            applied, text, *more = replies[0]
            if hint and isinstance(replies[-1], int) and replies[-1] <= 1:
                self._alone_until_s = time.monotonic() + _ALONE_S
            # The script tells what holds at its own moment; it may be more than we knew of.
            wait_now = int(text or b"0")
            if applied and wait_now:
                acknowledged = replies[1] if wait and isinstance(replies[1], int) else 0
                if acknowledged < wait_now and self._patience_s is not None:
                    raise NotYetError
                deadline_s = time.monotonic() + self._options.deadline_s
                self._await_replicas(link, acknowledged, wait_now, deadline_s)
            return bool(applied), wait_now, more
        except LinkBrokenError as error:
            self._lose(error)
            raise StateMovedError(
                f"the connection broke during a commit: {error}", hint="look what was done"
            ) from error
        except ReplyError as error:
            self._meta = None
            if not error.is_passing:
                raise error.typed() from error
            if error.is_elsewhere:
                self._lose(error)
            raise StateMovedError(
                f"Redis put a commit off: {error}", hint="plan the writes again"
            ) from error
        except NotYetError as error:
            self._meta = None
            raise StateMovedError(
                "a commit takes longer than it may", hint="look what was done"
            ) from error
        except NotReplicatedError:
            # It is applied and not acknowledged: whoever asks again will find its answer.
            self._meta = None
            raise

    def _pack_across(self, up_to_sequence: int) -> tuple[bytes, bytes, object]:
        """The member that has changes on both sides, what is to be left of it, and its score."""
        (packs,) = self._read(
            [("ZRANGEBYSCORE", self._keys.history, f"({up_to_sequence}", "+inf", "LIMIT", 0, 1)]
        )
        for pack in packs:
            changes = unpack_changes(pack)
            kept = [change for change in changes if change.sequence > up_to_sequence]
            if len(kept) < len(changes):
                ((score, fresh),) = pack_changes(kept)
                return pack, fresh, score
        return b"", b"", b""

    def _check_open(self) -> None:
        if not self._opened:
            raise StorageError(
                f"shard {self._keys.meta.decode()} is not open", hint="start the server again"
            )

    def _standing(self) -> Standing | None:
        primary, meta = self._primary, self._meta
        if primary is None or meta is None:
            return None
        return Standing(primary.link.address, primary.replid, meta.epoch, meta.wait)
