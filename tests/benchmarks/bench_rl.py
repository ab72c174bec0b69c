"""Rostral's learning beside its peers' on one node: runs workloads, prints a table, writes JSON.

Owns the order of runs and the arithmetic over them. Every group runs in a fresh interpreter, the
engines in turn; a row is compared by its median over the rounds, each with another seed.

    tox -e bench-rl -- --peer sb3,rllib --json rl.json
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import json
import platform
import shlex
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

# The scripts of this folder import each other; it is on the path when one of them is run.
import peers
from figures import machine, number, percent, spread
from rl_targets import GROUPS, TARGETS, RLTarget
from runs import Row, run_script

HERE = Path(__file__).resolve().parent
SCRIPTS = {
    "rostral-rl": "rl_ours.py",
    "sb3": "rl_sb3.py",
    "rllib": "rl_rllib.py",
    "gymnasium": "rl_gymnasium.py",
}
START_S = 60.0
"""What an engine may take to be imported and to begin, beside what is measured."""

WORDS = {True: "met", False: "MISSED", None: "-"}
"""What the table says of a gate; nothing where there was nobody to compare with."""

Key = tuple[str, str]
"""Engine and row."""


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """What all rounds have brought.

    Attributes:
        samples: A figure for each round; of a task that was not solved, the seconds spent on it.
        unsolved: How many of them are such.
        reasons: Why there is none.
    """

    samples: Mapping[Key, list[float]]
    unsolved: Mapping[Key, int]
    reasons: Mapping[Key, str]


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Rostral's learning beside its peers'.")
    parser.add_argument("--peer", default="none", help="sb3, rllib, both with a comma, or none")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--rounds", type=int, default=3, help="fresh interpreters per group")
    parser.add_argument("--seconds", type=float, default=8.0, help="of a measured rate")
    parser.add_argument("--limit", type=float, default=90.0, help="seconds to 475, at most")
    parser.add_argument("--quick", action="store_true", help="one round of short rates")
    parser.add_argument("--group", action="append", default=[], choices=sorted(GROUPS))
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds, arguments.limit = 1, 4.0, 30.0
    arguments.peers = [name for name in arguments.peer.split(",") if name not in ("", "none")]
    unknown = sorted(set(arguments.peers) - {"sb3", "rllib"})
    if unknown:
        parser.error(f"unknown peers {', '.join(unknown)}; known: sb3, rllib")
    if arguments.rounds < 1 or arguments.seconds <= 0 or arguments.limit <= 0:
        parser.error("--rounds, --seconds and --limit must be positive")
    return arguments


def measure(
    ours: peers.Engine, others: Mapping[str, peers.Engine], arguments: argparse.Namespace
) -> Measured:
    """Runs all rounds; a row that printed nothing gets a reason."""
    samples: dict[Key, list[float]] = defaultdict(list)
    unsolved: dict[Key, int] = defaultdict(int)
    reasons: dict[Key, str] = {}
    for round_index in range(arguments.rounds):
        for group in arguments.group or GROUPS:
            for engine in (ours, *(others[p] for p in GROUPS[group] if p in others)):
                print(f"round {round_index + 1}: {group} on {engine.name}", file=sys.stderr)
                command = [str(HERE / SCRIPTS[engine.name]), "--group", group]
                command += ["--seconds", str(arguments.seconds), "--limit", str(arguments.limit)]
                command += ["--seed", str(round_index)]
                # The limit is of training: looks at the score come on top.
                rows, failure = run_script(
                    engine, command, START_S + 2 * (arguments.seconds + arguments.limit)
                )
                if failure:
                    reasons[engine.name, group] = failure
                for row in rows:
                    if row["value"] is None:
                        reasons[engine.name, row["name"]] = row["reason"]
                    else:
                        samples[engine.name, row["name"]].append(float(row["value"]))
                        unsolved[engine.name, row["name"]] += not row.get("solved", True)
    return Measured(samples, unsolved, reasons)


def row_of(target: RLTarget, ours: str, *, with_peer: bool, measured: Measured) -> Row:
    """One row of the JSON file."""
    mine_key, their_key = (ours, target.name), (target.peer, target.name)
    mine = measured.samples.get(mine_key, [])
    theirs = measured.samples.get(their_key, []) if with_peer else []
    our_median = statistics.median(mine) if mine else None
    peer_median = statistics.median(theirs) if theirs else None
    ratio = None
    if our_median is not None and peer_median is not None:
        ratio = target.ratio(our_median, peer_median)
    unsolved = measured.unsolved.get(mine_key, 0)
    row: Row = {
        "name": target.name,
        "unit": target.unit,
        "rostral": our_median,
        "rostral_samples": mine,
        "rostral_spread": spread(mine),
        "rostral_unsolved": unsolved,
        "peer_name": target.peer if with_peer else None,
        "peer": peer_median,
        "peer_samples": theirs,
        "peer_spread": spread(theirs),
        "peer_unsolved": measured.unsolved.get(their_key, 0) if with_peer else 0,
        "ratio": ratio,
        "must": target.must,
        "aim": target.aim,
        # A peer's seconds are at least these where it did not solve the task; ours must solve it.
        "met": None if ratio is None else ratio >= target.must and not unsolved,
    }
    for engine, column, median in (
        (ours, "rostral", our_median),
        (target.peer, "peer", peer_median),
    ):
        if median is None and (column == "rostral" or with_peer):
            by_row = measured.reasons.get((engine, target.name))
            row[f"{column}_reason"] = by_row or measured.reasons.get(
                (engine, target.group), "not run"
            )
    return row


def print_table(rows: list[Row], console: Console) -> None:
    """The table that people read."""
    table = Table()
    for heading in ("workload", "unit", "rostral", "±", "peer", "±", "ratio", "must", "aim"):
        table.add_column(heading)
    table.add_column("gate")
    table.add_column("peer is")
    for row in rows:
        table.add_row(
            row["name"],
            row["unit"],
            number(row["rostral"]),
            percent(row["rostral_spread"]),
            number(row["peer"]),
            percent(row["peer_spread"]),
            number(row["ratio"], "x"),
            number(row["must"], "x"),
            number(row["aim"], "x"),
            WORDS[row["met"]],
            row["peer_name"] or "",
            style={True: "green", False: "red", None: ""}[row["met"]],
        )
    console.print(table)
    for row in rows:
        for column in ("rostral", "peer"):
            if count := row[f"{column}_unsolved"]:
                console.print(f"{row['name']}: {column} not solved in {count} rounds", markup=False)
            if reason := row.get(f"{column}_reason"):
                console.print(f"{row['name']}: no figure of {column}: {reason}", markup=False)


def main() -> int:
    """Measures, prints, writes."""
    arguments = parse_arguments()
    ours = peers.rostral_rl()
    others = {name: peers.RL_PEERS[name]() for name in ("gymnasium", *arguments.peers)}
    start = time.perf_counter()
    measured = measure(ours, others, arguments)
    took_s = time.perf_counter() - start
    rows = [
        row_of(t, ours.name, with_peer=t.peer in others, measured=measured)
        for t in TARGETS
        if t.group in (arguments.group or GROUPS)
    ]
    versions = {"python": platform.python_version()}
    versions |= {engine.name: engine.version() for engine in (ours, *others.values())}
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(machine(), " ".join(f"{name} {version}" for name, version in versions.items()))
    print_table(rows, console)
    compared = [row["met"] for row in rows if row["met"] is not None]
    console.print(f"gates met: {sum(compared)} of {len(compared)}; measured for {took_s:.0f} s")
    if arguments.json:
        report = {
            "command": f"tox -e bench-rl -- {shlex.join(sys.argv[1:])}",
            "date": dt.datetime.now(dt.UTC).date().isoformat(),
            "machine": machine(),
            "versions": versions,
            "seeds": list(range(arguments.rounds)),
            "took_s": round(took_s),
            "rows": rows,
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
        console.print(f"written: {arguments.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
