"""The paper's recovery figure (OSDI'18, figure 11a): chains of tasks while nodes die and come back.

Run: ``tox -e recovery -- --json recovery.json --plot recovery.svg``. Linear chains of tasks of
100 ms run on five nodes beside the head, whose results stay where they are made. Two nodes are
killed, one after the other, and two are added later. Of every chain every tenth link is compared
with what it must be, and with it all before it. Ends with one line of JSON, and with status 1 if a
value was wrong, the throughput did not come back, or something was left behind.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import rostral
from rostral.cluster_utils import Cluster, ClusterNode
from rostral_objectstore import StoreClient

TASK_S = 0.1
VALUE_LENGTH = 40_000
"""320 KB: too many to travel in a message, so that results are where they were made."""
NODES = 5
CPUS = 2
CHAINS = NODES * CPUS
AHEAD = 10
"""Links of a chain that are submitted at once."""
AFTER_SHARE = 0.3
"""Of the time, that is looked at after the last node has come."""
STORE_BYTES = 150 << 20
CODE_ID_END = "00000040"
PATIENCE_S = 60.0

# (share of the run, what happens): as far apart as the paper's at 25, 50 and 100 s of 200.
EVENTS = ((0.2, "kill"), (0.35, "kill"), (0.6, "add"), (0.7, "add"))


@rostral.remote(num_cpus=1, resources={"slot": 1}, scheduling_strategy="SPREAD")
def link(chain: int, index: int, previous: Any, folder: str) -> Any:
    """One task of a chain; writes down when it ran, which is no part of its value."""
    begin_s = time.time()
    time.sleep(TASK_S)
    values = np.full(VALUE_LENGTH, chain) if previous is None else previous * 3 + index
    with open(os.path.join(folder, f"{os.getpid()}"), "a") as log:
        log.write(f"{begin_s + TASK_S} {chain} {index}\n")
    return values % 1_000_003


@rostral.remote(num_cpus=0, resources={"slot": 0.001}, scheduling_strategy="SPREAD")
def digest(values: Any) -> tuple[int, int]:
    """What tells a link's value from a wrong one."""
    return int(values[0]), int(values.sum())


def expected(chain: int, index: int) -> tuple[int, int]:
    """What `digest` gives for a link, computed here."""
    value = chain % 1_000_003
    for i in range(1, index + 1):
        value = (value * 3 + i) % 1_000_003
    return value, value * VALUE_LENGTH


@dataclass(slots=True)
class Chain:
    """One chain: its last link, and how it is known to be done."""

    number: int
    length: int = 0
    last: Any = None
    check: Any = None

    def grow(self, folder: str) -> None:
        """Submits the next links, and the look at the last of them."""
        for _ in range(AHEAD):
            self.last = link.remote(self.number, self.length, self.last, folder)
            self.length += 1
        self.check = digest.remote(self.last)


