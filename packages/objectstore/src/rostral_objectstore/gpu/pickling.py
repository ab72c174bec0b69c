"""Device arrays inside pickles: out to the device tier, and back as arrays.

A device array, alone or anywhere in a value, is pickled as the place where it was put. The value
refers to the array's host object, as it would to any other object, so the array lives as long.
"""

from __future__ import annotations

import pickle
import sys
from typing import Any

from rostral_objectstore.device_target import any_store, store_of, target
from rostral_objectstore.errors import (
    DeviceUnavailableError,
    ObjectKindError,
    ObjectNotTransferableError,
)
from rostral_objectstore.gpu.backend import ArrayForm, backend_name, find_device, own_backend
from rostral_objectstore.gpu.host_form import host_array, numpy_type
from rostral_objectstore.gpu.tier import Place, host_bytes
from rostral_objectstore.handle import ObjectHandle

CPU = "cpu"
CUDA = "cuda"


def reduce_array(value: Any) -> Any:
    """A device array for pickle: to the device tier if a value is being put, else its own way."""
    putting = target.putting
    if putting is None:
        return value.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    try:
        backend = own_backend()
    except DeviceUnavailableError:
        # A torch tensor, where CuPy is not installed: as without a device tier.
        return value.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    source = backend.source(value)
    if source is None:
        return value.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    tier = putting.store.devices.of(backend.identity(source.device), backend.name)
    place = tier.put(source, putting)
    form = (source.form.framework, source.form.dtype, source.form.shape)
    where = (place.identity, place.incarnation, place.packed, place.entry, place.generation)
    return load_array, (
        putting.store.segment.incarnation,
        backend.name,
        where,
        form,
        source.size_bytes,
    )


def load_array(
    incarnation: bytes,
    backend_of_writer: str,
    where: tuple[str, bytes, bytes, int, int],
    form: tuple[Any, str, tuple[int, ...]],
    size_bytes: int,
) -> Any:
    """The array that was put: on its device if this process can use that, else on the host.

    Raises: DeviceLostError, DeviceFullError, DeviceUnavailableError.
    """
    store = store_of(incarnation)
    place, array_form = Place(*where), ArrayForm(framework=form[0], dtype=form[1], shape=form[2])
    if store is None:
        return _from_another_node(place, array_form)
    device = _wanted_device(place.identity, backend_of_writer)
    if device is None:
        return host_array(host_bytes(store, place, backend_of_writer), array_form)
    backend = own_backend()
    owner = find_device(backend, place.identity) if backend.name == backend_of_writer else None
    if owner is None:
        elements = host_bytes(store, place, backend_of_writer)
        return backend.to_device(array_form, device, elements)
    array = store.devices.of(place.identity, backend_of_writer).read(place, array_form, size_bytes)
    if owner == device:
        return array
    source = backend.source(array)
    assert source is not None
    return backend.to_peer(source, device)


def _from_another_node(place: Place, form: ArrayForm) -> Any:
    """An array that came to this node, as its host object: on the host, unless the reader says."""
    store = any_store()
    handle = None if store is None else store.table.find(ObjectHandle, place.packed[:20])
    if store is None or handle is None:
        raise ObjectNotTransferableError(
            "a device array can be read by processes that are attached to its node's store, and "
            "where the value that it belongs to was brought to by the scheduler"
        )
    elements = store.get_buffer(handle)
    device = None if target.device is None else parse_device(target.device)
    if device is None:
        return host_array(elements, form)
    return own_backend().to_device(form, device, elements)


def _wanted_device(identity: str, backend_of_writer: str) -> int | None:
    """This process's number of the device that the reader wants the array on; None: on the host."""
    if target.device is not None:
        return parse_device(target.device)
    if backend_name() != backend_of_writer:
        return None
    try:
        return find_device(own_backend(), identity)
    except DeviceUnavailableError:
        return None


def parse_device(text: str) -> int | None:
    """`cpu` is None, `cuda:N` is N, by this process's numbering; `cuda` is `cuda:0`.

    Raises: DeviceUnavailableError: this process has no such device. ValueError: it is neither.
    """
    if text == CPU:
        return None
    kind, _, number = text.partition(":")
    if kind != CUDA or not (number.isdecimal() or text == CUDA):
        raise ValueError(f"{text!r:.40} is no device: write 'cpu' or 'cuda:N'")
    device, backend = int(number or 0), own_backend()
    count = backend.device_count()
    if device >= count:
        raise DeviceUnavailableError(
            f"this process has no device {text}: it sees {count}",
            hint="a task has GPUs if it asks for them with num_gpus; CUDA_VISIBLE_DEVICES says "
            "which a process may use",
        )
    return device


def on_host(value: Any) -> Any:
    """The value, or if it is a device array, a copy of it in the processor's memory."""
    try:
        backend = own_backend()
    except DeviceUnavailableError:
        return value  # then it is no array of ours either
    source = backend.source(value)
    if source is None:
        return value
    elements = memoryview(bytearray(source.size_bytes))
    stream = backend.stream(source.device)
    stream.follow(source)
    stream.download(elements, source.pointer)
    stream.record().synchronize()
    return host_array(elements, source.form)


def uploaded(value: Any, device: int) -> Any:
    """A NumPy array on the device; anything else as it is."""
    numpy = sys.modules.get("numpy")
    return upload(value, device) if numpy and isinstance(value, numpy.ndarray) else value


def upload(value: Any, device: int) -> Any:
    """A NumPy array as a device array of this process's own; a device array as it is there.

    Raises: ObjectKindError, DeviceError.
    """
    import numpy as np

    source = own_backend().source(value)
    if source is not None:
        return value if source.device == device else own_backend().to_peer(source, device)
    if not isinstance(value, np.ndarray):
        raise ObjectKindError(
            f"a {type(value).__name__} cannot be put on a device",
            hint="device= is for NumPy arrays and for arrays of GPU libraries",
        )
    backend = own_backend()
    elements = np.ascontiguousarray(value)
    name = elements.dtype.name
    if elements.dtype.hasobject or numpy_type(name) != elements.dtype:
        raise ObjectKindError(f"an array of {elements.dtype} cannot be put on a device")
    framework: Any = backend.name
    form = ArrayForm(framework=framework, dtype=name, shape=value.shape)
    data = elements.reshape(-1).view(np.uint8).data
    return backend.to_device(form, device, data)
