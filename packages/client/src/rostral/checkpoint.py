"""Checkpoints of an actor: what is saved, when, and how its next process comes to the same state.

A class that is made remote with `checkpoint_interval` has two hooks:

    def __checkpoint__(self) -> value        the state, as a value that can be pickled
    def __restore__(self, value) -> None     called after the constructor, in a new process

The interval is a number of calls or a `datetime.timedelta`; a checkpoint is made after the call
that completes it. When the actor's process dies and `max_restarts` allows another one, that runs
the constructor, restores the last checkpoint, and replays the calls that were done since, in their
order (OSDI'18 §4.2.3). Then it goes on with its mailbox.

What is exactly once: the effect of each call on the actor's state, as results show it. A call that
had returned is replayed for its effect; its result, which somebody may have read, stays what it
was. A call that was running when the process died has had no effect; it runs again if
`max_task_retries` allows, else it raises ActorUnavailableError and never had one. Tasks and actors
that a replayed call makes are found, not made twice, as long as somebody refers to them. A call
that was cancelled is not replayed, nor are attempts that were followed by another one.

What is at least once: all that a call does outside of the actor's state, such as writing files,
calling other actors, printing. And a replayed call must do to the state what it did before: one
that depends on the time, on random numbers or on the outside may lead to another state than the one
that was lost.

The log is not a copy: it is the task records of the calls since the checkpoint, which keep their
arguments in the store until the next one (`replay.pyx` in the object store).
"""

from __future__ import annotations

import datetime as dt
import hashlib
import inspect
import logging
import pickle
import time
from collections.abc import Callable, Mapping
from typing import Any

from rostral.exceptions import ActorUnavailableError
from rostral.failure import StoredError, seal_error
from rostral.object_ref import ObjectRef
from rostral.options import CHECKPOINT_CALLS_MAX, ActorOptions, MethodOptions
from rostral.returns import resolved
from rostral.runtime import Runtime
from rostral.serialization import pack
from rostral_objectstore._native import replay
from rostral_objectstore._native.task import ClaimedTask, Tasks

logger = logging.getLogger("rostral.checkpoint")

HOOKS = ("__checkpoint__", "__restore__")


def check_hooks(cls: type, options: ActorOptions) -> None:
    """Refuses a checkpoint interval for a class that cannot have one.

    Raises: TypeError for missing hooks, ValueError for a class with coroutines or generators.
    """
    if options.checkpoint_interval is None:
        return
    missing = [name for name in HOOKS if not callable(getattr(cls, name, None))]
    if missing:
        raise TypeError(
            f"{cls.__qualname__} has a checkpoint_interval but no {' and no '.join(missing)}: "
            "write `def __checkpoint__(self) -> value` and `def __restore__(self, value)`"
        )
    for name, member in inspect.getmembers(cls, callable):
        if inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member):
            raise ValueError(
                f"{cls.__qualname__}.{name} is a coroutine: an actor with a checkpoint_interval "
                "runs its calls one after the other, so that they can be replayed in their order"
            )
        marked = getattr(member, "__rostral_method__", MethodOptions())
        refuse_generators(f"{cls.__qualname__}.{name}", resolved(marked, member))


def refuse_generators(title: str, options: MethodOptions) -> None:
    """Raises ValueError for calls that give a generator of an actor with a checkpoint interval."""
    if options.num_returns in ("streaming", "dynamic"):
        raise ValueError(
            f"{title} has num_returns={options.num_returns!r}: an actor with a checkpoint_interval "
            "has no calls that yield, for a consumer decides how far those run, so a replay may "
            "not lead to the same state; return a list, or put the values into a queue"
        )


class LoggedTasks:
    """The actor's `Tasks`, where a call that is finished is kept for replay."""

    def __init__(self, tasks: Tasks, finished: Callable[[ClaimedTask], None]) -> None:
        self._tasks = tasks
        self.finish = finished
        # What calls do to submit others shall not pass through `__getattr__`.
        self.submit, self.next, self.sweep = tasks.submit, tasks.next, tasks.sweep

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tasks, name)


