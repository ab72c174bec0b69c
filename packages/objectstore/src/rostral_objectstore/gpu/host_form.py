"""An array of a device as the processor has it: NumPy's, or torch's of its own memory."""

from __future__ import annotations

import importlib
import math
import sys
from typing import TYPE_CHECKING, Any

from rostral_objectstore.errors import ObjectKindError
from rostral_objectstore.gpu.backend import ArrayForm
from rostral_objectstore.tensors import rebuild_tensor

if TYPE_CHECKING:
    import numpy as np


def host_array(elements: memoryview, form: ArrayForm) -> Any:
    """The array over its bytes: a torch tensor where it was one, else NumPy's, read-only.

    Raises: ObjectKindError for a type that NumPy does not have.
    """
    if form.framework == "torch" and "torch" in sys.modules:
        dtype = getattr(sys.modules["torch"], form.dtype)
        strides = tuple(math.prod(form.shape[axis + 1 :]) for axis in range(len(form.shape)))
        return rebuild_tensor(elements, dtype, form.shape, strides, requires_grad=False)
    import numpy as np

    flat = np.frombuffer(elements, np.uint8) if elements.nbytes else np.empty(0, np.uint8)
    array = flat.view(numpy_type(form.dtype)).reshape(form.shape)
    array.flags.writeable = False
    return array


def numpy_type(name: str) -> np.dtype[Any]:
    """NumPy's type of that name, ml_dtypes' among them if they are installed.

    Raises: ObjectKindError.
    """
    import numpy as np

    try:
        return np.dtype(name)
    except TypeError:
        try:
            found: np.dtype[Any] = np.dtype(getattr(importlib.import_module("ml_dtypes"), name))
        except (ImportError, AttributeError):
            raise ObjectKindError(
                f"NumPy has no type {name}",
                hint="install ml_dtypes, or import torch before reading a torch tensor",
            ) from None
        return found
