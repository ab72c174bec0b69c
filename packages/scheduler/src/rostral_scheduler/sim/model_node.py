"""A node in the deterministic simulation: the real local policy, workers, hosted tasks, objects.

This file owns what a node does with messages, and its deaths: of a worker, of the whole node, and
by fencing. Who runs when is ``core/local.py``'s decision; groups are ``core/group_member.py``'s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from rostral_gcs.ids import NodeID
from rostral_gcs.tables.node_report import NodeReport, QueueReport
from rostral_gcs.tables.nodes import NodeRow, NodeState
from rostral_scheduler.core import actions as act
from rostral_scheduler.core import events as ev
from rostral_scheduler.core.group_commit import Commit, Prepare, Release
from rostral_scheduler.core.group_member import GroupMember, PolicyLedger, ReadGroup, TakeBack
from rostral_scheduler.core.local import LocalPolicy, PolicyLimits
from rostral_scheduler.core.resources import ResourceSet
from rostral_scheduler.sim.model_gcs import (
    Follower,
    GcsCalls,
    Read,
    Register,
    Renew,
    Row,
    Write,
    is_gone,
)
from rostral_scheduler.sim.model_global import (
    Committed,
    Prepared,
    Released,
    name_of,
    versioned,
)
from rostral_scheduler.sim.network import Network

__all__ = [
    "Done",
    "Fetch",
    "Fetched",
    "Forget",
    "InputLost",
    "ModelNode",
    "Returned",
    "Submit",
    "TaskKey",
]

QUEUE = 1
JOB = b"j" * 16
ONE_CPU = ResourceSet.of({"CPU": 1})
LEASE_S = 1.5
_LIMITS = PolicyLimits(
    workers_max=8,
    starts_in_flight_max=4,
    prestart_count=2,
    idle_worker_timeout_s=1.0,
    grant_quantum_s=0.05,
)
_TICK_S = 0.25
_RESEND_S = 0.3
_FETCH_GIVE_UP_S = 2.0
_WAIT_GIVE_UP_S = 2.0

TaskKey = tuple[int, int]
"""A task's number and its attempt."""


@dataclass(frozen=True, slots=True)
class Submit:
    """Run this, and say Done until Forget comes. Inputs are values, or where they lie."""

    key: TaskKey
    epoch: int
    length_s: float
    is_large: bool
    inputs: tuple[tuple[int, int | None, bytes], ...]


@dataclass(frozen=True, slots=True)
class Done:
    """The task has run; a large result stays on the node."""

    key: TaskKey
    node_id: bytes
    epoch: int
    value: int | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class InputLost:
    """An input is not where it was said to be: the task does not run."""

    key: TaskKey
    node_id: bytes
    epoch: int
    object_id: int


@dataclass(frozen=True, slots=True)
class Returned:
    """The task has waited in vain: what it needs was set aside for a placement group meanwhile."""

    key: TaskKey
    node_id: bytes
    epoch: int


@dataclass(frozen=True, slots=True)
class Forget:
    """The answer to Done, InputLost and Returned; ``drop`` a large result too: nobody needs it."""

    key: TaskKey
    drop: bool


@dataclass(frozen=True, slots=True)
class Fetch:
    """Give me the object."""

    object_id: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """Here it is; None: it is not here."""

    object_id: int
    value: int | None


@dataclass(slots=True)
class _Hosted:
    """One task that runs here, or has."""

    submit: Submit
    owner: str
    values: dict[int, int] = field(default_factory=dict)
    asked_at_s: float = 0.0
    crashes: int = 0
    outcome: Done | InputLost | Returned | None = None


@dataclass(slots=True)
class _Process:
    """A worker's process, as its slot would show it."""

    granted: int = 0
    acknowledged: int = 0
    ready: bool = False
    task: TaskKey | None = None


