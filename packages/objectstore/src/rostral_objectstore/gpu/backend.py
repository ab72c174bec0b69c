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

from rostral_objectstore.device_ids import name_of
from rostral_objectstore.errors import DeviceUnavailableError

BackendName = Literal["cupy", "fake"]
BACKEND_VARIABLE = "ROSTRAL_DEVICE_BACKEND"
VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"
MIG_PREFIX = "MIG-"
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
        """The device's name in all processes of the machine, whatever number it has in them.

        A slice of a GPU (MIG) has the name by which CUDA_VISIBLE_DEVICES gave it to the process.
        """

    def memory_info(self, device: int) -> tuple[int, int]:
        """(free, total) bytes of its memory."""

    def allocate(self, device: int, size_bytes: int) -> DeviceMemory:
        """A whole allocation of its own, which `export` can share. Raises DeviceFullError."""

    def export(self, memory: DeviceMemory) -> bytes:
        """A handle by which other processes open what `allocate` gave, while this one lives."""

    def open(self, device: int, handle: bytes, size_bytes: int) -> DeviceMemory:
        """Another process's memory, which no process may have open twice.

        Raises DeviceError when that process is gone, has freed it, or is this one.
        """

    def stream(self, device: int) -> Stream:
        """A stream of its own."""

    def fence(self, device: int, framework: Framework) -> Event:
        """The point that this process's work on the device has come to, for who can wait for long.

        It covers the default stream and all that wait for it; of a library whose streams do not,
        and which does not say which they are (JAX), the whole device.
        """

    def here(self, device: int) -> Event | None:
        """The point that the streams come to which this thread works on now.

        None: they are default streams, which `fence` covers.
        """

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

    def to_peer(self, source: Source, device: int) -> Any:
        """A new array of the process's own on another device, copied there with no host between."""


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


def visible_names() -> list[str] | None:
    """What the environment says which devices this process may use; None: it says nothing."""
    said = os.environ.get(VISIBLE_VARIABLE)
    return None if said is None else [name.strip() for name in said.split(",")]


def device_name(device: int) -> str:
    """What CUDA calls one of this process's devices: of the node, a scheduler says the same."""
    return name_of(os.environ.get(VISIBLE_VARIABLE), device)


def slice_name(device: int) -> str | None:
    """The name of the slice of a GPU (MIG) that a device is; None: it is a whole GPU.

    Slices of one GPU share its address and are told apart by these names alone. CUDA shows a
    process one slice only, the first that its environment names.
    """
    names = visible_names()
    if device == 0 and names and names[0].startswith(MIG_PREFIX):
        return names[0]
    return None


def find_device(backend: Backend, identity: str) -> int | None:
    """This process's number for a device; None: it must not use it, or does not see it."""
    for device in range(backend.device_count()):
        if backend.identity(device) == identity:
            return device
    return None
