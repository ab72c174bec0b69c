"""How fast processes are added for blocked tasks, and when nested ones come first."""

from __future__ import annotations

from rostral_scheduler.core.growth import Growth
from rostral_scheduler.core.records import Worker, WorkerStage

TICK_S = 0.1


def growth(workers_max: int = 1000) -> Growth:
    return Growth(workers_max=workers_max, blocked_free=64, rate_per_s=0.25)


def workers(blocked: int, at_work: int = 0) -> list[Worker]:
    found = [Worker(number, WorkerStage.GRANTED) for number in range(max(blocked, 0) + at_work)]
    for worker in found:
        worker.running = True
    for worker in found[: max(blocked, 0)]:
        worker.lent = True
    return found


def test_few_blocked_tasks_slow_nothing_down() -> None:
    grown = growth()
    for blocked in range(64):
        grown.see(0.0, workers(blocked))
        assert grown.allows(blocked, depth=0)


def test_a_fan_out_that_blocks_fills_the_node_slowly_and_leaves_the_rest_to_nested_tasks() -> None:
    """Every task blocks at once: from 64 on a quarter more in each second, up to seven eighths."""
    grown, blocked, now_s = growth(), 64, 0.0
    counts = []
    for _ in range(40):
        for _ in range(10):
            now_s += TICK_S
            grown.see(now_s, workers(blocked))
            while grown.allows(blocked, depth=0):
                blocked += 1
        counts.append(blocked)
    assert counts[0] < 85
    assert counts[3] < 180
    assert counts[-1] == 875
    assert grown.allows(blocked, depth=1)


def test_with_no_memory_left_nothing_is_added_while_any_task_is_at_work() -> None:
    grown = growth()
    grown.see(0.0, workers(1, at_work=1), memory_short=True)
    assert not grown.allows(2, depth=1)
    grown.see(0.0, workers(2), memory_short=True)
    assert grown.allows(2, depth=1)
    assert not grown.allows(3, depth=1)
    grown.see(0.0, workers(0, at_work=1), memory_short=True)
    assert grown.allows(1, depth=0)


def test_nested_tasks_come_first_long_before_every_process_is_blocked() -> None:
    for workers_max, cpu_count, blocked in ((1008, 2, 16), (1008, 100, 100), (6, 2, 0)):
        grown = Growth(
            workers_max=workers_max, blocked_free=64, rate_per_s=0.25, cpu_count=cpu_count
        )
        grown.see(0.0, workers(blocked - 1))
        assert not grown.nested_first or not blocked
        grown.see(0.0, workers(blocked))
        assert grown.nested_first
