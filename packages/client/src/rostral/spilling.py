"""Where a node's objects go when its memory is short.

Owns the choice of a directory for a node that was given none; the store owns what lies in it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from pathlib import Path

from rostral_objectstore.config import SPILL_FREE_SHARE_MIN
from rostral_objectstore.spill_directory import problems_of

logger = logging.getLogger("rostral.node")

DISK_DIRECTORY = "/var/tmp"
# Of what the disk has free when the node starts: the rest is for whoever else uses it.
LIMIT_SHARE = 0.5


def choose(session: Path, wanted: str | None) -> tuple[tuple[str, ...], int | None]:
    """(directories, limit in bytes) for the store of the node with this session directory.

    A directory that was asked for is made if needed, and has no limit but the disk's; whether it
    can be used, the store says. Otherwise it is one in the session's directory or, where that lies
    in memory, one of this user's beside others' temporary files; none at all where no disk will do.
    """
    if wanted is not None:
        with contextlib.suppress(OSError):
            Path(wanted).mkdir(mode=0o700, parents=True, exist_ok=True)
        return (str(Path(wanted).absolute()),), None
    path = session / "spill"
    if _lies_in_memory(session):
        path = Path(DISK_DIRECTORY) / f"rostral-spill-{os.getuid()}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        problems = [f"{path}: {error.strerror}"]
    else:
        problems = problems_of(str(path), free_share_min=SPILL_FREE_SHARE_MIN)
    if problems:
        logger.warning("objects cannot be spilled to disk: %s", "; ".join(problems))
        return (), None
    return (str(path),), int(shutil.disk_usage(path).free * LIMIT_SHARE)


def _lies_in_memory(path: Path) -> bool:
    """Whether the file system of the path is one that takes memory and no disk."""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return False
    for line in lines:
        left, _, right = line.partition(" - ")
        if left.split()[2] == wanted:
            return right.split()[0] in ("tmpfs", "ramfs")
    return False
