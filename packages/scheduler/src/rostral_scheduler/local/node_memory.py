"""The node's shared memory, as the scheduler needs it: one of two modules that import the store.

The other is what crosses nodes: between/transit_memory.py. This file owns the scheduler's
attachment: its slot, the thread that sleeps until the slot is poked, and what the scheduler may do
with queues, grants, tasks of the dead and objects. It decides nothing. But for the sleeping thread,
everything in here is called on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, NewType

from msgspec import structs

from rostral_objectstore import device_ids, layout
from rostral_objectstore._native import cancelling, lanes, repair, replay
from rostral_objectstore._native.queue import Queue
from rostral_objectstore._native.table import Handle
from rostral_objectstore.client import StoreClient
from rostral_objectstore.control import Body, ControlClient
from rostral_objectstore.control_server import ControlServer, Session

__all__ = [
    "QUEUE_MAILBOX",
    "QUEUE_READY",
    "Body",
    "ControlClient",
    "ControlServer",
    "Hold",
    "NodeMemory",
    "Session",
    "SlotInfo",
    "TaskInfo",
    "WorkWords",
    "gpus_with",
]

QUEUE_READY: Final = layout.QUEUE_READY
QUEUE_MAILBOX: Final = layout.QUEUE_MAILBOX

KIND_PICKLE: Final = 1
# A queue's ring has at most one part in so many of the store.
QUEUE_SHARE: Final = 512
CELL_BYTES: Final = 8
_WAIT_NS: Final = 1_000_000_000
_NO_USERS_OF_QUEUES: Final = (layout.SlotKind.STORE, layout.SlotKind.CLIENT)

Hold = NewType("Hold", object)
"""A hold on one object: while it lives, so does the object."""


@dataclass(frozen=True, slots=True)
class SlotInfo:
    """One attached process."""

    slot: int
    is_live: bool
    is_dead: bool
    pid: int
    generation: int
    worker_id: bytes


@dataclass(frozen=True, slots=True)
class WorkWords:
    """What a worker's slot says of its work."""

    acknowledged: int
    running: int
    blocked: bool
    idle: bool


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """One task, as far as a repair needs it."""

    task_id: bytes
    queue: int
    retries_left: int
    is_actor_call: bool
    is_cancelled: bool = False
    is_late: bool = False
    """Cancelled because its deadline is over."""
    cancels_children: bool = False


