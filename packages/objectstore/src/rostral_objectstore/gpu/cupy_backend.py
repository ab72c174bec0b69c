"""The backend of NVIDIA GPUs: the one module of Rostral that imports CuPy.

CuPy's memory pool owns what is allocated, and CUDA IPC handles share it. The alternative, POSIX
file descriptors of the driver's virtual-memory API, would let memory outlive its owner, which the
store must not rely on anyway (nobody would then count its holders), and CuPy's pool cannot make
such memory. What handles need, the store gives them:

- a handle is of a whole allocation of cudaMalloc, wherever in it the pointer lies: so each
  allocation has a pool of its own, which nothing was taken from before, and begins at the base;
- allocations below 2 MiB share one, and a handle would show them all: so sizes are multiples;
- memory of cudaMallocAsync has no handles: the pool is told to use cudaMalloc, whatever the
  process's own allocator is;
- its owner opens none itself, lives as long as anybody reads, and frees after who has it open.

The copies are the runtime's, by address: so a torch tensor needs no detour over a CuPy array, which
some of its types do not have.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NoReturn

from rostral_objectstore.errors import DeviceError, DeviceFullError, DeviceUnavailableError
from rostral_objectstore.gpu.backend import (
    ArrayForm,
    DeviceMemory,
    Framework,
    Source,
    slice_name,
)
from rostral_objectstore.gpu.host_form import numpy_type

INSTALL_HINT = (
    "pip install 'rostral-objectstore[cuda12]', or [cuda13] for a driver of CUDA 13, on a machine "
    "with an NVIDIA GPU and its driver"
)

try:
    import cupy
    from cupy.cuda import driver, runtime
    from cupy.cuda.memory import OutOfMemoryError
except ImportError as error:
    raise DeviceUnavailableError(
        f"device memory needs CuPy, which cannot be imported: {str(error).strip()[-200:]}",
        hint=INSTALL_HINT,
    ) from error


# What cudaMalloc gives memory in: smaller allocations share a piece, and its handle.
SHARED_BYTES = 2 << 20
# cudaStreamLegacy and what it is called where there is no other, and cudaStreamPerThread: all
# blocking, so that an event on the first follows the work on any of them.
_DEFAULT_STREAMS = (0, 1, 2)
# cudaErrorPeerAccessAlreadyEnabled, which CuPy has no name for.
_PEER_ACCESS_ALREADY_ENABLED = 704


@contextlib.contextmanager
def _translated(device: int | None = None) -> Iterator[None]:
    """Has CUDA's errors come out as ours, inside with the device as the current one."""
    try:
        if device is None:
            yield
        else:
            with cupy.cuda.Device(device):
                yield
    except OutOfMemoryError as error:
        raise DeviceFullError(f"the device has no memory left: {error}") from error
    except (runtime.CUDARuntimeError, driver.CUDADriverError) as error:
        raise DeviceError(f"the GPU's driver says: {error}") from error


class _Allocated:
    """Memory of our own, from CuPy's pool."""

    def __init__(self, pool: Any, memory: Any, device: int) -> None:
        self._pool, self._memory, self.device = pool, memory, device
        self.pointer: int = memory.ptr

    def close(self) -> None:
        self._memory = None
        self._pool.free_all_blocks()


class _Opened:
    """Another process's memory, mapped."""

    def __init__(self, device: int, pointer: int) -> None:
        self.pointer, self._device, self._is_open = pointer, device, True

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            with contextlib.suppress(DeviceError), _translated(self._device):
                runtime.ipcCloseMemHandle(self.pointer)

    def __del__(self) -> None:
        # At the end of the interpreter CuPy may be gone before us; the driver unmaps then.
        if not sys.is_finalizing():
            self.close()


class _Event:
    """CUDA events, all of which have to pass."""

    def __init__(self, events: Sequence[Any]) -> None:
        self._events = events

    def synchronize(self) -> None:
        with _translated():
            for event in self._events:
                event.synchronize()


class _WholeDevice:
    """All work of this process on a device, whichever streams it is on."""

    def __init__(self, device: int) -> None:
        self._device = device

    def synchronize(self) -> None:
        with _translated(self._device):
            runtime.deviceSynchronize()


