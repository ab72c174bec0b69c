"""The paper's figure of actors recovered (OSDI'18, figure 11b), at a tenth of its size.

Run: ``tox -e recovery-actors -- --json actors.json --plot actors.svg``. 200 actors live on five
nodes beside the head, and each is called at a steady pace, first with a checkpoint every so many
calls, then without any. One node is killed: its actors live on elsewhere, from their checkpoints or
from their constructors, and the calls since are run again, which are counted. Every result is
compared with what it must be. Ends with one line of JSON, and with status 1 if a value was wrong,
more was run again than the interval allows, or something was left behind.
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
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rostral
from rostral.cluster_utils import Cluster, ClusterNode
from rostral_gcs import GcsClient
from rostral_gcs.auth import load_token
from rostral_objectstore import StoreClient

STORE_BYTES = 100 << 20
NEVER = 100_000
"""An interval in calls that no actor comes to the end of: all calls are run again."""
KILL_SHARE = 0.5
OPEN_MAX = 200
"""Results of one actor that are waited for at a time."""
CODE_ID_END = "00000040"
PATIENCE_S = 60.0
MODULUS = 1_000_003


class Counter:
    """Its state depends on every call so far; writes down when each ran."""

    def __init__(self, number: int, folder: str) -> None:
        self.number, self.folder = number, folder
        self.state = number
        self.count = 0

    def __checkpoint__(self) -> tuple[int, int]:
        self._log("checkpoint", self.count)
        return self.state, self.count

    def __restore__(self, value: tuple[int, int]) -> None:
        self.state, self.count = value

    def step(self, index: int) -> tuple[int, int]:
        """One call."""
        self.state = (self.state * 3 + index) % MODULUS
        self.count += 1
        self._log("call", index)
        return self.count, self.state

    def _log(self, what: str, index: int) -> None:
        with open(os.path.join(self.folder, f"{os.getpid()}"), "a") as log:
            log.write(f"{time.time()} {what} {self.number} {index}\n")


@dataclass(slots=True)
class Called:
    """One actor as the driver sees it: what it must answer next, and what is still to come."""

    number: int
    actor: Any
    state: int
    made: int = 0
    checked: int = 0
    open: collections.deque[Any] = field(default_factory=collections.deque)
    back_s: float = 0.0
    """When it answered a call that was made after the kill."""
    made_at_kill: int = 0

    def call(self) -> None:
        """Makes the next call, unless too many are open."""
        if len(self.open) < OPEN_MAX:
            self.open.append(self.actor.step.remote(self.made))
            self.made += 1

    def check(self, value: Any) -> str:
        """Holds the oldest open result against the oracle; what is wrong with it."""
        self.open.popleft()
        self.state = (self.state * 3 + self.checked) % MODULUS
        self.checked += 1
        found = tuple(value)
        if found == (self.checked, self.state):
            return ""
        return f"call {self.checked - 1} of actor {self.number} gave {found}"


@dataclass(slots=True)
class Run:
    """What was seen of one run."""

    begun_s: float
    killed_s: float = 0.0
    wrong: list[str] = field(default_factory=list)


def play(cluster: Cluster, called: list[Called], seconds: float, pace_s: float) -> Run:
    """Calls all actors at a pace for the time, with a death in the middle; all results checked."""
    run = Run(time.time())
    next_s = run.begun_s
    while (now_s := time.time()) - run.begun_s < seconds:
        if not run.killed_s and now_s - run.begun_s >= KILL_SHARE * seconds:
            kill(cluster, called)
            run.killed_s = time.time()
        if now_s >= next_s:
            next_s = max(next_s + pace_s, now_s)
            for one in called:
                one.call()
        collect(run, called)
        time.sleep(0.01)
    deadline_s = time.time() + PATIENCE_S
    while any(one.open for one in called) and time.time() < deadline_s:
        collect(run, called)
        time.sleep(0.01)
    run.wrong += [f"actor {one.number} has not answered" for one in called if one.open]
    return run


def kill(cluster: Cluster, called: list[Called]) -> None:
    """One node dies."""
    victim = cluster.worker_nodes[0]
    os.kill(victim.process.record.pid, signal.SIGKILL)
    for one in called:
        one.made_at_kill = one.made
    cluster.remove_node(victim, allow_graceful=False)


def collect(run: Run, called: list[Called]) -> None:
    """Takes in what has come, each actor's in its order."""
    for one in called:
        while one.open and rostral.wait([one.open[0]], timeout=0)[0]:
            wrong = one.check(rostral.get(one.open[0]))
            if wrong:
                run.wrong.append(wrong)
            if run.killed_s and not one.back_s and one.checked > one.made_at_kill:
                one.back_s = time.time()


def executions(folder: Path) -> Iterator[tuple[float, str, int, int]]:
    """(when, what, actor, index) of all that actors have run, in the order of time."""
    lines = [line.split() for path in folder.iterdir() for line in path.read_text().splitlines()]
    for at, what, number, index in sorted(lines, key=lambda words: float(words[0])):
        yield float(at), what, int(number), int(index)


def series(run: Run, folder: Path) -> tuple[dict[str, list[int]], collections.Counter[int]]:
    """What ended in each second; and how many calls each actor ran again."""
    found = list(executions(folder))
    seconds = int(max(at for at, *_ in found) - run.begun_s) + 1
    bins = {what: [0] * seconds for what in ("original", "re_executed", "checkpoints")}
    seen: set[tuple[int, int]] = set()
    again: collections.Counter[int] = collections.Counter()
    for at_s, what, number, index in found:
        kind = "checkpoints"
        if what == "call":
            kind = "re_executed" if (number, index) in seen else "original"
            if kind == "re_executed":
                again[number] += 1
            seen.add((number, index))
        bins[kind][max(0, int(at_s - run.begun_s))] += 1
    return bins, again


