"""Rostral beside its peers on one node: runs the workloads, prints a table, writes JSON.

Owns the order of runs and the arithmetic over them. Every group of workloads runs in a fresh
interpreter; engines take turns (A B A B), so that what else the machine does meets both. What a
row is compared with is its median over the rounds; `spread` is (max - min) / median. A ratio above
1 means that Rostral is better, for rates as for times and sizes. A group has one peer: `--peer ray`
brings in all of them, since Ray is what most rows are compared with.

    tox -e bench-core -- --peer ray --json core.json
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import platform
import statistics
import sys
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

# The scripts of this folder import each other; it is on the path when one of them is run.
import peers
from figures import machine, number, percent, spread
from runs import Row, run_script
from targets import GROUPS, TARGETS, Target

HERE = Path(__file__).resolve().parent

Samples = dict[tuple[str, str], list[float]]
Reasons = dict[tuple[str, str], str]


def run_group(engine: peers.Engine, group: str, seconds: float) -> tuple[list[Row], str]:
    """Runs one group once: the rows it printed, and why it ended early ("" if it did not)."""
    script = str(HERE / GROUPS[group].script)
    arguments = [script, "--engine", engine.name, "--group", group, "--seconds", str(seconds)]
    return run_script(engine, arguments, GROUPS[group].timeout_s)


def selected(patterns: list[str], groups: list[str]) -> list[Target]:
    """The rows whose name, or a part of it, matches a pattern."""
    return [
        target
        for target in TARGETS
        if (not groups or target.group in groups)
        and (not patterns or any(fnmatch.fnmatch(target.name, f"*{p}*") for p in patterns))
    ]


def measure(
    ours: peers.Engine,
    others: Mapping[str, peers.Engine],
    targets: list[Target],
    rounds: int,
    seconds: float,
) -> tuple[Samples, Reasons]:
    """Runs all rounds; every wanted row ends up with samples or with a reason."""
    samples: Samples = defaultdict(list)
    reasons: Reasons = {}
    runs = [
        (round_index, group, engine)
        for round_index in range(rounds)
        for group in dict.fromkeys(target.group for target in targets)
        if round_index < (GROUPS[group].rounds_max or rounds)
        for engine in (ours, others.get(GROUPS[group].peer or ""))
        if engine is not None
    ]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=len(runs))
        for round_index, group, engine in runs:
            progress.update(bar, description=f"round {round_index + 1}: {group} on {engine.name}")
            rows, failure = run_group(engine, group, seconds)
            for row in rows:
                key = (engine.name, row["name"])
                if row["value"] is None:
                    reasons[key] = row["reason"]
                else:
                    samples[key].append(float(row["value"]))
            for target in targets:
                key = (engine.name, target.name)
                if target.group == group and key not in samples:
                    reasons.setdefault(key, failure or "the workload printed no row")
            progress.advance(bar)
    return samples, reasons


def row_of(
    target: Target, ours: str, others: Collection[str], samples: Samples, reasons: Reasons
) -> Row:
    """One row of the JSON file."""
    group_peer = GROUPS[target.group].peer
    peer = group_peer if group_peer in others else None
    our_values = samples.get((ours, target.name), [])
    peer_values = samples.get((peer, target.name), []) if peer else []
    our_median = statistics.median(our_values) if our_values else None
    peer_median = statistics.median(peer_values) if peer_values else None
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
        "rostral_spread": spread(our_values),
        "peer_spread": spread(peer_values),
        "must": target.must,
        "aim": target.aim,
        "must_and_aim_are": target.kind,
        "met": target.is_met(our_median, ratio),
    }
    for engine, column, median in ((ours, "rostral", our_median), (peer, "peer", peer_median)):
        if engine and median is None:
            row[f"{column}_reason"] = reasons.get((engine, target.name), "not run")
    return row


def print_table(rows: list[Row], console: Console) -> None:
    """The table that people read."""
    table = Table()
    table.add_column("workload")
    table.add_column("unit")
    for heading in ("rostral", "±", "peer", "±", "ratio", "must", "aim"):
        table.add_column(heading, justify="right")
    table.add_column("met")
    table.add_column("peer is")
    for row in rows:
        suffix = "x" if row["must_and_aim_are"] == "ratio" else ""
        style = {True: "green", False: "red", None: ""}[row["met"]]
        table.add_row(
            str(row["name"]),
            str(row["unit"]),
            number(row["rostral"]),
            percent(row["rostral_spread"]),
            number(row["peer"]),
            percent(row["peer_spread"]),
            number(row["ratio"], "x"),
            number(row["must"], suffix),
            number(row["aim"], suffix),
            {True: "met", False: "MISSED", None: "-"}[row["met"]],
            row["peer_name"] or "",
            style=style,
        )
    console.print(table)
    for row in rows:
        for column in ("rostral", "peer"):
            if reason := row.get(f"{column}_reason"):
                console.print(f"{row['name']}: no figure of {column}: {reason}", markup=False)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Rostral beside its peers on one node.")
    parser.add_argument("--peer", choices=("ray", "none"), default="none", help="ray: all of them")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--rounds", type=int, default=3, help="fresh interpreters per group")
    parser.add_argument("--seconds", type=float, default=1.5, help="time budget of a workload")
    parser.add_argument("--quick", action="store_true", help="one round of half a second each")
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN", help="rows")
    parser.add_argument("--group", action="append", default=[], help="groups of rows")
    parser.add_argument(
        "--require-ratio",
        type=float,
        metavar="X",
        help="exit 1 unless every row that is a rate reaches this ratio",
    )
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds = 1, 0.5
    if arguments.rounds < 1 or arguments.seconds <= 0:
        parser.error("--rounds and --seconds must be positive")
    if arguments.require_ratio is not None and arguments.peer == "none":
        parser.error("--require-ratio needs a --peer to compare with")
    return arguments


def main() -> int:
    """Measures, prints, writes; 1 where a required ratio is missed."""
    arguments = parse_arguments()
    targets = selected(arguments.only, arguments.group)
    if not targets:
        print("no row matches; the names are those of targets.py", file=sys.stderr)
        return 2
    ours = peers.rostral()
    others: dict[str, peers.Engine] = {}
    if arguments.peer == "ray":
        wanted = {GROUPS[target.group].peer for target in targets}
        others = {name: peers.CORE_PEERS[name]() for name in sorted(filter(None, wanted))}
    versions = {"python": platform.python_version()}
    versions |= {engine.name: engine.version() for engine in (ours, *others.values())}
    samples, reasons = measure(ours, others, targets, arguments.rounds, arguments.seconds)
    rows = [row_of(target, ours.name, others, samples, reasons) for target in targets]
    # A pipe or a log has no width of its own; eighty columns would cut the names.
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(machine(), " ".join(f"{name} {version}" for name, version in versions.items()))
    print_table(rows, console)
    if arguments.json:
        report = {"machine": machine(), "versions": versions, "rows": rows}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
        console.print(f"written: {arguments.json}")
    if arguments.require_ratio is not None:
        return report_missed(rows, arguments.require_ratio, console)
    return 0


def report_missed(rows: list[Row], required: float, console: Console) -> int:
    """Names the rates below the required ratio; a rate without a figure is below it too."""
    missed = [
        row["name"]
        for row in rows
        if row["must_and_aim_are"] == "ratio"
        and not (isinstance(row["ratio"], float) and row["ratio"] >= required)
    ]
    for name in missed:
        console.print(f"below {required:g}x: {name}", markup=False)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
