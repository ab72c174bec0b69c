"""Soaks of the object store: long runs that end with one line of JSON.

Run: ``tox -e soak-store -- kills --minutes 5``. `kills` has eight clients that put, create, seal,
abort, read, wait, hold and drop, and kills one after the other at random; see
`packages/objectstore/tests/kill_loop.py`. Ends with status 1 if a byte was wrong, a client hung, a
block leaked or a rule of the segment was broken; what it was goes to stderr. `fragmentation` keeps
a store at nine tenths with values of all sizes; see `fragmentation_loop.py` beside the other. Ends
with status 1 if a put that fits the free space less a tenth found no room, or a value was wrong.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "packages" / "objectstore"
MEMORY_BYTES = 512 << 20


def soak_kills(minutes: float, seed: int) -> bool:
    """Runs the kill loop for the time. Returns whether nothing was wrong."""
    # The package's tests are no installed package: they are found where they lie.
    sys.path.insert(0, str(PACKAGE))
    kill_loop = importlib.import_module("tests.kill_loop")
    store = importlib.import_module("tests.store")
    with tempfile.TemporaryDirectory(prefix="rostral-") as name:
        folder = Path(name)
        nursery = store.Nursery(folder)
        try:
            with store.running(folder, nursery, MEMORY_BYTES) as running:
                loop = kill_loop.KillLoop(running, str(folder / "board"), seed)
                outcome = loop.run(minutes * 60)
        finally:
            nursery.close()
    line = {"soak": "kills", "minutes": minutes, "seed": seed, **outcome.as_dict()}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stderr.write("".join(f"{what}\n" for what in loop.what))
    return bool(outcome.is_clean())


def soak_fragmentation(minutes: float, seed: int) -> bool:
    """Runs the fragmentation loop for the time. Returns whether every put found its room."""
    sys.path.insert(0, str(PACKAGE))
    fragmentation_loop = importlib.import_module("tests.fragmentation_loop")
    store = importlib.import_module("tests.store")
    with tempfile.TemporaryDirectory(prefix="rostral-") as name:
        folder = Path(name)
        nursery = store.Nursery(folder)
        try:
            with store.running(folder, nursery, MEMORY_BYTES) as running:
                loop = fragmentation_loop.FragmentationLoop(running, seed)
                outcome = loop.run(minutes * 60)
        finally:
            nursery.close()
    line = {"soak": "fragmentation", "minutes": minutes, "seed": seed, **outcome.as_dict()}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stderr.write("".join(f"{what}\n" for what in loop.what))
    return bool(outcome.is_clean())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    soaks = parser.add_subparsers(dest="soak", required=True)
    kills = soaks.add_parser("kills", help="random kills of eight clients")
    kills.add_argument("--minutes", type=float, default=5.0)
    kills.add_argument("--seed", type=int, default=7)
    fragmentation = soaks.add_parser("fragmentation", help="all sizes in a store kept full")
    fragmentation.add_argument("--minutes", type=float, default=10.0)
    fragmentation.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    soak = {"kills": soak_kills, "fragmentation": soak_fragmentation}[options.soak]
    return 0 if soak(options.minutes, options.seed) else 1


if __name__ == "__main__":
    sys.exit(main())