def measure(options: argparse.Namespace, interval: int, folder: Path) -> dict[str, Any]:
    """One run: with a checkpoint in every so many calls."""
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        cluster = Cluster()
        stack.callback(cluster.shutdown)
        cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        # Any but one of them have room for all.
        room = -(-options.actors // (options.nodes - 1))
        for _ in range(options.nodes):
            cluster.add_node(num_cpus=1, resources={"slot": room}, object_store_memory=STORE_BYTES)
        cluster.connect()
        stack.callback(rostral.shutdown)
        kind: Any = rostral.remote(
            num_cpus=0,
            resources={"slot": 1},
            max_restarts=-1,
            max_task_retries=-1,
            checkpoint_interval=interval,
        )(Counter)
        actors = [kind.remote(number, str(folder)) for number in range(options.actors)]
        rostral.get([actor.__ray_ready__.remote() for actor in actors], timeout=PATIENCE_S)
        called = [Called(number, actor, number) for number, actor in enumerate(actors)]
        del actors
        run = play(cluster, called, options.seconds, options.pace)
        bins, again = series(run, folder)
        back = [one.back_s - run.killed_s for one in called if one.back_s]
        found = {
            "interval": interval,
            "calls": sum(one.made for one in called),
            "moved": len(again),
            "re_executed": sum(again.values()),
            "re_executed_per_actor_max": max(again.values(), default=0),
            "checkpoints": sum(bins["checkpoints"]),
            "recovered_within_s": round(max(back, default=-1.0), 2),
            "killed_at_s": round(run.killed_s - run.begun_s, 2),
            "wrong": run.wrong[:20],
            "per_second": bins,
        }
        del called, run
        found["left"] = leftovers(cluster)
        return found


def objects_left(node: ClusterNode) -> list[str]:
    """What a node's store has, but for the code of functions."""
    with StoreClient.connect(node.process.record.store_socket) as store:
        return [f"{one}" for one in store.list_objects() if not one.id.hex().endswith(CODE_ID_END)]


def entries_left(cluster: Cluster) -> list[str]:
    """What the GCS still knows of how to bring actors back."""
    assert cluster.head_node is not None
    record = cluster.head_node.process.record
    assert record.token_file is not None
    with GcsClient(record.address, load_token(record.token_file)) as gcs:
        spaces = ("rostral.actors", "rostral.calls")
        return [f"{space} {key.hex()}" for space in spaces for key in gcs.kv_keys(namespace=space)]


def leftovers(cluster: Cluster) -> list[str]:
    """What nobody let go of in time."""
    deadline_s = time.monotonic() + PATIENCE_S
    while left := [
        *entries_left(cluster),
        *(one for node in cluster.list_all_nodes() for one in objects_left(node)),
    ]:
        if time.monotonic() > deadline_s:
            return left[:20]
        time.sleep(0.2)
    return []


def plot(found: dict[str, Any], path: str) -> None:
    """The figure: with checkpoints above, without below; calls over time, and the death."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(2, 1, figsize=(7, 5), sharex=True, layout="constrained")
    for axes, name in zip(panels, ("checkpoints", "no_checkpoints"), strict=True):
        run = found[name]
        bins = run["per_second"]
        axes.stackplot(
            range(len(bins["original"])),
            bins["original"],
            bins["checkpoints"],
            bins["re_executed"],
            labels=["original calls", "checkpoints", "re-executed calls"],
            colors=["#4878a8", "#7ab87a", "#d08850"],
        )
        axes.axvline(run["killed_at_s"], color="black", linewidth=0.8)
        words = name.replace("_", " ")
        axes.set_title(f"{words}: {run['re_executed']} calls re-executed", fontsize=9)
        axes.set_ylabel("calls per second")
    panels[0].legend(loc="upper left", fontsize=8)
    panels[1].set_xlabel("time (s)")
    figure.savefig(path)


def main() -> int:
    """Runs both; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--actors", type=int, default=200)
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--pace", type=float, default=0.5, help="seconds between calls of an actor")
    parser.add_argument("--interval", type=int, default=5, help="calls between checkpoints")
    parser.add_argument("--json", help="where to write what was measured")
    parser.add_argument("--plot", help="where to draw it; needs matplotlib")
    options = parser.parse_args()
    found: dict[str, Any] = {"soak": "recovery-actors", **vars(options)}
    with tempfile.TemporaryDirectory(prefix="rostral-") as name:
        os.environ["ROSTRAL_RUNTIME_DIR"] = name
        found["checkpoints"] = measure(options, options.interval, Path(name, "with"))
        found["no_checkpoints"] = measure(options, NEVER, Path(name, "without"))
    with_them, without = found["checkpoints"], found["no_checkpoints"]
    found["ratio"] = round(without["re_executed"] / max(1, with_them["re_executed"]), 1)
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")
    if options.plot:
        plot(found, options.plot)
    short = {
        key: {k: v for k, v in value.items() if k != "per_second"}
        if isinstance(value, dict)
        else value
        for key, value in found.items()
    }
    sys.stdout.write(json.dumps(short) + "\n")
    bad = [run["wrong"] or run["left"] for run in (with_them, without)]
    # The checkpoint that is being written when the node dies does not count.
    too_many = with_them["re_executed_per_actor_max"] > 2 * options.interval
    return 1 if any(bad) or too_many or not without["re_executed"] else 0


if __name__ == "__main__":
    sys.exit(main())