class Checkpoints:
    """Makes the checkpoints of this process's actor, and brings a new process to its state.

    Not thread-safe: the actor runs one call at a time.

    Args:
        runtime: This process's; its `tasks` are replaced.
        told: The scheduler's assignment.
        interval: Calls, or time, between two checkpoints.
    """

    def __init__(
        self, runtime: Runtime, told: Mapping[str, Any], interval: int | dt.timedelta
    ) -> None:
        self._runtime = runtime
        self._actor_id = bytes(told["actor_id"])
        self._last: dict[str, Any] | None = told["checkpoint"]
        self._retaken: list[int] = list(told["retaken"])
        self._interval_calls, self._interval_s = CHECKPOINT_CALLS_MAX, float("inf")
        if isinstance(interval, dt.timedelta):
            self._interval_s = interval.total_seconds()
        else:
            self._interval_calls = interval
        self._due_at_calls = self._interval_calls
        self._made_at_s = time.monotonic()
        # The place of the last call that was run, over all the actor's processes.
        self._place = 0 if self._last is None else int(self._last["covers"])
        self._logged: list[int] = []
        self._covered: list[int] = []
        self._replays: list[ClaimedTask] = []
        self._begun: list[ClaimedTask] = []
        self._tasks = runtime.tasks
        self._state_of: Callable[[], object] | None = None

    def restore(self, instance: Any) -> None:
        """Gives a newly built instance the state of the last checkpoint, if there is one.

        Raises what `__restore__` raises.
        """
        if self._last is not None:
            at = self._last
            value: ObjectRef[Any] = self._runtime.table.adopt(
                ObjectRef, at["loc"], at["version"], at["id"]
            )
            instance.__restore__(self._runtime.get([value], None)[0])
        self._state_of = instance.__checkpoint__

    def take_log(self) -> None:
        """Takes over what the process before had claimed.

        To be called before the scheduler hears that the actor is ready, and forgets these calls;
        nothing is ended before that, so that a death in between changes nothing.
        """
        segment = self._runtime.store.segment
        done: list[tuple[float, ClaimedTask]] = []
        for loc in self._retaken:
            task = replay.take(self._tasks, loc)
            if task is None:
                continue
            if not replay.is_kept(segment, loc):
                if replay.has_results(self._tasks, loc):
                    # It died before it could note the place: the last that it ran.
                    done.append((float("inf"), task))
                else:
                    self._begun.append(task)
            elif task.attempt <= self._place:
                self._covered.append(loc)
            else:
                done.append((task.attempt, task))
        self._replays = [task for _, task in sorted(done, key=lambda item: item[0])]

    def replays(self) -> list[ClaimedTask]:
        """The calls to run again for their effect, in order. From here on finished calls are kept.

        Ends the calls that the last checkpoint covers.
        """
        for loc in self._covered:
            replay.release(self._tasks, loc)
        tasks = LoggedTasks(self._tasks, self._finished)
        self._runtime.tasks = tasks  # type: ignore[assignment]
        return self._replays

    def retried(self, title: str) -> list[ClaimedTask]:
        """Of the calls that the dead process was running, those that may run again.

        The others fail; they have never had an effect.
        """
        kept = []
        lost = ActorUnavailableError(
            f"{title} was restarted from its checkpoint while this call was running: it has had no "
            "effect on the actor",
            hint="make the call again, or give the actor max_task_retries",
            actor_id=self._actor_id,
        )
        error = StoredError(pickle.dumps(lost), [])
        for task in self._begun:
            if replay.spend_retry(self._tasks, task.loc):
                kept.append(task)
            else:
                seal_error(self._runtime.table, task.returns, error)
                self._tasks.finish(task)
        return kept

    def _finished(self, task: ClaimedTask) -> None:
        """In the place of `Tasks.finish`: the results are sealed."""
        self._place += 1
        replay.keep(self._tasks, task, self._place)
        self._logged.append(task.loc)
        if self._is_due():
            self._make()

    def _is_due(self) -> bool:
        if len(self._logged) >= self._due_at_calls:
            return True
        return time.monotonic() - self._made_at_s >= self._interval_s

    def _make(self) -> None:
        """Saves the state; the calls that it covers need not be replayed any more."""
        self._made_at_s = time.monotonic()
        try:
            assert self._state_of is not None
            value = self._save(self._state_of())
        except Exception:
            if len(self._logged) >= CHECKPOINT_CALLS_MAX:
                raise  # The log is as long as it may be.
            self._due_at_calls = min(len(self._logged) + self._interval_calls, CHECKPOINT_CALLS_MAX)
            logger.exception("the actor made no checkpoint; the one before stays the last")
            return
        told = {"loc": value.loc, "version": value.version, "id": value.binary()}
        # Answered once it is safe from this process's death. Dying before, the actor goes on from
        # the checkpoint before; dying after, it finds that this one covers its calls.
        self._runtime.ask(
            "checkpoint_actor", {"actor_id": self._actor_id, "covers": self._place, **told}
        )
        for loc in self._logged:
            replay.release(self._tasks, loc)
        self._logged.clear()
        self._due_at_calls = self._interval_calls

    def _save(self, state: object) -> ObjectRef[Any]:
        packed = pack(state)
        name = self._actor_id + b"checkpoint" + self._place.to_bytes(8, "little")
        object_id = hashlib.blake2b(name, digest_size=20).digest()
        value: ObjectRef[Any] = self._runtime.table.expect(ObjectRef, object_id)
        self._runtime.table.fill(value, packed.kind, packed.inband, packed.buffers, packed.refs)
        return value
