"""A soak of the Global Control Store: random operations and faults, and the history checked.

Run: ``tox -e soak-gcs -- --minutes 5 --seed 1 --backend redis``. Three clients write, compare and
set, read and watch; every few seconds a service, or the primary of a group of three Redis servers,
is killed, stopped or cut off. See `packages/gcs/tests/history_loop.py` and `history.py` beside it.
Ends with one line of JSON, and with status 1 if the history cannot have been; what it was goes to
stderr. One seed gives one schedule of faults.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "packages" / "gcs"


def main() -> int:
    """Runs for the time; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--backend", choices=("embedded", "redis"), default="redis")
    options = parser.parse_args()
    # The package's tests are no installed package: they are found where they lie.
    sys.path.insert(0, str(PACKAGE))
    history_loop = importlib.import_module("tests.history_loop")
    with tempfile.TemporaryDirectory(prefix="rostral-") as name:
        loop = history_loop.HistoryLoop(Path(name), options.backend, options.seed)
        report = loop.run(options.minutes * 60)
    line = {"soak": "gcs", **vars(options), **report.as_dict()}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stderr.write("".join(f"{what}\n" for what in report.wrong))
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