class _Stream:
    """A stream that does not wait for the default one, nor that for it."""

    def __init__(self, device: int) -> None:
        self._device = device
        with _translated(device):
            self._stream = cupy.cuda.Stream(non_blocking=True)

    def follow(self, source: Source) -> None:
        with _translated(self._device):
            event = cupy.cuda.Event(disable_timing=True)
            runtime.eventRecord(event.ptr, source.after)
            self._stream.wait_event(event)

    def copy(self, target: int, source: int, size_bytes: int) -> None:
        self._copy(target, source, size_bytes, runtime.memcpyDeviceToDevice)

    def upload(self, target: int, source: memoryview) -> None:
        self._copy(target, _address(source), source.nbytes, runtime.memcpyHostToDevice)

    def download(self, target: memoryview, source: int) -> None:
        self._copy(_address(target), source, target.nbytes, runtime.memcpyDeviceToHost)

    def record(self) -> _Event:
        with _translated(self._device):
            event = cupy.cuda.Event(block=False, disable_timing=True)
            event.record(self._stream)
        return _Event([event])

    def _copy(self, target: int, source: int, size_bytes: int, kind: int) -> None:
        with _translated(self._device):
            runtime.memcpyAsync(target, source, size_bytes, kind, self._stream.ptr)


class CupyBackend:
    """Implements `Backend`."""

    name: Literal["cupy"] = "cupy"

    def __init__(self) -> None:
        self._identities: dict[int, str] = {}

    def device_count(self) -> int:
        """0 too where there is no driver."""
        try:
            return int(runtime.getDeviceCount())
        except runtime.CUDARuntimeError:
            return 0

    def identity(self, device: int) -> str:
        """Its address on the PCI bus, which all processes of the machine see; a slice's name.

        Kept, since CUDA too reads the environment once.
        """
        known = self._identities.get(device)
        if known is None:
            known = slice_name(device)
            if known is None:
                with _translated():
                    known = str(runtime.deviceGetPCIBusId(device))
            self._identities[device] = known
        return known

    def memory_info(self, device: int) -> tuple[int, int]:
        """See `Backend`."""
        with _translated(device):
            free, total = runtime.memGetInfo()
        return int(free), int(total)

    def allocate(self, device: int, size_bytes: int) -> _Allocated:
        """See `Backend`. What an empty pool gives first is an allocation of CUDA's, whole."""
        pieces = -(-max(size_bytes, 1) // SHARED_BYTES)
        with _translated(device):
            pool = cupy.cuda.MemoryPool()
            return _Allocated(pool, pool.malloc(pieces * SHARED_BYTES), device)

    def export(self, memory: DeviceMemory) -> bytes:
        """See `Backend`."""
        assert isinstance(memory, _Allocated)
        with _translated(memory.device):
            return bytes(runtime.ipcGetMemHandle(memory.pointer))

    def open(self, device: int, handle: bytes, size_bytes: int) -> _Opened:
        """See `Backend`."""
        with _translated(device):
            flags = runtime.cudaIpcMemLazyEnablePeerAccess
            return _Opened(device, runtime.ipcOpenMemHandle(handle, flags))

    def stream(self, device: int) -> _Stream:
        """See `Backend`."""
        return _Stream(device)

    def fence(self, device: int, framework: Framework) -> _Event | _WholeDevice:
        """See `Backend`. Who waits sleeps: the work before it may take seconds."""
        if framework == "jax":
            return _WholeDevice(device)
        return self._event(device, [0], block=True)

    def here(self, device: int) -> _Event | None:
        """See `Backend`: CuPy's current stream of this thread, and torch's."""
        with _translated(device):
            streams = {int(cupy.cuda.get_current_stream().ptr)}
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            streams.add(int(torch.cuda.current_stream(device).cuda_stream))
        own = sorted(streams.difference(_DEFAULT_STREAMS))
        return self._event(device, own, block=True) if own else None

    @staticmethod
    def _event(device: int, streams: Sequence[int], *, block: bool) -> _Event:
        events = []
        with _translated(device):
            for stream in streams:
                event = cupy.cuda.Event(block=block, disable_timing=True)
                runtime.eventRecord(event.ptr, stream)
                events.append(event)
        return _Event(events)

    def pinned(self, size_bytes: int) -> memoryview:
        """See `Backend`."""
        with _translated():
            return memoryview(cupy.cuda.alloc_pinned_memory(size_bytes)).cast("B")[:size_bytes]

    def source(self, value: object) -> Source | None:
        """CuPy's arrays, torch's CUDA tensors, and what DLPack or its own interface puts on CUDA.

        An array in parts on several devices is None: its library knows how to pickle it.
        """
        if type(value) is cupy.ndarray:
            return _of_cupy(value, "cupy")
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(value, torch.Tensor):
            return _of_torch(torch, value) if value.is_cuda else None
        if hasattr(value, "__dlpack_device__"):
            try:
                is_ours = value.__dlpack_device__()[0] == _DLPACK_CUDA
            except BufferError:
                return None
            # CuPy has the other library make its current stream wait.
            return _of_cupy(cupy.from_dlpack(value), "jax") if is_ours else None
        if hasattr(value, "__cuda_array_interface__"):
            # CuPy waits for the stream that the interface names.
            return _of_cupy(cupy.asarray(value), "cupy")
        return None

    def array(
        self, form: ArrayForm, device: int, pointer: int, size_bytes: int, owner: object
    ) -> Any:
        """See `Backend`."""
        memory = cupy.cuda.UnownedMemory(pointer, size_bytes, owner, device)
        return _as_framework(form, device, cupy.cuda.MemoryPointer(memory, 0), size_bytes)

    def to_device(self, form: ArrayForm, device: int, data: memoryview) -> Any:
        """See `Backend`."""
        with _translated(device):
            memory = cupy.cuda.alloc(max(data.nbytes, 1))
            stream = cupy.cuda.get_current_stream()
            if data.nbytes:
                runtime.memcpyAsync(
                    memory.ptr, _address(data), data.nbytes, runtime.memcpyHostToDevice, stream.ptr
                )
            stream.synchronize()
        return _as_framework(form, device, memory, data.nbytes)

    def to_peer(self, source: Source, device: int) -> Any:
        """See `Backend`. The driver goes by NVLink or PCIe if it can, else by memory of its own."""
        form, size_bytes = source.form, source.size_bytes
        with _translated(source.device):
            written = cupy.cuda.Event(disable_timing=True)
            runtime.eventRecord(written.ptr, source.after)
        with _translated(device):
            _allow_peer(device, source.device)
            memory = cupy.cuda.alloc(max(size_bytes, 1))
            stream = cupy.cuda.get_current_stream()
            stream.wait_event(written)
            if size_bytes:
                runtime.memcpyPeerAsync(
                    memory.ptr, device, source.pointer, source.device, size_bytes, stream.ptr
                )
            stream.synchronize()
        return _as_framework(form, device, memory, size_bytes)


def _allow_peer(device: int, peer: int) -> None:
    """Has the current device reach the other's memory itself, where the machine can do that."""
    if not runtime.deviceCanAccessPeer(device, peer):
        return
    try:
        runtime.deviceEnablePeerAccess(peer)
    except runtime.CUDARuntimeError as error:
        if error.status != _PEER_ACCESS_ALREADY_ENABLED:
            raise


_DLPACK_CUDA = 2


def _address(view: memoryview) -> int:
    import numpy as np

    return np.frombuffer(view, np.uint8).ctypes.data if view.nbytes else 0


def _of_cupy(array: Any, framework: Literal["cupy", "jax"]) -> Source:
    device, shape = int(array.device.id), tuple(array.shape)
    with _translated(device):
        array = cupy.ascontiguousarray(array)  # which gives an array without axes one
        after = cupy.cuda.get_current_stream().ptr
    form = ArrayForm(framework=framework, dtype=array.dtype.name, shape=shape)
    return Source(
        form=form,
        device=device,
        pointer=array.data.ptr,
        size_bytes=array.nbytes,
        keep=array,
        after=after,
    )


def _of_torch(torch: Any, tensor: Any) -> Source:
    values = tensor.detach().resolve_conj().resolve_neg().contiguous()
    device = int(values.device.index)
    form = ArrayForm(
        framework="torch",
        dtype=str(values.dtype).removeprefix("torch."),
        shape=tuple(values.shape),
    )
    return Source(
        form=form,
        device=device,
        pointer=values.data_ptr(),
        size_bytes=values.nbytes,
        keep=values,
        after=torch.cuda.current_stream(device).cuda_stream,
    )


def _as_framework(form: ArrayForm, device: int, memory: Any, size_bytes: int) -> Any:
    """The array over that memory, of the library it was put from if this process has that."""
    with _translated(device):
        if form.framework == "torch" and "torch" in sys.modules:
            torch = sys.modules["torch"]
            flat = torch.from_dlpack(cupy.ndarray((size_bytes,), "uint8", memory))
            return flat.view(getattr(torch, form.dtype)).reshape(form.shape)
        array = cupy.ndarray(form.shape, numpy_type(form.dtype), memory)
        if form.framework == "jax" and "jax" in sys.modules:
            return importlib.import_module("jax.dlpack").from_dlpack(array)
        return array


def make() -> CupyBackend:
    """The backend, for `load_backend`. Raises DeviceUnavailableError where there is no GPU."""
    backend = CupyBackend()
    if backend.device_count() == 0:
        _refuse()
    return backend


def _refuse() -> NoReturn:
    try:
        runtime.getDeviceCount()
        why = "CUDA_VISIBLE_DEVICES leaves this process none"
    except runtime.CUDARuntimeError as error:
        why = str(error)
    raise DeviceUnavailableError(f"this process has no GPU: {why}", hint=INSTALL_HINT)
