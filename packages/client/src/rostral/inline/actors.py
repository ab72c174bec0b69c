"""The actors of an inline session: their records, and who runs their calls.

A plain actor's calls run in whatever thread finds them, one at a time. Threaded and async actors
have a thread of their own, in which they are what they are in a process of their own.
"""

from __future__ import annotations

import contextlib
import pickle
import threading
from typing import TYPE_CHECKING, Any

from rostral._context import task_scope
from rostral.actor_process import ActorProcess, constructor_death
from rostral.actor_settings import ActorSettings
from rostral.exceptions import (
    ActorAlreadyExistsError,
    ActorDiedError,
    ActorExit,
    ActorNotFoundError,
)
from rostral.failure import StoredError, seal_error
from rostral.object_ref import ObjectRef
from rostral_objectstore._native import repair
from rostral_objectstore._native.queue import Queue
from rostral_objectstore.control import Body
from rostral_objectstore.layout import ObjectFlag, TaskState
from rostral_objectstore.serialization import KIND_PICKLE

if TYPE_CHECKING:
    from rostral.inline.worker import InlineWorker
    from rostral.runtime import Runtime

# The queue kind of a mailbox, as the scheduler of a node has it.
QUEUE_MAILBOX = 2
JOIN_TIMEOUT_S = 5.0
# As many tasks as a look for those of one actor takes in.
TASKS_MAX = 1 << 20


class InlineActor:
    """One actor.

    Attributes:
        lock: held by the thread that runs its calls.
        death: the pickled error of its calls, once it is dead.
    """

    def __init__(self, runtime: Runtime, body: Body, mailbox: Queue) -> None:
        self.body = body
        self.actor_id: bytes = body["actor_id"]
        self.name: str | None = body["name"]
        self.namespace: str = body["namespace"]
        self.demand: dict[str, float] = body["resources"]
        self.mailbox = mailbox
        self.lock = threading.RLock()
        self.is_busy = False
        self.is_alive = False
        self.death: bytes | None = None
        self.death_cause = ""
        self.restarts = 0
        self.thread: threading.Thread | None = None
        self._runtime = runtime
        self.process = ActorProcess(runtime, self.assignment)

    @property
    def assignment(self) -> Body:
        """What the process of an actor is told."""
        return {
            "actor_id": self.actor_id,
            "mailbox": self.mailbox.loc,
            "creation": self.body["creation"],
            "job_id": self._runtime.job_id,
            "restarts": self.restarts,
            "name": self.name,
            "namespace": self.namespace,
            "resources": dict(self.demand),
            "gpu_ids": [],
        }

    @property
    def title(self) -> str:
        """How texts name it."""
        name = f" {self.name!r}" if self.name else ""
        return f"actor {self.body['class_name']}{name} ({self.actor_id.hex()})"

    def has_own_thread(self) -> bool:
        """Whether its calls run in threads of its own. Raises what reading its settings raises."""
        at = self.body["creation"]
        table = self._runtime.table
        creation: ObjectRef[Any] = table.adopt(ObjectRef, at["loc"], at["version"], at["id"])
        settings = ActorSettings(**self._runtime.get([creation], None)[0][3]["calls"])
        return settings.is_async or settings.concurrency > 1 or bool(settings.groups)

    def is_referred_to(self) -> bool:
        """Whether any handle, or call under way, refers to it."""
        at = self.body["creation"]
        return self._runtime.table.find(ObjectRef, at["id"]) is not None

    def renew(self) -> None:
        """A new instance, as after a restart."""
        self.restarts += 1
        self.is_alive = False
        self.process = ActorProcess(self._runtime, self.assignment)


