"""Takes pages from the machine ahead of their use, in a thread of the store daemon.

The first put into memory that nobody has used yet would otherwise have to take them itself:
measured, 2.7 GB/s instead of 7.5. Owns the thread and its pace; how pages are made is pages.pyx.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from rostral_objectstore._native.pages import first_free, reserve_ahead
from rostral_objectstore._native.segment import Segment
from rostral_objectstore.machine_memory import available_bytes

logger = logging.getLogger("rostral.objectstore.pages_ahead")

STEP_BYTES = 1 << 20
"""A quarter of a millisecond, for which writers of cold memory have to wait."""

SMALL_BYTES = 2 << 20
"""Kept ahead for small blocks, and for records: tens of thousands of puts."""

NICENESS = 10
"""Nicer than work, but no idle priority: a put may wait for the lock that a step holds."""

PAUSE_S_MIN, PAUSE_S_MAX = 0.05, 1.0
"""Between looks at whether enough is ahead: the first while pages are used up, the last at rest."""

STEPS_PER_LOOK = 32
"""After so many steps the machine's memory is looked at again."""


class PagesAhead:
    """Keeps pages of the lowest free chunks in store, within a budget, until `stop`.

    Takes none while the machine has less than `spare_bytes` left.
    """

    def __init__(
        self,
        segment: Segment,
        *,
        ahead_bytes: int,
        spare_bytes: int,
        available: Callable[[], int] = available_bytes,
    ) -> None:
        self._segment = segment
        self._ahead_bytes, self._spare_bytes = ahead_bytes, spare_bytes
        self._available = available
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rostral-pages-ahead", daemon=True)

    def start(self) -> None:
        """Begins at once."""
        self._thread.start()

    def stop(self) -> None:
        """Returns when the thread has ended: within a step. Nothing to do before `start`."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        pause_s = PAUSE_S_MIN
        while not self._stopping.is_set():
            made = self._fill()
            pause_s = PAUSE_S_MIN if made else min(2 * pause_s, PAUSE_S_MAX)
            self._stopping.wait(pause_s)

    def _fill(self) -> bool:
        """Makes pages until enough are ahead or memory is short. True if it made any.

        Whoever takes a large block meanwhile is writing to it, and needs the lock of the file
        more: measured, a first put that had to share it ran at half its speed.
        """
        made_any = False
        lowest = first_free(self._segment)
        while self._has_memory():
            small_bytes = min(SMALL_BYTES, self._ahead_bytes)
            made = reserve_ahead(
                self._segment, self._ahead_bytes, small_bytes, STEP_BYTES, STEPS_PER_LOOK
            )
            if first_free(self._segment) != lowest:
                return True
            if made <= 0 or self._stopping.is_set():
                return made_any
            made_any = True
        return made_any

    def _has_memory(self) -> bool:
        try:
            return self._available() > self._spare_bytes + self._ahead_bytes
        except (OSError, ValueError) as error:
            logger.warning("pages are not taken ahead of use: %s", error)
            self._stopping.set()
            return False
