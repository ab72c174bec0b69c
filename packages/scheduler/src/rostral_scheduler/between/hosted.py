"""Tasks of other nodes that run here: the host's half of docs/across-nodes.md.

This file owns what origins have asked for, from their messages to their word that the results are
taken. To this node's workers such a task is one that the scheduler has submitted.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from rostral_gcs.errors import RostralError
from rostral_scheduler.between.actor_host import ActorHost
from rostral_scheduler.between.bringing import Bringing
from rostral_scheduler.between.guest import Guest, Origin, OriginSession, tell_begun
from rostral_scheduler.between.messages import (
    NO_CODE,
    ActorMoved,
    ActorsYielded,
    AskActor,
    Back,
    Beat,
    Call,
    Cancel,
    CreateActor,
    Done,
    Drain,
    EndActor,
    EndJob,
    Gone,
    HoldActor,
    Input,
    Job,
    LookForActors,
    Message,
    Outstanding,
    Push,
    Release,
    ReleaseActor,
    Result,
    Shape,
    Submit,
    Taken,
    Unfetched,
    Unknown,
    YieldActors,
    parts_of,
)
from rostral_scheduler.between.outgoing import Calls, located, stubs_of
from rostral_scheduler.between.parted_values import VALUE_BYTES_MAX
from rostral_scheduler.between.store_address import StoreAddress
from rostral_scheduler.between.stream import BEAT_INTERVAL_S, Outbox
from rostral_scheduler.between.transit_memory import (
    LATE,
    ClaimedTask,
    NotSealedError,
    ObjectFetchError,
    QueueClosedError,
    QueueFullError,
    TransitMemory,
    error_result,
)
from rostral_scheduler.config import LocalSchedulerConfig
from rostral_scheduler.errors import SchedulerError, TaskCancelledError
from rostral_scheduler.local.cancellations import Cancellations, Ladder

__all__ = ["Hosted"]

logger = logging.getLogger("rostral.scheduler.hosted")

_FETCHES_MAX = 16


class Hosted:
    """The tasks that this node runs for others, on the running event loop.

    Args:
        config: Of the scheduler.
        transit: The node's memory.
        cancellations: Makes running tasks end.
        actors: The node's, for others.
        calls: Those of others, for this node.
        begin_job: Makes a job known whose driver is elsewhere; does nothing for one that is.
        end_job: Ends a job whose driver is elsewhere.
        queue_for: The ready queue of a job for a shape. Raises SchedulerError.
        drain: Has this node leave, within so many seconds.
        holders: The stores of other nodes that have an object's bytes.
    """

    def __init__(
        self,
        config: LocalSchedulerConfig,
        transit: TransitMemory,
        cancellations: Cancellations,
        actors: ActorHost,
        calls: Calls,
        *,
        begin_job: Callable[[Job, OriginSession], None],
        end_job: Callable[[bytes], None],
        queue_for: Callable[[bytes, Shape], int],
        drain: Callable[[float], None],
        holders: Callable[[bytes], tuple[str, ...]],
    ) -> None:
        self._config, self._transit, self._cancellations = config, transit, cancellations
        self._actors, self._calls = actors, calls
        self._begin_job, self._end_job, self._queue_for = begin_job, end_job, queue_for
        self._drain, self._holders = drain, holders
        self.is_draining = False
        self.by_id: dict[bytes, Guest] = {}
        self._origins: dict[bytes, Origin] = {}
        self._dropped: set[bytes] = set()
        self._functions: dict[bytes, dict[bytes, Any]] = {}
        self._incoming: deque[tuple[Origin, Message]] = deque()
        self._wake = asyncio.Event()
        self._unsealed: list[Guest] = []
        # Calls whose records stay for replay: they have ended when their results are sealed.
        self.logged: list[Guest] = []
        self.yield_actors: Callable[[list[bytes], bytes], None] = lambda _, __: None
        self.thread = ThreadPoolExecutor(1, "rostral-hosted")
        self._fetchers = ThreadPoolExecutor(_FETCHES_MAX, "rostral-fetch")
        self._store = StoreAddress(config, transit, self._fetchers)
        self._bringing = Bringing(transit, self._fetchers, self._not_fetched)
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Takes in tasks from here on."""
        self._spawn(self._take_in())
        self._spawn(self._beat())

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_INTERVAL_S)
            for origin in self._origins.values():
                if origin.is_connected:
                    origin.outbox.send(Beat())

    async def stop(self) -> None:
        """Takes in no more, and forgets what it has."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._bringing.stop()
        for origin in self._origins.values():
            if origin.grace is not None:
                origin.grace.cancel()
        for threads in (self.thread, self._fetchers):
            threads.shutdown(wait=False, cancel_futures=True)
        self.by_id.clear()
        self._functions.clear()

    def _spawn(self, work: object) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- streams

    def connected(self, origin: bytes, outbox: Outbox) -> None:
        """The Host protocol of peer_server.py."""
        known = self._origins.get(origin)
        if known is None:
            self._origins[origin] = Origin(origin, outbox, was_dropped=origin in self._dropped)
            return
        if known.grace is not None:
            known.grace.cancel()
            known.grace = None
        known.outbox, known.is_connected = outbox, True

    def disconnected(self, origin: bytes, outbox: Outbox) -> None:
        """The Host protocol: the origin may come back, for a while."""
        known = self._origins.get(origin)
        if known is None or known.outbox is not outbox:
            return
        known.is_connected = False
        loop = asyncio.get_running_loop()
        known.grace = loop.call_later(
            self._config.peer_grace_s, self.origin_died, origin, "it did not come back"
        )

    def handle(self, origin: bytes, message: Message) -> None:
        """The Host protocol: what is asked for is done in order, and not here."""
        known = self._origins.get(origin)
        if known is not None:
            self._incoming.append((known, message))
            self._wake.set()

    def push(self, origin: bytes, message: Push) -> None:
        """Sends something to a job's driver, if its way is open."""
        known = self._origins.get(origin)
        if known is not None and known.is_connected:
            known.outbox.send(message)

    # ---- what origins ask for

    async def _take_in(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            # In a frame of its own, which keeps no hold on anything while this one waits.
            await self._take_some()
            while self._incoming:
                await self._take_some()

    async def _take_some(self) -> None:
        # What found its actor's mailbox full comes before all that has come since.
        waiting = [one for one in self._actors.take_waiting() if self._is_known(one)]
        guests = [(guest, self._mailbox_again(guest)) for guest in waiting]
        while self._incoming and isinstance(self._incoming[0][1], Submit | Call):
            origin, message = self._incoming.popleft()
            assert isinstance(message, Submit | Call)
            if (guest := self._admit(origin, message)) is not None:
                guests.append(guest)
        if guests:
            await self._submit_all(guests)
        if self._incoming and not isinstance(self._incoming[0][1], Submit | Call):
            origin, other = self._incoming.popleft()
            if isinstance(other, CreateActor):
                await self._create(origin, other)
                return
            try:
                self._do(origin, other)
            except Exception:
                # What one message does wrong must not stop all that come after it: tasks of a job
                # that could not be made known are refused one by one.
                logger.exception("cannot do what an origin asks: %s", type(other).__name__)

    async def _create(self, origin: Origin, message: CreateActor) -> None:
        """Its calls may follow at once; but not if it has a name, for which the GCS is asked."""
        if message.name:
            self._spawn(self._actors.create(origin, message))
        else:
            await self._actors.create(origin, message)

    def _do(self, origin: Origin, message: Message) -> None:
        match message:
            case Job():
                self._transit.watch()
                session = OriginSession(self.push, origin.node_id, message.job_id)
                self._begin_job(message, session)
            case Cancel():
                self._cancel(message)
            case ActorMoved():
                origin.outbox.send(self._calls.moved(message, origin.node_id))
            case YieldActors(actor_ids=actor_ids):
                self.yield_actors(actor_ids, origin.node_id)
                origin.outbox.send(ActorsYielded(actor_ids))
            case LookForActors():
                self._calls.look_for_actors()
            case EndActor():
                self._actors.end(message)
            case AskActor():
                self._actors.tell(origin, message)
            case HoldActor():
                self._actors.hold(origin, message)
            case ReleaseActor():
                self._actors.release(origin, message)
            case Taken(task_ids=task_ids, kept=kept):
                for task_id in task_ids:
                    self._taken(origin, task_id, set(kept))
            case Release(object_ids=object_ids):
                origin.release(object_ids)
            case EndJob(job_id=job_id):
                self._end_job(job_id)
            case Drain(deadline_s=deadline_s):
                self._drain(deadline_s)
            case Outstanding(task_ids=task_ids, kept=kept):
                self._compare(origin, set(task_ids), set(kept))

    def _taken(self, origin: Origin, task_id: bytes, kept: set[bytes]) -> None:
        guest = self.by_id.pop(task_id, None)
        if guest is not None:
            origin.keep(guest, kept)

    def _admit(self, origin: Origin, message: Submit | Call) -> tuple[Guest, int] | None:
        """A task that is new here, with the queue for it."""
        task = message.task if isinstance(message, Call) else message
        known = self.by_id.get(task.task_id)
        if known is not None and known.origin is not origin and known.origin.is_connected:
            # Two runs of its parent, on two nodes, have each submitted it: one at a time.
            origin.outbox.send(Back([task.task_id]))
            return None
        if known is not None:
            known.origin = origin
            if known.done is not None:
                self._send(known)
            return None
        if self.is_draining and isinstance(message, Submit):
            origin.outbox.send(Back([task.task_id]))
            return None
        guest = self.by_id[task.task_id] = Guest(task, origin)
        try:
            if isinstance(message, Call):
                self._transit.watch()
                guest.call = message
                queue = self._actors.mailbox_of(message, origin)
            else:
                queue = self._queue_for(task.job_id, task.shape)
        except RostralError as error:
            self._refuse(guest, error)
            return None
        if isinstance(queue, bytes):
            self._refuse(guest, queue)
            return None
        guest.stubs = stubs_of(task)
        self._calls.expect(guest.stubs)
        return guest, queue

    def _is_known(self, guest: Guest) -> bool:
        return self.by_id.get(guest.message.task_id) is guest

    def _mailbox_again(self, guest: Guest) -> int:
        assert guest.call is not None
        mailbox = self._actors.mailbox_of(guest.call, guest.origin)
        return 0 if isinstance(mailbox, bytes) else mailbox  # 0: closed, as it will find.

    async def _submit_all(self, guests: list[tuple[Guest, int]]) -> None:
        loop = asyncio.get_running_loop()
        errors = await loop.run_in_executor(self.thread, self._submit_now, guests)
        for (guest, _), error in zip(guests, errors, strict=True):
            if guest.call is not None and isinstance(error, QueueFullError):
                self._actors.wait_for_room(guest)
                continue
            if guest.call is not None and isinstance(error, QueueClosedError):
                self._refuse(guest, self._actors.death_of(guest.call.actor_id))
                continue
            if error is not None:
                self._refuse(guest, error)
                continue
            wanted = [*guest.message.inputs, *guest.message.beside]
            for given, handle in zip(wanted, guest.inputs, strict=True):
                if given.holders and not self._transit.is_here(handle):
                    self._bringing.bring(guest.message.task_id, given)
            guest.inputs = []
            if guest.call is not None and self._actors.is_logged(guest.call):
                self.logged.append(guest)
            if guest.cancelled is not None:
                self._cancel(guest.cancelled)
            if guest.has_ended:
                self._report(guest)
        self.look()

    def _submit_now(self, guests: list[tuple[Guest, int]]) -> list[Exception | None]:
        """In a thread that may wait for room. For each, what is in its way."""
        errors: list[Exception | None] = []
        full: dict[int, QueueFullError] = {}
        for guest, queue in guests:
            if queue in full:
                errors.append(full[queue])  # It must not overtake.
                continue
            try:
                guest.inputs = guest.inputs or self._inputs(guest.message)
                inputs = guest.inputs[: len(guest.message.inputs)]
                if guest.call is None:
                    guest.task = self._transit.submit(guest.message, queue, inputs)
                else:
                    guest.task = self._transit.submit_call(guest.call, queue, inputs)
                errors.append(None)
            except QueueFullError as error:
                errors.append(error)
                if guest.call is not None:
                    full[queue] = error
            except RostralError as error:
                errors.append(error)
            except Exception as error:
                logger.exception("cannot submit task=%s", guest.message.task_id.hex())
                errors.append(SchedulerError(f"the task cannot be submitted on its host: {error}"))
        return errors

    def _inputs(self, message: Submit) -> list[Any]:
        functions: dict[bytes, Any] = {}
        if message.function != NO_CODE:
            functions = self._functions.setdefault(message.job_id, {})
        # Until what refers to them is sealed, and where they are yet to come, until they have.
        held_beside = [self._transit.hold(given) for given in message.beside]
        held = []
        for index, given in enumerate(message.inputs):
            handle = functions.get(given.id) if given.known else None
            if handle is None:
                handle = self._transit.hold(given)
            if index == message.function:
                functions[given.id] = handle
            held.append(handle)
        return [*held, *held_beside]

    def _not_fetched(self, given: Input, error: RostralError, task_ids: set[bytes]) -> None:
        for task_id in task_ids:
            guest = self.by_id.get(task_id)
            if guest is None or guest.task is None or guest.has_ended:
                continue
            if isinstance(error, ObjectFetchError) and guest.call is None:
                # Not its fault, and not ours: its origin knows who else has it, or how it is made.
                guest.unfetched.append(given.id)
            self._transit.cancel(guest.task, 0, error)

    def _compare(self, origin: Origin, outstanding: set[bytes], kept: set[bytes]) -> None:
        """What the origin waits for, and what there is of it."""
        for task_id in origin.tasks_of(kept):
            self._taken(origin, task_id, kept)
        if gone := origin.compare(kept):
            origin.outbox.send(Gone(gone))
        ours = {task_id for task_id, guest in self.by_id.items() if guest.origin is origin}
        for task_id in ours - outstanding:
            self._drop(self.by_id[task_id])
        for task_id in ours & outstanding:
            if self.by_id[task_id].done is not None:
                self._send(self.by_id[task_id])
        if unknown := outstanding - ours:
            origin.outbox.send(Unknown(sorted(unknown)))

    def _cancel(self, message: Cancel) -> None:
        guest = self.by_id.get(message.task_id)
        if guest is None or guest.done is not None:
            return
        if guest.task is None:
            guest.cancelled = message
            return
        error = TaskCancelledError.of(message.task_id, is_late=bool(message.flags & LATE))
        grace_s = float("inf") if message.grace_s is None else message.grace_s
        ladder = Ladder(force=message.force, grace_s=grace_s)
        if self._transit.cancel(guest.task, message.flags, error):
            self._cancellations.climb(guest.task.task, message.task_id, ladder)
        if message.recursive:
            self._cancellations.cancel_children(message.task_id, ladder)

    # ---- leaving

    @property
    def keeps_results(self) -> bool:
        """Whether any origin counts on bytes that are here."""
        return any(origin.kept for origin in self._origins.values())

    def is_guest(self, task_id: bytes) -> bool:
        """The Guests protocol of leaving.py."""
        return task_id in self.by_id

    def give_back(self, claimed: ClaimedTask) -> None:
        """The Guests protocol: the record here ends, and nobody is told but the origin."""
        guest = self.by_id.pop(claimed.task_id)
        guest.origin.outbox.send(Back([claimed.task_id]))
        error = SchedulerError(f"task {claimed.task_id.hex()} went back to its origin")
        self.thread.submit(self._transit.fail, claimed, error)

    # ---- the end of tasks

    def look(self) -> None:
        """Reports what has ended."""
        for task_id in self._transit.take_done():
            guest = self.by_id.get(task_id)
            if guest is not None and not guest.has_ended:
                guest.has_ended = True
                if guest.task is not None:
                    self._report(guest)
        logged, self.logged = self.logged, []
        for guest in logged:
            assert guest.task is not None
            if guest.has_ended or not self._is_known(guest):
                continue
            if self._transit.all_sealed(guest.task):
                guest.has_ended = True
                self._report(guest)
            else:
                self.logged.append(guest)

    def tick(self) -> None:
        """Reports what was, or is, made without a record of ours."""
        self.look()
        tell_begun(self.by_id.values(), self._transit)
        if self._actors.has_waiting:
            self._wake.set()
        unsealed, self._unsealed = self._unsealed, []
        for guest in unsealed:
            if self._is_known(guest):
                self._report(guest)
        for guest in list(self.by_id.values()):
            if guest.has_ended or guest.task is None or guest.task.task:
                continue
            if self._transit.all_sealed(guest.task):
                guest.has_ended = True
                self._report(guest)

    def _report(self, guest: Guest) -> None:
        assert guest.task is not None
        if guest.unfetched:
            self.forget(guest)
            if guest.origin.is_connected:
                guest.origin.outbox.send(Unfetched(guest.message.task_id, guest.unfetched))
            return
        # Nobody can fetch what a replay has made: it has another id.
        inline_bytes = VALUE_BYTES_MAX if guest.is_replay else self._store.inline_bytes
        try:
            results = [self._transit.result(one, inline_bytes) for one in guest.task.results]
            beside = self._beside(results)
        except NotSealedError:
            self._unsealed.append(guest)
            return
        except RostralError as error:
            self._refuse(guest, error)
            return
        done = Done(guest.message.task_id, results, self._store.address, beside)
        if any(part.data is None for part in parts_of(done)) and not self._store.address:
            self._spawn(self._report_later(guest))
            return
        self._end(guest, done)

    def _end(self, guest: Guest, done: Done) -> None:
        """Says so, once an actor's call will not be forgotten."""
        guest.outcome = done
        say = partial(self._say, guest, done)
        if guest.call is None or guest.task is None:
            say()
        else:
            self._actors.logs.when_safe(guest.call.actor_id, guest.task, say)

    def _say(self, guest: Guest, done: Done) -> None:
        """Says so, once the actors that it may have kept handles of are held for this node."""

        def say() -> None:
            guest.done = done
            self._send(guest)

        stubs, guest.stubs = guest.stubs, []
        self._calls.settled(stubs, say)

    def _beside(self, results: list[Result]) -> list[Input]:
        """What results refer to; where that has its bytes on other nodes, it is fetched there."""
        beside = self._transit.beside(results, self._store.inline_bytes)
        return [located(given, self._holders(given.id)) for given in beside]

    async def _report_later(self, guest: Guest) -> None:
        """Once it is known where others fetch from this node's store."""
        try:
            await self._store.find()
        except RostralError as error:
            self._refuse(guest, error)
        else:
            self._report(guest)

    def _refuse(self, guest: Guest, error: Exception | bytes) -> None:
        """Its results are the error."""
        guest.has_ended = True
        failed: Result = error_result(error)
        results = [failed] * guest.message.return_count
        self._end(guest, Done(guest.message.task_id, results))

    def _send(self, guest: Guest) -> None:
        assert guest.done is not None
        if guest.origin.is_connected:
            guest.origin.outbox.send(guest.done)

    def _drop(self, guest: Guest) -> None:
        """Nobody wants it any more."""
        self.forget(guest)
        if guest.task is None or guest.has_ended or guest.call is not None:
            return  # An actor's calls are not undone by their callers' deaths.
        task_id = guest.message.task_id
        if self._transit.cancel(guest.task, 0, TaskCancelledError.of(task_id, is_late=False)):
            self._cancellations.climb(guest.task.task, task_id, Ladder(force=True))

    def forget(self, guest: Guest) -> None:
        """Nobody waits for its end any more."""
        self.by_id.pop(guest.message.task_id, None)
        stubs, guest.stubs = guest.stubs, []
        self._calls.settled(stubs, lambda: None)

    def origin_died(self, node_id: bytes, cause: str) -> None:
        """Nothing of what the node has asked for is wanted any more."""
        origin = self._origins.pop(node_id, None)
        if origin is None:
            return
        self._dropped.add(node_id)
        self._actors.origin_died(node_id)
        if origin.grace is not None:
            origin.grace.cancel()
        dropped = [guest for guest in self.by_id.values() if guest.origin is origin]
        logger.info("origin %s is gone: %s; dropped=%s", node_id.hex(), cause, len(dropped))
        for guest in dropped:
            self._drop(guest)

    def job_ended(self, job_id: bytes) -> None:
        """Its workers are being ended; nothing of it is reported."""
        self._functions.pop(job_id, None)
        for guest in [g for g in self.by_id.values() if g.message.job_id == job_id]:
            self.forget(guest)
        for origin in self._origins.values():
            origin.job_ended(job_id)
