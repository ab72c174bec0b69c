"""Whom the memory monitor ends, case by case: no process, no memory."""

from __future__ import annotations

from rostral_scheduler.core.memory import MemoryPolicy, MemorySeen, WorkerMemory

LIMIT = 1000


def worker(
    number: int,
    *,
    own_bytes: int = 100,
    running: bool = True,
    retriable: bool = True,
    began_s: float = 0.0,
) -> WorkerMemory:
    return WorkerMemory(
        worker=number,
        own_bytes=own_bytes,
        running=running,
        retriable=retriable,
        began_s=began_s,
    )


def seen(*workers: WorkerMemory, used: int = 960) -> MemorySeen:
    return MemorySeen(used_bytes=used, limit_bytes=LIMIT, workers=workers)


def choice(*workers: WorkerMemory, used: int = 960) -> int | None:
    return MemoryPolicy(0.95).choose(seen(*workers, used=used))


def test_nobody_ends_while_there_is_room() -> None:
    assert choice(worker(1), used=950) is None
    assert choice(worker(1), used=951) == 1


def test_what_began_last_ends_first() -> None:
    assert choice(worker(1, began_s=5), worker(2, began_s=9), worker(3, began_s=7)) == 2


def test_what_can_run_again_ends_before_what_cannot() -> None:
    assert choice(worker(1, began_s=5), worker(2, began_s=9, retriable=False)) == 1
    assert choice(worker(2, began_s=9, retriable=False)) == 2


def test_an_idle_process_ends_before_any_work_the_largest_first() -> None:
    idle = [worker(n, running=False, own_bytes=size) for n, size in ((1, 150), (2, 190))]
    assert choice(*idle, worker(3, began_s=9, own_bytes=500)) == 2


def test_a_process_with_next_to_nothing_is_spared() -> None:
    assert choice(worker(1, began_s=9, own_bytes=9), worker(2, began_s=1)) == 2
    assert choice(worker(1, own_bytes=9)) is None
    assert choice(worker(1, own_bytes=99, running=False), worker(2)) == 2


def test_the_next_is_chosen_only_when_the_last_is_gone() -> None:
    policy = MemoryPolicy(0.95)
    both = [worker(1, began_s=1), worker(2, began_s=2)]
    assert policy.choose(seen(*both)) == 2
    assert policy.choose(seen(*both)) is None
    assert policy.choose(seen(both[0])) == 1
