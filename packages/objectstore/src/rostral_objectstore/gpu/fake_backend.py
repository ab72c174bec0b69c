"""The backend of fake devices, and arrays on them: for tests, and for machines without a GPU.

It lies in the package and not among its tests, since the tests of every package above, and those of
users whose CI has no GPU, need it in processes that a daemon starts: a store process of a device,
and workers. Nothing chooses it but `ROSTRAL_DEVICE_BACKEND=fake`. `ROSTRAL_FAKE_DEVICES` says how
many devices the machine has (1) and `ROSTRAL_FAKE_DEVICE_BYTES` how large each is (256 MiB); of
these a process sees what CUDA_VISIBLE_DEVICES lets it see, by CUDA's rules.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from rostral_objectstore.errors import DeviceError
from rostral_objectstore.gpu.backend import (
    MIG_PREFIX,
    ArrayForm,
    DeviceMemory,
    Framework,
    Source,
    slice_name,
    visible_names,
)
from rostral_objectstore.gpu.fake_device import AddressSpace, FakeEvent, FakeMemory, FakeStream

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DEVICES_VARIABLE = "ROSTRAL_FAKE_DEVICES"
BYTES_VARIABLE = "ROSTRAL_FAKE_DEVICE_BYTES"
DEVICE_BYTES = 256 << 20


class FakeArray:
    """An array on a fake device, in C order.

    Like the arrays of GPU libraries it shows its values to nobody but by a copy (`numpy`), and what
    is done to it is done later.
    """

    def __init__(
        self, device: int, pointer: int, shape: tuple[int, ...], dtype: str, owner: object
    ) -> None:
        self.device, self.pointer, self.shape, self.dtype = device, pointer, shape, dtype
        self._owner = owner

    @property
    def nbytes(self) -> int:
        """Size of its elements, in bytes."""
        import numpy as np

        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def fill(self, values: NDArray[Any]) -> None:
        """Writes values into it, later."""
        import numpy as np

        copied = np.ascontiguousarray(values, self.dtype).reshape(-1).view(np.uint8)
        current_stream(self.device).upload(self.pointer, copied.data)

    def numpy(self) -> NDArray[Any]:
        """Its values, once the work on it is done. Raises DeviceError."""
        import numpy as np

        values = np.empty(self.shape, self.dtype)
        if self.nbytes:
            stream = current_stream(self.device)
            stream.download(values.reshape(-1).view(np.uint8).data, self.pointer)
            stream.run_to(stream.position()[1])
        return values

    def __reduce__(self) -> tuple[Any, ...]:
        return asarray, (self.numpy(), self.device)

    def __array__(self, *_: object) -> NDArray[Any]:
        raise TypeError("an array on a device is not converted by itself: use .numpy()")


class FakeBackend:
    """Implements `Backend`."""

    name: Literal["fake"] = "fake"

    def device_count(self) -> int:
        """By CUDA_VISIBLE_DEVICES."""
        return len(_visible())

    def identity(self, device: int) -> str:
        """`FAKE-N`, by the machine's numbering, or the name of a slice: `MIG-FAKE-N/I`."""
        return slice_name(device) or f"FAKE-{_visible()[device]}"

    def memory_info(self, device: int) -> tuple[int, int]:
        """What this process has taken is not free; of others it does not know."""
        space = _space(device)
        return space.capacity_bytes - space.used_bytes, space.capacity_bytes

    def allocate(self, device: int, size_bytes: int) -> FakeMemory:
        """See `Backend`."""
        return _space(device).allocate(size_bytes)

    def export(self, memory: DeviceMemory) -> bytes:
        """See `Backend`."""
        assert isinstance(memory, FakeMemory)
        return _space(0).export(memory)

    def open(self, device: int, handle: bytes, size_bytes: int) -> FakeMemory:
        """See `Backend`."""
        opened = _space(device).open(handle)
        if opened.size_bytes < size_bytes:
            raise DeviceError(f"the handle is of {opened.size_bytes} bytes, not of {size_bytes}")
        return opened

    def stream(self, device: int) -> _Stream:
        """See `Backend`."""
        return _Stream(_space(device).new_stream(non_blocking=True))

    def fence(self, device: int, framework: Framework) -> FakeEvent:
        """See `Backend`."""
        space = _space(device)
        return space.everything() if framework == "jax" else space.fence()

    def here(self, device: int) -> FakeEvent | None:
        """See `Backend`."""
        stream = current_stream(device)
        return FakeEvent([stream.position()]) if stream.non_blocking else None

    def pinned(self, size_bytes: int) -> memoryview:
        """See `Backend`."""
        return memoryview(bytearray(size_bytes))

    def source(self, value: object) -> Source | None:
        """See `Backend`."""
        if not isinstance(value, FakeArray):
            return None
        form = ArrayForm(framework="fake", dtype=value.dtype, shape=value.shape)
        return Source(
            form=form,
            device=value.device,
            pointer=value.pointer,
            size_bytes=value.nbytes,
            keep=value,
            after=[current_stream(value.device).position()],
        )

    def array(
        self, form: ArrayForm, device: int, pointer: int, size_bytes: int, owner: object
    ) -> FakeArray:
        """See `Backend`."""
        return FakeArray(device, pointer, form.shape, form.dtype, owner)

    def to_device(self, form: ArrayForm, device: int, data: memoryview) -> FakeArray:
        """See `Backend`."""
        memory = self.allocate(device, data.nbytes)
        stream = _space(device).default_stream
        stream.upload(memory.pointer, data)
        stream.run_to(stream.position()[1])
        return FakeArray(device, memory.pointer, form.shape, form.dtype, memory)

    def to_peer(self, source: Source, device: int) -> FakeArray:
        """See `Backend`."""
        memory = self.allocate(device, source.size_bytes)
        stream = _space(device).default_stream
        stream.wait_for(source.after)
        if source.size_bytes:
            stream.copy_from(
                memory.pointer, _space(source.device), source.pointer, source.size_bytes
            )
        stream.run_to(stream.position()[1])
        return FakeArray(device, memory.pointer, source.form.shape, source.form.dtype, memory)


