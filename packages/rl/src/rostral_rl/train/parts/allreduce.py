"""Sums arrays of several processes so that each has the sum: the allreduce of OSDI'18 section 5.1.

Each member puts its array into the object store once and tells the others, who read it in place.
All sum in the order of ranks, so that all have the same bits. Small arrays go round in one hop, for
there what counts is the number of messages; of large ones each member sums its own share and tells
that (reduce-scatter, then all-gather), so that no member reads more than twice the array.

How messages travel is the caller's business; this file knows threads and arrays.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from rostral_rl.arrays import FloatArray
from rostral_rl.errors import WorkersLostError

Post = Callable[[int, FloatArray], None]
"""Sends (turn, array) to all other members' mailboxes; does not wait."""

ONE_HOP_BYTES_MAX = 1 << 18
WAIT_S_MAX = 120.0
"""Longest wait for another member."""


class Mailbox:
    """What other members sent, until it is asked for. One thread asks; any number deliver."""

    def __init__(self) -> None:
        self._arrived: dict[tuple[int, int], FloatArray] = {}
        self._changed = threading.Condition()

    def deliver(self, turn: int, rank: int, array: FloatArray) -> None:
        """Takes an array from member `rank`; it is held, not copied."""
        with self._changed:
            self._arrived[turn, rank] = array
            self._changed.notify_all()

    def take(self, turn: int, rank: int) -> FloatArray:
        """Waits for the array of a turn and member.

        Raises:
            WorkersLostError: It did not come in time.
        """
        key = (turn, rank)
        with self._changed:
            if not self._changed.wait_for(lambda: key in self._arrived, WAIT_S_MAX):
                raise WorkersLostError(
                    f"nothing came from learner {rank} within {WAIT_S_MAX:g} s",
                    hint="it hangs, or other programs hold the cluster's CPUs",
                )
            return self._arrived.pop(key)


class Allreduce:
    """One member's part. All members call `sum` in the same order, with arrays of one size.

    Args:
        rank: This member's number.
        count: Members in all.
        mailbox: Where the others' messages arrive.
        post: Sends to the others.
    """

    def __init__(self, rank: int, count: int, mailbox: Mailbox, post: Post) -> None:
        self._rank = rank
        self._count = count
        self._mailbox = mailbox
        self._post = post
        self._turn = 0

    def sum(self, array: FloatArray) -> None:
        """Puts the sum over all members in place of `array` (P,) float32; blocks."""
        if self._count == 1:
            return
        if array.nbytes <= ONE_HOP_BYTES_MAX:
            self._total(self._exchanged(array.copy()), out=array)
            return
        bounds = [len(array) * i // self._count for i in range(self._count + 1)]
        shares = [slice(a, b) for a, b in pairwise(bounds)]
        mine = shares[self._rank]
        # A copy, because others read it while it is written here.
        parts = self._exchanged(array.copy())
        self._total([part[mine] for part in parts], out=array[mine])
        for share, total in zip(shares, self._exchanged(array[mine].copy()), strict=True):
            array[share] = total

    def _exchanged(self, array: FloatArray) -> list[FloatArray]:
        """All members' arrays of this turn, by rank; a read-only view of each but our own."""
        turn = self._turn
        self._turn += 1
        self._post(turn, array)
        return [
            array if rank == self._rank else self._mailbox.take(turn, rank)
            for rank in range(self._count)
        ]

    @staticmethod
    def _total(parts: list[FloatArray], out: FloatArray) -> None:
        np.add(parts[0], parts[1], out=out)
        for part in parts[2:]:
            out += part
