"""systemd's file-descriptor store: where the segment outlives the daemon.

Owns the names under which the daemon hands the segment's descriptor to the service manager and
finds it again among those that it inherits. Without a service manager all of it does nothing.
"""

from __future__ import annotations

from rostral_gcs.services import systemd

NAME = "rostral-segment"


def park(fd: int) -> bool:
    """Has the service manager keep the segment until the service is stopped for good."""
    # The manager polls what it keeps and drops a descriptor that reports an error or a hangup; a
    # memfd never does.
    return systemd.notify("FDSTORE=1", f"FDNAME={NAME}", "FDPOLL=0", fds=[fd])


def forget() -> bool:
    """Has the service manager drop what was parked."""
    return systemd.notify("FDSTOREREMOVE=1", f"FDNAME={NAME}")


def parked() -> list[int]:
    """The descriptors that a former daemon parked, as this process inherited them; once."""
    return systemd.inherited_fds(NAME)
