"""What this node's actors with checkpoints do, written into the GCS, so that their node may die.

This file owns what is written when: a checkpoint soon after it was made, calls since it in batches,
each as soon as the one before is there. Results of calls leave the node once those calls are safe;
callers on this node do not wait, and die with it. Which calls are safe is `core/call_log.py`'s
affair, the form of what is written `actor_pasts.py`'s.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from rostral_gcs.errors import AlreadyExistsError, GcsError
from rostral_scheduler.between.actor_pasts import ActorPasts, Past, Saved, batches
from rostral_scheduler.between.logged_calls import logged_call
from rostral_scheduler.between.messages import Call, Done
from rostral_scheduler.between.parted_values import VALUE_BYTES_MAX
from rostral_scheduler.between.transit_memory import (
    HostedTask,
    NotSealedError,
    NotTransferableError,
    TransitMemory,
)
from rostral_scheduler.core.call_log import Append, CallLog, LookFor, Save
from rostral_scheduler.errors import LimitReachedError
from rostral_scheduler.local.actor_record import ActorRecord, ActorStage
from rostral_scheduler.local.actors import Actors
from rostral_scheduler.local.node_memory import NodeMemory

__all__ = ["GIVEN_AWAY", "ActorLogs"]

logger = logging.getLogger("rostral.scheduler.actor_logs")

_PAUSE_S = 0.2
_KEEP_PAUSE_S = 0.001
_KEEP_PAUSE_S_MAX = 0.05
GIVEN_AWAY = "it was given to another node, which goes on with it"


@dataclass(slots=True, eq=False)
class _Log:
    """One actor's."""

    actor_id: bytes
    calls: CallLog[Call] = field(default_factory=CallLog)
    number: int = 0
    """Of the newest row; 0: there is none yet."""
    batches: deque[tuple[int, int]] = field(default_factory=deque)
    """First and last places of what is in the log."""
    is_begun: bool = False
    is_over: bool = False
    """It is not kept for other nodes, or not any more: nobody waits for it."""
    lost: str = ""
    """Why something cannot be written: only the next checkpoint mends that."""
    is_lost: bool = False
    """And the GCS knows: nobody waits, until then."""
    failed_covers: int = -1
    """Of the last checkpoint that cannot be written."""
    finished_count: int = 0
    """Calls that its process had ended when they were looked for last."""
    writing: asyncio.Task[None] | None = None


