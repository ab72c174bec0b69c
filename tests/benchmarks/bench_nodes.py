"""Rostral beside Ray on several nodes of one machine: runs workloads, prints a table, writes JSON.

Owns the rows and the order of runs. Every group runs in a fresh interpreter with nodes of its own;
the engines take turns (A B A B). A row's figure is its median over the rounds. Nodes share the
machine's CPUs, so rates do not grow with their number as they would on as many machines. What a
broadcast of 1 GB is measured beside is plain TCP: one process that sends, and as many that receive
as there are nodes to send to.

    tox -e bench-nodes -- --peer ray --json nodes.json
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections import defaultdict
from pathlib import Path

from rich.console import Console

# The scripts of this folder import each other; it is on the path when one of them is run.
import peers
from bench_core import Reasons, Samples, print_table
from figures import machine, spread
from runs import Row, run_script
from targets import Target

WORKLOADS = Path(__file__).resolve().with_name("node_workloads.py")
GROUP_TIMEOUT_S = 240.0


TCP_GROUPS = ("large_8",)
"""Measured beside plain TCP, by our engine's script."""


def _row(
    name: str, unit: str, group: str, must: float, kind: str, *, less_is_better: bool
) -> Target:
    return Target(
        name=name,
        unit=unit,
        group=group,
        must=must,
        aim=must,
        kind="ratio" if kind == "ratio" else "value",
        less_is_better=less_is_better,
    )


TARGETS = [
    *(
        _row(f"tasks_{n}_nodes", "tasks/s", f"tasks_{n}", 10.0, "ratio", less_is_better=False)
        for n in (2, 4, 8)
    ),
    *(
        _row(f"round_trip_{n}_nodes", "ms", f"tasks_{n}", 1.0, "ratio", less_is_better=True)
        for n in (2, 4, 8)
    ),
    _row("broadcast_100MB_8_nodes", "GB/s", "broadcast_8", 1.0, "ratio", less_is_better=False),
    _row("broadcast_1GB_8_nodes", "GB/s", "large_8", 1.0, "ratio", less_is_better=False),
    _row("death_refused", "s", "death_refused", 1.0, "value", less_is_better=True),
    _row("death_silent", "s", "death_silent", 5.0, "value", less_is_better=True),
]


def measure(
    engines: list[peers.Engine], groups: list[str], rounds: int, seconds: float
) -> tuple[Samples, Reasons]:
    """Runs all rounds; every row ends up with samples or with a reason."""
    samples: Samples = defaultdict(list)
    reasons: Reasons = {}
    for _ in range(rounds):
        for group in groups:
            for engine in engines[:1] if group in TCP_GROUPS else engines:
                arguments = [str(WORKLOADS), "--engine", engine.name, "--group", group]
                arguments += ["--seconds", str(seconds)]
                rows, failure = run_script(engine, arguments, GROUP_TIMEOUT_S)
                for row in rows:
                    measured = row.get("of") or engine.name
                    samples[measured, row["name"]].append(float(row["value"]))
                for target in TARGETS:
                    if target.group == group and (engine.name, target.name) not in samples:
                        reasons[engine.name, target.name] = failure or "it printed no row"
    return samples, reasons


def row_of(target: Target, peer: str | None, samples: Samples, reasons: Reasons) -> Row:
    """One row of the JSON file."""
    ours = samples.get(("rostral", target.name), [])
    others = samples.get((peer, target.name), []) if peer else []
    our_median, peer_median = _median(ours), _median(others)
    ratio = None
    if our_median is not None and peer_median is not None:
        ratio = target.ratio(our_median, peer_median)
    row: Row = {
        "name": target.name,
        "unit": target.unit,
        "rostral": our_median,
        "peer_name": peer,
        "peer": peer_median,
        "ratio": ratio,
        "rostral_spread": spread(ours),
        "peer_spread": spread(others),
        "must": target.must,
        "aim": target.aim,
        "must_and_aim_are": target.kind,
        "met": target.is_met(our_median, ratio),
    }
    for engine, column, median in (("rostral", "rostral", our_median), (peer, "peer", peer_median)):
        if engine and median is None:
            row[f"{column}_reason"] = reasons.get((engine, target.name), "not run")
    return row


def _median(values: list[float]) -> float | None:
    return sorted(values)[len(values) // 2] if values else None


def main() -> int:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description="Rostral beside Ray on several nodes.")
    parser.add_argument("--peer", choices=("ray", "none"), default="none")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--rounds", type=int, default=3, help="fresh clusters per group")
    parser.add_argument("--seconds", type=float, default=3.0, help="time budget of a workload")
    parser.add_argument("--group", action="append", default=[], help="groups of rows")
    arguments = parser.parse_args()
    targets = [one for one in TARGETS if not arguments.group or one.group in arguments.group]
    if not targets:
        names = sorted({one.group for one in TARGETS})
        print(f"no such group; there are {', '.join(names)}", file=sys.stderr)
        return 2
    engines = [peers.rostral()]
    if arguments.peer == "ray":
        engines.append(peers.ray())
    groups = list(dict.fromkeys(target.group for target in targets))
    samples, reasons = measure(engines, groups, arguments.rounds, arguments.seconds)
    peer = engines[1].name if len(engines) > 1 else None
    rows = [
        row_of(target, "tcp" if target.group in TCP_GROUPS else peer, samples, reasons)
        for target in targets
    ]
    versions = {"python": platform.python_version()}
    versions |= {engine.name: engine.version() for engine in engines}
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(machine(), " ".join(f"{name} {version}" for name, version in versions.items()))
    print_table(rows, console)
    if arguments.json:
        report = {"machine": machine(), "versions": versions, "rows": rows}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