class NodeMemory:
    """The attachment of the local scheduler; made by ``connect``, ended by ``close``."""

    def __init__(self, client: StoreClient) -> None:
        self._client = client
        self._segment = client.segment
        self._table = client.table
        self._tasks = client.tasks
        self._queues: dict[int, Queue] = {}
        self._lanes: dict[int, list[int]] = {}
        self._stopping = False
        self._sleeper: threading.Thread | None = None
        self._segment.set_scheduler(client.slot)

    @classmethod
    async def connect(cls, socket_path: str) -> NodeMemory:
        """Attaches to the store, as the node's scheduler.

        In a thread: the store may be served by this very event loop.

        Raises:
            StoreUnavailableError: No store answers at the socket.
        """
        return cls(await asyncio.to_thread(StoreClient.connect, socket_path, kind="scheduler"))

    async def close(self) -> None:
        """Closes every queue and detaches. What the scheduler held goes as after a death."""
        for queue in self._queues.values():
            queue.close()
        self._stopping = True
        if self._sleeper is not None:
            self._segment.poke(self._client.slot)
            await asyncio.to_thread(self._sleeper.join)
        await asyncio.to_thread(self._client.close)

    # ---- being woken

    def watch(self, woken: Callable[[], None], interval_s: float) -> None:
        """Calls ``woken`` on the event loop after each poke, at most once in ``interval_s``."""
        loop = asyncio.get_running_loop()

        def sleep_until_poked() -> None:
            seen = self._segment.futex_value()
            while not self._stopping:
                if not self._segment.wait_poke(seen, _WAIT_NS):
                    continue
                seen = self._segment.futex_value()
                with contextlib.suppress(RuntimeError):  # The loop was closed meanwhile.
                    loop.call_soon_threadsafe(woken)
                # The first poke is answered at once, a storm of them once an interval.
                time.sleep(interval_s)

        self._sleeper = threading.Thread(
            target=sleep_until_poked, name="rostral-poked", daemon=True
        )
        self._sleeper.start()

    # ---- the node

    @property
    def client(self) -> StoreClient:
        """The attachment itself, for the other adapter, between/transit_memory.py."""
        return self._client

    @property
    def slot(self) -> int:
        """The scheduler's own slot."""
        return self._client.slot

    @property
    def node_id(self) -> bytes:
        """16 bytes."""
        return bytes(self._segment.node_id)

    @property
    def cpu_count(self) -> int:
        """Cores that the store was told of."""
        return int(self._segment.cpu_count)

    @property
    def capacity_bytes(self) -> int:
        """Room for objects."""
        return int(self._segment.capacity)

    async def store_stats(self) -> Body:
        """What the store says of itself."""
        stats: Body = structs.asdict(await asyncio.to_thread(self._client.stats))
        return stats

    # ---- queues

    def make_queue(
        self, kind: int, job_id: bytes, key: bytes, capacity: int, rank: tuple[int, int] = (0, 0)
    ) -> int:
        """A new queue; returns its locator. Raises ObjectStoreFullError.

        Of a ready queue, `rank` is the priority and depth of its tasks.
        """
        queue = Queue.create(self._segment, capacity, kind, job_id, key)
        self._queues[queue.loc] = queue
        lanes.set_rank(queue, *rank)
        return int(queue.loc)

    def make_lane(
        self,
        queue: int,
        capacity: int,
        *,
        number: int,
        rank: tuple[int, int],
        before: int | None,
        after: int | None,
    ) -> int:
        """A new lane of a ready queue, between two that it has; returns its locator.

        It is closed, drained and freed with its queue. Raises ObjectStoreFullError.
        """
        base = self._queues[queue]
        lane = Queue.create(self._segment, capacity, QUEUE_READY, base.job_id, base.key)
        neighbours = [None if loc is None else self._queues[loc] for loc in (before, after)]
        lanes.link_lane(base, lane, number, *rank, *neighbours)
        self._queues[lane.loc] = lane
        self._lanes.setdefault(queue, []).append(lane.loc)
        return int(lane.loc)

    def fitting_capacity(self, wanted: int) -> int:
        """How many tasks a ready queue may hold: so many, or fewer in a small store.

        The ring is made of the store's own chunks, though its pages only as they are needed.
        """
        fitting = self.capacity_bytes // QUEUE_SHARE // CELL_BYTES
        return max(1, min(wanted, 1 << (fitting.bit_length() - 1)))

    def queue_length(self, queue: int) -> int:
        """Tasks in it and its lanes."""
        if queue in self._lanes:
            return self.queue_state(queue)[0]
        return len(self._queues[queue])

    def queue_state(self, queue: int) -> tuple[int, int, int]:
        """Tasks in it and its lanes; of those that come first, priority and depth."""
        waiting = lanes.lengths(self._queues[queue])
        if not waiting:
            return 0, 0, 0
        length = sum(length for _, length in waiting)
        return length, *lanes.rank_of(self._segment, waiting[0][0])

    def taken_from(self, queue: int) -> int:
        """How many tasks have been taken from it and its lanes so far."""
        return lanes.taken(self._queues[queue])

    def queue_capacity(self, queue: int) -> int:
        """Tasks that it can hold."""
        return int(self._queues[queue].capacity)

    def set_wanted(self, queue: int, *, wanted: bool) -> None:
        """Whether a push that finds nobody asleep pokes the scheduler."""
        self._queues[queue].set_wants_scheduler(wanted)

    def wake_queue(self, queue: int) -> None:
        """Wakes every worker that sleeps at it."""
        self._queues[queue].wake_all()

    def is_open(self, queue: int) -> bool:
        """Whether the queue exists and takes tasks."""
        return queue in self._queues and not self._queues[queue].closed

    def close_queue(self, queue: int) -> None:
        """Submitters are refused from here on."""
        for loc in (queue, *self._lanes.get(queue, ())):
            self._queues[loc].close()

    def free_queue(self, queue: int) -> None:
        """Gives its memory back; nobody may know the locator any more."""
        for loc in (queue, *self._lanes.pop(queue, ())):
            self._queues.pop(loc).free()

    # ---- queues of a scheduler before this one

    def inherited_queues(self) -> list[int]:
        """Those that are there before this scheduler has made any."""
        return list(repair.queues(self._segment))

    def close_inherited(self, queue: int) -> None:
        """Submitters are refused from here on."""
        repair.close_queue(self._segment, queue)

    def end_inherited(self, queues: Iterable[int]) -> int:
        """Drops their tasks, frees them, says how many tasks. Nobody may know the locators."""
        dropped = repair.end_tasks_of(self._tasks, queues)
        for queue in queues:
            repair.free_queue(self._segment, queue)
        return int(dropped)

    def attached(self) -> dict[int, int]:
        """Slots, with their generation, of others that may know queues, and are not yet buried."""
        states = (layout.SlotState.LIVE, layout.SlotState.DEAD, layout.SlotState.REPAIRED)
        infos = [
            self._segment.slot_info(slot)
            for state in states
            for slot in self._segment.slots_in_state(state)
        ]
        return {
            info["slot"]: info["generation"]
            for info in infos
            if info["kind"] not in _NO_USERS_OF_QUEUES and info["slot"] != self.slot
        }

    # ---- slots and grants

    def slot_info(self, slot: int) -> SlotInfo:
        """Who has the slot."""
        info = self._segment.slot_info(slot)
        return SlotInfo(
            slot=slot,
            is_live=info["state"] == layout.SlotState.LIVE,
            is_dead=info["state"] == layout.SlotState.DEAD,
            pid=info["pid"],
            generation=info["generation"],
            worker_id=info["worker_id"],
        )

    def dead_slots(self) -> list[int]:
        """Slots of processes that are gone and not yet repaired."""
        return list(self._segment.slots_in_state(layout.SlotState.DEAD))

    def slot_of_worker(self, worker_id: bytes) -> int | None:
        """The slot that a worker attached with, if it is not repaired yet."""
        for state in (layout.SlotState.LIVE, layout.SlotState.DEAD):
            for slot in self._segment.slots_in_state(state):
                if self._segment.slot_info(slot)["worker_id"] == worker_id:
                    return int(slot)
        return None

    def work_words(self, slot: int) -> WorkWords:
        """What the worker does at this moment."""
        _, acknowledged, running, blocked, idle = self._segment.work_state(slot)
        return WorkWords(acknowledged, running, bool(blocked), bool(idle))

    def is_at_work(self, slot: int) -> bool:
        """Whether the process has claimed, or is about to claim, any task."""
        # In this order: a claimer writes `running` before it clears `claiming`.
        if self._segment.slot_info(slot)["claiming"]:
            return True
        if self._segment.work_state(slot)[2]:
            return True
        return any(not replay.is_kept(self._segment, task) for task in self.claimed_by(slot))

    def grant(self, slot: int, queue: int) -> None:
        """Grants the worker a queue, or (0) withdraws what it has."""
        self._segment.assign_queue(slot, queue)

    def set_starved(self, *, starved: bool) -> None:
        """Whether workers poke the scheduler when they run out of tasks."""
        self._segment.set_starved(starved)

    # ---- after a death

    def claimed_by(self, slot: int) -> list[int]:
        """Tasks that the process has claimed and not finished."""
        return list(repair.claimed_by(self._segment, slot))

    def list_tasks(self, limit: int) -> list[layout.TaskInfo]:
        """Tasks of the node in any state, at most so many, in no order."""
        return repair.list_tasks(self._segment, limit)

    def task_info(self, task: int) -> TaskInfo:
        """What is known of a task."""
        info = repair.task_info(self._segment, task)
        return TaskInfo(
            task_id=info["id"],
            queue=info["queue"],
            retries_left=info["retries_left"],
            is_actor_call=bool(info["flags"] & layout.TaskFlag.ACTOR_CALL),
            is_cancelled=bool(info["flags"] & layout.TaskFlag.CANCELLED),
            is_late=bool(info["flags"] & layout.TaskFlag.LATE),
            cancels_children=bool(info["flags"] & layout.TaskFlag.CANCEL_CHILDREN),
        )

    def run_again(self, task: int, *, counted: bool = True) -> bool:
        """Puts a claimed task back. False: no retries left, or its queue is closed or full."""
        return bool(repair.run_again(self._segment, task, counted))

    def take_claim(self, task: int) -> bool:
        """Makes the claim of a dead process the scheduler's, so that the task can wait."""
        return bool(repair.take_claim(self._segment, task))

    def fail_task(self, task: int, error: bytes) -> None:
        """Ends a task; whoever waits for its results gets the pickled exception."""
        repair.fail(self._table, task, KIND_PICKLE, error, int(layout.ObjectFlag.ERROR))

    def drain_queue(self, queue: int) -> list[int]:
        """Takes every task out of a queue; the scheduler has claimed them."""
        locs = (queue, *self._lanes.get(queue, ()))
        return [task for loc in locs for task in repair.claim_all(self._segment, loc)]

    def retake(self, slot: int, tasks: Iterable[int]) -> list[int]:
        """Claims what a dead actor with checkpoints had claimed, for its next process to take."""
        return [task for task in tasks if replay.retake(self._segment, task, slot)]

    def kept_place(self, task: int, task_id: bytes) -> int | None:
        """The place of a call that is kept for replay; None: it has none yet, 0: it is over."""
        info = repair.task_info(self._segment, task)
        if info["id"] != task_id or info["state"] in (layout.TaskState.FREE, layout.TaskState.DONE):
            return 0
        return int(info["attempt"]) if info["flags"] & layout.TaskFlag.LOGGED else None

    def kept_call(
        self, task: int
    ) -> tuple[int, bytes, bytes, int, bytes, int, list[int], int] | None:
        """What a call that is kept is made of, as `replay.specification` says; None: it is not."""
        return replay.specification(self._segment, task)

    def kept_after(self, slot: int, place: int) -> list[tuple[int, int]]:
        """(place, task) of the calls that an actor's process keeps, in places after that one."""
        return list(replay.kept_after(self._segment, slot, place))

    def finished_count(self, slot: int) -> int:
        """Tasks that the process has ended so far."""
        return int(self._segment.slot_info(slot)["finished_count"])

    def take_over(self, slot: int) -> int:
        """What the dead process had submitted is the scheduler's to free from here on."""
        return int(repair.take_over(self._tasks, slot))

    def mark_repaired(self, slot: int) -> None:
        """The store may clean up after the dead process now."""
        self._segment.set_slot_state(slot, layout.SlotState.REPAIRED)

    def rescue(self) -> int:
        """Starts tasks that wait for nothing; looks through all tasks."""
        return int(repair.rescue(self._segment))

    def end_tasks(self, job_id: bytes) -> int:
        """Drops every task of a job whose processes are all gone."""
        return int(repair.end_tasks(self._tasks, job_id))

    def sweep(self) -> None:
        """Frees tasks taken over from the dead that are done by now."""
        if self._tasks.unfinished_count:
            self._tasks.sweep()

    # ---- cancelling

    def cancel(self, task: int, task_id: bytes, error: bytes, *, is_late: bool) -> bool:
        """Cancels a task, and says that its children shall be; one that has not begun ends so.

        True: it runs, and is flagged. False: it has ended, or was flagged before.
        """
        flags = int(layout.TaskFlag.CANCEL_CHILDREN)
        flags |= int(layout.TaskFlag.LATE) if is_late else 0
        return bool(self._cancel_at(task, task_id, flags, error))

    def _cancel_at(self, task: int, task_id: bytes, flags: int, error: bytes) -> int | None:
        error_flag = int(layout.ObjectFlag.ERROR)
        return cancelling.cancel_at(
            self._table, task, task_id, flags, KIND_PICKLE, error, error_flag
        )

    def allow_interrupt(self, task: int, task_id: bytes) -> None:
        """The code of a cancelled task that runs may be interrupted."""
        self._cancel_at(task, task_id, int(layout.TaskFlag.INTERRUPT), b"")

    def children_of(self, task_id: bytes) -> list[tuple[int, bytes]]:
        """(task, id) of a task's children that are neither done nor cancelled."""
        return list(cancelling.children_of(self._segment, task_id))

    def late_tasks(self) -> list[tuple[int, bytes]]:
        """(task, id) of tasks over their deadline, of those taken over from the dead."""
        return list(cancelling.late(self._tasks, time.monotonic_ns()))

    def claimer(self, task: int, task_id: bytes) -> int | None:
        """The slot of the process that has claimed the task and not finished it."""
        return cancelling.claimer_of(self._segment, task, task_id)

    # ---- objects

    def hold(self, loc: int, version: int, object_id: bytes) -> Hold:
        """Holds an object that somebody else holds now. Raises ObjectNotFoundError."""
        return Hold(self._table.adopt(Handle, loc, version, object_id))

    def held_elsewhere(self, hold: Hold) -> bool:
        """Whether anybody but the scheduler refers to the object."""
        handle: Any = hold
        return bool(self._table.held_elsewhere(handle))


def gpus_with(digests: Iterable[bytes], gpu_count: int) -> tuple[int, ...]:
    """The node's numbers of the GPUs that ids of device arrays mean by these digests, in order."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    numbers = {
        device_ids.digest_of(device_ids.name_of(visible, number)): number
        for number in range(gpu_count)
    }
    return tuple(numbers[digest] for digest in digests if digest in numbers)


def pickled(error: Exception) -> bytes:
    """An exception as it lies in the store."""
    return pickle.dumps(error, protocol=5)
