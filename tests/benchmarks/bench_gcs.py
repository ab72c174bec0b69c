"""The GCS on each of its backends: runs the workloads, prints a table, writes JSON.

Owns the order of runs and the arithmetic over them. Every group of workloads runs in a fresh
interpreter, with a server process of its own; the engines take turns (A B C A B C), so that what
else the machine does meets all of them. A figure is the median over the rounds; a spread is
(max - min) / median. Beside the backends: redis-py and a Redis server with no GCS between them.

    tox -e bench-gcs -- --json gcs.json
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

# The scripts of this folder import each other; it is on the path when one of them is run.
import peers
from figures import machine, number, percent, spread
from gcs_targets import FAILOVERS, ROWS
from runs import Row, run_script
from store_targets import StoreRow

WORKLOADS = Path(__file__).resolve().with_name("gcs_workloads.py")
FAILOVER = Path(__file__).resolve().parents[2] / "packages/gcs/benchmarks/bench_failover.py"
GROUP_TIMEOUT_S = 300.0
BACKENDS = ("embedded", "redis")
PLAIN = "plain redis"
GROUPS = tuple(dict.fromkeys(row.group for row in ROWS))


class Run:
    """All rounds. Afterwards every row has samples or a reason, of every engine."""

    def __init__(self, engines: list[str], groups: list[str], count: int, live: int) -> None:
        self.samples: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.reasons: dict[tuple[str, str], str] = {}
        self._engines = engines
        self._groups = groups
        self._sizes = ["--count", str(count), "--live", str(live)]

    def rounds(self, count: int) -> None:
        """Runs all groups on all engines, `count` times."""
        for index in range(count):
            for group in self._groups:
                for engine in self._engines:
                    sys.stderr.write(f"round {index + 1}: {group}, {engine}\n")
                    self._turn(group, engine)

    def _turn(self, group: str, engine: str) -> None:
        arguments = [str(WORKLOADS), "--engine", engine, "--group", group, *self._sizes]
        ours = peers.Engine(
            name=engine, python=Path(sys.executable), environment={}, distribution="rostral-gcs"
        )
        printed, failure = run_script(ours, arguments, GROUP_TIMEOUT_S)
        for row in printed:
            self.samples[engine, row["name"]].append(float(row["value"]))
        if failure:
            for wanted in ROWS:
                if wanted.group == group:
                    self.reasons[engine, wanted.name] = failure

    def row(self, row: StoreRow) -> Row:
        """One row of the JSON file."""
        figures = {engine: self._figure(engine, row) for engine in self._engines}
        for engine, figure in figures.items():
            figure["met"] = None
            if row.musts and figure["value"] is not None and engine != PLAIN:
                figure["met"] = all(row.reaches(must, figure["value"]) for must in row.musts)
        return {
            "name": row.name,
            "unit": row.unit,
            "less_is_better": row.less_is_better,
            "musts": [must.value for must in row.musts],
            "engines": figures,
            "note": row.note,
        }

    def _figure(self, engine: str, row: StoreRow) -> Row:
        values = self.samples.get((engine, row.name), [])
        reason = self.reasons.get((engine, row.name), "")
        if not values:
            return {"value": None, "spread": None, "reason": reason}
        return {"value": statistics.median(values), "spread": spread(values), "reason": ""}


def print_table(rows: list[Row], engines: list[str], console: Console) -> None:
    """The table that people read."""
    table = Table(title="The Global Control Store")
    table.add_column("workload", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    for engine in engines:
        table.add_column(engine, justify="right", no_wrap=True)
        table.add_column("±", justify="right", no_wrap=True)
    table.add_column("must", no_wrap=True)
    for row in rows:
        cells: list[str] = []
        for engine in engines:
            figure = row["engines"][engine]
            style = {True: "[green]", False: "[red]", None: ""}[figure["met"]]
            end = "[/]" if style else ""
            cells += [f"{style}{number(figure['value'])}{end}", percent(figure["spread"])]
        musts = ", ".join(f"{number(must)}" for must in row["musts"])
        table.add_row(row["name"], row["unit"], *cells, musts)
    console.print(table)
    for note in dict.fromkeys((row["name"], row["note"]) for row in rows if row["note"]):
        console.print(f"{note[0]}: {note[1]}", markup=False)
    reasons = {
        (engine, row["engines"][engine]["reason"]): row["name"]
        for row in rows
        for engine in engines
        if row["engines"][engine]["reason"]
    }
    for (engine, reason), name in reasons.items():
        console.print(f"no figure of {engine}: {reason} ({name} and others)", markup=False)


def failover(rounds: int) -> list[dict[str, Any]]:
    """What a client sees when a primary dies."""
    found = importlib.util.spec_from_file_location("bench_failover", FAILOVER)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    # Dataclasses look their module up while they are made.
    sys.modules[found.name] = module
    found.loader.exec_module(module)
    rows: list[dict[str, Any]] = module.failover_rows(rounds)
    return [judged(row) for row in rows]


def judged(row: dict[str, Any]) -> dict[str, Any]:
    """A kind of death with what it must reach and whether it did, beside what was measured.

    The longest request of all rounds is what counts, wherever in its round it came. One that has
    nothing to reach still loses no acknowledged write.
    """
    wanted = FAILOVERS[row["name"]]
    value = row["longest_max_ms"]
    met = all(wanted.reaches(must, value) for must in wanted.musts) if wanted.musts else None
    return {
        **row,
        "unit": wanted.unit,
        "less_is_better": wanted.less_is_better,
        "value": value,
        "musts": [must.value for must in wanted.musts],
        "met": False if row["lost"] else met,
        "note": wanted.note,
    }


def print_failover(rows: list[dict[str, Any]], console: Console) -> None:
    """A line for each kind of death."""
    for row in rows:
        verdict = {True: "met", False: "MISSED", None: "nothing to reach"}[row["met"]]
        musts = "".join(f", must {number(must)} ms" for must in row["musts"])
        console.print(
            f"{row['name']}: {row['rounds']} rounds, p50 {row['p50_ms']:.2f} ms, p99 "
            f"{row['p99_ms']:.2f} ms, the request that met the death: median "
            f"{row['at_death_median_ms']:.1f} ms, longest {row['at_death_max_ms']:.1f} ms; the "
            f"longest of all {row['value']:.1f} ms{musts}; acknowledged writes lost: "
            f"{row['lost']}: {verdict}",
            markup=False,
        )


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="The Global Control Store on its backends.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=100_000, help="rows of the largest workload")
    parser.add_argument("--live", type=int, default=1_000_000, help="records at the restart")
    parser.add_argument(
        "--engine", action="append", choices=(*BACKENDS, PLAIN), help="all of them unless told"
    )
    parser.add_argument("--group", action="append", choices=(*GROUPS, "failover"))
    parser.add_argument("--failover-rounds", type=int, default=5)
    return parser.parse_args()


def main() -> int:
    """Measures, prints, writes."""
    arguments = parse_arguments()
    engines = arguments.engine or [*BACKENDS, PLAIN]
    wanted = arguments.group or [*GROUPS, "failover"]
    run = Run(
        engines, [group for group in GROUPS if group in wanted], arguments.count, arguments.live
    )
    run.rounds(arguments.rounds)
    rows = [run.row(row) for row in ROWS if row.group in wanted]
    # A pipe or a log has no width of its own; eighty columns would cut the names.
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(machine(), f"python {platform.python_version()}")
    if rows:
        print_table(rows, engines, console)
    deaths: list[dict[str, Any]] = []
    if "failover" in wanted and "redis" in engines:
        deaths = failover(arguments.failover_rounds)
        print_failover(deaths, console)
    if arguments.json:
        report = {
            "machine": machine(),
            "python": platform.python_version(),
            "rounds": arguments.rounds,
            "count": arguments.count,
            "rows": rows,
            "failover": deaths,
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
        console.print(f"written: {arguments.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
