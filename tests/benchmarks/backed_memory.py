"""Memory that the machine really has, handed on bit by bit to what is measured."""

from __future__ import annotations

import mmap
import os


class BackedMemory:
    """Memory that has been touched, and becomes free when what is measured shall have it.

    The host of a virtual machine hands memory out at its first touch and takes back what lies idle:
    measured, a new process of 4 MB cost 13 ms of the kernel's time there, and 0.8 where its pages
    had been used before; of five first puts one ran at half the speed of another. What is measured
    is no part of that. Free memory goes back to the host within seconds, so all is kept until it is
    wanted; the kernel gives what was freed last to who asks next.

    Args:
        size_bytes: Touched once; or half of what is free, if that is less.
    """

    def __init__(self, size_bytes: int) -> None:
        size_bytes = min(size_bytes, os.sysconf("SC_AVPHYS_PAGES") * mmap.PAGESIZE // 2)
        # Private: of shared memory the kernel keeps the pages when they are not needed any more.
        self._memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for at in range(0, size_bytes, mmap.PAGESIZE):
            self._memory[at] = 1
        self._given_bytes = 0

    @property
    def kept_bytes(self) -> int:
        """What is still to be handed on: memory of this process, but of none that is measured."""
        return len(self._memory) - self._given_bytes

    def hand_on(self, share: float) -> None:
        """Gives a share of all of it to whoever needs memory next."""
        size_bytes = int(len(self._memory) * share) // mmap.PAGESIZE * mmap.PAGESIZE
        size_bytes = min(size_bytes, self.kept_bytes)
        if size_bytes:
            self._memory.madvise(mmap.MADV_DONTNEED, self._given_bytes, size_bytes)
            self._given_bytes += size_bytes
