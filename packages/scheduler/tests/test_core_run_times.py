"""Run times from busy workers and counts alone."""

from __future__ import annotations

import random

import pytest

from rostral_scheduler.core.run_times import QueueUse, RunTimes

QUEUE = 7


def simulated(
    run_times: RunTimes, durations_s: list[float], workers: int, interval_s: float = 0.1
) -> None:
    """Workers take one task after the other; somebody looks every interval."""
    ends_s = [0.0] * workers
    starts_s = []
    stops_s = []
    for duration_s in durations_s:
        worker = min(range(workers), key=lambda w: ends_s[w])
        starts_s.append(ends_s[worker])
        ends_s[worker] += duration_s
        stops_s.append(ends_s[worker])
    now_s = 0.0
    while now_s < max(ends_s):
        taken = sum(start <= now_s for start in starts_s)
        ended = sum(stop <= now_s for stop in stops_s)
        run_times.see([QueueUse(QUEUE, taken, taken - ended)], now_s)
        now_s += interval_s


@pytest.mark.parametrize("mean_s", [0.001, 0.03, 0.5, 3.0])
@pytest.mark.parametrize("workers", [1, 4])
def test_the_mean_is_found_for_tasks_shorter_and_longer_than_a_look(
    mean_s: float, workers: int
) -> None:
    rng = random.Random(0)
    run_times = RunTimes()
    count = min(int(20 * workers / mean_s), 20_000) or 100
    simulated(run_times, [rng.uniform(0.8, 1.2) * mean_s for _ in range(max(count, 40))], workers)
    assert run_times.of(QUEUE) == pytest.approx(mean_s, rel=0.25)


def test_nothing_is_said_of_what_was_never_seen() -> None:
    run_times = RunTimes()
    assert run_times.of(QUEUE) == 0.0
    run_times.see([QueueUse(QUEUE, 5, 0)], 1.0)
    assert run_times.of(QUEUE) == 0.0


def test_a_task_that_runs_on_counts_for_as_long_as_it_has_run() -> None:
    """Short ones before; then one that does not end."""
    run_times = RunTimes()
    simulated(run_times, [0.05] * 100, 1)
    assert run_times.of(QUEUE) < 0.1
    for second in range(11):
        run_times.see([QueueUse(QUEUE, 101, 1)], 100.0 + second)
    assert run_times.of(QUEUE) > 9.0


def test_a_queue_that_is_gone_is_forgotten_and_one_made_anew_begins_anew() -> None:
    run_times = RunTimes()
    simulated(run_times, [0.5] * 10, 1)
    run_times.see([QueueUse(QUEUE, 0, 0)], 100.0)
    assert run_times.of(QUEUE) == 0.0
    run_times.see([], 101.0)
    assert run_times._known == {}
