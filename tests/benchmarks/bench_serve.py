"""Policy serving beside its gates and peers: runs the workloads, prints a table, writes JSON.

Owns the rows and the order of runs. Every group runs in fresh processes; the engines take turns (A
B A B). A row's figure is its median over the rounds. Shares of the ceiling answer to Table 3 of the
paper, where Ray reached 0.97 and 0.54 of it and Clipper 0.69 and 0.023.

    tox -e bench-serve -- --json serve.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

# The scripts of this folder import each other; it is on the path when one of them is run.
import peers
from bench_core import Reasons, Samples, print_table
from figures import machine, spread
from runs import Row, run_script
from targets import Target

WORKLOADS = Path(__file__).resolve().with_name("serve_workloads.py")
GROUP_TIMEOUT_S = 150.0
PEERS: dict[str, Callable[[], peers.Engine]] = {
    "rest": lambda: peers.standard("rest"),
    "ray": peers.ray_serve,
}
GROUP_PEERS = {"http": "ray", "table3_small": "rest", "table3_large": "rest"}
# What lasts half a minute need not be repeated.
ONE_ROUND = ("doubling",)


def _row(
    name: str,
    unit: str,
    group: str,
    must: float,
    aim: float,
    *,
    ratio: bool = False,
    less_is_better: bool = True,
) -> Target:
    return Target(
        name=name,
        unit=unit,
        group=group,
        must=must,
        aim=aim,
        kind="ratio" if ratio else "value",
        less_is_better=less_is_better,
    )


TARGETS: tuple[Target, ...] = (
    _row("embedded p50, batch 1", "us", "embedded", 150, 80),
    _row("embedded p99, batch 1", "us", "embedded", 500, 200),
    _row("HTTP p99, 1 client", "ms", "http", 3, 1),
    _row("HTTP p99, 64 clients", "ms", "http", 15, 8),
    _row("HTTP requests, 64 clients", "1/s", "http", 5, 10, ratio=True, less_is_better=False),
    _row("requests lost while weights are swapped", "requests", "swap", 0, 0),
    _row("p99 over its objective, load doubled", "ratio", "doubling", 1.1, 1.0),
    _row(
        "embedded, 64 states of 4 KB, model of 10 ms",
        "of ceiling",
        "table3_small",
        0.97,
        0.99,
        less_is_better=False,
    ),
    _row(
        "embedded, 64 states of 100 KB, model of 5 ms",
        "of ceiling",
        "table3_large",
        0.90,
        0.97,
        less_is_better=False,
    ),
)


def measure(
    engines: dict[str, peers.Engine], groups: list[str], rounds: int, seconds: float
) -> tuple[Samples, Reasons]:
    """Runs all rounds; every wanted row ends up with samples or with a reason."""
    samples: Samples = defaultdict(list)
    reasons: Reasons = {}
    for index in range(rounds):
        for group in groups:
            for name in ("rostral", GROUP_PEERS.get(group, "")):
                if name not in engines or (index and group in ONE_ROUND):
                    continue
                print(f"round {index + 1}: {group} on {name}", file=sys.stderr, flush=True)
                arguments = ["--engine", name, "--group", group, "--seconds", str(seconds)]
                printed, failure = run_script(
                    engines[name], [str(WORKLOADS), *arguments], GROUP_TIMEOUT_S
                )
                for row in printed:
                    if row["value"] is None:
                        reasons[name, row["name"]] = row["reason"]
                    else:
                        samples[name, row["name"]].append(float(row["value"]))
                for target in TARGETS:
                    if target.group == group and (name, target.name) not in samples:
                        reasons.setdefault((name, target.name), failure or "no row was printed")
    return samples, reasons


def row_of(target: Target, engines: dict[str, peers.Engine], run: tuple[Samples, Reasons]) -> Row:
    """One row of the JSON file."""
    samples, reasons = run
    peer = GROUP_PEERS.get(target.group)
    peer = peer if peer in engines else None
    ours = samples.get(("rostral", target.name), [])
    theirs = samples.get((peer, target.name), []) if peer else []
    our_median = statistics.median(ours) if ours else None
    peer_median = statistics.median(theirs) if theirs else None
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
        "peer_spread": spread(theirs),
        "must": target.must,
        "aim": target.aim,
        "must_and_aim_are": target.kind,
        "met": target.is_met(our_median, ratio),
    }
    for engine, column, median in (("rostral", "rostral", our_median), (peer, "peer", peer_median)):
        if engine and median is None:
            row[f"{column}_reason"] = reasons.get((engine, target.name), "not run")
    return row


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Policy serving beside its gates and peers.")
    parser.add_argument(
        "--peer", action="append", choices=(*PEERS, "none"), help="rest unless told otherwise"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes per group")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each workload")
    parser.add_argument("--quick", action="store_true", help="one round of half a second each")
    parser.add_argument("--group", action="append", default=[], help="groups of rows")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds = 1, 0.5
    if arguments.rounds < 1 or arguments.seconds <= 0:
        parser.error("--rounds and --seconds must be positive")
    return arguments


def main() -> int:
    """Measures, prints, writes; 1 where a gate is missed or has no figure."""
    arguments = parse_arguments()
    targets = [t for t in TARGETS if not arguments.group or t.group in arguments.group]
    if not targets:
        known = ", ".join(dict.fromkeys(target.group for target in TARGETS))
        print(f"no such group; there are {known}", file=sys.stderr)
        return 2
    wanted = [name for name in arguments.peer or ["rest"] if name != "none"]
    engines = {"rostral": peers.policy_server()} | {name: PEERS[name]() for name in wanted}
    groups = list(dict.fromkeys(target.group for target in targets))
    run = measure(engines, groups, arguments.rounds, arguments.seconds)
    rows = [row_of(target, engines, run) for target in targets]
    versions = {"python": platform.python_version()}
    versions |= {name: engine.version() for name, engine in engines.items() if name != "rest"}
    # A pipe or a log has no width of its own; eighty columns would cut the names.
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(machine(), " ".join(f"{name} {version}" for name, version in versions.items()))
    print_table(rows, console)
    if arguments.json:
        report = {"machine": machine(), "versions": versions, "rows": rows}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
        console.print(f"written: {arguments.json}")
    # A ratio without its peer is not judged.
    return 1 if any(row["met"] is False or row.get("rostral_reason") for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
