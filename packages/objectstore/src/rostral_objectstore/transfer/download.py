"""Fills one large object from its holders: parallel streams, and another holder when one fails.

Each stream has a thread, which takes a stretch of the plan, a holder of the roster, and reads. The
thread that runs the download watches them: a stream that makes no progress is given up, and its
stretch goes to another. What a given-up thread still does cannot hurt: it may write only while it
holds a permit (`_Stream.writing`), and gets none any more.

    stretch taken -> call opened -> chunk read -> permitted, written, checked -> ... -> stretch done
         |               |              |               |
         '---------------'--------------'---------------'--> failed: holder dropped, rest given back
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from rostral_gcs.errors import RostralError
from rostral_objectstore.errors import (
    ChunkInvalidError,
    ObjectFetchError,
    ObjectFetchTimeoutError,
    SourceBusyError,
    SourceError,
    SourceStalledError,
)
from rostral_objectstore.transfer.channels import Call, Channels
from rostral_objectstore.transfer.chunk_plan import ChunkPlan
from rostral_objectstore.transfer.chunk_stream import Chunk
from rostral_objectstore.transfer.config import FetchConfig
from rostral_objectstore.transfer.extra import flight
from rostral_objectstore.transfer.messages import CHUNK_BYTES, ObjectFacts, Ticket, hex_of
from rostral_objectstore.transfer.roster import Roster
from rostral_objectstore.transfer.wire_errors import from_flight, is_call_error

logger = logging.getLogger("rostral.objectstore.transfer")


def _ran_out_of_time(error: Exception) -> bool:
    """Whether the call was merely longer than one may be: the next one goes on."""
    return isinstance(error, flight.FlightTimedOutError)


def describe_failures(roster: Roster) -> str:
    """Each holder and its reason, for an error's text."""
    return "; ".join(f"{holder}: {reason}" for holder, reason in roster.failures.items())


class _GivenUpError(Exception):
    """This stream was given up: its thread ends without a word."""


class _Stream:
    """One thread's work. All fields are under the download's lock."""

    __slots__ = ("call", "given_up", "holder", "progress_at_s", "rest", "writing")

    def __init__(self) -> None:
        self.holder: str | None = None
        self.rest = range(0)
        self.call: Call | None = None
        self.progress_at_s = 0.0
        self.writing = False
        self.given_up = False


