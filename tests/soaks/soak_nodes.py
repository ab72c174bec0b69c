"""A cluster whose every process is killed at random, while programs run whose values are known.

Run: ``tox -e soak-nodes -- --minutes 10 --seed 1``. Workers, actors, zygotes, local schedulers,
stores, whole nodes, global schedulers, the GCS and drivers die by SIGKILL, one after the other; a
supervisor starts services again, as systemd does. Drivers on every node hold each value against a
model (`node_driver.py`), and each future must be resolved before its deadline. Then everybody
leaves, and nothing may be left: no object, task, row, resource, process, socket or file. Ends with
one line of JSON, and with status 1 if anything was wrong; what it was goes to stderr.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import node_leftovers as leftovers
from node_kills import WEIGHTS, Killer
from service_cluster import HostNode, ServiceCluster

NODES = 3
DEADLINE_S = 60.0
"""Of each future. No recovery takes a sixth of it on a busy machine."""
ROUND_PATIENCE_S = 60.0
"""A driver that has said nothing for so much longer than the deadline hangs itself."""
END_PATIENCE_S = 60.0
FIRST_KILL_S = 2.0
WORKERS = ("worker", "actor")
DOUBLE_FAULTS = 0.02
"""How often a service may die though nobody has played a round since the last one did."""
LOOK_INTERVAL_S = 0.02
DRIVER = Path(__file__).with_name("node_driver.py")


@dataclass(slots=True)
class Driver:
    """One driver program, and where it writes."""

    node: HostNode
    process: subprocess.Popen[bytes]
    results: Path
    began_s: float
    read_bytes: int = 0
    said_s: float = field(default_factory=time.monotonic)


class Soak:
    """One run."""

    def __init__(self, folder: Path, seed: int, deadline_s: float) -> None:
        self._folder, self._deadline_s = folder, deadline_s
        self._random = random.Random(seed)
        self.cluster = ServiceCluster(folder, NODES)
        self.killer = Killer(self.cluster, self._kill_driver, seed + 1)
        self._drivers: list[Driver] = []
        self._started = 0
        self.found: collections.Counter[str] = collections.Counter()
        self.rounds = self._rounds_at_service_kill = 0
        self.longest_round_s = 0.0
        self.wrong: list[str] = []

    # ---- drivers

    def _start_driver(self, node: HostNode) -> None:
        self._started += 1
        results = self._folder / f"driver{self._started}.json"
        results.touch()
        seed = self._random.getrandbits(32)
        with (self._folder / f"driver{self._started}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, str(DRIVER), str(seed), str(results), str(self._deadline_s)],
                env={**os.environ, "XDG_RUNTIME_DIR": str(node.folder)},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        self._drivers.append(Driver(node, process, results, time.monotonic()))

    def _kill_driver(self, number: int) -> bool:
        if not self._drivers:
            return False
        self._drivers[number % len(self._drivers)].process.kill()
        return True

    def _look_at_drivers(self, *, replace: bool) -> None:
        for driver in list(self._drivers):
            self._read(driver)
            status = driver.process.poll()
            if status is None:
                if time.monotonic() > driver.said_s + self._deadline_s + ROUND_PATIENCE_S:
                    self._hangs(driver)
                continue
            self._drivers.remove(driver)
            self._ended(driver, status)
        busy = {driver.node.number for driver in self._drivers}
        for node in self.cluster.nodes if replace else ():
            if node.number not in busy and node.is_ready:
                self._start_driver(node)

    def _ended(self, driver: Driver, status: int) -> None:
        self._read(driver)
        if driver.process.stdin is not None:
            driver.process.stdin.close()
        self.found[f"driver ended with {status}"] += 1
        # It was killed, has done what it was told, or has lost its node.
        if status not in (-9, 0, 3):
            text = driver.results.with_suffix(".log").read_text(errors="replace")
            self.wrong.append(f"{driver.results.stem} ended with {status}: {text[-2000:]}")

    def _hangs(self, driver: Driver) -> None:
        self.wrong.append(f"{driver.results.stem} on node {driver.node.number} hangs")
        driver.process.kill()
        driver.process.wait()

    def _read(self, driver: Driver) -> None:
        with driver.results.open("rb") as file:
            file.seek(driver.read_bytes)
            text = file.read()
        # The last line may be half written.
        text = text[: text.rfind(b"\n") + 1]
        driver.read_bytes += len(text)
        for line in text.splitlines():
            driver.said_s = time.monotonic()
            said = json.loads(line)
            self.found.update(said["found"])
            where = f"{driver.results.stem} on node {driver.node.number}"
            self.wrong += [f"{where}: {what}" for what in said["wrong"]]
            if "round_s" in said:
                self.rounds += 1
                self.longest_round_s = max(self.longest_round_s, said["round_s"])
            self.found["home lost"] += said.get("home_lost", False)

    # ---- the run

    def run(self, seconds: float, pause_s_max: float) -> None:
        """Kills for the time; ends sooner if something is wrong."""
        self.cluster.supervisor.wait_ready()
        end_s = time.monotonic() + seconds
        next_kill_s = time.monotonic() + FIRST_KILL_S
        while time.monotonic() < end_s and not self.wrong:
            self._look_at_drivers(replace=True)
            if time.monotonic() >= next_kill_s:
                self._kill(self._kinds())
                next_kill_s = time.monotonic() + self.killer.pause_s(pause_s_max)
            time.sleep(LOOK_INTERVAL_S)
        self._dismiss()
        if not self.rounds:
            self.wrong.append("no round was played to its end")

    def _kinds(self) -> tuple[str, ...]:
        """What may die next: services once a round was played since the last, or now and then."""
        if self.rounds > self._rounds_at_service_kill or self._random.random() < DOUBLE_FAULTS:
            return tuple(WEIGHTS)
        return WORKERS

    def run_each(self) -> None:
        """Kills one process of every kind, each once a round has been played since the last."""
        self.cluster.supervisor.wait_ready()
        for kind in WEIGHTS:
            rounds = self.rounds
            while (self.rounds == rounds or not self._kill((kind,))) and not self.wrong:
                self._look_at_drivers(replace=True)
                time.sleep(LOOK_INTERVAL_S)
        self._dismiss()

    def _kill(self, kinds: tuple[str, ...]) -> bool:
        kind = self.killer.kill_one(kinds)
        if kind is not None:
            self._note(f"killed {kind}")
            if kind not in WORKERS:
                self._rounds_at_service_kill = self.rounds
        return kind is not None

    def _note(self, what: str) -> None:
        with (self._folder / "kills.log").open("a") as log:
            log.write(f"{time.strftime('%H:%M:%S')} {time.time() % 1:.3f} {what}\n")

    def _dismiss(self) -> None:
        """Lets every driver play its round to the end, and leave."""
        for driver in self._drivers:
            if driver.process.stdin is not None:
                driver.process.stdin.close()
        while self._drivers:
            self._look_at_drivers(replace=False)
            time.sleep(LOOK_INTERVAL_S)
        self._note("all drivers have left")

    def end(self) -> None:
        """Looks for what is left, while the cluster serves and after."""
        with contextlib.suppress(TimeoutError):
            self.cluster.supervisor.wait_ready()
        left = leftovers.until_none(lambda: leftovers.in_cluster(self.cluster), END_PATIENCE_S)
        self.wrong += [f"left: {what}" for what in left]
        for name, status in self.cluster.stop().items():
            if status != 0:
                self.wrong.append(f"{name} ended with {status}")
        # Objects lie in memory without a name, which goes with the last process that has it.
        left = leftovers.until_none(lambda: leftovers.processes(self._folder), END_PATIENCE_S)
        left += leftovers.files(self.cluster) + leftovers.listening(self.cluster)
        self.wrong += [f"left: {what}" for what in left]
        self.wrong += leftovers.tracebacks(self.cluster)


def play(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One run in a folder of its own; returns what was seen."""
    os.environ["ROSTRAL_RUNTIME_DIR"] = str(folder)
    os.environ.pop("ROSTRAL_ADDRESS", None)
    begun_s = time.monotonic()
    with contextlib.ExitStack() as stack:
        soak = Soak(folder, options.seed, options.deadline)
        stack.callback(soak.cluster.stop)
        if options.each:
            soak.run_each()
        else:
            soak.run(options.minutes * 60, options.pause)
        stack.pop_all()
    soak.end()
    return {
        "soak": "nodes",
        "seed": options.seed,
        "seconds": round(time.monotonic() - begun_s, 1),
        "killed": dict(soak.killer.killed),
        "kills": sum(soak.killer.killed.values()),
        "rounds": soak.rounds,
        "longest_round_s": soak.longest_round_s,
        "found": dict(sorted(soak.found.items())),
        "wrong": soak.wrong,
    }


def main() -> int:
    """Runs for the time; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between kills, at most")
    parser.add_argument("--deadline", type=float, default=DEADLINE_S, help="of futures, seconds")
    parser.add_argument(
        "--each", action="store_true", help="kill one of every kind instead, and then end"
    )
    parser.add_argument("--keep", help="where to keep logs of a run that was wrong")
    options = parser.parse_args()
    # Paths of sockets have at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="rostral-") as name:
        os.chmod(name, 0o700)
        report = play(Path(name), options)
        if report["wrong"] and options.keep:
            shutil.copytree(name, options.keep, dirs_exist_ok=True)
    wrong = report.pop("wrong")
    sys.stdout.write(json.dumps({**report, "wrong": len(wrong)}) + "\n")
    sys.stderr.write("".join(f"{what}\n" for what in wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
