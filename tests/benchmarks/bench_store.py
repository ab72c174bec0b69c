"""The object store beside its peers: runs the workloads, prints a table, writes JSON.

Owns the order of runs and the arithmetic over them. Every group of workloads runs in a fresh
interpreter; the engines take turns (A B A B), so that what else the machine does meets all of them.
What a row is compared with is its median over the rounds; a spread is (max - min) / median. A ratio
above 1 means that Rostral is better, for rates as for times and sizes.

    tox -e bench-store -- --json store.json
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import platform
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

# The scripts of this folder import each other; it is on the path when one of them is run.
import peers
from figures import machine, number, percent, spread
from runs import Row, run_script
from store_targets import ROWS, Must, StoreRow

WORKLOADS = Path(__file__).resolve().with_name("store_workloads.py")
# The longest group of the slowest engine needs a third of it; what takes this long hangs.
GROUP_TIMEOUT_S = 180.0

PEERS: dict[str, Callable[[], peers.Engine]] = {
    "memcpy": lambda: peers.standard("memcpy"),
    "memcpy shared": lambda: peers.standard("memcpy shared"),
    "shared_memory": lambda: peers.standard("shared_memory"),
    "redis": peers.redis,
    "ray": peers.ray,
}
# Who has something to say about a group; where nobody is named, all have.
GROUP_PEERS: dict[str, tuple[str, ...]] = {
    "million": (),
    "waiting": ("shared_memory", "redis"),
    "cold": ("memcpy", "shared_memory", "redis", "ray"),
    "spill": (),
    "transfer": (),
}
# What a group measures of the machine while it measures the store, in the same process.
GROUP_FLOORS: dict[str, str] = {"spill": "disk", "transfer": "tcp"}
OURS = "rostral"

Samples = dict[tuple[str, str], list[float]]
Reasons = dict[tuple[str, str], str]


def selected(patterns: list[str], groups: list[str]) -> list[StoreRow]:
    """The rows whose name, or a part of it, matches a pattern."""
    return [
        row
        for row in ROWS
        if (not groups or row.group in groups)
        and (not patterns or any(fnmatch.fnmatch(row.name, f"*{p}*") for p in patterns))
    ]


class Run:
    """All rounds. Afterwards every wanted row has samples or a reason, of every engine."""

    def __init__(self, engines: list[peers.Engine], rows: list[StoreRow], seconds: float) -> None:
        self.samples: Samples = defaultdict(list)
        self.reasons: Reasons = {}
        # How long each turn took, all rounds together: what a run's time is spent on.
        self.turns_s: dict[str, float] = defaultdict(float)
        self._rows = rows
        self._seconds = seconds
        self._turns = [
            (group, engine)
            for group in dict.fromkeys(row.group for row in rows)
            for engine in engines
            if engine.name == OURS or engine.name in GROUP_PEERS.get(group, (engine.name,))
        ]

    def rounds(self, count: int) -> None:
        """Runs all groups on all engines, `count` times."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            bar = progress.add_task("", total=count * len(self._turns))
            for index in range(count):
                for group, engine in self._turns:
                    progress.update(bar, description=f"round {index + 1}: {group} {engine.name}")
                    self._turn(group, engine)
                    progress.advance(bar)

    def _turn(self, group: str, engine: peers.Engine) -> None:
        began_s = time.monotonic()
        arguments = [str(WORKLOADS), "--engine", engine.name, "--group", group]
        printed, failure = run_script(
            engine, [*arguments, "--seconds", str(self._seconds)], GROUP_TIMEOUT_S
        )
        self.turns_s[f"{group}, {engine.name}"] += time.monotonic() - began_s
        for row in printed:
            # What it measured of the machine goes under a name of its own.
            key = (row.get("of") or engine.name, row["name"])
            if row["value"] is None:
                self.reasons[key] = row["reason"]
            else:
                self.samples[key].append(float(row["value"]))
        for wanted in self._rows:
            key = (engine.name, wanted.name)
            if wanted.group == group and key not in self.samples:
                self.reasons.setdefault(key, failure or "the workload printed no row")

    def row(self, row: StoreRow, others: list[str]) -> Row:
        """One row of the JSON file."""
        floor = GROUP_FLOORS.get(row.group)
        shown = [*others, floor] if floor else others
        ours = self._figure(OURS, row)
        beside = {name: self._figure(name, row) for name in shown}
        for figure in beside.values():
            figure["ratio"] = None
            if ours["value"] is not None and figure["value"] is not None:
                figure["ratio"] = row.ratio(ours["value"], figure["value"])
        musts = [self._must(row, must, ours, beside) for must in row.musts]
        verdicts = [must["met"] for must in musts]
        return {
            "name": row.name,
            "unit": row.unit,
            "less_is_better": row.less_is_better,
            "rostral": ours["value"],
            "rostral_spread": ours["spread"],
            "rostral_reason": ours["reason"],
            "peers": beside,
            "musts": musts,
            "met": False if False in verdicts else (True if True in verdicts else None),
            "note": row.note,
        }

    def _figure(self, engine: str, row: StoreRow) -> Row:
        values = self.samples.get((engine, row.name), [])
        if values:
            return {"value": statistics.median(values), "spread": spread(values), "reason": ""}
        reason = self.reasons.get((engine, row.name), "not run for this row")
        return {"value": None, "spread": None, "reason": reason}

    def _must(self, row: StoreRow, must: Must, ours: Row, beside: dict[str, Row]) -> Row:
        met: bool | None = None
        if must.against:
            ratio = beside.get(must.against, {}).get("ratio")
            met = None if ratio is None else ratio >= must.value
        elif ours["value"] is not None:
            met = row.reaches(must, ours["value"])
        return {"value": must.value, "against": must.against or None, "met": met}


