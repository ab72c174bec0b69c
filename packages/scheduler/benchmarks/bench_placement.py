"""Decisions a second of the global scheduler's policy on one core, over 10,000 nodes.

Run: ``python benchmarks/bench_placement.py``. Prints the machine and, for each mix, the median of
the runs: batches of 1,000 tasks with a share of inputs of power-law sizes on one node each, while
nodes report as often as they do with a lease of 10 s (4,000 reports a second). Time is the
process's own CPU time, reports included. Answers to TARGETS.md section 2: 100,000 a second.
"""

from __future__ import annotations

import argparse
import platform
import random
import statistics
import time

from rostral_scheduler.core.node_view import NodeLoad
from rostral_scheduler.core.placement import PlacementPolicy
from rostral_scheduler.core.placement_request import Constraints, Placed, TaskInput, TaskRequest
from rostral_scheduler.core.resources import ResourceSet

BATCH = 1000
BATCH_INTERVAL_S = 0.01
REPORT_INTERVAL_S = 2.5
TOTAL = ResourceSet.of({"CPU": 16})
ONE_CPU = Constraints.of({"CPU": 1})


def report_of(node_id: bytes, rng: random.Random) -> NodeLoad:
    return NodeLoad(
        node_id=node_id,
        total=TOTAL,
        available=TOTAL,
        bandwidth_bytes_per_s=rng.uniform(0.8e9, 1e9),
    )


def requests_of(
    count: int, node_ids: list[bytes], share: float, rng: random.Random
) -> list[TaskRequest]:
    made = []
    for number in range(count):
        inputs: tuple[TaskInput, ...] = ()
        if rng.random() < share:
            size_bytes = int(1e5 * rng.paretovariate(1.2))
            inputs = (TaskInput(rng.randbytes(20), size_bytes, (rng.choice(node_ids),)),)
        function_id = b"%d" % (number % 100)
        made.append(TaskRequest(number.to_bytes(16, "big"), 0, ONE_CPU, function_id, inputs, 0.05))
    return made


def decisions_per_s(node_count: int, task_count: int, share: float, seed: int) -> float:
    rng = random.Random(seed)
    node_ids = [number.to_bytes(16, "big") for number in range(node_count)]
    policy = PlacementPolicy()
    for node_id in node_ids:
        policy.update_node(report_of(node_id, rng), 0.0)
    requests = requests_of(task_count, node_ids, share, rng)
    reports_per_batch = max(1, round(node_count / REPORT_INTERVAL_S * BATCH_INTERVAL_S))
    reports = [report_of(rng.choice(node_ids), rng) for _ in range(1000)]
    now_s, at_report = 1.0, 0
    started_s = time.process_time()
    for at in range(0, task_count, BATCH):
        now_s += BATCH_INTERVAL_S
        for _ in range(reports_per_batch):
            policy.update_node(reports[at_report % len(reports)], now_s)
            at_report += 1
        answers = policy.place(requests[at : at + BATCH], now_s)
        assert isinstance(answers[-1], Placed)
    return task_count / (time.process_time() - started_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    for share in (0.0, 0.5, 1.0):
        runs = [
            decisions_per_s(options.nodes, options.tasks, share, seed)
            for seed in range(options.runs)
        ]
        print(
            f"{options.nodes} nodes, {share:.0%} of tasks with an input: "
            f"{statistics.median(runs):,.0f} decisions/s"
        )


if __name__ == "__main__":
    main()
