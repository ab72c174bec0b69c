"""Nodes that run as services: where their local schedulers say where they are.

Owns the places and the reading of the file. Who may connect is decided at the sockets; this tells
only what is ours, and whose the rest is.
"""

from __future__ import annotations

import json
import os
import pwd
from pathlib import Path
from typing import Any

SYSTEM_FILE = Path("/run/rostral/local-scheduler/node.json")
USER_FILE = "rostral-services/local-scheduler/node.json"
"""In the user's runtime directory."""


def node_files() -> list[Path]:
    """Where a node that runs as services may have announced itself."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return [SYSTEM_FILE, *([Path(runtime) / USER_FILE] if runtime else [])]


def own_nodes() -> list[dict[str, Any]]:
    """What the files of this user's services say."""
    found = []
    for path in node_files():
        try:
            if path.stat().st_uid == os.getuid():
                found.append(json.loads(path.read_text()))
        except (OSError, ValueError):
            continue
    return found


def owner_of_others() -> str | None:
    """The user whose services run a node here that is not ours; None: there is none."""
    for path in node_files():
        try:
            owner = path.stat().st_uid
        except OSError:
            continue
        if owner != os.getuid():
            try:
                return pwd.getpwuid(owner).pw_name
            except KeyError:
                return str(owner)
    return None
