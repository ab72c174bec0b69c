"""A task one of whose inputs has failed starts at once and once, whoever dies meanwhile."""

from __future__ import annotations

import os
import random

import pytest

from rostral_gcs.ids import ObjectID
from rostral_objectstore._native import repair
from rostral_objectstore._native.table import Handle, ObjectTable
from rostral_objectstore._native.task import Tasks
from rostral_objectstore.layout import ObjectFlag

from .store import Store
from .test_failpoints import armed_peer, until_dead
from .test_tasks import WORK, new_queue, stop_workers, submit

ERROR = int(ObjectFlag.ERROR)
# As test_tasks has it, without looking at the inputs.
WORK_ON_FAILED = "".join(
    line + "\n" for line in WORK.splitlines() if "assert table.is_sealed" not in line
)


def expected(table: ObjectTable, count: int) -> list[Handle]:
    return [table.expect(Handle, os.urandom(20)) for _ in range(count)]


def end_next(tasks: Tasks, table: ObjectTable, queue: int) -> bytes | None:
    """Runs the next task; returns its payload."""
    task = tasks.next(queue, 0, [])
    if task is None:
        return None
    for result in task.returns:
        table.fill_at(result, 2, b"", [], [])
    tasks.finish(task)
    return bytes(task.payload)


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_one_failed_input_starts_a_task_that_waits_for_others(
    table: ObjectTable, tasks: Tasks, failing: int
) -> None:
    queue = new_queue(table.segment)
    needs = expected(table, 3)
    result = submit(tasks, queue, b"waits", needs)
    assert end_next(tasks, table, queue.loc) is None
    table.fill(needs[failing], 2, b"error", [], [], ERROR)
    assert end_next(tasks, table, queue.loc) == b"waits"
    # Its record does not stay for the inputs that never come, nor is it started by them.
    assert tasks.sweep() == 0
    for handle in needs:
        table.fill(handle, 2, b"late", [], [])
    assert end_next(tasks, table, queue.loc) is None
    del result
    assert [info["id"] for info in repair.list_tasks(table.segment, 9)] == []


def test_an_input_that_has_failed_before_starts_the_task_at_its_submission(
    table: ObjectTable, tasks: Tasks
) -> None:
    queue = new_queue(table.segment)
    failed, late = expected(table, 2)
    table.fill(failed, 2, b"error", [], [], ERROR)
    result = submit(tasks, queue, b"late first", [late, failed])
    result += submit(tasks, queue, b"failed first", [failed, late])
    assert end_next(tasks, table, queue.loc) == b"late first"
    assert end_next(tasks, table, queue.loc) == b"failed first"
    assert tasks.sweep() == 0
    table.fill(late, 2, b"", [], [])
    assert end_next(tasks, table, queue.loc) is None


def test_a_failed_object_that_a_task_only_refers_to_starts_nothing(
    table: ObjectTable, tasks: Tasks
) -> None:
    queue = new_queue(table.segment)
    failed, late, never = expected(table, 3)
    table.fill(failed, 2, b"error", [], [], ERROR)
    result = submit(tasks, queue, b"waits", [late, never], nested=[failed])
    table.fill(late, 2, b"", [], [])
    assert end_next(tasks, table, queue.loc) is None
    table.fill(never, 2, b"", [], [])
    assert end_next(tasks, table, queue.loc) == b"waits"
    del result


@pytest.mark.parametrize(
    "step", ["seal.published", "seal.closed", "resolve.marked", "resolve.ready"]
)
def test_a_task_with_a_failed_input_starts_though_its_sealer_died(store: Store, step: str) -> None:
    owner, victim = store.connect(), armed_peer(store, f"{step}=kill")
    queue = new_queue(owner.segment)
    ids = [ObjectID(os.urandom(20)) for _ in range(2)]
    failed, never = (owner.handle(id) for id in ids)
    result = submit(owner.tasks, queue, b"waits", [failed, never])
    victim.do("failed = client.handle(id)", id=ids[0])
    slot = victim.ask("slot")
    victim.begin("table.fill(failed, 2, b'error', [], [], flag)", flag=ERROR)
    until_dead(victim, step)
    store.until_gone(slot)
    assert end_next(owner.tasks, owner.table, queue.loc) == b"waits"
    assert end_next(owner.tasks, owner.table, queue.loc) is None
    assert owner.tasks.sweep() == 0
    del result
    queue.free()


def test_tasks_whose_inputs_fail_in_racing_processes_start_once(store: Store) -> None:
    """Every third object is an error; nobody ever seals the last one, which all tasks need."""
    owner = store.connect()
    queue = new_queue(owner.segment, 1024)
    workers = [store.peer() for _ in range(2)]
    for worker in workers:
        worker.begin(WORK_ON_FAILED, queue=queue.loc)
    ids = [ObjectID(os.urandom(20)) for _ in range(300)]
    sealers = [store.peer() for _ in range(3)]
    for number, sealer in enumerate(sealers):
        sealer.do("handles = [client.handle(id) for id in ids]", ids=ids[number::3])
    for number, sealer in enumerate(sealers):
        sealer.begin(
            "for handle in handles:\n"
            "    assert table.fill(handle, 2, b'', [], [], flag)\n"
            "    time.sleep(0.0001)\n",
            flag=ERROR if number == 0 else 0,
        )
    handles = [owner.handle(id) for id in ids]
    never = owner.handle(ObjectID(os.urandom(20)))
    chooser = random.Random(7)
    results = []
    for i in range(400):
        failing = (i // 2) * 3 % 300
        needs = [handles[(failing + chooser.randrange(20)) % 300] for _ in range(4)]
        results += submit(owner.tasks, queue, b"%d" % i, [*needs, handles[failing], never])
    assert owner.table.wait(results, len(results), 20_000_000_000) == len(results)
    for sealer in sealers:
        sealer.end()
    ran = stop_workers(workers)
    assert sorted(ran) == sorted(b"%d" % i for i in range(400))
    assert owner.tasks.sweep() == 0
    queue.free()
