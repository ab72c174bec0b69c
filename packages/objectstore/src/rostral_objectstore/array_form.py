"""Plain arrays: how the store knows their type and shape.

The form lies beside the elements, MessagePack ``[dtype, [length, ...]]``. It is checked when it is
read, so that no form, however it came about, makes an array that reaches beyond its buffer.
"""

from __future__ import annotations

import math
import pickle
import sys
from operator import index
from typing import TYPE_CHECKING, Any

import msgspec

from rostral_objectstore.errors import SegmentError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import DTypeLike, NDArray

# Booleans, integers, floats, complex numbers, times, and text and bytes of fixed length. Objects
# are pointers of one process; of records, the name alone does not tell the fields.
DTYPE_KINDS = frozenset("biufcmMSU")
DIMENSIONS_MAX = 32


class Form(msgspec.Struct, frozen=True, array_like=True):
    """Type and shape of an array, elements in C order."""

    dtype: str
    shape: tuple[int, ...]


def form_of(shape: int | tuple[int, ...], dtype: DTypeLike) -> tuple[Form, int]:
    """The form, and the size of the elements in bytes. Raises TypeError, ValueError."""
    import numpy as np

    described = np.dtype(dtype)
    lengths = (shape,) if isinstance(shape, int) else tuple(index(length) for length in shape)
    problem = _problem(described, lengths)
    if problem:
        raise (TypeError if described.kind not in DTYPE_KINDS else ValueError)(problem)
    size_bytes = math.prod(lengths) * described.itemsize
    if size_bytes >> 63:
        raise ValueError(f"an array of {size_bytes} bytes cannot be")
    return Form(described.str, lengths), size_bytes


def plain_array(value: object) -> tuple[bytes, memoryview] | None:
    """The encoded form and the elements of an array that a form tells all about; else None.

    Subclasses, records, types that other libraries add and what is not in C order are for pickle.
    """
    numpy = sys.modules.get("numpy")
    # While another thread is at importing it, the module is there and the class is not yet.
    if numpy is None or type(value) is not getattr(numpy, "ndarray", None):
        return None
    array: NDArray[Any] = value  # type: ignore[assignment]
    dtype = array.dtype
    if dtype.kind not in DTYPE_KINDS or dtype.isbuiltin == 2 or dtype.metadata is not None:
        return None
    if not array.flags.c_contiguous or array.ndim > DIMENSIONS_MAX:
        return None
    form = Form(dtype.str, array.shape)
    if dtype.kind in "mM":  # times do not export their memory
        array = array.view(numpy.int64)
    return encode(form), pickle.PickleBuffer(array).raw()  # type: ignore[arg-type]


def encode(form: Form) -> bytes:
    """The form as it lies in the store."""
    return msgspec.msgpack.encode(form)


def writable(form: Form, buffer: Any) -> NDArray[Any]:
    """The array over a buffer of the store, to be filled."""
    import numpy as np

    return np.ndarray(form.shape, form.dtype, buffer)


def view(encoded: bytes, buffer: Any) -> NDArray[Any]:
    """The array, in place and read-only. Raises SegmentError when form and buffer do not fit."""
    import numpy as np

    try:
        form = msgspec.msgpack.decode(encoded, type=Form)
        dtype = np.dtype(form.dtype)
    except (msgspec.DecodeError, TypeError, ValueError, SyntaxError) as error:
        raise SegmentError(f"an array whose form cannot be read: {error}") from error
    elements = memoryview(buffer).toreadonly()
    problem = _problem(dtype, form.shape)
    if not problem and math.prod(form.shape) * dtype.itemsize != elements.nbytes:
        problem = f"shape {form.shape} of {dtype} does not fit {elements.nbytes} bytes"
    if problem:
        raise SegmentError(f"an array whose form is wrong: {problem}")
    return np.ndarray(form.shape, dtype, elements)


def _problem(dtype: np.dtype[Any], shape: tuple[int, ...]) -> str | None:
    if dtype.kind not in DTYPE_KINDS or dtype.itemsize == 0:
        return f"arrays of {dtype} cannot be made in the store"
    if len(shape) > DIMENSIONS_MAX:
        return f"{len(shape)} dimensions are too many: at most {DIMENSIONS_MAX}"
    if any(length < 0 for length in shape):
        return f"the shape {shape} has a negative length"
    return None
