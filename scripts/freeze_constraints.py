"""Prints constraints: the versions that the tox environments hold now.

Reads what is installed and changes nothing. An environment that disagrees with another about a
version is an error: the file can pin only one.

    python scripts/freeze_constraints.py > constraints.txt
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

from build_wheels import ROOT

HEADER = """\
# The versions that were tested. Refresh: see CONTRIBUTING.md, "Dependencies".
# torch is pinned without its local part: `+cpu` and the default build are both this version."""
ENVIRONMENTS = (
    *("gcs", "objectstore", "scheduler", "client", "rl"),
    *("integration", "demo", "bench-core", "bench-store", "lint", "types"),
)
# Ours, and what brings the environment itself to life.
NOT_PINNED = ("rostral", "pip", "setuptools", "wheel")


def installed(environment: Path) -> dict[str, str]:
    """Names and versions of the distributions in a virtual environment."""
    paths = [str(path) for path in environment.glob("lib/python*/site-packages")]
    found = importlib.metadata.distributions(path=paths)
    versions = {each.name.lower().replace("_", "-"): each.version for each in found}
    return {n: v.partition("+")[0] for n, v in versions.items() if not n.startswith(NOT_PINNED)}


def main() -> int:
    """Prints the pins; 1 where two environments disagree or none is there."""
    pins: dict[str, str] = {}
    conflicts = []
    for name in ENVIRONMENTS:
        for distribution, version in installed(ROOT / ".tox" / name).items():
            if pins.setdefault(distribution, version) != version:
                conflicts.append(f"{distribution}: {pins[distribution]} and {version} ({name})")
    for line in conflicts:
        print(line, file=sys.stderr)
    if conflicts or not pins:
        print("make the environments afresh: tox -r --notest", file=sys.stderr)
        return 1
    print(HEADER)
    for distribution, version in sorted(pins.items()):
        print(f"{distribution}=={version}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
