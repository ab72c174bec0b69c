"""systemd's file-descriptor store: where the segment outlives the daemon.

Owns the two halves of that protocol (sd_notify(3), sd_listen_fds(3)) that the daemon needs: it
hands the segment's descriptor to the service manager, and a daemon that is started again finds it
among the descriptors that it inherits. Without a service manager both do nothing.
"""

from __future__ import annotations

import os
import socket

FIRST_INHERITED_FD = 3
NAME = "rostral-segment"


def notify(state: str, fds: tuple[int, ...] = ()) -> bool:
    """Tells the service manager. False: there is none ($NOTIFY_SOCKET is not set)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    # "@" stands for the zero byte of the abstract namespace.
    target = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
        to.connect(target)
        socket.send_fds(to, [state.encode()], list(fds))
    return True


def park(fd: int) -> bool:
    """Has the service manager keep the segment until the service is stopped for good."""
    # The manager polls what it keeps and drops a descriptor that reports an error or a hangup; a
    # memfd never does.
    return notify(f"FDSTORE=1\nFDNAME={NAME}\nFDPOLL=0", (fd,))


def forget() -> bool:
    """Has the service manager drop what was parked."""
    return notify(f"FDSTOREREMOVE=1\nFDNAME={NAME}")


def parked() -> list[int]:
    """The descriptors that a former daemon parked, as this process inherited them; once."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(os.environ.get("LISTEN_FDS", "0"))
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)  # not for our children
    found = []
    for i in range(count):
        fd = FIRST_INHERITED_FD + i
        os.set_inheritable(fd, False)
        if i < len(names) and names[i] == NAME:
            found.append(fd)
    return found