def print_table(rows: list[Row], others: list[str], console: Console) -> None:
    """The table that people read."""
    table = Table(title="The object store beside " + ", ".join(others) if others else "")
    table.add_column("workload", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    for heading in ("rostral", "±", *others, "of ray"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("must")
    for row in rows:
        style = {True: "green", False: "red", None: ""}[row["met"]]
        ray = row["peers"].get("ray", {}).get("ratio")
        table.add_row(
            row["name"],
            row["unit"],
            number(row["rostral"]),
            percent(row["rostral_spread"]),
            *(number(row["peers"].get(name, {}).get("value")) for name in others),
            number(ray, "x"),
            "; ".join(must_text(must) for must in row["musts"]),
            style=style,
        )
    console.print(table)


def measured_floors(rows: list[Row]) -> list[str]:
    """What was measured of the machine beside the store."""
    return [
        floor
        for floor in GROUP_FLOORS.values()
        if any(row["peers"].get(floor, {}).get("value") is not None for row in rows)
    ]


def must_text(must: Row) -> str:
    """What must be reached, and a mark where it is not."""
    against = f" of {must['against']}" if must["against"] else ""
    mark = {True: "", False: " MISSED", None: " ?"}[must["met"]]
    return f"{must['value']:g}{'x' if against else ''}{against}{mark}"


def print_reasons(rows: list[Row], console: Console) -> None:
    """Why a figure is missing, each reason once, with the rows that have it."""
    names: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        if row["rostral_reason"]:
            names[OURS, row["rostral_reason"]].append(row["name"])
        for engine, figure in row["peers"].items():
            if figure["reason"] and figure["reason"] != "not run for this row":
                names[engine, figure["reason"]].append(row["name"])
    for (engine, reason), where in names.items():
        rest = f" and {len(where) - 1} more" if len(where) > 1 else ""
        console.print(f"no figure of {engine}: {reason} ({where[0]}{rest})", markup=False)
    for note in dict.fromkeys(row["note"] for row in rows if row["note"]):
        first = next(row["name"] for row in rows if row["note"] == note)
        console.print(f"{first}: {note}", markup=False)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="The object store beside its peers.")
    parser.add_argument(
        "--peer",
        action="append",
        choices=(*PEERS, "all", "none"),
        help="may be given several times; all of them unless told",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--rounds", type=int, default=3, help="fresh interpreters per group")
    parser.add_argument("--seconds", type=float, default=0.4, help="time budget of a workload")
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN", help="rows")
    parser.add_argument("--group", action="append", default=[], help="groups of rows")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds = 1, 0.1
    if arguments.rounds < 1 or arguments.seconds <= 0:
        parser.error("--rounds and --seconds must be positive")
    return arguments


def chosen(names: list[str] | None) -> list[str]:
    """The peers to run, in the order of the table."""
    wanted = set(names or ["all"])
    if "none" in wanted:
        return []
    return [name for name in PEERS if name in wanted or "all" in wanted]


def main() -> int:
    """Measures, prints, writes."""
    arguments = parse_arguments()
    rows = selected(arguments.only, arguments.group)
    if not rows:
        print("no row matches; the names are those of store_targets.py", file=sys.stderr)
        return 2
    engines = [peers.store(), *(PEERS[name]() for name in chosen(arguments.peer))]
    versions = {"python": platform.python_version()}
    versions |= {engine.name: engine.version() for engine in engines}
    run = Run(engines, rows, arguments.seconds)
    run.rounds(arguments.rounds)
    others = [engine.name for engine in engines[1:]]
    figures = [run.row(row, others) for row in rows]
    # A pipe or a log has no width of its own; eighty columns would cut the names.
    console = Console() if sys.stdout.isatty() else Console(width=200)
    console.print(machine(), " ".join(f"{name} {version}" for name, version in versions.items()))
    print_table(figures, [*others, *measured_floors(figures)], console)
    print_reasons(figures, console)
    if arguments.json:
        report = {
            "machine": machine(),
            "versions": versions,
            "rounds": arguments.rounds,
            "seconds": arguments.seconds,
            "turns_s": run.turns_s,
            "rows": figures,
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
        console.print(f"written: {arguments.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
