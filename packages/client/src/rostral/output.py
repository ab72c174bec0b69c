"""What workers print, in the driver's terminal."""

from __future__ import annotations

import sys
from typing import Any


def print_line(topic: str, body: dict[str, Any]) -> None:
    """Prints the lines of one log message, each behind the name of what printed it.

    Other topics are not ours.
    """
    if topic != "log":
        return
    stream = sys.stderr if body["stream"] == "stderr" else sys.stdout
    prefix = f"({body['name'] or 'worker'} pid={body['pid']}) "
    try:
        stream.write("".join(f"{prefix}{line}\n" for line in body["lines"]))
        stream.flush()
    except (OSError, ValueError):
        pass  # the terminal is gone; the lines are in the session's logs
