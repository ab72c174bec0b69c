"""The port of transfers that nobody chose, over the daemon's death.

Other nodes have been told where they fetch from this store, and go on asking there. So the daemon
leaves a note of its port beside its socket, and the one after it, if it is given the segment, takes
the same port. The note decides nothing else: without it, or with the port taken, there is another.
"""

from __future__ import annotations

import logging
from pathlib import Path

logger = logging.getLogger("rostral.objectstore.transfer")

_PORT_MAX = 65535


def _note(socket_path: str) -> Path:
    return Path(f"{socket_path}.transfers")


def remember(socket_path: str, port: int) -> None:
    """Leaves the note for the next daemon. Without it, that one only has another port."""
    note = _note(socket_path)
    try:
        note.touch(mode=0o600)
        note.write_text(f"{port}\n", encoding="ascii")
    except OSError as error:
        logger.warning("the port of transfers cannot be noted: %s", error)


def recalled(socket_path: str) -> int:
    """The port of the daemon before this one; 0: it had none, or the note is none."""
    try:
        port = int(_note(socket_path).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
    return port if 0 < port <= _PORT_MAX else 0


def forget(socket_path: str) -> None:
    """There will be no next daemon, or what it has will be other objects."""
    _note(socket_path).unlink(missing_ok=True)
