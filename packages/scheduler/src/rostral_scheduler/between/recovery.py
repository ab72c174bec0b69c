"""Lost results are made again: their tasks run once more, and first those that make their inputs.

This file owns what is remembered of tasks whose results are on other nodes, and those that it has
run again. Which run, in what order, is `core/lineage.py`'s to say. To everybody else such a task is
one that the scheduler has submitted, under the id that it always had.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from rostral_gcs.errors import RostralError
from rostral_scheduler.between.elsewhere import Elsewhere
from rostral_scheduler.between.transit_memory import (
    ClaimedTask,
    Handle,
    ObjectLostError,
    ObjectReconstructionFailedError,
    QueueClosedError,
    QueueFullError,
    TransitMemory,
)
from rostral_scheduler.config import LocalSchedulerConfig
from rostral_scheduler.core.lineage import (
    RETRY_FOREVER,
    Lineage,
    NoMaker,
    Plan,
    Remembered,
    task_of,
)

__all__ = ["Recovery"]

logger = logging.getLogger("rostral.scheduler.recovery")

_FULL_PAUSE_S = 0.05
_TRIM_TICKS = 10


@dataclass(slots=True, eq=False)
class _Spec:
    """A task as it is submitted again. The holds keep its inputs known, if not their bytes."""

    claimed: ClaimedTask
    queue: int
    inputs: list[Handle]

    def result_ids(self) -> list[bytes]:
        """Of all that it makes."""
        return [self.claimed.result_id(index) for index in range(len(self.claimed.results))]


class Recovery:
    """What brings lost objects back, on the running event loop.

    Args:
        config: Of the scheduler.
        transit: The node's memory.
    """

    def __init__(self, config: LocalSchedulerConfig, transit: TransitMemory) -> None:
        self._config, self._transit = config, transit
        self._lineage: Lineage[_Spec] = Lineage(config.lineage_bytes_max)
        self._elsewhere: Elsewhere | None = None
        self._one_at_a_time = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "rostral-recovery")
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticks = 0
        self._stopping = False
        self.again_count = 0
        """How many tasks were run again."""

    def begin(self, elsewhere: Elsewhere) -> None:
        """Once: where objects are."""
        self._elsewhere = elsewhere

    @property
    def _places(self) -> Elsewhere:
        assert self._elsewhere is not None
        return self._elsewhere

    async def stop(self) -> None:
        """Nothing runs again from here on."""
        self._stopping = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._thread.shutdown(wait=False, cancel_futures=True)

    @property
    def remembered_count(self) -> int:
        """Tasks that can run again."""
        return len(self._lineage)

    # ---- what is remembered

    def remember(
        self, claimed: ClaimedTask, job_id: bytes, queue: int, inputs: list[Handle]
    ) -> None:
        """A task has results that could be lost; `inputs` are holds on what it needs."""
        task = Remembered(
            task_id=claimed.task_id,
            job_id=job_id,
            inputs=tuple(handle.binary() for handle in inputs),
            spec=_Spec(claimed, queue, inputs),
            payload_bytes=len(claimed.payload),
            retries=claimed.retries,
        )
        for cut in self._lineage.add(task):
            logger.debug("lineage cut task=%s", cut.task_id.hex())

    def forget(self, task_id: bytes) -> None:
        """None of its results can be lost."""
        self._lineage.forget(task_id)

    def gone(self, object_id: bytes) -> tuple[bytes, ...]:
        """Nobody on this node holds the object any more; returns what was kept for it alone."""
        task = self._lineage.get(task_of(object_id))
        if task is None or self._is_elsewhere(task):
            return ()
        self._lineage.forget(task.task_id)
        return task.inputs

    def _is_elsewhere(self, task: Remembered[_Spec]) -> bool:
        """Whether any of its results is."""
        return any(one in self._places.by_id for one in task.spec.result_ids())

    def job_ended(self, job_id: bytes) -> None:
        """Nothing of it is made again."""
        self._lineage.forget_job(job_id)

    def tick(self) -> None:
        """Frees what is done, and lets go of values that are kept for a second run alone."""
        for task_id in self._transit.take_rebuilt():
            task = self._lineage.get(task_id)
            if task is not None and not self._is_elsewhere(task):
                self._lineage.forget(task_id)  # It ran on this node, or failed.
        self._ticks += 1
        if self._ticks % _TRIM_TICKS == 0:
            self._trim()

    def _trim(self) -> None:
        kept: dict[bytes, int] = {}
        for task in self._lineage:
            for object_id in task.inputs:
                remote = self._places.by_id.get(object_id)
                if remote is None or not remote.holders or object_id in kept:
                    continue
                if not self._transit.is_held_by_others(object_id):
                    kept[object_id] = remote.size_bytes
        excess = sum(kept.values()) - self._config.lineage_values_bytes_max
        for object_id, size_bytes in kept.items():
            if excess <= 0:
                return
            self._places.let_go(object_id)
            excess -= size_bytes

    # ---- making again

    def lost(self, object_ids: Iterable[bytes]) -> None:
        """Nobody has the bytes of these any more: what somebody needs of them is made again."""
        self.need([one for one in object_ids if self._transit.is_held_by_others(one)])

    def need(self, object_ids: list[bytes]) -> None:
        """Has these made again, if they are lost."""
        if object_ids:
            task = asyncio.create_task(self._recover_all(object_ids))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def recover(self, object_id: bytes) -> None:
        """Returns once the object is expected again, or is sealed as the error that it cannot be.

        Raises ObjectLostError for what the disk has lost and no task makes again, and
        ObjectReconstructionFailedError for what cannot even become an error.
        """
        if self._transit.is_lost_from_disk(object_id) and not self._lineage.get(task_of(object_id)):
            raise ObjectLostError(
                f"object {object_id.hex()} was spilled, and the disk has lost it",
                hint="the store's log says what is wrong",
                object_ref_hex=object_id.hex(),
            )
        await self._recover_all([object_id])
        if self._transit.is_elsewhere_id(object_id) and self._places.is_lost(object_id):
            raise _hopeless(object_id, NoMaker.CUT)

    async def _recover_all(self, object_ids: list[bytes]) -> None:
        # One at a time: the next plan sees what this one has had expected again.
        async with self._one_at_a_time:
            is_lost = self._places.is_lost
            plan = self._lineage.plan([one for one in object_ids if is_lost(one)], is_lost)
            wanted = [
                object_id
                for task in plan.again
                for object_id in task.spec.result_ids()
                if is_lost(object_id)
            ]
            if not wanted and not plan.hopeless:
                return
            logger.info(
                "lost objects=%s hopeless=%s tasks_again=%s",
                len(wanted) + len(plan.hopeless),
                len(plan.hopeless),
                len(plan.again),
            )
            self.again_count += len(plan.again)
            for task in plan.again:
                task.retries -= task.retries != RETRY_FOREVER
            self._places.forget([*wanted, *plan.hopeless])
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._thread, self._make_again, plan, wanted)

    def _make_again(self, plan: Plan[_Spec], wanted: list[bytes]) -> None:
        """In a thread that may wait for room. Inputs first: what is expected, tasks wait for."""
        try:
            self._transit.revive([*wanted, *plan.hopeless])
            for object_id, reason in plan.hopeless.items():
                self._transit.fill(object_id, _hopeless(object_id, reason))
            for task in plan.again:
                self._submit(task)
        except RostralError:
            logger.exception("cannot make again what was lost")

    def _submit(self, task: Remembered[_Spec]) -> None:
        spec = task.spec
        while not self._stopping:
            try:
                self._transit.submit_again(spec.claimed, spec.queue, spec.inputs, task.retries)
            except QueueFullError:
                time.sleep(_FULL_PAUSE_S)
                continue
            except QueueClosedError:
                logger.debug("the job is over task=%s", task.task_id.hex())
            except RostralError as error:
                for object_id in spec.result_ids():
                    self._transit.fill(object_id, error)
            return


def _hopeless(object_id: bytes, reason: NoMaker) -> ObjectReconstructionFailedError:
    hints = {
        NoMaker.PUT: "keep a copy on a node that lives, or have a task make it",
        NoMaker.CUT: "raise lineage_bytes_max, or submit its task again",
        NoMaker.SPENT: "give its task more with max_retries, if running it again does no harm",
    }
    error = ObjectReconstructionFailedError(
        f"all copies of object {object_id.hex()} are gone, and it cannot be made again: "
        f"{reason.value}",
        hint=hints[reason],
        object_ref_hex=object_id.hex(),
    )
    error.reason = reason.name.lower()
    return error
