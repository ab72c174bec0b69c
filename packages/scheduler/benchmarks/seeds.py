"""The deterministic simulation under many seeds; each that violates an invariant is named.

Run: ``tox -e sim-seeds -- --seeds 10000``; one again with ``-- --first 4711 --seeds 1``. Exits
with 1 if any seed failed.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from rostral_scheduler.sim.seeds import Outcome, ViolationError, run_seed


def tried(seed: int) -> Outcome | str:
    """What happened under the seed, or what it violated."""
    try:
        return run_seed(seed)
    except ViolationError as error:
        return str(error)


def main() -> int:
    """Reads the command line and runs; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10_000, help="how many")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    started_s = time.monotonic()
    outcomes: list[Outcome] = []
    failed = 0
    with ProcessPoolExecutor(options.jobs) as pool:
        for found in pool.map(tried, seeds, chunksize=20):
            if isinstance(found, Outcome):
                outcomes.append(found)
            else:
                failed += 1
                print(found, flush=True)
    print(
        f"{len(seeds)} seeds from {options.first} in {time.monotonic() - started_s:.0f} s: "
        f"{failed} failed; {sum(one.messages for one in outcomes):,} messages, "
        f"{sum(one.attempts for one in outcomes):,} tasks run again, "
        f"{sum(one.fenced for one in outcomes):,} nodes fenced alive, "
        f"settled after {max((one.settled_at_s for one in outcomes), default=0.0):.1f} s at most"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
