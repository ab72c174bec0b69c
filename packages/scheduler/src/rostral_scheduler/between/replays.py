"""Calls that an actor ran on a node that is dead, run again here or answered from what is kept.

This file owns how they come into the actor's mailbox, before any other call, and who gets their
results: their callers, if they have not had them and ask again. To `hosted.py` each is a guest
without an origin, until one asks.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from msgspec import structs

from rostral_scheduler.between.actor_pasts import Past
from rostral_scheduler.between.guest import Guest, Origin
from rostral_scheduler.between.messages import (
    NO_CODE,
    SHAPELESS,
    Call,
    Done,
    Message,
    Submit,
    parts_of,
)
from rostral_scheduler.between.outgoing import Sent
from rostral_scheduler.between.stream import Outbox
from rostral_scheduler.between.transit_memory import HostedTask, TransitMemory, error_result
from rostral_scheduler.errors import ActorUnavailableError
from rostral_scheduler.local.node_memory import NodeMemory

if TYPE_CHECKING:
    from rostral_scheduler.between.hosted import Hosted

__all__ = ["Replays"]

_GRACES = 3


class _Here(Outbox):
    """Where an answer goes whose caller is on this very node."""

    def __init__(self, take: Callable[[Done], None]) -> None:
        super().__init__()
        self._take = take

    def send(self, message: Message) -> None:
        """Hands it over."""
        if isinstance(message, Done):
            self._take(message)


class Replays:
    """Those of one node, on the running event loop.

    Args:
        own_id: This node's.
        hosted: Has the guests.
        memory: The node's.
        transit: The same.
        grace_s: How long a caller's node may take to come back.
    """

    def __init__(
        self,
        own_id: bytes,
        hosted: Hosted,
        memory: NodeMemory,
        transit: TransitMemory,
        grace_s: float,
    ) -> None:
        self._own_id, self._hosted = own_id, hosted
        self._memory, self._transit = memory, transit
        # Callers ask as soon as they know where the actor is, and that they may not at once.
        self._patience_s = _GRACES * grace_s
        self._unasked: dict[bytes, list[Guest]] = {}

    async def submit(self, past: Past, mailbox: int) -> list[Guest]:
        """Puts an actor's calls into its mailbox, which nobody else knows yet.

        Raises QueueFullError, ObjectStoreFullError.
        """
        loop = asyncio.get_running_loop()
        # In the one thread that submits: the newest task is then the one that was submitted.
        thread = self._hosted.thread
        tasks = await loop.run_in_executor(thread, self._submit_now, past.calls, mailbox)
        nobody = Origin(b"", Outbox(), is_connected=False)
        return [
            Guest(call.task, nobody, task, call=call, is_replay=True)
            for call, task in zip(past.calls, tasks, strict=True)
        ]

    def _submit_now(self, calls: Sequence[Call], mailbox: int) -> list[HostedTask]:
        tasks = []
        for call in calls:
            beside = [self._transit.hold(given) for given in call.task.beside]
            inputs = [self._transit.hold(given) for given in call.task.inputs]
            tasks.append(self._transit.submit_call(_renamed(call), mailbox, inputs))
            del beside
        return tasks

    def begin(self, actor_id: bytes, past: Past, guests: Sequence[Guest]) -> None:
        """The actor is about to live here: from here on callers may ask."""
        nobody = Origin(b"", Outbox(), is_connected=False)
        again = {guest.message.task_id for guest in guests}
        answers = [
            _answered(actor_id, done, nobody)
            for done in past.saved.answers
            if done.task_id not in again
        ]
        for guest in (*answers, *guests):
            self._hosted.by_id[guest.message.task_id] = guest
        self._hosted.logged += guests
        self._unasked[actor_id] = [*answers, *guests]
        asyncio.get_running_loop().call_later(self._patience_s, self.end, actor_id)

    def end(self, actor_id: bytes) -> None:
        """Nobody asks any more."""
        for guest in self._unasked.pop(actor_id, ()):
            if not guest.origin.node_id:
                self._forget(guest)

    def _forget(self, guest: Guest) -> None:
        if self._hosted.by_id.get(guest.message.task_id) is guest:
            self._hosted.forget(guest)

    def ask(self, sent: Sent, take: Callable[[Done], None]) -> bool:
        """A caller on this node has made a call before: calls back with its results.

        False: the actor has not run it.
        """
        guest = self._hosted.by_id.get(sent.claimed.task_id)
        if guest is None or guest.call is None or guest.origin.node_id:
            return False

        def taken(done: Done) -> None:
            take(done)
            self._forget(guest)

        guest.origin = Origin(self._own_id, _Here(taken))
        if guest.done is not None:
            guest.origin.outbox.send(guest.done)
        return True

    def answers_of(self, actor_id: bytes, covers: int) -> list[Done]:
        """The results of an actor's first calls whose callers have not said that they have them.

        Not those of later ones: where these are not run again, they have never been made.
        """
        self._hosted.look()
        return [
            _kept(guest.outcome)
            for guest in self._hosted.by_id.values()
            if guest.outcome is not None
            and guest.call is not None
            and guest.call.actor_id == actor_id
            and self._is_covered(guest, covers)
        ]

    def _is_covered(self, guest: Guest, covers: int) -> bool:
        if guest.task is None or not guest.task.task:
            return True
        place = self._memory.kept_place(guest.task.task, guest.task.task_id)
        return place is not None and place <= covers


def _renamed(call: Call) -> Call:
    """A call whose results have other ids: those of the first run may be here, and stay."""
    again = hashlib.blake2b(call.task.task_id, digest_size=16, person=b"replay").digest()
    return structs.replace(call, task=structs.replace(call.task, task_id=again))


def _answered(actor_id: bytes, done: Done, origin: Origin) -> Guest:
    """A call that is known by its results alone."""
    count = len(done.results)
    submit = Submit(done.task_id, bytes(8), bytes(16), SHAPELESS, NO_CODE, b"", [], count, 0, 0)
    call = Call(actor_id, 0, submit)
    return Guest(submit, origin, call=call, done=done, outcome=done, has_ended=True, is_replay=True)


def _kept(done: Done) -> Done:
    """Results as they outlive their node: those whose bytes do not come along are lost with it."""
    if all(part.data is not None for part in parts_of(done)):
        return done
    error = error_result(
        ActorUnavailableError(
            f"call {done.task_id.hex()} was made, but its results were too large to outlive the "
            "actor's node",
            hint="put what is large apart, or return less at once",
        )
    )
    return Done(done.task_id, [error] * len(done.results))