class Download:
    """One object's bytes on their way. `run` once.

    Args:
        facts: what the first holder said of the object; the others must say the same.
        target: where the bytes belong; written until `run` ends and not after.
        roster: the holders.
    """

    def __init__(
        self,
        *,
        facts: ObjectFacts,
        target: memoryview,
        roster: Roster,
        channels: Channels,
        config: FetchConfig,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._facts, self._target = facts, target
        self._roster, self._channels = roster, channels
        self._config, self._clock = config, clock
        self._plan = ChunkPlan(
            size_bytes=facts.size,
            chunk_bytes=CHUNK_BYTES,
            stretch_chunks_max=config.stretch_bytes_max // CHUNK_BYTES,
        )
        self._changed = threading.Condition()
        self._streams: set[_Stream] = set()
        self._stream_count = 1
        self._over = False
        self._failure: BaseException | None = None

    def run(self, first: Chunk, *, deadline_s: float) -> None:
        """Returns when every byte is there and checked; `first` is the first chunk.

        Raises: ObjectFetchError, ObjectFetchTimeoutError.
        """
        first.write_to(self._target)
        self._plan.take_first()
        self._plan.arrived(0)
        self._stream_count = min(
            self._config.streams_per_holder * self._roster.at_once,
            self._plan.chunk_count - 1,
        )
        try:
            with self._changed:
                for _ in range(self._stream_count):
                    self._start_stream()
            self._watch(deadline_s)
        finally:
            self._stop()
            self._target.release()
        if self._failure is not None:
            raise self._failure
        if not self._plan.complete:
            raise self._unfinished(deadline_s)

    def _unfinished(self, deadline_s: float) -> ObjectFetchError:
        what = f"object {hex_of(self._facts.id)}"
        failures = describe_failures(self._roster)
        if self._roster.empty:
            return ObjectFetchError(
                f"no holder could give the whole of {what}: {failures}",
                hint="ask where else the object is, or let its task run again",
            )
        return ObjectFetchTimeoutError(
            f"{what} did not arrive in time" + (failures and f"; {failures}"),
            hint="allow more time, or look at the network between the nodes",
        )

    def cancel(self, error: Exception) -> None:
        """Lets `run`, in another thread, raise the error soon."""
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()

    # ---- the thread that watches

    def _start_stream(self) -> None:
        stream = _Stream()
        self._streams.add(stream)
        threading.Thread(
            target=self._work, args=(stream,), name="rostral-fetch", daemon=True
        ).start()

    def _watch(self, deadline_s: float) -> None:
        with self._changed:
            while self._streams and self._failure is None:
                now_s = self._clock()
                if now_s >= deadline_s:
                    return
                next_s = deadline_s
                for stream in list(self._streams):
                    stalls_at_s = stream.progress_at_s + self._config.stall_timeout_s
                    if stream.holder is None or stream.writing:
                        continue
                    if stalls_at_s <= now_s:
                        self._replace(stream)
                    else:
                        next_s = min(next_s, stalls_at_s)
                self._changed.wait(max(0.0, next_s - now_s))

    def _replace(self, stream: _Stream) -> None:
        holder = stream.holder
        assert holder is not None
        error = SourceStalledError(f"it sent no chunk for {self._config.stall_timeout_s:g} s")
        logger.warning("holder stalls, left holder=%s object=%s", holder, self._facts.id.hex())
        self._roster.drop(holder, str(error))
        self._give_up(stream)
        # Those that wait for a stretch have one to take, or learn that nobody is left to ask.
        self._changed.notify_all()
        if not self._roster.empty:
            self._start_stream()

    def _give_up(self, stream: _Stream) -> None:
        stream.given_up = True
        self._streams.discard(stream)
        self._plan.give_back(stream.rest)
        if stream.call is not None:
            stream.call.cancel()

    def _stop(self) -> None:
        """Nobody writes to the target any more when this returns."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
            for stream in list(self._streams):
                if not stream.writing:
                    self._give_up(stream)
            # Those that write have a chunk left to copy, and end by themselves.
            while self._streams:
                self._changed.wait()

    # ---- the streams' threads

    def _work(self, stream: _Stream) -> None:
        try:
            while self._take_work(stream):
                self._read(stream)
        except _GivenUpError:
            pass
        except BaseException as error:
            with self._changed:
                self._failure = self._failure or error
        finally:
            with self._changed:
                self._streams.discard(stream)
                self._changed.notify_all()

    def _take_work(self, stream: _Stream) -> bool:
        """Waits until there is a stretch to fetch and a holder to fetch it from; False: no more."""
        with self._changed:
            while not (self._over or stream.given_up or self._plan.complete or self._roster.empty):
                now_s = self._clock()
                stretch = self._plan.take(self._stream_count)
                if stretch is None:
                    # Others have the rest: it may come back.
                    self._changed.wait()
                    continue
                holder = self._roster.choose(now_s)
                if holder is None:
                    self._plan.give_back(stretch)
                    self._changed.wait(max(0.0, self._roster.wakes_at_s() - now_s))
                    continue
                stream.holder, stream.rest, stream.progress_at_s = holder, stretch, now_s
                self._changed.notify_all()  # the watcher has one more to watch
                return True
        return False

    def _read(self, stream: _Stream) -> None:
        """One stretch from one holder, or a part of it: the rest is given back."""
        holder = stream.holder
        assert holder is not None
        before = len(stream.rest)
        offset, length = self._plan.place(stream.rest)
        try:
            ticket = Ticket(self._facts.id, offset, length)
            with self._channels.call(holder, ticket, self._config.call_timeout_s) as call:
                with self._changed:
                    self._check_wanted(stream)
                    stream.call = call
                try:
                    for chunk in call.chunks():
                        self._accept(stream, chunk)
                finally:
                    with self._changed:
                        stream.call = None
        except Exception as error:
            self._failed(stream, holder, error, progressed=len(stream.rest) < before)
        with self._changed:
            self._roster.release(holder)
            stream.holder = None

    def _check_wanted(self, stream: _Stream) -> None:
        if stream.given_up or self._over:
            raise _GivenUpError

    def _accept(self, stream: _Stream, chunk: Chunk) -> None:
        if chunk.header.facts != self._facts:
            raise ChunkInvalidError(
                f"it has {chunk.header.facts.size} bytes of kind {chunk.header.facts.kind} by this "
                f"id, the first holder {self._facts.size} of kind {self._facts.kind}"
            )
        with self._changed:
            self._check_wanted(stream)
            stream.writing = True
        try:
            chunk.write_to(self._target)
        finally:
            with self._changed:
                stream.writing = False
        with self._changed:
            self._plan.arrived(stream.rest.start)
            stream.rest = stream.rest[1:]
            stream.progress_at_s = self._clock()
            if self._plan.complete:
                self._changed.notify_all()

    def _failed(self, stream: _Stream, holder: str, error: Exception, *, progressed: bool) -> None:
        with self._changed:
            if stream.given_up:
                raise _GivenUpError from error
            self._plan.give_back(stream.rest)
            stream.rest = range(0)
            self._changed.notify_all()
            if isinstance(error, _GivenUpError) or not is_call_error(error):
                raise error
            reason = error if isinstance(error, SourceError) else from_flight(error)
            if isinstance(reason, SourceBusyError):
                self._roster.rest(holder, self._clock())
            elif not (progressed and _ran_out_of_time(error)):
                self._drop(holder, reason)

    def _drop(self, holder: str, reason: RostralError) -> None:
        logger.warning(
            "holder left holder=%s object=%s reason=%s", holder, self._facts.id.hex(), reason
        )
        self._roster.drop(holder, str(reason))
