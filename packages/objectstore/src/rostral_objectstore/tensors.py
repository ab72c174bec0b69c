"""Torch tensors through pickle: their memory beside the pickle, and in place on the other side.

Torch pickles a tensor's memory inside the pickle, one copy on the way in and two on the way out. A
pickler whose dispatch table has `REDUCERS` in it takes the memory out of band instead.

Torch knows no tensor that cannot be written. So a tensor of the store is copy-on-write: it reads
the store's pages in place, and whoever writes to it gets pages of his own for what he changes.

Nothing here imports torch: who has no tensors does not pay for them. Nothing is registered outside
of this package either.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from typing import Any

from rostral_objectstore._native.buffer import ObjectBuffer
from rostral_objectstore._native.private_view import PrivateView
from rostral_objectstore.device_target import target

# Below, a copy costs less than a mapping of its own: measured at this size, 6 us against 9 us and a
# page fault for every 16 pages that are read. At 16 MiB it is 610 us against 9.
PRIVATE_BYTES_MIN = 1 << 16

# For the dispatch table of a pickler. Empty until `find_tensors` has seen a library of tensors.
REDUCERS: dict[type, Callable[[Any], Any]] = {}

# Libraries of device arrays: the module that has the class of its arrays, and that class.
_DEVICE_ARRAYS = {
    "cupy": "ndarray",
    "jax._src.array": "ArrayImpl",
    "rostral_objectstore.gpu.fake_backend": "FakeArray",
}
_found: set[str] = set()


def find_tensors() -> bool:
    """Whether this process has a library of tensors; from then on `REDUCERS` knows these."""
    modules = sys.modules
    if "torch" in modules and "torch" not in _found:
        _find("torch", "Tensor", reduce_tensor)
    for module, name in _DEVICE_ARRAYS.items():
        if module in modules and module not in _found:
            _find(module, name, _reduce_device_array)
    return bool(REDUCERS)


def _find(module: str, name: str, reducer: Callable[[Any], Any]) -> None:
    # While another thread is at importing it, the module is there and the class is not yet.
    kind = getattr(sys.modules[module], name, None)
    if kind is not None:
        REDUCERS[kind] = reducer
        _found.add(module)


def _reduce_device_array(array: Any) -> Any:
    from rostral_objectstore.gpu.pickling import reduce_array

    return reduce_array(array)


def reduce_tensor(tensor: Any) -> Any:
    """A tensor for pickle. What is no plain memory of this machine is left to torch's own way."""
    if tensor.device.type == "cuda" and target.putting is not None:
        return _reduce_device_array(tensor)
    if not _is_plain(tensor):
        return tensor.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    values = tensor.detach().resolve_conj().resolve_neg()
    if values.numel() == 0 or not _is_dense(values.shape, values.stride()):
        values = values.contiguous()
    strides = values.stride()
    try:
        memory = values.as_strided((values.numel(),), (1,)).view(sys.modules["torch"].uint8).numpy()
    except RuntimeError:  # this torch has no NumPy beside it
        return tensor.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    form = (tensor.dtype, tuple(values.shape), strides, tensor.requires_grad)
    return rebuild_tensor, (pickle.PickleBuffer(memory), *form)


def rebuild_tensor(
    memory: Any,
    dtype: Any,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    requires_grad: bool,  # noqa: FBT001 -- pickle knows no keywords
) -> Any:
    """The tensor over its memory: copy-on-write if it lies in the store, else its own."""
    import torch

    if 0 in shape:
        tensor = torch.empty_strided(shape, strides, dtype=dtype)
    else:
        tensor = torch.frombuffer(_writable(memory), dtype=dtype).as_strided(shape, strides)
    return tensor.requires_grad_() if requires_grad else tensor


def _is_plain(tensor: Any) -> bool:
    torch = sys.modules["torch"]
    return (
        tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and not tensor.is_quantized
        and not tensor._backward_hooks
        and not tensor.__dict__
    )


def _is_dense(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether the elements fill a stretch of memory, each once: a transposed tensor does."""
    expected = 1
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


def _writable(memory: Any) -> Any:
    owner = memoryview(memory).obj
    if isinstance(owner, ObjectBuffer) and len(owner) >= PRIVATE_BYTES_MIN:
        try:
            return PrivateView(owner)
        except MemoryError:  # the process has as many mappings as it may have
            pass
    return owner if isinstance(owner, bytearray) else bytearray(memory)
