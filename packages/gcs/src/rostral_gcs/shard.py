"""A shard: one thread that owns one backend and commits writes in groups.

This file owns the thread, its bounded queue and the order of things: writes that wait together are
planned (``shard_core.py``), committed once, published to watchers, and only then acknowledged;
reads that wait with them are answered after that commit, so that whoever saw an acknowledgement
reads its write. It knows no RPC and no row types.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Final, TypeVar, cast

from rostral_gcs.backends.base import (
    Answer,
    Backend,
    Change,
    Columns,
    Gathered,
    Movable,
    Opened,
    Prompt,
    Row,
    WritesBehind,
)
from rostral_gcs.config import GcsConfig
from rostral_gcs.errors import (
    ControlPlaneFullError,
    GcsError,
    GcsInternalError,
    GcsOverloadedError,
    ShardsMovedError,
    StateMovedError,
    StorageUnavailableError,
)
from rostral_gcs.loop_commits import LoopCommits
from rostral_gcs.shard_commands import (
    Append,
    Command,
    Read,
    Write,
    is_critical,
    plan_appends,
    wanted_rows,
    weight,
)
from rostral_gcs.shard_core import (
    Op,
    OpResult,
    WritePlanner,
    decode_results,
    encode_results,
)
from rostral_gcs.shard_delivery import Delivery, Outcomes, Parcel, Publish
from rostral_gcs.shard_reads import ShardReads
from rostral_gcs.tables.registry import TableSpec

__all__ = ["Publish", "Shard"]

logger = logging.getLogger("rostral.gcs.shard")

_T = TypeVar("_T")

# Old answers and history are dropped in small steps, after this many commits.
_HOUSEKEEPING_COMMITS: Final = 256

# A write is planned anew when others wrote meanwhile; one of them succeeds each time, and the pause
# in between is short and random.
_PLANS_MAX: Final = 100
_PLAN_PAUSE_S: Final = 0.002
_CATCH_UP_COUNT: Final = 1000
# With nothing to do for so long, what was put off is done.
_IDLE_S: Final = 0.01
# After so many commits of the loop, the thread looks after the house.
_LOOP_COMMITS: Final = 64


class Shard(ShardReads):
    """One shard. Made, started, used and closed on one event loop.

    Args:
        index: Its number, for messages.
        backend: Its storage; the shard opens and closes it.
        config: Bounds.
        publish: Told of every commit before its writers are, others' commits included.
        restart: Told, on the event loop, of a sequence below which history is to be read from the
            shard again: what was published of it may be wrong, or have holes.
    """

    def __init__(
        self,
        *,
        index: int,
        backend: Backend,
        config: GcsConfig,
        publish: Publish,
        restart: Callable[[int], None],
    ) -> None:
        super().__init__(backend, config)
        self.index = index
        self._publish = publish
        self._restart = restart
        self._queue: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._delivery: Delivery | None = None
        # Held by who uses the backend: the thread, or the loop for a commit of its own.
        self._turn = threading.Lock()
        self._prompt = backend if isinstance(backend, Prompt) and config.commit_on_loop else None
        self._loop_commits: LoopCommits | None = None
        self._loop_commit_count = 0
        self._loop_commit_s = 0.0
        self._settling: asyncio.TimerHandle | None = None
        self._last_sequence = 0
        self._trimmed_sequence = 0
        self._base_sequence = 0
        self._gaps: tuple[tuple[int, int], ...] = ()
        self._history_size = 0
        self._commit_count = 0
        self._wake_queued = False
        self._closing = False
        self._queued_size = 0

    @property
    def last_sequence(self) -> int:
        """The newest committed sequence number that the shard's thread has set."""
        return self._last_sequence

    @property
    def trimmed_sequence(self) -> int:
        """History up to and including this sequence is gone."""
        return self._trimmed_sequence

    @property
    def queued_count(self) -> int:
        """Commands that wait for the thread."""
        return self._queue.qsize()

    @property
    def gaps(self) -> tuple[tuple[int, int], ...]:
        """Sequences that no change has; see ``Opened``."""
        return self._gaps

    async def start(self) -> None:
        """Opens the backend and starts the thread.

        Raises:
            StorageError: The file cannot be opened.
            VersionMismatchError: It was written by another version.
        """
        self._loop = asyncio.get_running_loop()
        self._delivery = Delivery(self._loop, self._publish)
        if self._prompt is not None:
            self._loop_commits = LoopCommits(self._loop, self._commit_here, self._queue.put)
        self._backend.listen(self._wake)
        self._take_standing(await asyncio.to_thread(self._backend.open))
        self._thread = threading.Thread(
            target=self._run, name=f"gcs-shard-{self.index}", daemon=True
        )
        self._thread.start()

    async def close(self) -> None:
        """Finishes the queued commands, closes the backend and ends the thread."""
        # What came after the end mark would wait for ever.
        self._closing = True
        if self._loop_commits is not None:
            self._loop_commits.pass_all_on()
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        if self._thread is not None:
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)
            self._thread = None
            self._backend.close()

    async def write(self, request_id: bytes, ops: Sequence[Op]) -> list[OpResult]:
        """Applies each op on its own; returns when the strictest class among them is satisfied.

        The same request id within the retry window gets the first answer and changes nothing.

        Raises:
            GcsOverloadedError: Too many commands wait.
            StorageError: The disk failed; nothing of the request was applied.
        """
        future: asyncio.Future[list[OpResult]] = self._new_future()
        self._submit(Write(request_id, ops, future))
        return await future

    async def append(self, request_id: bytes, columns: Columns) -> None:
        """Writes rows of an appended table, all or none; returns when no death can lose them.

        Args:
            request_id: As in ``write``.
            columns: The rows; their sequences are given out here.

        Raises:
            GcsOverloadedError: Too many commands, or too many bytes, wait.
            ControlPlaneFullError: There is no room for them in memory.
            StorageError: The disk failed; nothing of the request was applied.
        """
        size = len(columns.values)
        if self._queued_size and self._queued_size + size > self._config.queue_size_max:
            raise GcsOverloadedError(
                f"shard {self.index} has {self._queued_size} bytes waiting",
                hint="try again after a pause",
            )
        future: asyncio.Future[None] = self._new_future()
        self._queued_size += size
        try:
            self._submit(Append(request_id, columns, future))
            await future
        finally:
            self._queued_size -= size

    async def refresh(self) -> None:
        """Takes in and publishes what others have written up to now."""
        await self._query(lambda _: self._catch_up())

    async def adopt(self, spec: TableSpec, rows: Sequence[Row], last_sequence: int) -> None:
        """Takes in rows of another shard, with the versions that they have there."""

        def query(backend: Backend) -> None:
            assert isinstance(backend, Movable)  # Nothing else is asked to grow.
            backend.adopt(spec.number, rows, last_sequence)
            self._last_sequence = max(self._last_sequence, last_sequence)
            self._trimmed_sequence = max(self._trimmed_sequence, last_sequence)

        await self._query(query)

    async def drop(self, spec: TableSpec, keys: Sequence[bytes]) -> None:
        """Deletes rows that another shard has now; nobody is told."""
        await self._query(lambda backend: cast(Movable, backend).drop(spec.number, keys))

    async def history(self, after_sequence: int, limit: int) -> tuple[list[Change], int]:
        """Watchable changes after the sequence, and the sequence they are complete up to."""

        def query(backend: Backend) -> tuple[list[Change], int]:
            changes = backend.history(after_sequence, limit, self._config.page_size_max)
            # An unfilled page reached the end; a full one ends with its last change.
            complete = len(changes) < limit and not changes
            return changes, self._last_sequence if complete else changes[-1].sequence

        return await self._query(query)

    def _new_future(self) -> asyncio.Future[_T]:
        return asyncio.get_running_loop().create_future()

    async def _query(self, query: Callable[[Backend], _T]) -> _T:
        future: asyncio.Future[_T] = self._new_future()
        self._submit(cast("Read[object]", Read(query, future)))
        return await future

    def _submit(self, command: Command) -> None:
        if self._closing or self._thread is None:
            raise GcsOverloadedError("the server is stopping", hint="try again in a moment")
        offered = self._loop_commits
        waiting = self._queue.qsize() + (len(offered) if offered is not None else 0)
        if waiting >= self._config.queue_commands_max:
            raise GcsOverloadedError(
                f"shard {self.index} has {self._config.queue_commands_max} commands waiting",
                hint="try again after a pause, with larger batches",
            )
        if offered is not None and isinstance(command, Write):
            offered.offer(command)
        else:
            self._queue.put(command)

    # --- The loop itself -------------------------------------------------------------------------

    def _commit_here(self, writes: Sequence[Write], size: int) -> bool:
        """Commits on the loop, if the thread has nothing to do and it will not take long."""
        prompt = self._prompt
        assert prompt is not None
        if not self._queue.empty() or not self._turn.acquire(blocking=False):
            return False
        try:
            if not prompt.can_commit_at_once(
                wanted_rows(writes), size=size, last_sequence=self._last_sequence
            ):
                return False
            parcel = self._outcome_of(writes, lambda: self._plan_and_commit(writes, prompt))
        except StateMovedError:
            return False  # The thread looks what became of it, and plans anew.
        finally:
            self._turn.release()
        assert self._delivery is not None
        self._delivery.give(parcel)
        self._follow_up()
        return True

    def _follow_up(self) -> None:
        """Leaves to the thread what it does after commits of its own."""
        assert self._loop is not None
        self._loop_commit_s = time.monotonic()
        self._loop_commit_count += 1
        if self._loop_commit_count % _LOOP_COMMITS == 0:
            self._have_done(lambda: self._keep_house(_LOOP_COMMITS))
        if self._settling is None and isinstance(self._backend, WritesBehind):
            self._settling = self._loop.call_later(_IDLE_S, self._have_settled)

    def _have_settled(self) -> None:
        self._settling = None
        if not self._closing:
            # It settles when it finds nothing else to do.
            self._have_done(lambda: None)

    def _have_done(self, work: Callable[[], None]) -> None:
        assert self._loop is not None
        future: asyncio.Future[object] = self._loop.create_future()
        self._queue.put(cast("Read[object]", Read(lambda _: work(), future)))

    # --- The thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        stopping = False
        while not stopping:
            group, stopping = self._next_group()
            if group:
                with self._turn:
                    self._handle_group(group)

    def _next_group(self) -> tuple[list[Command], bool]:
        """Waits for a command and takes with it all that wait, up to the group limit."""
        group: list[Command] = []
        ops_count = 0
        command = self._next_command()
        while command is not None:
            group.append(command)
            ops_count += weight(command)
            if ops_count >= self._config.group_ops_max:
                return group, False
            try:
                command = self._queue.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _next_command(self) -> Command | None:
        backend = self._backend
        while isinstance(backend, WritesBehind) and not backend.is_settled:
            try:
                return self._queue.get(timeout=_IDLE_S)
            except queue.Empty:
                if time.monotonic() - self._loop_commit_s < _IDLE_S:
                    continue  # The loop is at it, and would have to wait.
                try:
                    with self._turn:
                        backend.settle()
                except GcsError:
                    break  # The next call that needs it tries again, and its caller is told.
        return self._queue.get()

    def _handle_group(self, group: Sequence[Command]) -> None:
        wrote = False
        # In their order, since a conditional write must see the row that one before it appended.
        for kind, run in groupby((c for c in group if not isinstance(c, Read)), type):
            wrote = True
            if kind is Append:
                self._handle_appends([c for c in run if isinstance(c, Append)])
            else:
                self._handle_writes([c for c in run if isinstance(c, Write)])
        for command in group:
            if isinstance(command, Read):
                self._handle_read(command)
        if wrote:
            self._keep_house()

    def _handle_read(self, command: Read[object]) -> None:
        try:
            outcome = command.query(self._backend)
        except GcsError as error:
            outcome = error
        except Exception as error:
            outcome = self._internal("query", error)
        self._send(Parcel([(command.future, outcome)]))

    def _internal(self, what: str, error: Exception) -> GcsInternalError:
        # The thread must outlive any one group, or every later caller would hang.
        logger.error("shard=%d %s failed", self.index, what, exc_info=error)
        return GcsInternalError(f"{what} failed: {error!r}")

    def _handle_writes(self, writes: Sequence[Write]) -> None:
        self._send(
            self._outcome_of(
                writes, lambda: self._until_planned(lambda: self._plan_and_commit(writes, None))
            )
        )

    def _outcome_of(
        self,
        writes: Sequence[Write],
        commit: Callable[[], tuple[list[Change], list[list[OpResult]]]],
    ) -> Parcel:
        """Commits. Raises only StateMovedError; other errors are the writers'."""
        changes: list[Change] = []
        futures = [cast("asyncio.Future[object]", write.future) for write in writes]
        try:
            changes, results = commit()
            outcomes: Outcomes = list(zip(futures, results, strict=True))
        except StateMovedError:
            raise
        except Exception as error:
            outcomes = self._failed(futures, error)
        return Parcel(outcomes, self._last_sequence, changes)

    def _handle_appends(self, appends: Sequence[Append]) -> None:
        futures = [cast("asyncio.Future[object]", append.future) for append in appends]
        try:
            self._commit_appends(appends)
            outcomes: Outcomes = [(future, None) for future in futures]
        except ControlPlaneFullError as error:
            if len(appends) > 1:
                # Some of them may be what has its way all the same.
                for append in appends:
                    self._handle_appends([append])
                return
            outcomes = [(futures[0], error)]
        except Exception as error:
            outcomes = self._failed(futures, error)
        self._send(Parcel(outcomes, self._last_sequence))

    def _failed(self, futures: Sequence[asyncio.Future[object]], error: Exception) -> Outcomes:
        if isinstance(error, GcsOverloadedError | ShardsMovedError):
            # Back-pressure is no failure, nor is a growth; both may be told very often.
            logger.debug("shard=%d refuses for now: %s", self.index, error)
            return [(future, error) for future in futures]
        if isinstance(error, GcsError):
            logger.error("shard=%d commit failed: %s", self.index, error)
            return [(future, error) for future in futures]
        failure = self._internal("commit", error)
        return [(future, failure) for future in futures]

    def _commit_appends(self, appends: Sequence[Append]) -> None:
        self._until_planned(lambda: self._plan_and_append(appends))

    def _plan_and_append(self, appends: Sequence[Append]) -> None:
        gathered = self._gather([append.request_id for append in appends], {})
        columns, answers, sequence = plan_appends(
            appends, gathered.answers, self._last_sequence, time.time()
        )
        if columns:
            self._backend.append(columns, answers)
        self._last_sequence = sequence

    def _until_planned(self, plan: Callable[[], _T]) -> _T:
        """Plans and commits, again when others wrote meanwhile or nobody knows what became of it.

        Only a backend that others share raises StateMovedError; the requests' ids keep what was
        done after all from being done twice.
        """
        for attempt in range(_PLANS_MAX):
            try:
                return plan()
            except StateMovedError as error:
                logger.debug("shard=%d plans again: %s", self.index, error)
                time.sleep(random.uniform(0, _PLAN_PAUSE_S * min(attempt, 10)))
        raise StorageUnavailableError(
            f"others wrote to shard {self.index} each of the {_PLANS_MAX} times that we tried",
            hint="use more shards, or fewer services",
        )

    def _gather(
        self, request_ids: Sequence[bytes], wanted: Mapping[int, Sequence[bytes]]
    ) -> Gathered:
        gathered = self._backend.gather(request_ids, wanted)
        if gathered.standing is not None:
            self._follow(gathered.standing)
        return gathered

    def _plan_and_commit(
        self, writes: Sequence[Write], prompt: Prompt | None
    ) -> tuple[list[Change], list[list[OpResult]]]:
        gathered = self._gather([write.request_id for write in writes], wanted_rows(writes))
        planner = WritePlanner(self._last_sequence, gathered.rows)
        answers: dict[bytes, Answer] = {}
        results: list[list[OpResult]] = []
        durable = False
        now_s = time.time()
        for write in writes:
            earlier = answers.get(write.request_id)
            payload = earlier.payload if earlier else gathered.answers.get(write.request_id)
            if payload is not None:
                results.append(decode_results(payload, write.ops))
                continue
            done = [planner.plan(op) for op in write.ops]
            answers[write.request_id] = Answer(write.request_id, encode_results(done), now_s)
            durable = durable or is_critical(write.ops)
            results.append(done)
        if answers:
            commit = self._backend.commit if prompt is None else prompt.commit_at_once
            commit(planner.changes, list(answers.values()), durable=durable)
        self._last_sequence = planner.last_sequence
        self._history_size += sum(len(c.value or b"") for c in planner.changes if c.watchable)
        return planner.changes, results

    # --- Others' writes --------------------------------------------------------------------------

    def _wake(self) -> None:
        """Others may have written. Any thread may say so, as often as it likes."""
        if self._wake_queued or self._closing or self._loop is None:
            return
        self._wake_queued = True

        def query(_: Backend) -> None:
            self._wake_queued = False
            try:
                self._catch_up()
            except GcsError as error:
                # Those who ask for something meet the same, and are told.
                logger.debug("shard=%d cannot catch up: %s", self.index, error)

        self._queue.put(cast("Read[object]", Read(query, self._loop.create_future())))

    def _catch_up(self) -> None:
        standing = self._backend.refresh()
        if standing is not None:
            self._follow(standing)

    def _follow(self, standing: Opened) -> None:
        """Publishes the changes between what we knew and ``standing``."""
        known = self._last_sequence
        if standing.last_sequence == known:
            self._take_standing(standing)
            return
        jumped = standing.gaps != self._gaps or standing.trimmed_sequence > known
        changes: list[Change] = []
        after = known
        while not jumped and after < standing.last_sequence:
            page = self._backend.history(after, _CATCH_UP_COUNT, self._config.page_size_max)
            changes += [change for change in page if change.sequence <= standing.last_sequence]
            if not page:
                break
            after = page[-1].sequence
        self._take_standing(standing)
        if jumped:
            if self._delivery is not None:
                self._delivery.call(lambda: self._restart(standing.last_sequence))
        else:
            self._send(Parcel([], self._last_sequence, changes))

    def _take_standing(self, standing: Opened) -> None:
        self._last_sequence = standing.last_sequence
        self._trimmed_sequence = standing.trimmed_sequence
        self._history_size = standing.history_size
        self._base_sequence = standing.base_sequence
        self._gaps = standing.gaps

    # --- Housekeeping ----------------------------------------------------------------------------

    def _keep_house(self, commits: int = 1) -> None:
        """Trims history over its bounds and drops old answers; a failure is only logged."""
        try:
            self._commit_count += commits
            if self._commit_count >= _HOUSEKEEPING_COMMITS:
                self._commit_count = 0
                self._backend.forget(time.time() - self._config.retry_window_s)
            floor = max(self._trimmed_sequence, self._base_sequence)
            kept = self._last_sequence - floor
            count_max = self._config.history_count_max
            # A tenth of slack, so that each trim drops many rows at once and trims are rare.
            if kept > count_max + count_max // 10 + 1:
                self._trim(self._last_sequence - count_max)
            elif self._history_size > self._config.history_size_max:
                self._trim(floor + max(1, kept // 4))
        except GcsError as error:
            logger.warning("shard=%d housekeeping failed: %s", self.index, error)

    def _trim(self, up_to_sequence: int) -> None:
        # Set first: a watcher must not resume from history that is about to go.
        self._trimmed_sequence = up_to_sequence
        self._history_size -= self._backend.trim(up_to_sequence)
        logger.debug("shard=%d trimmed history up to sequence=%d", self.index, up_to_sequence)

    def _send(self, parcel: Parcel) -> None:
        if self._delivery is not None:
            self._delivery.send(parcel)
