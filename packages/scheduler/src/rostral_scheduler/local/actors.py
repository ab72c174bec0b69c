"""The actors of the node: made, placed, restarted, found by name, ended.

This file owns the actors' records, their names on this node and their mailboxes. Calls never pass
through here: callers push them into the mailbox and the actor's process takes them out
(OSDI'18 §4.1). An actor ends when nobody refers to the object that says how to build it, with its
job or the actor that made it, when it is killed or asks to end, or when its process has died too
often.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from rostral_scheduler.config import LocalSchedulerConfig
from rostral_scheduler.core.events import ActorGone, ActorWanted, Event
from rostral_scheduler.core.resources import NodeResources, ResourceSet
from rostral_scheduler.errors import (
    ActorAlreadyExistsError,
    ActorNotFoundError,
    ActorPlacementGroupRemovedError,
    LimitReachedError,
    RequestError,
)
from rostral_scheduler.local.actor_record import ActorRecord, ActorStage
from rostral_scheduler.local.fields import binary
from rostral_scheduler.local.jobs import Job
from rostral_scheduler.local.node_memory import QUEUE_MAILBOX, Body, NodeMemory, TaskInfo, pickled
from rostral_scheduler.local.repair import TaskRepair
from rostral_scheduler.local.worker_pool import Death, WorkerPool, WorkerProcess

__all__ = ["Actors"]

logger = logging.getLogger("rostral.scheduler.actors")

ACTORS_PER_TICK = 200
RESTART_PAUSE_S = 0.05
RESTART_PAUSE_S_MAX = 5.0
OUT_OF_SCOPE = "it is out of scope: nobody refers to it any more"
KILLED = "it was killed by rostral.kill()"
EXITED = "it ended itself with exit_actor()"
GROUP_REMOVED = "its placement group was removed"
JOB_ENDED = "its owner died: the job that made it has ended"
OWNER_DIED = "its owner died: the process of {}, which made it, is gone"
KILLED_TO_RESTART = "it was killed by rostral.kill(no_restart=False)"

DemandInGroup = Callable[[Body, ResourceSet], ResourceSet]


class Actors:
    """All actors of the node, on one event loop.

    Args:
        config: Of the scheduler.
        memory: The node's.
        resources: The ledger, to refuse what can never be had.
        pool: The processes.
        repair: What becomes of calls that a dead process had begun.
        tell: Gives an event to the policy and carries out what it orders.
        changed: Called after each change that the GCS shall know of.
        forgotten: Called when nothing is left of an actor.
    """

    def __init__(
        self,
        config: LocalSchedulerConfig,
        memory: NodeMemory,
        resources: NodeResources,
        pool: WorkerPool,
        repair: TaskRepair,
        *,
        tell: Callable[[Event], None],
        changed: Callable[[ActorRecord], None],
        forgotten: Callable[[ActorRecord], None],
    ) -> None:
        self._config = config
        self._memory = memory
        self._resources = resources
        self._pool = pool
        self._repair = repair
        self._tell = tell
        self._changed = changed
        self._forgotten = forgotten
        self.by_id: dict[bytes, ActorRecord] = {}
        self.by_creation: dict[bytes, ActorRecord] = {}
        """By the id of the object that says how to build it."""
        self._by_name: dict[tuple[str, str], ActorRecord] = {}
        self._children: dict[bytes, list[ActorRecord]] = {}
        self._next_look = 0
        self.end_elsewhere: Callable[[bytes, str], None] = lambda _, __: None
        """Ends what an actor has made on other nodes; given its id, and why."""
        self.on_checkpoint: Callable[[ActorRecord], None] = lambda _: None
        """Told when an actor has saved its state."""

    # ---- making and finding

    def create(
        self, job: Job, body: Body, creator: bytes | None, in_group: DemandInGroup
    ) -> ActorRecord:
        """Takes an actor on; ``place`` must follow. Returns before any process of it runs.

        Args:
            job: Whose it is.
            body: The request.
            creator: The actor that asks, if it is one.
            in_group: What a member of a placement group asks the ledger for.

        Raises:
            ActorAlreadyExistsError: A living actor has the name.
            UnschedulableError: The node can never have what it needs.
            LimitReachedError: The node has ``actors_max`` actors, or the mailbox is too large.
            ObjectNotFoundError: The creation object is gone.
            ObjectStoreFullError: No memory for the mailbox.
        """
        actor_id, name = binary(body, "actor_id"), body["name"] or None
        namespace = str(body["namespace"])
        placement = ResourceSet.of(body["placement_resources"])
        held = ResourceSet.of(body["resources"])
        bundle = body.get("bundle")
        self._check_new(actor_id, name, namespace)
        if bundle is None:
            self._resources.check_feasible(placement.maximum(held))
        else:
            placement, held = in_group(bundle, placement), in_group(bundle, held)
        creation = body["creation"]
        stub = body.get("stub") or creation
        hold = self._memory.hold(stub["loc"], stub["version"], stub["id"])
        kept = self._memory.hold(creation["loc"], creation["version"], creation["id"])
        mailbox = body.get("mailbox")
        if mailbox is None:
            mailbox = self.make_mailbox(job.job_id, actor_id, int(body["mailbox_capacity"]))
        actor = ActorRecord(
            actor_id=actor_id,
            job_id=job.job_id,
            name=name,
            namespace=namespace,
            class_name=str(body["class_name"]),
            placement=placement,
            held=held,
            max_restarts=int(body["max_restarts"]),
            detached=bool(body["detached"]),
            creation=creation,
            creation_hold=hold,
            meta=binary(body, "meta"),
            mailbox=mailbox,
            group_id=None if bundle is None else binary(bundle, "group_id"),
            environment=body.get("environment", b""),
            creator=None if body["detached"] else creator,
            is_checkpointed=bool(body.get("checkpointed")),
            stub=stub,
            creation_kept=kept,
            holders=set(body.get("holders", ())),
            checkpoint=body.get("checkpoint"),
            checkpoint_hold=body.get("checkpoint_hold"),
        )
        self.by_id[actor_id] = actor
        self.by_creation[bytes(stub["id"])] = actor
        if actor.creator is not None:
            self._children.setdefault(actor.creator, []).append(actor)
        if name is not None:
            self._by_name[namespace, name] = actor
        return actor

    def _check_new(self, actor_id: bytes, name: str | None, namespace: str) -> None:
        if len(actor_id) != 16 or actor_id in self.by_id:
            raise RequestError(f"{actor_id.hex()!r} is not a new actor id")
        if name is not None and (holder := self._by_name.get((namespace, name))) is not None:
            raise ActorAlreadyExistsError(
                f"the name {name!r} in namespace {namespace!r} belongs to {holder.title}",
                hint="choose another name, or get that actor by its name",
            )
        if len(self.by_id) >= self._config.actors_max:
            raise LimitReachedError(
                f"the node has {len(self.by_id)} actors, as many as it may (actors_max)",
                hint="drop references to actors that are no longer needed",
            )
        self._check_processes()

    def _check_processes(self) -> None:
        """Each living actor has, or waits for, a process; some must be left for tasks."""
        most = self._config.workers_max - max(1, self._config.ready_workers)
        if len(self.by_id) < most:
            return
        self._look_at(list(self.by_id.values()))  # Some may have lost their last handle just now.
        living = sum(actor.stage is not ActorStage.DEAD for actor in self.by_id.values())
        if living >= most:
            raise LimitReachedError(
                f"{living} actors live on the node, as many as its processes allow "
                f"(workers_max={self._config.workers_max})",
                hint="end some of them, or keep more state in each",
            )

    def _capacity(self, wanted: int) -> int:
        if not 1 <= wanted <= self._config.mailbox_capacity_max:
            raise LimitReachedError(
                f"a mailbox of {wanted} calls was asked for; allowed: 1 to "
                f"{self._config.mailbox_capacity_max} (mailbox_capacity_max)"
            )
        return 1 << (wanted - 1).bit_length()

    def make_mailbox(self, job_id: bytes, actor_id: bytes, capacity: int) -> int:
        """Where calls of an actor are queued. Raises LimitReachedError, ObjectStoreFullError."""
        return self._memory.make_queue(QUEUE_MAILBOX, job_id, actor_id, self._capacity(capacity))

    def drop_mailbox(self, mailbox: int, error: bytes) -> None:
        """Frees one that no actor has come to have; what is in it fails with the error."""
        self._memory.close_queue(mailbox)
        self._repair.fail(self._memory.drain_queue(mailbox), error)
        self._memory.free_queue(mailbox)

    def slot_of(self, actor_id: bytes) -> int | None:
        """The slot of the process that an actor has now, if it has one that is attached."""
        actor = self.by_id.get(actor_id)
        worker = None if actor is None else self._process_of(actor)
        return None if worker is None else worker.slot

    def place(self, actor: ActorRecord) -> None:
        """Asks for a process for it."""
        self._tell(
            ActorWanted(
                actor_id=actor.actor_id,
                job_id=actor.job_id,
                placement=actor.placement,
                held=actor.held,
                environment=actor.environment,
            )
        )

    def withdraw(self, actor: ActorRecord) -> None:
        """Undoes ``create``: the cluster refused the name."""
        self._end(actor, "its name is taken elsewhere", None)
        self._forget(actor)

    def get(self, actor_id: bytes) -> ActorRecord:
        """The actor, dead or alive. Raises ActorNotFoundError."""
        actor = self.by_id.get(actor_id)
        if actor is None:
            raise ActorNotFoundError(f"this node knows no actor {actor_id.hex()}")
        return actor

    def find(self, name: str, namespace: str) -> ActorRecord:
        """The living actor of that name. Raises ActorNotFoundError."""
        actor = self._by_name.get((namespace, name))
        if actor is None:
            raise ActorNotFoundError(
                f"no living actor is called {name!r} in namespace {namespace!r}",
                hint="names are given by options(name=...); they end with the actor",
            )
        return actor

    # ---- its process

    def started(self, actor_id: bytes, worker: WorkerProcess) -> None:
        """A process is being forked for it."""
        actor = self.by_id[actor_id]
        actor.move(ActorStage.STARTING)
        actor.worker_id = worker.worker_id

    def ready(self, actor_id: bytes, worker: WorkerProcess, *, is_serial: bool) -> int:
        """Its constructor has returned. Returns how many calls reached it while it was down."""
        actor = self._of_worker(actor_id, worker)
        actor.is_serial = is_serial
        if actor.stage is ActorStage.STARTING:
            actor.move(ActorStage.ALIVE)
            actor.failed_starts = 0
            actor.retaken.clear()  # It has taken them.
            self._changed(actor)
        # Before its first life it was not down: what came then is as good as what comes now.
        return self._memory.queue_length(actor.mailbox) if actor.restarts else 0

    def checkpointed(self, actor_id: bytes, worker: WorkerProcess, at: Body) -> None:
        """It has saved its state; the checkpoint before may go.

        Raises ObjectNotFoundError when the value is gone already.
        """
        actor = self._of_worker(actor_id, worker)
        # The new one is held before the old one is let go.
        hold = self._memory.hold(at["loc"], at["version"], at["id"])
        actor.checkpoint_hold, actor.checkpoint = hold, at
        self.on_checkpoint(actor)

    def failed(self, actor_id: bytes, worker: WorkerProcess, error: bytes) -> None:
        """Its constructor has raised; the exception, pickled, is what its callers get."""
        actor = self._of_worker(actor_id, worker)
        if actor.stage is ActorStage.STARTING:
            self._end(actor, "its constructor failed", error)
            self._pool.retire(worker, "the actor's constructor failed", self._config.actor_grace_s)

    def environment_failed(self, actor_id: bytes, error: Exception) -> None:
        """Nothing can ever run it: what its process would need cannot be made."""
        actor = self.by_id.get(actor_id)
        if actor is not None and actor.stage in (ActorStage.PENDING, ActorStage.RESTARTING):
            self._end(actor, "its runtime environment cannot be made", pickled(error))

    def _of_worker(self, actor_id: bytes, worker: WorkerProcess) -> ActorRecord:
        actor = self.get(actor_id)
        if actor.worker_id != worker.worker_id:
            raise RequestError(f"process {worker.pid} does not run actor {actor_id.hex()}")
        return actor

    def process_died(self, worker: WorkerProcess, death: Death, claimed: list[int]) -> None:
        """Its process is dead: it comes again, or that was its end."""
        assert worker.actor_id is not None
        actor = self.by_id.get(worker.actor_id)
        if actor is None or actor.worker_id != worker.worker_id:
            return
        actor.worker_id = None
        if not actor.is_checkpointed:
            self._end_children(actor)  # One with checkpoints comes back and knows them.
        if actor.stage is ActorStage.DEAD:
            assert actor.death is not None
            self._repair.fail(claimed, actor.death)
        elif actor.may_restart and actor.is_checkpointed:
            # In the order that only the actor knows: its next process sees to all of them.
            if worker.slot is not None:
                actor.retaken += self._memory.retake(worker.slot, claimed)
            self._restart(actor, death)
        elif actor.may_restart:
            unavailable = actor.unavailable(death)

            def error_of(_: TaskInfo) -> Exception:
                return unavailable

            self._repair.settle(claimed, error_of)
            self._restart(actor, death)
        else:
            error = actor.died_of(death)
            self._end(actor, actor.ending or death.cause, pickled(error))
            self._repair.fail(claimed, pickled(error))

    def _restart(self, actor: ActorRecord, death: Death) -> None:
        if actor.stage is ActorStage.STARTING:
            actor.failed_starts += 1
        actor.restarts += 1
        actor.death_cause = death.cause
        actor.move(ActorStage.RESTARTING)
        self._changed(actor)
        if not actor.failed_starts:
            self.place(actor)
            return
        # One that dies in its constructor each time must not be forked in a hot loop.
        pause_s = min(RESTART_PAUSE_S * 2 ** min(actor.failed_starts, 10), RESTART_PAUSE_S_MAX)
        asyncio.get_running_loop().call_later(pause_s, self._place_again, actor)

    def _place_again(self, actor: ActorRecord) -> None:
        if actor.stage is ActorStage.RESTARTING:
            self.place(actor)

    # ---- ending

    def kill(self, actor_id: bytes, *, no_restart: bool) -> None:
        """Kills its process; for good, unless it may and shall be restarted."""
        actor = self.get(actor_id)
        if no_restart:
            self._stop(actor, KILLED, at_once=True)
        elif (worker := self._process_of(actor)) is not None:
            self._pool.kill(worker, KILLED_TO_RESTART)

    def exit(self, actor_id: bytes, worker: WorkerProcess) -> None:
        """The actor asks to end."""
        self._stop(self._of_worker(actor_id, worker), EXITED, at_once=False)

    def end_job(self, job_id: bytes) -> None:
        """The job's actors end with it."""
        for actor in list(self.by_id.values()):
            if actor.job_id == job_id:
                self._stop(actor, JOB_ENDED, at_once=True)

    def end_group(self, group_id: bytes) -> None:
        """The actors of a placement group end with it."""
        for actor in list(self.by_id.values()):
            if actor.group_id == group_id and actor.stage is not ActorStage.DEAD:
                error = ActorPlacementGroupRemovedError(
                    f"{actor.title} died: {GROUP_REMOVED}", actor_id=actor.actor_id
                )
                self._stop(actor, GROUP_REMOVED, at_once=True, error=pickled(error))

    def _stop(
        self, actor: ActorRecord, reason: str, *, at_once: bool, error: bytes | None = None
    ) -> None:
        worker = self._process_of(actor)
        if actor.stage is not ActorStage.DEAD:
            self._end(actor, reason, error)
        if worker is not None:
            if at_once:
                self._pool.kill(worker, reason)
            else:
                self._pool.retire(worker, reason, self._config.actor_grace_s)

    def end_for(self, actor_id: bytes, reason: str) -> None:
        """Ends an actor for good, if it lives."""
        actor = self.by_id.get(actor_id)
        if actor is not None:
            self._stop(actor, reason, at_once=True)

    def _end_children(self, actor: ActorRecord) -> None:
        """What it made, and is not detached, shares its fate."""
        self.end_elsewhere(actor.actor_id, OWNER_DIED.format(actor.title))
        for child in self._children.pop(actor.actor_id, ()):
            self._stop(child, OWNER_DIED.format(actor.title), at_once=True)

    def _end(self, actor: ActorRecord, reason: str, error: bytes | None) -> None:
        """DEAD from here on; its queued calls fail."""
        actor.ending = actor.ending or reason
        actor.death_cause = reason
        waits = actor.stage in (ActorStage.PENDING, ActorStage.RESTARTING)
        actor.death = error if error is not None else pickled(actor.ended())
        actor.move(ActorStage.DEAD)
        if waits:
            self._tell(ActorGone(actor_id=actor.actor_id))
        if actor.name is not None:
            self._by_name.pop((actor.namespace, actor.name), None)
        self._memory.close_queue(actor.mailbox)
        self._drain(actor)
        self._repair.fail(actor.retaken, actor.death)
        actor.retaken.clear()
        actor.checkpoint_hold = actor.checkpoint = None
        self._end_children(actor)
        logger.debug("actor is dead actor=%s cause=%s", actor.actor_id.hex(), reason)
        self._changed(actor)

    def _drain(self, actor: ActorRecord) -> None:
        assert actor.death is not None
        self._repair.fail(self._memory.drain_queue(actor.mailbox), actor.death)

    def _process_of(self, actor: ActorRecord) -> WorkerProcess | None:
        return None if actor.worker_id is None else self._pool.by_id.get(actor.worker_id)

    # ---- nobody refers to it any more

    def tick(self) -> None:
        """Ends actors that nobody refers to, and forgets dead ones likewise.

        Of very many it looks at some each time: a tick must stay short.
        """
        actors = list(self.by_id.values())
        first = self._next_look if self._next_look < len(actors) else 0
        self._next_look = first + ACTORS_PER_TICK
        self._look_at(actors[first : self._next_look])

    def _look_at(self, actors: Sequence[ActorRecord]) -> None:
        for actor in actors:
            if actor.stage is ActorStage.DEAD:
                # A caller that looked before the mailbox was closed may have pushed since.
                self._drain(actor)
                if actor.worker_id is None and self._is_unreferenced(actor):
                    self._forget(actor)
            elif not actor.detached and self._is_unreferenced(actor) and self._is_done(actor):
                self._stop(actor, OUT_OF_SCOPE, at_once=False)

    def _is_unreferenced(self, actor: ActorRecord) -> bool:
        hold = actor.creation_hold
        if actor.holders:
            return False
        return hold is None or not self._memory.held_elsewhere(hold)

    def _is_done(self, actor: ActorRecord) -> bool:
        """Whether no call waits or runs, in an order that a claim in between cannot fool."""
        if actor.stage is ActorStage.STARTING or self._memory.queue_length(actor.mailbox):
            return False
        worker = self._process_of(actor)
        if worker is None or worker.slot is None:
            return True
        return not self._memory.is_at_work(worker.slot)

    def _forget(self, actor: ActorRecord) -> None:
        self._drain(actor)
        self._memory.free_queue(actor.mailbox)
        actor.creation_hold = actor.creation_kept = None
        del self.by_id[actor.actor_id]
        self.by_creation.pop(bytes(actor.stub["id"]), None)
        if actor.creator is not None and actor in self._children.get(actor.creator, ()):
            self._children[actor.creator].remove(actor)
        self._forgotten(actor)