class _Stream:
    """Implements `Stream`."""

    def __init__(self, stream: FakeStream) -> None:
        self._stream = stream
        self.copy, self.upload, self.download = stream.copy, stream.upload, stream.download

    def follow(self, source: Source) -> None:
        self._stream.wait_for(source.after)

    def record(self) -> FakeEvent:
        return FakeEvent([self._stream.position()])


_spaces: dict[int, AddressSpace] = {}


def _visible() -> list[int]:
    """The machine's numbers of the devices that this process may use, in its own order."""
    count = int(os.environ.get(DEVICES_VARIABLE, "1"))
    named = visible_names()
    if named is None:
        return list(range(count))
    if slice_name(0) is not None:
        # CUDA shows no more than one slice, and no whole GPU beside it.
        number = named[0].removeprefix(f"{MIG_PREFIX}FAKE-").partition("/")[0]
        return [int(number)] if number.isdecimal() and int(number) < count else []
    visible = []
    for name in named:
        number = name.removeprefix("FAKE-")
        if not number.isdecimal() or int(number) >= count:
            break  # CUDA too ignores what follows one that is not there
        visible.append(int(number))
    return visible


def _space(device: int) -> AddressSpace:
    if device not in _spaces:
        if not 0 <= device < len(_visible()):
            raise DeviceError(f"this process has no fake device {device}")
        size_bytes = int(os.environ.get(BYTES_VARIABLE, str(DEVICE_BYTES)))
        _spaces[device] = AddressSpace(device, size_bytes)
    return _spaces[device]


class _Current(threading.local):
    def __init__(self) -> None:
        self.streams: dict[int, list[FakeStream]] = {}


_current = _Current()


def _forget_in_child() -> None:
    # A child has nothing of its parent's device, as with CUDA.
    _spaces.clear()
    _current.streams.clear()


os.register_at_fork(after_in_child=_forget_in_child)


def current_stream(device: int = 0) -> FakeStream:
    """What this thread works on the device with: the default stream, or that of `own_stream`."""
    stack = _current.streams.get(device)
    return stack[-1] if stack else _space(device).default_stream


@contextlib.contextmanager
def own_stream(device: int = 0) -> Iterator[FakeStream]:
    """A stream that the default one does not wait for, for this thread's work inside."""
    stream = _space(device).new_stream(non_blocking=True)
    stack = _current.streams.setdefault(device, [])
    stack.append(stream)
    try:
        yield stream
    finally:
        stack.pop()


def asarray(values: NDArray[Any] | np.generic, device: int = 0) -> FakeArray:
    """A new array on the device; the values arrive there later."""
    import numpy as np

    source = np.asarray(values)
    memory = _space(device).allocate(source.nbytes)
    array = FakeArray(device, memory.pointer, source.shape, source.dtype.name, memory)
    if source.nbytes:
        array.fill(source)
    return array


def make() -> FakeBackend:
    """The backend, for `load_backend`."""
    return FakeBackend()
