"""Arrays on whatever devices the tests of the device tier run on: fake ones, or real GPUs.

Imported by tests, and by the processes that they talk to.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rostral_objectstore.gpu.backend import BACKEND_VARIABLE


def is_fake() -> bool:
    """Whether the devices are fake ones."""
    return os.environ[BACKEND_VARIABLE] == "fake"


def on_device(values: NDArray[Any]) -> Any:
    """A new array on the first device; its values arrive there later."""
    if is_fake():
        from rostral_objectstore.gpu import fake_backend

        return fake_backend.asarray(values)
    import cupy

    return cupy.asarray(values)


def on_host(array: Any) -> NDArray[Any]:
    """A copy of a device array's values, once they are there. Fails for what is none."""
    if is_fake():
        from rostral_objectstore.gpu.fake_backend import FakeArray

        assert isinstance(array, FakeArray), type(array)
        return array.numpy()
    import cupy

    assert isinstance(array, cupy.ndarray), type(array)
    copied: NDArray[Any] = cupy.asnumpy(array)
    return copied


def ramp(count: int, first: int = 0) -> NDArray[np.int32]:
    """Values that differ at each place."""
    return np.arange(first, first + count, dtype=np.int32)


def copied_later(array: Any) -> Any:
    """A copy that the device makes when it comes to it: nobody waits for it here."""
    if is_fake():
        from rostral_objectstore.gpu import fake_backend

        copy = fake_backend.asarray(np.zeros(array.shape, array.dtype))
        stream = fake_backend.current_stream()
        stream.copy(copy.pointer, array.pointer, array.nbytes)
        return copy
    return array.copy()


def own_stream() -> AbstractContextManager[Any]:
    """A stream for this thread's work inside that the default stream does not wait for."""
    if is_fake():
        from rostral_objectstore.gpu import fake_backend

        return fake_backend.own_stream()
    import cupy

    stream: AbstractContextManager[Any] = cupy.cuda.Stream(non_blocking=True)
    return stream
