"""The paper's experiments (OSDI'18, section 5) at the size of the cluster that they run on.

Owns their order, their table and their file; each is a module of its own. They run on a cluster
made for them on this machine, or on any that this machine has a node of:

    tox -e paper -- --json paper.json --plots plots
    tox -e paper -- --address 10.0.0.1:6380 --only simulation
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import platform
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import paper_allreduce
import paper_serving
import paper_simulation
import paper_training
import rostral
from figures import machine, number
from paper_figures import Gate, Point
from paper_plots import draw

HERE = Path(__file__).resolve().parent
STORE_BYTES = 2_000_000_000
BYTES = (1_000_000, 10_000_000, 100_000_000)
BYTES_QUICK = (100_000, 1_000_000)

# By name: given CPUs, seconds of each measurement, and whether to be quick.
EXPERIMENTS: dict[str, Callable[[int, float, bool], list[Point]]] = {
    "simulation": lambda cpus, seconds, quick: paper_simulation.run(cpus, seconds),
    "serving": lambda cpus, seconds, quick: paper_serving.run(seconds),
    "es": lambda cpus, seconds, quick: paper_training.es(cpus, seconds, solving=not quick),
    "ppo": lambda cpus, seconds, quick: paper_training.ppo(cpus, seconds, solving=not quick),
    "allreduce": lambda cpus, seconds, quick: paper_allreduce.run(
        max(2, cpus), BYTES_QUICK if quick else BYTES
    ),
}


def measure(wanted: list[str], address: str | None, seconds: float, *, quick: bool) -> list[Point]:
    """Runs the experiments one after the other."""
    if address is None:
        context = rostral.init("local", object_store_memory=STORE_BYTES)
    else:  # Other machines have not got these files.
        context = rostral.init(address, runtime_env={"working_dir": str(HERE)})
    points: list[Point] = []
    with context:
        cpus = int(rostral.cluster_resources()["CPU"])
        for name in wanted:
            print(f"{name} on {cpus} CPUs", file=sys.stderr, flush=True)
            points += EXPERIMENTS[name](cpus, seconds, quick)
    return points


def show(points: list[Point], console: Console) -> None:
    """A table of all figures."""
    table = Table("experiment", "series", "x", "figure", "unit")
    for point in points:
        at = f"{point.x:,g} {point.x_is}"
        table.add_row(point.experiment, point.series, at, number(point.value), point.unit)
    console.print(table)


def judge(gates: list[Gate], console: Console) -> None:
    """A line for each gate."""
    for gate in gates:
        verdict = "met" if gate.is_met else "missed"
        console.print(f"{verdict}: {gate.name}: {gate.value:.2f}, must {gate.must:g}")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="The paper's experiments.")
    parser.add_argument("--address", help="of a running cluster; by default one is made here")
    parser.add_argument("--only", action="append", choices=EXPERIMENTS, help="all by default")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--quick", action="store_true", help="half a second each, small arrays")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw them there, as SVG")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seconds = 0.5
    if arguments.seconds <= 0:
        parser.error("--seconds must be positive")
    return arguments


def main() -> int:
    """Measures, prints, writes; 1 where a gate is missed by a run that was long enough to tell."""
    arguments = parse_arguments()
    wanted = arguments.only or list(EXPERIMENTS)
    points = measure(wanted, arguments.address, arguments.seconds, quick=arguments.quick)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    show(points, console)
    gates = paper_simulation.gates(points)
    judge(gates, console)
    if arguments.plots:
        for path in draw(points, arguments.plots):
            console.print(f"drawn: {path}")
    if arguments.json:
        report: dict[str, Any] = {
            "machine": machine(),
            "date": datetime.now(UTC).date().isoformat(),
            "versions": {"python": platform.python_version()}
            | {
                name: importlib.metadata.version(name)
                for name in ("rostral-rl", "torch", "numpy", "gymnasium")
            },
            "gates": [{**dataclasses.asdict(gate), "met": gate.is_met} for gate in gates],
            "points": [point.as_json() for point in points],
        }
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
        console.print(f"written: {arguments.json}")
    return 0 if arguments.quick or all(gate.is_met for gate in gates) else 1


if __name__ == "__main__":
    sys.exit(main())
