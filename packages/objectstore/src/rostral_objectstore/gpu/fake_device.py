"""A GPU that is none: memory and streams with the manners of a device's, for machines without one.

What it keeps of the real thing is what programs get wrong:

- its memory cannot be reached by the processor: addresses are numbers of an address space of its
  own, and all access is by a stream's copies;
- a stream does nothing by itself: work that nobody waits for stays undone, as it may on a GPU, and
  is lost with its process;
- a stream does not wait for another, and the default stream not for one that is non-blocking;
- a handle can be opened by other processes only, by each once at a time, and while its owner lives
  and has not freed it; memory that was opened is an error to touch once the owner is dead, or has
  freed it;
- memory is bounded, whoever allocates.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import struct
import threading
import weakref
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Callable, Sequence

from rostral_objectstore.errors import DeviceError, DeviceFullError
from rostral_objectstore.takeover import process_start_time

# Far from anything that the processor can address.
FIRST_ADDRESS = 0x7FFA << 48
ADDRESSES_PER_DEVICE = 1 << 44
# Between two memories lies what is nobody's, so that running over the end is seen.
GUARD_BYTES = 1 << 21
HANDLE = struct.Struct("<QQQQQ")
# Behind each memory a byte says whether its owner has freed it: others have the same file.
MARK_BYTES = 1
FREED = 1


class FakeMemory:
    """A stretch of a fake device's memory: a file that lives as long as somebody has it open."""

    def __init__(
        self, space: AddressSpace, fd: int, size_bytes: int, owner: tuple[int, int]
    ) -> None:
        self.fd, self.size_bytes, self.owner = fd, size_bytes, owner
        self._space, self._bytes = space, mmap.mmap(fd, size_bytes + MARK_BYTES)
        self.file_number = os.fstat(fd).st_ino
        self.is_ours = owner[0] == os.getpid()
        self._owner_fd = -1 if self.is_ours else os.pidfd_open(owner[0])
        self.pointer = space.add(self)

    def view(self, offset: int, size_bytes: int) -> memoryview:
        """Bytes of it, for a stream. Raises DeviceError when they are not there any more."""
        if self._owner_fd >= 0 and select.select([self._owner_fd], [], [], 0)[0]:
            raise DeviceError(f"process {self.owner[0]}, which owned this memory, is dead")
        if self._bytes[self.size_bytes] == FREED:
            raise DeviceError(f"process {self.owner[0]}, which owned this memory, has freed it")
        if offset + size_bytes > self.size_bytes:
            raise DeviceError(f"{size_bytes} bytes at {offset} of {self.size_bytes}: out of bounds")
        return memoryview(self._bytes)[offset : offset + size_bytes]

    def close(self) -> None:
        """Gives it back, or unmaps it."""
        if self.fd < 0:
            return
        if self.owner[0] == os.getpid():  # and not of whom this one was forked from
            # As a driver does, which frees nothing that work still writes to.
            with contextlib.suppress(DeviceError):
                self._space.everything().synchronize()
            self._bytes[self.size_bytes] = FREED
        self._space.remove(self)
        for fd in (self.fd, self._owner_fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self._owner_fd = -1

    def __del__(self) -> None:
        if hasattr(self, "pointer"):
            self.close()


class AddressSpace:
    """This process's addresses on one fake device, and how much of its memory it has taken.

    Args:
        device: its number in this process.
        capacity_bytes: of its memory.
    """

    def __init__(self, device: int, capacity_bytes: int) -> None:
        self.device, self.capacity_bytes, self.used_bytes = device, capacity_bytes, 0
        self._lock = threading.RLock()
        self._next = FIRST_ADDRESS + device * ADDRESSES_PER_DEVICE
        self._starts: list[int] = []
        self._by_start: dict[int, weakref.ref[FakeMemory]] = {}
        self._streams: list[FakeStream] = []
        self._opened: set[int] = set()
        self.default_stream = self.new_stream()

    def allocate(self, size_bytes: int) -> FakeMemory:
        """Raises DeviceFullError."""
        size_bytes = max(size_bytes, 1)
        with self._lock:
            if self.used_bytes + size_bytes > self.capacity_bytes:
                raise DeviceFullError(
                    f"fake device {self.device} has {self.capacity_bytes} bytes, "
                    f"{self.used_bytes} of them taken: no room for {size_bytes}"
                )
            self.used_bytes += size_bytes
        fd = os.memfd_create("rostral-fake-device")
        os.ftruncate(fd, size_bytes + MARK_BYTES)
        me = os.getpid()
        return FakeMemory(self, fd, size_bytes, (me, process_start_time(me)))

    def export(self, memory: FakeMemory) -> bytes:
        """A handle for other processes."""
        return HANDLE.pack(*memory.owner, memory.fd, memory.file_number, memory.size_bytes)

    def open(self, handle: bytes) -> FakeMemory:
        """Another process's memory. Raises DeviceError."""
        pid, start_time, fd, file_number, size_bytes = HANDLE.unpack(handle)
        if pid == os.getpid():
            raise DeviceError("a handle cannot be opened by the process that exported it")
        if process_start_time(pid) != start_time:
            raise DeviceError(f"the handle is stale: process {pid}, which exported it, is dead")
        try:
            opened = os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise DeviceError(f"the handle of process {pid} is invalid: {error}") from error
        try:
            if os.fstat(opened).st_ino != file_number:
                raise DeviceError(f"the handle is stale: process {pid} has freed the memory")
            with self._lock:
                if file_number in self._opened:
                    raise DeviceError("the handle is open in this process already")
                self._opened.add(file_number)
        except DeviceError:
            os.close(opened)
            raise
        return FakeMemory(self, opened, size_bytes, (pid, start_time))

    def add(self, memory: FakeMemory) -> int:
        """Gives a memory its addresses."""
        with self._lock:
            start = self._next
            self._next += (-(-memory.size_bytes // GUARD_BYTES) + 1) * GUARD_BYTES
            insort(self._starts, start)
            self._by_start[start] = weakref.ref(memory)
            return start

    def remove(self, memory: FakeMemory) -> None:
        """Takes them away again."""
        with self._lock:
            if memory.is_ours:
                self.used_bytes -= memory.size_bytes
            self._opened.discard(memory.file_number)
            self._starts.remove(memory.pointer)
            del self._by_start[memory.pointer]

    def view(self, pointer: int, size_bytes: int) -> memoryview:
        """The bytes at an address. Raises DeviceError for one that is nobody's."""
        with self._lock:
            index = bisect_right(self._starts, pointer) - 1
            start = self._starts[index] if index >= 0 else 0
            found = self._by_start.get(start)
            memory = None if found is None else found()
        if memory is None:
            raise DeviceError(f"{pointer:#x} is no address of fake device {self.device}")
        return memory.view(pointer - start, size_bytes)

    def new_stream(self, *, non_blocking: bool = False) -> FakeStream:
        """One more stream of the device, that the default one waits for unless said otherwise."""
        stream = FakeStream(self, non_blocking=non_blocking)
        with self._lock:
            self._streams.append(stream)
        return stream

    def fence(self) -> FakeEvent:
        """The point that the default stream has come to, and with it all blocking ones."""
        with self._lock:
            blocking = [stream for stream in self._streams if not stream.non_blocking]
        return FakeEvent([stream.position() for stream in blocking])

    def everything(self) -> FakeEvent:
        """The point that all its streams have come to."""
        with self._lock:
            streams = list(self._streams)
        return FakeEvent([stream.position() for stream in streams])


Position = tuple["FakeStream", int]


class FakeStream:
    """Work that is done in order, by whoever first waits for it. Thread-safe."""

    def __init__(self, space: AddressSpace, *, non_blocking: bool) -> None:
        self._space, self.non_blocking = space, non_blocking
        self._lock = threading.RLock()
        self._work: deque[Callable[[], None]] = deque()
        self._done = 0

    def copy(self, target: int, source: int, size_bytes: int) -> None:
        """From the device's memory to the device's memory."""
        view = self._space.view
        view(target, size_bytes), view(source, size_bytes)  # as CUDA does, check at once
        self.add(lambda: _move(view(target, size_bytes), view(source, size_bytes)))

    def copy_from(self, target: int, space: AddressSpace, source: int, size_bytes: int) -> None:
        """From another device's memory to the device's memory."""
        ours, theirs = self._space.view, space.view
        ours(target, size_bytes), theirs(source, size_bytes)
        self.add(lambda: _move(ours(target, size_bytes), theirs(source, size_bytes)))

    def upload(self, target: int, source: memoryview) -> None:
        """From the processor's memory."""
        self.add(lambda: _move(self._space.view(target, source.nbytes), source.cast("B")))

    def download(self, target: memoryview, source: int) -> None:
        """To the processor's memory."""
        self.add(lambda: _move(target.cast("B"), self._space.view(source, target.nbytes)))

    def wait_for(self, positions: Sequence[Position]) -> None:
        """What comes next waits for other streams."""
        self.add(lambda: FakeEvent(positions).synchronize())

    def add(self, work: Callable[[], None]) -> None:
        """One more thing to do."""
        with self._lock:
            self._work.append(work)

    def position(self) -> Position:
        """The point that it has come to with all that it was given."""
        with self._lock:
            return self, self._done + len(self._work)

    def run_to(self, count: int) -> None:
        """Does what is to be done up to there. Raises DeviceError."""
        with self._lock:
            while self._done < count:
                self._done += 1
                self._work.popleft()()


class FakeEvent:
    """A point in the work of one stream or several."""

    def __init__(self, positions: Sequence[Position]) -> None:
        self._positions = positions

    def synchronize(self) -> None:
        """Has the work before it done. Raises DeviceError."""
        for stream, count in self._positions:
            stream.run_to(count)


def _move(target: memoryview, source: memoryview) -> None:
    target[:] = source
