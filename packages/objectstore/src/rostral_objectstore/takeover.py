"""Taking over a segment whose daemon died: who still lives in it, and what the dead one had begun.

Used once, before the new daemon listens. What it leaves behind is a segment in which the former
daemon's slot is dead and to be buried like any other process's, and a list of the processes that
are attached to it but not yet to us.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from rostral_objectstore._native import residence
from rostral_objectstore._native.segment import Segment
from rostral_objectstore._native.table import Handle, ObjectTable
from rostral_objectstore.errors import ObjectNotFoundError, SegmentError
from rostral_objectstore.layout import SlotKind, SlotState

logger = logging.getLogger("rostral.objectstore.takeover")


def process_start_time(pid: int) -> int:
    """Clock ticks after boot at which the process started, 0 when it is gone.

    Tells a process from a later one with the same pid.
    """
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


def adopt_segment(fds: list[int]) -> Segment | None:
    """The segment behind the one descriptor that can be used; the others are closed."""
    segment: Segment | None = None
    for fd in fds:
        if segment is not None:
            os.close(fd)
            continue
        try:
            segment = Segment.adopt(fd)
        except SegmentError as error:
            logger.warning("a parked segment cannot be used: %s", error)
    return segment


def bury_former_daemons(segment: Segment) -> list[int]:
    """Slots that nobody speaks for any more: of daemons before us, and half buried by them."""
    for slot in segment.slots_in_state(SlotState.LIVE):
        if segment.slot_info(slot)["kind"] == SlotKind.STORE:
            segment.set_slot_state(slot, SlotState.DEAD)
    return segment.slots_in_state(SlotState.DEAD) + segment.slots_in_state(SlotState.REPAIRED)


def living_clients(segment: Segment) -> dict[int, int]:
    """Slot to pid of the attached processes, some of which may have died since."""
    infos = [segment.slot_info(slot) for slot in segment.slots_in_state(SlotState.LIVE)]
    return {info["slot"]: info["pid"] for info in infos if info["kind"] != SlotKind.STORE}


def is_the_same_process(segment: Segment, slot: int, pid: int) -> bool:
    """Whether the slot was given to the process that has the pid now."""
    info = segment.slot_info(slot)
    return (
        info["state"] == SlotState.LIVE
        and info["pid"] == pid
        and info["start_time"] == process_start_time(pid)
    )


def adopt_kept(table: ObjectTable) -> dict[bytes, Handle]:
    """Our own holds of what the former daemon held for its clients, by id."""
    kept: dict[bytes, Handle] = {}
    for loc, version, id in residence.kept(table):
        try:
            kept[id] = table.adopt(Handle, loc, version, id)
        except ObjectNotFoundError:
            continue  # it was being deleted
    return kept