@dataclass(slots=True)
class Run:
    """What was seen."""

    begun_s: float = field(default_factory=time.time)
    events: list[dict[str, Any]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    checked: int = 0
    ended_s: float = 0.0
    """When the last link was submitted, after the beginning."""

    def since_s(self) -> float:
        """Seconds since the beginning."""
        return time.time() - self.begun_s

    def is_going(self, seconds: float) -> bool:
        """Whether more links are to be submitted: for the time, and a while after all is back."""
        if len(self.events) < len(EVENTS):
            return True
        last_s: float = self.events[-1]["at_s"]
        return self.since_s() < max(seconds, last_s + seconds * AFTER_SHARE)


def node_shape() -> dict[str, Any]:
    """What a node of the figure has."""
    return {"num_cpus": CPUS, "resources": {"slot": CPUS}, "object_store_memory": STORE_BYTES}


def play(cluster: Cluster, run: Run, seconds: float, folder: str) -> list[Chain]:
    """Lets the chains grow for the time, with the events; returns them, all links done."""
    chains = [Chain(number) for number in range(CHAINS)]
    for chain in chains:
        chain.grow(folder)
    todo = [(share * seconds, what) for share, what in EVENTS]
    while run.is_going(seconds):
        if todo and run.since_s() >= todo[0][0]:
            happen(cluster, run, todo.pop(0)[1])
        open_checks = [chain.check for chain in chains]
        done, _ = rostral.wait(open_checks, num_returns=1, timeout=0.2)
        for chain in chains:
            if chain.check in done:
                compare(run, chain)
                chain.grow(folder)
    run.ended_s = run.since_s()
    for chain in chains:
        compare(run, chain)
    return chains


def happen(cluster: Cluster, run: Run, what: str) -> None:
    """A node dies, or comes; noted when it is so."""
    if what == "kill":
        victim = cluster.worker_nodes[0]
        os.kill(victim.process.record.pid, signal.SIGKILL)
        run.events.append({"at_s": run.since_s(), "what": what})
        cluster.remove_node(victim, allow_graceful=False)
        return

    def add() -> None:
        cluster.add_node(**node_shape())
        run.events.append({"at_s": run.since_s(), "what": what})

    # A node takes a second to start, in which the chains go on.
    threading.Thread(target=add, name="add node").start()


def compare(run: Run, chain: Chain) -> None:
    """Holds the last link's value against the oracle."""
    index = chain.length - 1
    found = rostral.get(chain.check, timeout=PATIENCE_S)
    run.checked += 1
    if tuple(found) != expected(chain.number, index):
        run.wrong.append(f"link {index} of chain {chain.number} is {found}")


def executions(folder: Path) -> Iterator[tuple[float, tuple[int, int]]]:
    """(when it ended, which link) of every run of a task, in the order of time."""
    lines = [line.split() for path in folder.iterdir() for line in path.read_text().splitlines()]
    for at, chain, index in sorted(lines, key=lambda words: float(words[0])):
        yield float(at), (int(chain), int(index))


def series(run: Run, folder: Path) -> dict[str, list[int]]:
    """Tasks that ended in each second: those run for the first time, and those run again."""
    seconds = run.ended_s
    original, again = [0] * int(seconds), [0] * int(seconds)
    seen: set[tuple[int, int]] = set()
    for at_s, task in executions(folder):
        second = int(at_s - run.begun_s)
        if 0 <= second < int(seconds):
            (again if task in seen else original)[second] += 1
        seen.add(task)
    return {"original": original, "re_executed": again}


def mean(values: list[int]) -> float:
    """Their mean; 0 for none."""
    return sum(values) / len(values) if values else 0.0


def objects_left(node: ClusterNode) -> list[str]:
    """What a node's store has, but for the code of functions."""
    with StoreClient.connect(node.process.record.store_socket) as store:
        return [f"{one}" for one in store.list_objects() if not one.id.hex().endswith(CODE_ID_END)]


def leftovers(cluster: Cluster) -> list[str]:
    """Objects that nobody let go of in time."""
    deadline_s = time.monotonic() + PATIENCE_S
    while left := [one for node in cluster.list_all_nodes() for one in objects_left(node)]:
        if time.monotonic() > deadline_s:
            return left
        time.sleep(0.2)
    return []


def report(run: Run, folder: Path, seconds: float) -> dict[str, Any]:
    """The figures of the run."""
    bins = series(run, folder)
    # The first second starts the workers.
    before = mean(bins["original"][1 : int(EVENTS[0][0] * seconds)])
    after_s = max(event["at_s"] for event in run.events) + 1
    after = mean(bins["original"][int(after_s) :])
    counts = collections.Counter(task for _, task in executions(folder))
    return {
        "soak": "recovery",
        "seconds": seconds,
        "chains": CHAINS,
        "nodes": NODES,
        "tasks": len(counts),
        "re_executed": sum(counts.values()) - len(counts),
        "checked": run.checked,
        "wrong": run.wrong,
        "tasks_per_s_before": round(before, 1),
        "tasks_per_s_after": round(after, 1),
        "possible_per_s": CHAINS / TASK_S,
        "events": run.events,
        "per_second": bins,
    }


def plot(found: dict[str, Any], path: str) -> None:
    """The figure: two series over time, with the deaths and births of nodes."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    seconds = range(len(found["per_second"]["original"]))
    axes.stackplot(
        seconds,
        found["per_second"]["original"],
        found["per_second"]["re_executed"],
        labels=["original tasks", "re-executed tasks"],
        colors=["#4878a8", "#d08850"],
    )
    for event in found["events"]:
        style = ":" if event["what"] == "add" else "-"
        axes.axvline(event["at_s"], color="black", linestyle=style, linewidth=0.8)
        axes.annotate(event["what"], (event["at_s"], axes.get_ylim()[1]), fontsize=7)
    axes.set_xlabel("time (s)")
    axes.set_ylabel("tasks per second")
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path)


def main() -> int:
    """Runs for the time; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", help="where to write what was measured")
    parser.add_argument("--plot", help="where to draw it; needs matplotlib")
    parser.add_argument(
        "--regained", type=float, default=0.8, help="the share of the throughput that must be back"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rostral-") as name, contextlib.ExitStack() as stack:
        os.environ["ROSTRAL_RUNTIME_DIR"] = name
        folder = Path(name, "runs")
        folder.mkdir()
        cluster = Cluster()
        stack.callback(cluster.shutdown)
        cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        for _ in range(NODES):
            cluster.add_node(**node_shape())
        cluster.connect()
        stack.callback(rostral.shutdown)
        run = Run()
        chains = play(cluster, run, options.seconds, str(folder))
        del chains
        left = leftovers(cluster)
        found = {**report(run, folder, options.seconds), "left": left}
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")
    if options.plot:
        plot(found, options.plot)
    sys.stdout.write(json.dumps({k: v for k, v in found.items() if k != "per_second"}) + "\n")
    regained = found["tasks_per_s_after"] >= options.regained * found["tasks_per_s_before"]
    return 1 if found["wrong"] or left or not regained else 0


if __name__ == "__main__":
    sys.exit(main())