class ModelNode:
    """One node.

    Args:
        network: Where.
        number: Names it.
        compute: The value of a task from its number and its inputs' values.
        crash_rate: Of workers, a share of all task runs.
    """

    def __init__(
        self,
        network: Network,
        number: int,
        compute: Callable[[int, list[int]], int],
        crash_rate: float,
    ) -> None:
        self._network = network
        self.node_id = number.to_bytes(16, "big")
        self.name = name_of(self.node_id)
        self._compute = compute
        self._crash_rate = crash_rate
        self._life = 0
        self.is_up = False
        self.fenced_lives = 0
        self.on_fenced: Callable[[], None] = lambda: None
        self.start()

    # ---- lives

    def start(self) -> None:
        """Begins a life with nothing, and registers."""
        self._life += 1
        life = self._life
        self.is_up = True
        self.is_draining = False
        self.epoch = 0
        self._peers: dict[bytes, int] = {}
        self.hosted: dict[TaskKey, _Hosted] = {}
        self.objects: dict[int, int] = {}
        self._ready: deque[TaskKey] = deque()
        self._taken_at_s = self._network.now_s
        self._processes: dict[int, _Process] = {}
        self.policy = LocalPolicy(ResourceSet.of({"CPU": 2}), _LIMITS)
        self.member = GroupMember(
            self.node_id,
            PolicyLedger(self.policy, self._tell),
            hold_s=1.0,
            retry_s=0.5,
            audit_s=5.0,
        )

        def alive() -> bool:
            return life == self._life

        self._calls = GcsCalls(self._network, self.name, alive)
        self._network.attach(self.name, self.handle)
        self._tell(ev.QueueOpened(queue=QUEUE, job_id=JOB, shape=ONE_CPU))
        Follower(self._network, self._calls, alive, self._row_changed)
        self._calls.call(Register(self._row(), (self.name, life)), self._registered)
        self._every(_TICK_S, self._tick)
        self._every(LEASE_S / 4, self._renew)
        self._every(_RESEND_S, self._resend)

    def crash(self) -> None:
        """Everything on it is killed."""
        self._life += 1
        self.is_up = False
        self._network.detach(self.name)

    def drain(self, within_s: float) -> None:
        """Takes nothing new, gives back what waits, and dies when the rest is done, or then."""
        if not self.is_up or self.is_draining:
            return
        life, self.is_draining = self._life, True
        self._renew()
        while self._ready:
            self._give_back(self._ready.pop())

        def leave() -> None:
            if life == self._life:
                self.crash()

        def look() -> None:
            if life == self._life and not self.hosted:
                leave()

        self._every(_TICK_S, look)
        self._network.after(within_s, leave)

    def _give_back(self, key: TaskKey) -> None:
        self._settle(self.hosted[key], Returned(key, self.node_id, self.epoch))

    def _every(self, interval_s: float, action: Callable[[], None]) -> None:
        life = self._life

        def again() -> None:
            if life == self._life:
                action()
                self._network.after(interval_s, again)

        self._network.after(interval_s * self._network.rng.random(), again)

    def _row(self) -> NodeRow:
        available = self.policy.available_floats()
        held = sum(len(part.taken) for part in self.policy.reservations.by_group.values())
        queue = QueueReport(resources={"CPU": 1.0}, length=len(self._ready), run_time_s=0.1)
        return NodeRow(
            node_id=NodeID(self.node_id),
            address=self.name,
            resources_total={"CPU": 2.0},
            resources_available=available,
            lease_s=LEASE_S,
            report=NodeReport(
                queues=(queue,) if self._ready else (),
                run_time_s=0.1,
                resources_held={"CPU": float(held)} if held else {},
                is_draining=self.is_draining,
            ),
        )

    def _registered(self, answer: object) -> None:
        assert isinstance(answer, NodeRow)
        self.epoch = answer.epoch

    def _renew(self) -> None:
        if self.epoch:
            request = Renew(NodeID(self.node_id), self.epoch, self._row())
            self._calls.call(request, self._renewed)

    def _renewed(self, answer: object) -> None:
        if is_gone(answer) and self.is_up:
            # Declared dead while it lived: all that it has belongs to a life that is over.
            self.fenced_lives += 1
            self.crash()
            self.on_fenced()
            self.start()

    def _row_changed(self, row: Row) -> None:
        """An owner's node that died takes what it had here with it."""
        if not isinstance(row.value, NodeRow):
            return
        node_id, now = row.value.node_id.binary(), row.value
        known = self._peers.get(node_id, 0)
        if now.state is NodeState.DEAD or now.epoch > known > 0:
            for key in [k for k, one in self.hosted.items() if one.owner == name_of(node_id)]:
                self._drop(key)
        self._peers[node_id] = now.epoch

    # ---- messages

    def handle(self, source: str, message: object) -> None:
        """Takes a message."""
        now_s = self._network.now_s
        match message:
            case Submit():
                self._submitted(source, message)
            case Forget(key=key, drop=drop):
                if drop and (key[0] in self.objects) and not self._is_kept(key):
                    del self.objects[key[0]]
                if key in self.hosted:
                    self._drop(key)
            case Fetch(object_id=object_id):
                value = self.objects.get(object_id)
                self._network.send(self.name, source, Fetched(object_id, value))
            case Fetched():
                self._fetched(message)
            case Prepare():
                accepted = self.member.handle_prepare(
                    message.group_id, message.version, dict(message.bundles), now_s
                )
                if accepted is not None:
                    answer = Prepared(self.node_id, message.group_id, message.version, accepted)
                    self._network.send(self.name, source, answer)
            case Commit():
                known = self.member.handle_commit(message.group_id, message.version)
                told = Committed(self.node_id, message.group_id, message.version, known)
                self._network.send(self.name, source, told)
            case Release():
                self.member.handle_release(message.group_id, message.version)
                said = Released(self.node_id, message.group_id, message.version)
                self._network.send(self.name, source, said)
            case _:
                self._calls.handle(message)

    def _submitted(self, source: str, submit: Submit) -> None:
        if submit.epoch != self.epoch or submit.key in self.hosted:
            return
        hosted = self.hosted[submit.key] = _Hosted(submit, source, asked_at_s=self._network.now_s)
        if self.is_draining:
            self._give_back(submit.key)
            return
        for object_id, value, _ in submit.inputs:
            if value is not None:
                hosted.values[object_id] = value
            elif object_id in self.objects:
                hosted.values[object_id] = self.objects[object_id]
        self._start_if_ready(hosted)
        self._fetch(hosted)

    def _fetch(self, hosted: _Hosted) -> None:
        submit = hosted.submit
        for object_id, _, holder in submit.inputs:
            if object_id not in hosted.values:
                self._network.send(self.name, name_of(holder), Fetch(object_id))

    def _fetched(self, message: Fetched) -> None:
        for hosted in list(self.hosted.values()):
            wanted = {object_id for object_id, _, _ in hosted.submit.inputs}
            if message.object_id not in wanted or message.object_id in hosted.values:
                continue
            if message.value is None:
                self._lose(hosted, message.object_id)
            else:
                hosted.values[message.object_id] = message.value
                self._start_if_ready(hosted)

    def _lose(self, hosted: _Hosted, object_id: int) -> None:
        if hosted.outcome is None:
            lost = InputLost(hosted.submit.key, self.node_id, self.epoch, object_id)
            self._settle(hosted, lost)

    def _start_if_ready(self, hosted: _Hosted) -> None:
        if len(hosted.values) == len(hosted.submit.inputs) and hosted.outcome is None:
            if not self._ready:
                self._taken_at_s = self._network.now_s
            self._ready.append(hosted.submit.key)
            self._look(tick=False)

    def _return_some(self) -> None:
        """Nothing was taken for long: what waits goes back to its owner, to be placed anew."""
        if self._ready and self._network.now_s - self._taken_at_s > _WAIT_GIVE_UP_S:
            running = any(process.task is not None for process in self._processes.values())
            while self._ready and not running:
                self._give_back(self._ready.pop())

    def _settle(self, hosted: _Hosted, outcome: Done | InputLost | Returned) -> None:
        hosted.outcome = outcome
        self._network.send(self.name, hosted.owner, outcome)

    def _resend(self) -> None:
        for hosted in self.hosted.values():
            if hosted.outcome is not None:
                self._network.send(self.name, hosted.owner, hosted.outcome)
            elif len(hosted.values) < len(hosted.submit.inputs):
                if self._network.now_s - hosted.asked_at_s > _FETCH_GIVE_UP_S:
                    missing = [
                        object_id
                        for object_id, _, _ in hosted.submit.inputs
                        if object_id not in hosted.values
                    ]
                    self._lose(hosted, missing[0])
                else:
                    self._fetch(hosted)

    def _is_kept(self, key: TaskKey) -> bool:
        """Another attempt of the same task has put the same object here."""
        return any(
            other != key and other[0] == key[0] and one.outcome is not None
            for other, one in self.hosted.items()
        )

    def _drop(self, key: TaskKey) -> None:
        hosted = self.hosted.pop(key)
        if key in self._ready:
            self._ready.remove(key)
        for number, process in list(self._processes.items()):
            if process.task == key and hosted.outcome is None:
                self._kill(number)

    # ---- workers

    def _tell(self, event: ev.Event) -> None:
        self._obey(self.policy.handle(event))
        self.policy.check_invariants()

    def _obey(self, orders: list[act.Action]) -> None:
        for order in orders:
            match order:
                case act.StartWorker(worker=number):
                    self._processes[number] = _Process()
                    self._later(0.005 + 0.02 * self._network.rng.random(), self._ready_now, number)
                case act.Grant(worker=number, queue=queue):
                    self._processes[number].granted = queue
                    self._later(0.0, self._take, number)
                case act.Withdraw(worker=number):
                    self._processes[number].granted = 0
                    self._later(0.0, self._take, number)
                case act.KillWorker(worker=number):
                    self._later(0.0, self._kill, number)
                case _:
                    pass

    def _later(self, delay_s: float, action: Callable[[int], None], number: int) -> None:
        life = self._life
        process = self._processes.get(number)

        def now() -> None:
            if life == self._life and self._processes.get(number) is process:
                action(number)

        self._network.after(delay_s, now)

    def _ready_now(self, number: int) -> None:
        self._processes[number].ready = True
        self._tell(ev.WorkerReady(worker=number))
        self._look(tick=False)

    def _take(self, number: int) -> None:
        process = self._processes[number]
        if process.task is not None:
            return
        process.acknowledged = process.granted
        if process.granted and self._ready:
            key = self._ready.popleft()
            process.task = key
            self._taken_at_s = self._network.now_s
            crashes = self._network.rng.random() < self._crash_rate
            length_s = self.hosted[key].submit.length_s
            if crashes:
                self._later(length_s * self._network.rng.random(), self._die, number)
            self._later(length_s, self._finish, number)
        self._look(tick=False)

    def _finish(self, number: int) -> None:
        process = self._processes[number]
        key, process.task = process.task, None
        hosted = None if key is None else self.hosted.get(key)
        if hosted is not None and hosted.outcome is None:
            submit = hosted.submit
            values = [hosted.values[object_id] for object_id, _, _ in submit.inputs]
            value = self._compute(submit.key[0], values)
            if submit.is_large:
                self.objects[submit.key[0]] = value
            shown = None if submit.is_large else value
            self._settle(hosted, Done(submit.key, self.node_id, self.epoch, shown))
        self._take(number)

    def _die(self, number: int) -> None:
        """The worker's process dies under its task: that runs again, three times at most."""
        key = self._processes[number].task
        hosted = None if key is None else self.hosted.get(key)
        self._kill(number)
        if hosted is None or hosted.outcome is not None:
            return
        hosted.crashes += 1
        if hosted.crashes > 3:
            error = Done(hosted.submit.key, self.node_id, self.epoch, None, "WorkerCrashedError")
            self._settle(hosted, error)
        else:
            self._ready.appendleft(hosted.submit.key)
        self._look(tick=False)

    def _kill(self, number: int) -> None:
        del self._processes[number]
        self._tell(ev.WorkerGone(worker=number, now_s=self._network.now_s))

    def _look(self, *, tick: bool) -> None:
        seen = tuple(
            ev.WorkerSeen(
                worker=number,
                acknowledged=process.acknowledged,
                running=process.task is not None,
                idle=process.task is None,
            )
            for number, process in self._processes.items()
            if process.ready
        )
        self._tell(
            ev.Observed(
                now_s=self._network.now_s,
                queues=(ev.QueueSeen(QUEUE, len(self._ready)),),
                workers=seen,
                tick=tick,
            )
        )

    def _tick(self) -> None:
        self._look(tick=True)
        self._return_some()
        for number, process in list(self._processes.items()):
            if process.ready and process.task is None:
                self._take(number)
        for action in self.member.handle_tick(self._network.now_s):
            assert isinstance(action, ReadGroup)
            self._read_group(action.group_id)

    # ---- groups

    def _read_group(self, group_id: bytes) -> None:
        self._calls.call(
            Read("groups", group_id), lambda answer: self._group_read(group_id, answer)
        )

    def _group_read(self, group_id: bytes, answer: object) -> None:
        assert answer is None or isinstance(answer, Row)
        view = None if answer is None else versioned(answer)
        for action in self.member.handle_row(group_id, view):
            assert isinstance(action, TakeBack)
            write = Write("groups", group_id, action.view, action.view.version)
            self._calls.call(write, lambda _: self._read_group(group_id))
