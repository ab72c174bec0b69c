"""Ends TCP connections of this process from outside of the library that owns them.

gRPC ends a call when its deadline passes or its peer goes; a server has no way to end one whose
peer is merely stopped and takes nothing. Shutting the socket down makes the library see a broken
connection and clean up as for any other.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path


def sever(local_port: int, peer: str | None = None) -> int:
    """Shuts down this process's connections accepted at the port; returns how many.

    Args:
        local_port: where they were accepted.
        peer: only the one to this peer, `host:port` as gRPC writes it, without its scheme.
    """
    severed = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if not os.readlink(entry).startswith("socket:"):
                continue
            # The copy stays what it is whatever its owner does with the number meanwhile.
            with socket.socket(fileno=os.dup(int(entry.name))) as connection:
                if connection.family not in (socket.AF_INET, socket.AF_INET6):
                    continue
                if connection.getsockname()[1] != local_port:
                    continue
                if peer is None or peer == _written(connection.getpeername()):
                    connection.shutdown(socket.SHUT_RDWR)
                    severed += 1
    return severed


def _written(name: tuple[str, int]) -> str:
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
