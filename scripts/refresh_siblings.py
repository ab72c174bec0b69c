"""Puts today's wheels of our own packages into the environment that runs this.

tox takes a sibling that is installed with the right version for up to date, and a dependency that
the sibling has gained since for somebody else's business. Here every package of ours that the
environment holds is installed again from the wheelhouse, then whatever those ask for is completed.

    python scripts/refresh_siblings.py .tox/wheels
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

from build_wheels import ROOT


def main() -> int:
    """Installs; the exit status is pip's."""
    wheels = Path(sys.argv[1]).resolve()
    names = [str(each.name) for each in importlib.metadata.distributions()]
    ours = sorted({name for name in names if name.lower().startswith("rostral")})
    if not ours:
        print("nothing of ours is installed here", file=sys.stderr)
        return 1
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--find-links", str(wheels))
    again = (*pip, "--force-reinstall", "--no-deps", "--no-index", *ours)
    complete = (*pip, "--constraint", str(ROOT / "constraints.txt"), *ours)
    for command in (again, complete):
        if status := subprocess.run(command, check=False).returncode:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
