"""What the device tier asks of a GPU and its driver: the seam between it and CuPy.

Two modules implement it: `cupy_backend`, the only one in Rostral that imports CuPy, and
`fake_backend`, which behaves like a GPU where there is none. The rest of the tier sees this alone.

Pointers are addresses in a device's memory: numbers, which the processor must never follow. Streams
do what they are given in order and later; an event is a point in a stream, and only who has waited
for it knows that the work before it is done.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Protocol, get_args

from rostral_objectstore.errors import DeviceUnavailableError

BackendName = Literal["cupy", "fake"]
BACKEND_VARIABLE = "ROSTRAL_DEVICE_BACKEND"
BACKEND_NAMES: tuple[str, ...] = get_args(BackendName)

Framework = Literal["cupy", "torch", "jax", "fake"]
"""Whose arrays they are: what was put comes back as."""


class DeviceMemory(Protocol):
    """A stretch of a device's memory, our own or another process's."""

    @property
    def pointer(self) -> int:
        """Where it begins, in this process."""

    def close(self) -> None:
        """Gives it back, or unmaps it. Idempotent."""


class Event(Protocol):
    """A point in the work of a device."""

    def synchronize(self) -> None:
        """Blocks until all work before it is done. Raises DeviceError."""


class Stream(Protocol):
    """Work for a device, done in order and later. Its methods do not wait. Any thread may call."""

    def follow(self, source: Source) -> None:
        """What comes next waits for whatever still writes the source."""

    def copy(self, target: int, source: int, size_bytes: int) -> None:
        """From the device's memory to the device's memory."""

    def upload(self, target: int, source: memoryview) -> None:
        """From the processor's memory, which must not change until it is done."""

    def download(self, target: memoryview, source: int) -> None:
        """To the processor's memory, which shows it when it is done."""

    def record(self) -> Event:
        """The point that the stream has come to with all of this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayForm:
    """What an array is, but for its bytes, which are in C order.

    Attributes:
        framework: whose type it has.
        dtype: by its name, `float32`, `bfloat16`.
        shape: lengths.
    """

    framework: Framework
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Somebody's array on a device, in C order.

    Attributes:
        device: by this process's numbering.
        keep: what must live until the bytes are copied.
        after: what `Stream.follow` waits for, in the backend's terms.
    """

    form: ArrayForm
    device: int
    pointer: int
    size_bytes: int
    keep: object
    after: Any


class Backend(Protocol):
    """One kind of device. All methods may raise DeviceError."""

    name: BackendName

    def device_count(self) -> int:
        """How many devices this process can use: 0 where there is no GPU or no driver."""

    def identity(self, device: int) -> str:
        """The device's name in all processes of the machine, whatever number it has in them."""

    def memory_info(self, device: int) -> tuple[int, int]:
        """(free, total) bytes of its memory."""

    def allocate(self, device: int, size_bytes: int) -> DeviceMemory:
        """Memory of its own, which `export` can share. Raises DeviceFullError."""

    def export(self, memory: DeviceMemory) -> bytes:
        """A handle by which other processes open what `allocate` gave, while this one lives."""

    def open(self, device: int, handle: bytes, size_bytes: int) -> DeviceMemory:
        """Another process's memory. Raises DeviceError when that process is gone, or is this."""

    def stream(self, device: int) -> Stream:
        """A stream of its own."""

    def fence(self, device: int) -> Event:
        """The point that all work of this process on the device has come to."""

    def pinned(self, size_bytes: int) -> memoryview:
        """Memory of the processor that the device reads and writes at full speed."""

    def source(self, value: object) -> Source | None:
        """The array, made contiguous if it must be; None: it is no array on a device of ours."""

    def array(
        self, form: ArrayForm, device: int, pointer: int, size_bytes: int, owner: object
    ) -> Any:
        """An array over that memory, which keeps `owner`. Nobody may write to it."""

    def to_device(self, form: ArrayForm, device: int, data: memoryview) -> Any:
        """A new array of the process's own, with a copy of the bytes."""


@cache
def load_backend(name: str) -> Backend:
    """The backend of that name. Raises DeviceUnavailableError when it cannot be loaded."""
    if name not in BACKEND_NAMES:
        raise DeviceUnavailableError(
            f"${BACKEND_VARIABLE} is {name!r}", hint=f"it is one of: {', '.join(BACKEND_NAMES)}"
        )
    made: Backend = importlib.import_module(f"rostral_objectstore.gpu.{name}_backend").make()
    return made


def backend_name() -> str:
    """What this process uses: CuPy, unless the environment says otherwise."""
    return os.environ.get(BACKEND_VARIABLE) or "cupy"


def own_backend() -> Backend:
    """This process's backend. Raises DeviceUnavailableError."""
    return load_backend(backend_name())


def find_device(backend: Backend, identity: str) -> int | None:
    """This process's number for a device; None: it must not use it, or does not see it."""
    for device in range(backend.device_count()):
        if backend.identity(device) == identity:
            return device
    return None