class InlineActors:
    """All of them. Any thread may call."""

    def __init__(self, runtime: Runtime, worker: InlineWorker) -> None:
        self._runtime = runtime
        self._worker = worker
        self.by_id: dict[bytes, InlineActor] = {}

    # ---- making and finding

    def create(self, body: Body) -> InlineActor:
        """Makes an actor, and runs its constructor in this thread.

        Raises ActorAlreadyExistsError. What the constructor raises is told to its callers.
        """
        name, namespace = body["name"], body["namespace"]
        if name is not None and (holder := self._living(name, namespace)) is not None:
            raise ActorAlreadyExistsError(
                f"the name {name!r} in namespace {namespace!r} belongs to {holder.title}",
                hint="choose another name, or get that actor by its name",
            )
        runtime = self._runtime
        mailbox = Queue.create(
            runtime.store.segment,
            int(body["mailbox_capacity"]),
            QUEUE_MAILBOX,
            runtime.job_id,
            body["actor_id"],
        )
        actor = self.by_id[body["actor_id"]] = InlineActor(runtime, body, mailbox)
        self._start(actor)
        return actor

    def get(self, actor_id: bytes) -> InlineActor:
        """The actor, dead or alive. Raises ActorNotFoundError."""
        actor = self.by_id.get(actor_id)
        if actor is None:
            raise ActorNotFoundError(f"this node knows no actor {actor_id.hex()}")
        return actor

    def find(self, name: str, namespace: str) -> InlineActor:
        """The living actor of that name. Raises ActorNotFoundError."""
        actor = self._living(name, namespace)
        if actor is None:
            raise ActorNotFoundError(
                f"no living actor is called {name!r} in namespace {namespace!r}",
                hint="names are given by options(name=...); they end with the actor",
            )
        return actor

    def living(self) -> list[InlineActor]:
        """Those that are not dead."""
        return [actor for actor in self.by_id.values() if actor.death is None]

    def current(self) -> InlineActor | None:
        """The one whose call runs in this thread or coroutine."""
        scope = task_scope.get()
        return None if scope is None or scope.actor_id is None else self.by_id.get(scope.actor_id)

    def _living(self, name: str, namespace: str) -> InlineActor | None:
        for actor in self.living():
            if (actor.name, actor.namespace) == (name, namespace):
                return actor
        return None

    # ---- running

    def _start(self, actor: InlineActor) -> None:
        """Builds the instance; its calls run from then on."""
        if not actor.has_own_thread():
            self._build(actor)
            return
        built = threading.Event()
        actor.thread = threading.Thread(
            target=self._run_in_thread,
            args=(actor, actor.process, built),
            name=f"rostral-inline-{actor.body['class_name']}",
            daemon=True,
        )
        actor.thread.start()
        built.wait()

    def _build(self, actor: InlineActor) -> bool:
        """Runs the constructor. Returns whether the actor lives."""
        try:
            with self._worker.running(actor.demand):
                actor.process.load()
                actor.process.build()
        except ActorExit:
            self._ended(actor)
        except BaseException as error:
            self._failed(actor, error)
        else:
            actor.is_alive = True
        return actor.is_alive

    def _run_in_thread(
        self, actor: InlineActor, process: ActorProcess, built: threading.Event
    ) -> None:
        try:
            is_alive = self._build(actor)
        finally:
            built.set()
        if is_alive:
            with contextlib.suppress(SystemExit):
                process.run()
            if actor.process is process:
                self._ended(actor)
        process.close()

    def run_ready(self) -> bool:
        """Runs calls that are ready, in this thread. Returns whether there was one."""
        ran = False
        for actor in self.living():
            if actor.is_alive and actor.thread is None:
                ran = self._run_calls(actor) or ran
        return ran

    def _run_calls(self, actor: InlineActor) -> bool:
        # The lock is of this thread too when it is in a call of this very actor: calls wait then.
        if actor.is_busy or not actor.lock.acquire(blocking=False):
            return False
        ran = False
        try:
            actor.is_busy = True
            while actor.death is None and (call := actor.process.mailbox.take(0)) is not None:
                ran = True
                with self._worker.running(actor.demand):
                    actor.process.run_call(call)
            actor.is_busy = False
            if actor.death is None and actor.process.mailbox.closed:
                self._ended(actor)
        finally:
            actor.is_busy = False
            actor.lock.release()
        return ran

    def has_threads(self) -> bool:
        """Whether any actor has threads of its own, which may seal something."""
        return any(actor.thread is not None for actor in self.living())

    # ---- ending

    def leave(self) -> None:
        """What `exit_actor` does: ends the actor that runs in this thread or coroutine."""
        actor = self.current()
        if actor is None:
            raise TypeError(
                "the exit_actor API is called on a non-actor worker: exit_actor() was called "
                "outside of an actor"
            )
        actor.process.leave()

    def _ended(self, actor: InlineActor) -> None:
        """It has left of itself, by exit_actor or SystemExit."""
        exited = actor.process.exit_status
        cause = (
            "it ended itself with exit_actor()"
            if exited is None
            else (f"its process exited with {exited}")
        )
        actor.process.run_end_hook()
        if exited is not None and self._may_restart(actor):
            self._restart(actor)
        else:
            self.end(actor, cause)

    def _failed(self, actor: InlineActor, error: BaseException) -> None:
        death = constructor_death(actor.process, error)
        self.end(actor, "its constructor failed", pickle.dumps(death))

    def kill(self, actor: InlineActor, *, no_restart: bool) -> None:
        """Ends it, or makes a new instance of it. A call of it that runs goes on to its end."""
        if actor.death is not None:
            return
        if not no_restart and self._may_restart(actor):
            self._restart(actor)
        else:
            self.end(actor, "it was killed by kill()")

    def _may_restart(self, actor: InlineActor) -> bool:
        limit = int(actor.body["max_restarts"])
        return limit < 0 or actor.restarts < limit

    def _restart(self, actor: InlineActor) -> None:
        actor.process.leave()
        actor.thread = None
        actor.renew()
        self._start(actor)

    def end(self, actor: InlineActor, cause: str, death: bytes | None = None) -> None:
        """DEAD from here on; its queued calls fail. Idempotent."""
        if actor.death is not None:
            return
        actor.is_alive = False
        actor.death_cause = cause
        actor.death = death or pickle.dumps(
            ActorDiedError(f"{actor.title} died: {cause}", actor_id=actor.actor_id)
        )
        actor.mailbox.close()
        self._fail_running(actor, actor.death)
        actor.process.leave()
        if actor.thread is None and not actor.is_busy:
            # What the instance refers to goes with it, as it does with a process.
            actor.process.close()
        segment, table = self._runtime.store.segment, self._runtime.table
        for call in repair.claim_all(segment, actor.mailbox.loc):
            repair.fail(table, call, KIND_PICKLE, actor.death, int(ObjectFlag.ERROR))

    def _fail_running(self, actor: InlineActor, death: bytes) -> None:
        """Its calls that run go on to their ends, but this is what their callers get."""
        table = self._runtime.table
        for call in repair.list_tasks(self._runtime.store.segment, TASKS_MAX):
            if call["queue"] == actor.mailbox.loc and call["state"] == TaskState.CLAIMED:
                seal_error(table, call["returns"], StoredError(death, []))

    def end_forgotten(self) -> None:
        """Ends actors that nobody refers to any more, and forgets dead ones likewise."""
        for actor in list(self.by_id.values()):
            if actor.is_referred_to():
                continue
            if actor.death is not None:
                del self.by_id[actor.actor_id]
            elif actor.is_alive and not actor.body["detached"]:
                self.end(actor, "nobody refers to it any more")

    def close(self) -> None:
        """Ends all of them, and waits for their threads."""
        threads = [actor.thread for actor in self.living()]
        for actor in self.living():
            self.end(actor, "the job that made it has ended")
        for thread in threads:
            if thread is not None and thread is not threading.current_thread():
                thread.join(JOIN_TIMEOUT_S)


def describe(actor: InlineActor, runtime: Runtime) -> dict[str, Any]:
    """What lists of actors say of it."""
    return {
        "actor_id": actor.actor_id,
        "job_id": runtime.job_id,
        "name": actor.name,
        "namespace": actor.namespace,
        "class_name": actor.body["class_name"],
        "state": "DEAD" if actor.death is not None else "ALIVE",
        "pid": 0,
        "restarts": actor.restarts,
        "death_cause": actor.death_cause,
        "detached": actor.body["detached"],
        "queued": len(actor.mailbox) if actor.death is None else 0,
    }
