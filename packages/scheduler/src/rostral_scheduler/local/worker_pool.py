"""The worker processes of the node: forked, registered, ended, and what is known of each.

This file owns the processes and their zygote. It starts and ends what it is told to; when to is
decided in ``core/local.py``. What becomes of a dead worker's tasks is in ``deaths.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rostral_gcs.services.users import uid_of
from rostral_scheduler.config import LocalSchedulerConfig
from rostral_scheduler.core.events import Event
from rostral_scheduler.environment import NO_ENVIRONMENT
from rostral_scheduler.errors import RequestError, WorkerStartError
from rostral_scheduler.local.environments import Environments, WorkerPlace
from rostral_scheduler.local.logs import LogLimits, StreamName, WorkerOutput, make_pipe
from rostral_scheduler.local.node_memory import Session
from rostral_scheduler.local.zygote_process import ZygoteProcess
from rostral_scheduler.worker_start import CANCEL_SIGNAL, WorkerStart
from rostral_scheduler.zygote_start import StartedZygote, start_zygote

__all__ = ["Death", "WorkerPool", "WorkerProcess"]

logger = logging.getLogger("rostral.scheduler.workers")

UNKNOWN_STATUS = -1
_ZYGOTE_PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class Death:
    """How a process ended.

    Attributes:
        pid: Which.
        exit_status: Its exit status; minus the signal's number when a signal killed it.
        cause: The same in words, to follow "process 17 ".
        stderr_lines: The last it wrote.
        out_of_memory: Whether memory was the reason: the node's monitor or the kernel ended it.
        memory_report: The largest processes at that moment, if the monitor did.
    """

    pid: int
    exit_status: int
    cause: str
    stderr_lines: tuple[str, ...] = ()
    out_of_memory: bool = False
    memory_report: str = ""


@dataclass(slots=True, eq=False)
class WorkerProcess:
    """One worker, from the order to fork it until nothing is left of it.

    Invariant: ``status`` is None exactly while the process may be alive.
    """

    number: int
    worker_id: bytes
    actor_id: bytes | None
    started_at_s: float
    output: WorkerOutput | None = None
    job_id: bytes | None = None
    pid: int = 0
    slot: int | None = None
    session: Session | None = None
    name: str = ""
    shows_progress: bool = False
    environment: bytes = NO_ENVIRONMENT
    zygote: ZygoteProcess | None = None
    status: int | None = None
    kill_reason: str = ""
    memory_report: str = ""
    dead_since_s: float | None = None
    kill_timer: asyncio.TimerHandle | None = None

    @property
    def is_retiring(self) -> bool:
        """It was asked to end, and has the grace period for that."""
        return self.kill_timer is not None

    def death(self) -> Death:
        """How it ended; call once it has."""
        status = self.status if self.status is not None else UNKNOWN_STATUS
        code, cause = _describe(status)
        if self.kill_reason:
            cause = f"was ended: {self.kill_reason}"
        lines = tuple(self.output.last_stderr) if self.output is not None else ()
        report = self.memory_report
        return Death(self.pid, code, cause, lines, bool(report), report)


def _describe(status: int) -> tuple[int, str]:
    if status == UNKNOWN_STATUS:
        return 0, "died for a reason that nobody saw"
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return code, f"exited with status {code}"
    with contextlib.suppress(ValueError):
        return code, f"was killed by signal {-code} ({signal.Signals(-code).name})"
    return code, f"was killed by signal {-code}"


def _kill_group(pid: int) -> None:
    """Ends what a dead worker has started; its zygote, which mostly does this, is dead too."""
    if pid:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


class WorkerPool:
    """All worker processes of the node, on one event loop.

    Args:
        config: Of the scheduler.
        node_id: 16 bytes.
        exited: Called when a worker's process is dead; its ``status`` is set.
        tell: Gives an event about environments to the policy.
        shown: Called with (worker, stream, lines); False keeps them for later.
        started: A zygote for this configuration that the caller has started; it is the pool's now.
    """

    def __init__(
        self,
        config: LocalSchedulerConfig,
        node_id: bytes,
        *,
        exited: Callable[[WorkerProcess], None],
        tell: Callable[[Event], None],
        shown: Callable[[WorkerProcess, StreamName, Sequence[str]], bool],
        started: StartedZygote | None = None,
    ) -> None:
        self._config = config
        self._node_id = node_id
        self._exited = exited
        self._shown = shown
        self._started = started
        self._zygote: ZygoteProcess | None = None
        self.environments = Environments(config, listener=self, tell=tell)
        self._restarting: asyncio.Task[None] | None = None
        self._postponed: list[tuple[WorkerProcess, WorkerPlace]] = []
        self.by_number: dict[int, WorkerProcess] = {}
        self.by_id: dict[bytes, WorkerProcess] = {}
        self.for_tasks: dict[int, WorkerProcess] = {}
        """By number, those that run tasks, of which there are few beside many actors."""
        self.ended: dict[int, WorkerProcess] = {}
        """By number, those whose process is dead and that are not removed yet: looked at often."""
        self._by_pid: dict[int, WorkerProcess] = {}
        self._starting: dict[int, WorkerProcess] = {}
        self._closed_logs: deque[WorkerOutput] = deque()
        self._log_dir = Path(config.session_dir) / "logs"

    # ---- the zygote

    async def start(self) -> None:
        """Starts the zygote. Raises WorkerStartError."""
        await asyncio.to_thread(self._log_dir.mkdir, parents=True, exist_ok=True)
        await self._start_zygote()

    async def _start_zygote(self) -> None:
        started, self._started = self._started, None
        if started is None:
            started = start_zygote(
                entry=self._config.worker_module,
                preload=self._config.preload_modules,
                environment=self._config.worker_environment,
                cgroup=self._config.worker_cgroup,
                uid=uid_of(self._config.worker_user),
            )
        zygote = ZygoteProcess(self, started, entry=self._config.worker_module)
        await zygote.wait_ready(self._config.start_timeout_s)
        self._zygote = zygote
        postponed, self._postponed = self._postponed, []
        for worker, place in postponed:
            self._begin(worker, place)

    @property
    def zygote_pid(self) -> int:
        """Process id of the zygote, 0 while there is none."""
        return 0 if self._zygote is None else self._zygote.pid

    async def stop(self) -> None:
        """Ends every worker and the zygote, and waits until they are gone."""
        if self._restarting is not None:
            self._restarting.cancel()
            await asyncio.gather(self._restarting, return_exceptions=True)
        if self._zygote is not None:
            await self._zygote.stop()
            self._zygote = None
        await self.environments.stop()
        for worker in list(self.by_number.values()):
            self.remove(worker)

    def zygote_lost(self, zygote: ZygoteProcess) -> None:
        """ZygoteListener: every worker of it died too. Another one is started when needed."""
        logger.warning("a zygote died")
        for worker in list(self.by_number.values()):
            if worker.status is None and worker.zygote is zygote:
                self._end(worker, signal.SIGKILL)
                worker.kill_reason = worker.kill_reason or "the process that forks workers died"
                _kill_group(worker.pid)
                self._exited(worker)
        if zygote is self._zygote:
            self._zygote = None
            self._restarting = asyncio.get_running_loop().create_task(self._restart(zygote))
        else:
            self.environments.zygote_lost(zygote)

    async def _restart(self, lost: ZygoteProcess) -> None:
        await lost.stop()
        pause_s = _ZYGOTE_PAUSE_S
        while True:
            try:
                await self._start_zygote()
                return
            except (WorkerStartError, OSError) as error:
                logger.error("cannot start a zygote error=%s", error)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, self._config.start_timeout_s)

    # ---- starting

    def start_worker(
        self,
        number: int,
        actor_id: bytes | None,
        job_id: bytes | None,
        environment: bytes = NO_ENVIRONMENT,
    ) -> None:
        """Asks for a fork. What comes of it is heard later."""
        worker = WorkerProcess(
            number,
            os.urandom(16),
            actor_id,
            time.monotonic(),
            job_id=job_id,
            environment=environment,
        )
        self.by_number[number] = self.by_id[worker.worker_id] = self._starting[number] = worker
        if actor_id is None:
            self.for_tasks[number] = worker
        try:
            self._begin(worker, self.environments.place_of(environment))
        except WorkerStartError as error:
            self.worker_not_forked(worker.worker_id, str(error))

    def _begin(self, worker: WorkerProcess, place: WorkerPlace) -> None:
        worker.zygote = place.zygote or self._zygote
        if worker.zygote is None:
            # Another is being started: an actor that never may be restarted must not die of that.
            self._postponed.append((worker, place))
            return
        try:
            self._fork(worker, self._start_of(worker, place), place, worker.zygote)
        except (WorkerStartError, OSError) as error:
            self.worker_not_forked(worker.worker_id, str(error))

    def _start_of(self, worker: WorkerProcess, place: WorkerPlace) -> WorkerStart:
        actor_id = worker.actor_id
        return WorkerStart(
            worker_id=worker.worker_id,
            node_id=self._node_id,
            store_socket=self._config.store_socket,
            scheduler_socket=self._config.socket_path,
            session_dir=str(self._config.session_dir),
            kind="worker" if actor_id is None else "actor",
            actor_id=actor_id,
            environment=place.text,
            python_path=place.python_path,
            working_dir=place.working_dir,
        )

    def _fork(
        self, worker: WorkerProcess, start: WorkerStart, place: WorkerPlace, zygote: ZygoteProcess
    ) -> None:
        stdout, stderr = make_pipe(), make_pipe()
        config, stem = self._config, f"worker-{worker.worker_id.hex()}"
        variables = {**config.worker_environment, **place.variables}
        try:
            zygote.fork(start, variables, stdout[1], stderr[1])
        except WorkerStartError:
            os.close(stdout[0])
            os.close(stderr[0])
            raise
        finally:
            os.close(stdout[1])
            os.close(stderr[1])
        worker.output = WorkerOutput(
            paths=(self._log_dir / f"{stem}.out", self._log_dir / f"{stem}.err"),
            fds=(stdout[0], stderr[0]),
            limits=LogLimits(
                line_size_max=config.log_line_size_max,
                file_size_max=config.log_file_size_max,
                old_files_kept=config.log_old_files_kept,
                lines_kept_max=config.log_lines_kept_max,
                stderr_lines_kept=config.stderr_lines_kept,
            ),
            sink=lambda stream, lines: self._shown(worker, stream, lines),
        )

    def worker_forked(self, worker_id: bytes, pid: int) -> None:
        """ZygoteListener: the process exists."""
        worker = self.by_id.get(worker_id)
        if worker is None:
            return
        worker.pid = pid
        self._by_pid[pid] = worker
        if worker.kill_reason:
            self._signal(worker, signal.SIGKILL)
        logger.debug("forked worker=%s pid=%s", worker_id.hex(), pid)

    def worker_not_forked(self, worker_id: bytes, error: str) -> None:
        """ZygoteListener: there is no process."""
        worker = self.by_id.get(worker_id)
        if worker is not None:
            logger.error("cannot fork a worker error=%s", error)
            worker.kill_reason = f"it could not be forked: {error}"
            self._end(worker, UNKNOWN_STATUS)
            asyncio.get_running_loop().call_soon(self._exited, worker)

    def register(self, session: Session, worker_id: bytes, pid: int, slot: int) -> WorkerProcess:
        """A worker says that it is there.

        Raises:
            RequestError: It is none of ours, or has registered before.
        """
        worker = self.by_id.get(worker_id)
        if worker is None or pid != session.pid or worker.pid not in (0, pid):
            raise RequestError(
                f"process {session.pid} is not a worker of this node",
                hint="workers are started by the scheduler only",
            )
        if worker.session is not None:
            raise RequestError(f"worker {worker_id.hex()} has registered already")
        worker.session, worker.slot, worker.pid = session, slot, pid
        self._starting.pop(worker.number, None)
        return worker

    # ---- ending

    def kill(self, worker: WorkerProcess, reason: str) -> None:
        """Ends the process now."""
        worker.kill_reason = worker.kill_reason or reason
        self._signal(worker, signal.SIGKILL)

    def by_slot(self, slot: int) -> WorkerProcess | None:
        """The living worker that attached with the slot."""
        for worker in self.by_number.values():
            if worker.slot == slot and worker.status is None:
                return worker
        return None

    def interrupt(self, worker: WorkerProcess) -> None:
        """Has the process look at which of its tasks are cancelled."""
        # Before it has registered it has no handler, and the signal would end it.
        if worker.session is not None:
            self._signal(worker, CANCEL_SIGNAL)

    def pause(self, worker: WorkerProcess) -> None:
        """Stops the process where it is; ``is_paused`` tells when. ``resume`` or ``kill`` it."""
        self._signal(worker, signal.SIGSTOP)

    def is_paused(self, worker: WorkerProcess) -> bool:
        """Whether a process that was paused, or is dead, runs no more code."""
        try:
            stat = Path(f"/proc/{worker.pid}/stat").read_text()
        except OSError:
            return True
        return stat.rpartition(")")[2].split()[0] in "TtZX"

    def resume(self, worker: WorkerProcess) -> None:
        """Lets a paused process go on."""
        self._signal(worker, signal.SIGCONT)

    def lost(self, worker: WorkerProcess) -> None:
        """A connection of the process has ended: mostly because it is dead already.

        Alive, it could still do harm with what it had, unless it was asked to end and is at it.
        """
        if not worker.is_retiring:
            self._signal(worker, signal.SIGKILL)

    def retire(self, worker: WorkerProcess, reason: str, grace_s: float) -> None:
        """Asks the process to end, and ends it when it has not after so many seconds."""
        if worker.status is not None or worker.is_retiring:
            return
        worker.kill_reason = worker.kill_reason or reason
        if worker.session is None:
            self._signal(worker, signal.SIGKILL)
            return
        worker.session.push("exit", {})
        worker.kill_timer = asyncio.get_running_loop().call_later(
            grace_s, self._signal, worker, signal.SIGKILL
        )

    def kill_late_starters(self, now_s: float) -> None:
        """Ends workers that should have registered long ago."""
        for worker in self._starting.values():
            late = now_s - worker.started_at_s > self._config.start_timeout_s
            if late and not worker.kill_reason:
                logger.warning("worker did not register pid=%s", worker.pid)
                self.kill(worker, "it did not register in time")

    def worker_exited(self, pid: int, status: int) -> None:
        """ZygoteListener: the process is dead."""
        worker = self._by_pid.get(pid)
        if worker is not None and worker.status is None:
            self._end(worker, status)
            self._exited(worker)

    def _end(self, worker: WorkerProcess, status: int) -> None:
        worker.status = status
        self.ended[worker.number] = worker

    def remove(self, worker: WorkerProcess) -> None:
        """Forgets a dead worker; its last output is read before."""
        self.by_number.pop(worker.number, None)
        self.for_tasks.pop(worker.number, None)
        self.ended.pop(worker.number, None)
        self._starting.pop(worker.number, None)
        self.by_id.pop(worker.worker_id, None)
        self._by_pid.pop(worker.pid, None)
        if worker.kill_timer is not None:
            worker.kill_timer.cancel()
        if worker.output is not None:
            worker.output.drain()
            worker.output.close()
            worker.output.remove_files(only_empty=True)
            if len(self._closed_logs) == self._config.log_dead_workers_kept:
                self._closed_logs.popleft().remove_files(only_empty=False)
            self._closed_logs.append(worker.output)
        if worker.session is not None:
            worker.session.close()

    def _signal(self, worker: WorkerProcess, number: int) -> None:
        # While the zygote has not reported its death nobody has reaped it: the pid is still its.
        if worker.pid and worker.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, number)
