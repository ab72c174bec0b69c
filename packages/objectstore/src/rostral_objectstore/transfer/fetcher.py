"""Gets objects from other nodes into this node's store: one transfer, however many ask.

Owns the fetches under way in this process. How the bytes of a large object come in is download.py;
a small one comes whole in the first answer, in the asker's own thread.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rostral_gcs.ids import ObjectID
from rostral_objectstore._native.table import ObjectTable
from rostral_objectstore.errors import (
    ChunkInvalidError,
    ObjectFetchError,
    ObjectFetchTimeoutError,
    ObjectNotTransferableError,
    SourceBusyError,
    SourceError,
    StoreClosedError,
)
from rostral_objectstore.handle import ObjectHandle
from rostral_objectstore.transfer.allocator import keep_freed_memory
from rostral_objectstore.transfer.channels import Channels
from rostral_objectstore.transfer.chunk_stream import Chunk, ChunkStream
from rostral_objectstore.transfer.config import FetchConfig
from rostral_objectstore.transfer.download import Download, describe_failures
from rostral_objectstore.transfer.messages import CHUNK_BYTES, Ticket, hex_of
from rostral_objectstore.transfer.roster import Roster
from rostral_objectstore.transfer.storage import ArrivingObject, Storage
from rostral_objectstore.transfer.wire_errors import from_flight, is_call_error

# How long to wait for another process of this node before looking whether it still lives.
_OTHERS_S = 0.2


def _closed_error() -> StoreClosedError:
    return StoreClosedError("nothing is fetched any more", hint="the fetcher was closed")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Terms:
    """What one asker wants."""

    id: bytes
    holders: Sequence[str]
    size_bytes: int | None
    holders_at_once: int
    deadline_s: float

    def left_s(self, now_s: float) -> float:
        """Seconds until the deadline, not below 0."""
        return max(0.0, self.deadline_s - now_s)


class _Fetch:
    """One transfer under way, and how it ended."""

    __slots__ = ("done", "error", "handle", "terms")

    def __init__(self, terms: _Terms) -> None:
        self.terms = terms
        self.done = threading.Event()
        self.handle: ObjectHandle | None = None
        self.error: Exception | None = None

    def may_work_for(self, holders: Sequence[str]) -> bool:
        """Whether one who joined a transfer that failed should try by itself.

        The time and the interrupts of the one who led are not those of the others; nor are its
        holders.
        """
        if self.error is None or isinstance(self.error, ObjectFetchTimeoutError):
            return True
        return isinstance(self.error, ObjectFetchError) and not set(holders) <= set(
            self.terms.holders
        )


class Fetcher:
    """Brings objects of other nodes into one store. All methods may be called from any thread.

    Args:
        table: the store that the objects come into.

    Raises: ConfigError, TokenFileError.
    """

    def __init__(
        self,
        table: ObjectTable,
        config: FetchConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        config.validate()
        self.config = config
        if config.freed_bytes_kept:
            keep_freed_memory(config.freed_bytes_kept)
        self._storage = Storage(table)
        self._channels = Channels(config.credentials, config.idle_connections_max)
        self._clock = clock
        self._lock = threading.Lock()
        self._fetches: dict[bytes, _Fetch] = {}
        self._places = threading.Semaphore(config.fetches_max)
        self._downloads: set[Download] = set()
        self._closed = False
        self._counts = {"transfers": 0, "joined": 0, "failed": 0, "bytes": 0}

    def fetch(
        self,
        id: ObjectID,
        holders: Sequence[str],
        *,
        size_bytes: int | None = None,
        holders_at_once: int | None = None,
        timeout_s: float | None = None,
    ) -> ObjectHandle:
        """A hold on the object in this node's store, fetched if it is not there yet; blocks.

        Args:
            id: the object's.
            holders: addresses of nodes that have it, `host:port`, the preferred first. The next is
                asked when one dies, stalls, lies or does not have it.
            size_bytes: how large it is, if that is known: a holder that says otherwise is not used.
            holders_at_once: how many may send at the same time; the config's if None. With 1, as
                in a broadcast, the others are only for when the first fails.
            timeout_s: for the whole; the config's if None.

        Raises:
            ObjectFetchError: no holder could give it; the message says why for each.
            ObjectFetchTimeoutError: it did not arrive in time.
            ObjectNotTransferableError: it refers to other objects.
            ObjectStoreFullError, OutOfMemoryError: no room for it here.
            ConfigError: a holder's address cannot be used.
        """
        asked = self.config.check_holders(holders)
        if holders_at_once is not None and holders_at_once < 1:
            raise ValueError(f"holders_at_once is {holders_at_once}: at least 1")
        allowed_s = self.config.timeout_s if timeout_s is None else timeout_s
        terms = _Terms(
            id=id.binary(),
            holders=asked,
            size_bytes=size_bytes,
            holders_at_once=self.config.holders_at_once
            if holders_at_once is None
            else holders_at_once,
            deadline_s=self._clock() + allowed_s,
        )
        while True:
            found = self._storage.find(id.binary())
            if found is not None:
                return found
            with self._lock:
                if self._closed:
                    raise _closed_error()
                fetch = self._fetches.get(id.binary())
                leads = fetch is None
                if fetch is None:
                    fetch = self._fetches[id.binary()] = _Fetch(terms)
                else:
                    self._counts["joined"] += 1
            if leads:
                return self._lead(fetch)
            if not fetch.done.wait(terms.left_s(self._clock())):
                raise self._too_late(terms)
            if fetch.handle is not None:
                return self._storage.share(fetch.handle)
            if fetch.error is not None and not fetch.may_work_for(asked):
                raise copy.copy(fetch.error) from fetch.error

    def stats(self) -> Mapping[str, int]:
        """Since the start: transfers begun, askers that joined one, transfers failed, bytes."""
        with self._lock:
            return {**self._counts, "running": len(self._fetches)}

    def close(self) -> None:
        """Ends the fetches under way, which raise StoreClosedError, within a call's time.

        Idempotent.
        """
        with self._lock:
            self._closed = True
            downloads = list(self._downloads)
        for download in downloads:
            download.cancel(_closed_error())
        self._channels.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    # ---- leading a transfer

    def _lead(self, fetch: _Fetch) -> ObjectHandle:
        terms = fetch.terms
        try:
            if not self._places.acquire(timeout=terms.left_s(self._clock())):
                raise self._too_late(terms)
            try:
                handle = self._transfer(terms)
            finally:
                self._places.release()
            fetch.handle = self._storage.share(handle)
            return handle
        except BaseException as error:
            if isinstance(error, Exception):
                fetch.error = error
            self._count("failed")
            raise
        finally:
            with self._lock:
                del self._fetches[terms.id]
            fetch.done.set()

    def _transfer(self, terms: _Terms) -> ObjectHandle:
        self._count("transfers")
        config = self.config
        roster = Roster(
            terms.holders,
            at_once=terms.holders_at_once,
            pause_s=config.busy_pause_s,
            pause_s_max=config.busy_pause_s_max,
        )
        while True:
            first = self._first_chunk(terms, roster)
            arriving = self._storage.create(first.header.facts)
            if arriving is not None:
                return self._fill(arriving, first, roster, terms)
            # Somebody else on this node writes it. If that one dies, it is for us again.
            handle = self._storage.wait(terms.id, min(_OTHERS_S, terms.left_s(self._clock())))
            if handle is not None:
                return handle

    def _first_chunk(self, terms: _Terms, roster: Roster) -> Chunk:
        """The first chunk, from the first holder that has a good one."""
        while not roster.empty:
            if self._closed:
                raise _closed_error()
            now_s = self._clock()
            if now_s >= terms.deadline_s:
                raise self._too_late(terms, roster)
            holder = roster.choose(now_s)
            if holder is None:
                time.sleep(max(0.0, min(roster.wakes_at_s(), terms.deadline_s) - now_s))
                continue
            try:
                return self._ask(terms, holder)
            except Exception as error:
                self._note(roster, holder, error)
            finally:
                roster.release(holder)
        raise ObjectFetchError(
            f"no holder could give object {hex_of(terms.id)}: {describe_failures(roster)}",
            hint="ask where else the object is, or let its task run again",
        )

    def _ask(self, terms: _Terms, holder: str) -> Chunk:
        allowed_s = min(terms.left_s(self._clock()), self.config.stall_timeout_s)
        options = self._channels.options(allowed_s)
        with self._channels.connection(holder) as connection:
            (chunk,) = ChunkStream(connection, Ticket(terms.id), options).chunks()
        chunk.check()
        size = chunk.header.facts.size
        if terms.size_bytes not in (None, size):
            raise ChunkInvalidError(f"it has {size} bytes by this id, not {terms.size_bytes}")
        return chunk

    def _note(self, roster: Roster, holder: str, error: Exception) -> None:
        """Why the holder failed; raises what is not the holder's fault, or not its alone."""
        if not is_call_error(error):
            raise error
        reason = error if isinstance(error, SourceError) else from_flight(error)
        if isinstance(reason, ObjectNotTransferableError):
            raise reason from error
        if isinstance(reason, SourceBusyError):
            roster.rest(holder, self._clock())
        else:
            roster.drop(holder, str(reason))

    def _fill(
        self, arriving: ArrivingObject, first: Chunk, roster: Roster, terms: _Terms
    ) -> ObjectHandle:
        facts = first.header.facts
        try:
            if facts.size <= CHUNK_BYTES:
                first.write_to(arriving.buffer)
            else:
                self._download(arriving, first, roster, terms)
            handle = arriving.seal()
        except ChunkInvalidError as error:
            arriving.abort()
            raise ObjectFetchError(
                f"object {hex_of(facts.id)} came whole, but is none: {error.message}",
                hint="a holder's store is damaged, or of another version",
            ) from error
        except BaseException:
            arriving.abort()
            raise
        self._count("bytes", facts.size)
        return handle

    def _download(
        self, arriving: ArrivingObject, first: Chunk, roster: Roster, terms: _Terms
    ) -> None:
        download = Download(
            facts=first.header.facts,
            target=arriving.buffer,
            roster=roster,
            channels=self._channels,
            config=self.config,
            clock=self._clock,
        )
        with self._lock:
            if self._closed:
                raise _closed_error()
            self._downloads.add(download)
        try:
            download.run(first, deadline_s=terms.deadline_s)
        finally:
            with self._lock:
                self._downloads.discard(download)

    def _count(self, what: str, by: int = 1) -> None:
        with self._lock:
            self._counts[what] += by

    def _too_late(self, terms: _Terms, roster: Roster | None = None) -> ObjectFetchTimeoutError:
        failures = "" if roster is None else describe_failures(roster)
        return ObjectFetchTimeoutError(
            f"object {hex_of(terms.id)} did not arrive in time" + (failures and f"; {failures}"),
            hint="allow more time, or look at the network between the nodes",
            object_ref_hex=hex_of(terms.id),
        )