class ActorLogs:
    """Those of one node, on the running event loop.

    Args:
        pasts: In the GCS.
        transit: The node's memory.
        memory: The same.
        actors: The node's.
    """

    def __init__(
        self, pasts: ActorPasts, transit: TransitMemory, memory: NodeMemory, actors: Actors
    ) -> None:
        self._pasts, self._transit, self._memory, self._actors = pasts, transit, memory, actors
        self._logs: dict[bytes, _Log] = {}
        self.answers_of: Callable[[bytes, int], list[Done]] = lambda _, __: []
        """The results of an actor's first calls whose callers have not said that they have them."""
        actors.on_checkpoint = self._checkpointed

    async def stop(self) -> None:
        """Writes no more."""
        running = [log.writing for log in self._logs.values() if log.writing is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    # ---- which actors

    def begin(self, actor_id: bytes) -> None:
        """It is known elsewhere how the actor is made: from here on its past is written."""
        actor = self._actors.by_id.get(actor_id)
        if actor is None or not actor.is_checkpointed:
            return
        log = self._log_of(actor_id)
        log.is_begun = True
        if actor.checkpoint is not None:
            log.calls.made(int(actor.checkpoint["covers"]))
        self._go_on(log)

    def resume(self, actor_id: bytes, past: Past) -> None:
        """The actor has come here, with what is in the GCS."""
        log = self._log_of(actor_id)
        log.calls = CallLog(past.covers, past.covers + len(past.calls))
        log.number, log.is_begun = past.number, True
        for first, calls in batches(past.covers + 1, past.calls):
            log.batches.append((first, first + len(calls) - 1))

    def give_up(self, actor_id: bytes) -> None:
        """The actor will never be made elsewhere."""
        log = self._log_of(actor_id)
        log.is_over = True
        log.calls.give_up()

    def end(self, actor_id: bytes) -> None:
        """The actor is dead."""
        log = self._logs.pop(actor_id, None)
        if log is not None:
            if log.writing is not None:
                log.writing.cancel()
            log.calls.give_up()

    def _log_of(self, actor_id: bytes) -> _Log:
        log = self._logs.get(actor_id)
        if log is None:
            log = self._logs[actor_id] = _Log(actor_id)
        return log

    # ---- what happens to them

    def when_safe(self, actor_id: bytes, task: HostedTask, then: Callable[[], None]) -> None:
        """Calls back once a call, whose results are sealed, is safe from this node's death.

        At once for an actor without checkpoints, or that ends with this node.
        """
        self._when_safe(actor_id, task, then, _KEEP_PAUSE_S)

    def _when_safe(
        self, actor_id: bytes, task: HostedTask, then: Callable[[], None], pause_s: float
    ) -> None:
        actor = self._actors.by_id.get(actor_id)
        if actor is None or not self._is_logged(actor):
            then()
            return
        log = self._log_of(actor_id)
        place = self._place_of(actor, task)
        if place is None:
            # Its process has sealed the results, and is about to say which place the call has.
            asyncio.get_running_loop().call_later(
                pause_s,
                self._when_safe,
                actor_id,
                task,
                then,
                min(2 * pause_s, _KEEP_PAUSE_S_MAX),
            )
            return
        self._note(log, actor, task.task)
        log.calls.wait(place, then)
        self._go_on(log)

    def _is_logged(self, actor: ActorRecord) -> bool:
        if actor.stage is ActorStage.DEAD or not (actor.is_checkpointed and actor.may_move):
            return False
        log = self._logs.get(actor.actor_id)
        return log is None or not (log.is_over or log.is_lost)

    def _place_of(self, actor: ActorRecord, task: HostedTask) -> int | None:
        place = self._memory.kept_place(task.task, task.task_id) if task.task else 0
        if place == 0:  # It is over, and covered if it had any effect.
            return 0 if actor.checkpoint is None else int(actor.checkpoint["covers"])
        return place

    def _checkpointed(self, actor: ActorRecord) -> None:
        log = self._logs.get(actor.actor_id)
        if log is not None and log.is_begun and actor.checkpoint is not None:
            log.calls.made(int(actor.checkpoint["covers"]))
            self._go_on(log)

    def tick(self) -> None:
        """Looks for calls that callers on this node have made, and for actors that are dead."""
        for log in list(self._logs.values()):
            actor = self._actors.by_id.get(log.actor_id)
            if actor is None or actor.stage is ActorStage.DEAD:
                self.end(log.actor_id)
            if not log.is_begun or log.is_over:
                continue
            slot = self._actors.slot_of(log.actor_id)
            if slot is None:
                continue
            count = self._memory.finished_count(slot)
            if count != log.finished_count:
                log.finished_count = count
                self._look_for(log)
                self._go_on(log)

    def _look_for(self, log: _Log) -> bool:
        """Notes calls that nobody has told of; False: there are none."""
        slot, actor = self._actors.slot_of(log.actor_id), self._actors.by_id.get(log.actor_id)
        if slot is None or actor is None:
            return False
        before = log.calls.next()
        for place, task in self._memory.kept_after(slot, log.calls.written):
            if not log.calls.is_noted(place):
                self._note(log, actor, task)
        return log.calls.next() != before

    def _note(self, log: _Log, actor: ActorRecord, task: int) -> None:
        if not task or log.is_over or log.lost:
            return
        try:
            found = logged_call(self._memory, self._transit, actor, task, VALUE_BYTES_MAX // 2)
        except (NotTransferableError, NotSealedError) as error:
            log.lost = f"{error}"
            return
        if found is not None:
            log.calls.note(*found)

    # ---- writing

    def _go_on(self, log: _Log) -> None:
        if log.is_begun and not log.is_over and (log.writing is None or log.writing.done()):
            log.writing = asyncio.create_task(self._write(log))

    async def _write(self, log: _Log) -> None:
        """Writes until there is nothing to write."""
        try:
            while await self._write_next(log):
                pass
        except AlreadyExistsError:
            logger.warning("actor=%s was given to another node", log.actor_id.hex())
            log.is_over = True
            # Nothing that it did since has left this node, nor will it.
            self._actors.end_for(log.actor_id, GIVEN_AWAY)

    async def _write_next(self, log: _Log) -> bool:
        """One step; False: there is none. Raises AlreadyExistsError."""
        actor = self._actors.by_id.get(log.actor_id)
        if actor is None or actor.stage is ActorStage.DEAD:
            return False
        try:
            step = log.calls.next()
            if isinstance(step, Save) and step.covers <= log.failed_covers:
                step = None
            if not log.number or isinstance(step, Save):
                await self._save(log, actor)
            elif log.lost and not log.is_lost:
                await self._say_lost(log)
            elif isinstance(step, Append):
                await self._append(log, step)
            else:
                return isinstance(step, LookFor) and self._look_for(log)
        except AlreadyExistsError:
            raise
        except GcsError as error:
            logger.info("cannot write what actors do: %s", error)
            await asyncio.sleep(_PAUSE_S)
        return True

    async def _save(self, log: _Log, actor: ActorRecord) -> None:
        at, number = actor.checkpoint, log.number + 1
        covers = 0 if at is None else int(at["covers"])
        try:
            saved = self._saved(actor)
            await self._pasts.save(log.actor_id, number, covers, saved)
        except NotSealedError:
            await asyncio.sleep(_PAUSE_S)  # It refers to what is yet to be made.
            return
        except (NotTransferableError, LimitReachedError) as error:
            log.lost = f"{error}"
            log.failed_covers = covers
            await self._say_lost(log)
            return
        log.number = number
        if log.lost:
            # What came after it is to be looked for anew.
            log.lost, log.is_lost = "", False
            log.calls.give_up()
            log.calls = CallLog(covers)
            log.finished_count = 0
        else:
            log.calls.saved(covers)
        while log.batches and log.batches[0][1] <= covers:
            await self._pasts.forget_log(log.actor_id, log.batches[0][0])
            log.batches.popleft()

    def _saved(self, actor: ActorRecord) -> Saved:
        """The newest checkpoint. Raises NotSealedError, NotTransferableError."""
        if actor.checkpoint is None:
            return Saved()
        answers = self.answers_of(actor.actor_id, int(actor.checkpoint["covers"]))
        value = self._transit.find(bytes(actor.checkpoint["id"]))
        if value is None:
            raise NotTransferableError(f"the checkpoint of {actor.title} is gone")
        told = self._transit.whole(value, VALUE_BYTES_MAX)
        beside = self._transit.beside([told], VALUE_BYTES_MAX)
        if any(given.size and given.data is None for given in (told, *beside)):
            raise NotTransferableError(
                f"the checkpoint of {actor.title} has {told.size} bytes: with more than "
                f"{VALUE_BYTES_MAX}, what it refers to included, it is kept on its node only",
                hint="keep less in the actor, or put what is large into files",
            )
        return Saved(told, beside, answers)

    async def _say_lost(self, log: _Log) -> None:
        number = log.number + 1
        await self._pasts.lose(log.actor_id, number, log.calls.covered, log.lost)
        log.number, log.is_lost = number, True
        logger.warning("actor=%s cannot be brought elsewhere: %s", log.actor_id.hex(), log.lost)
        log.calls.give_up()

    async def _append(self, log: _Log, step: Append[Call]) -> None:
        first, calls = next(batches(step.first, step.calls))
        await self._pasts.append(log.actor_id, first, calls)
        last = first + len(calls) - 1
        log.batches.append((first, last))
        log.calls.appended(last)
