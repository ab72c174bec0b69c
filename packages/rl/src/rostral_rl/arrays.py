"""Names for the array types that signatures use."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float32]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
IntArray: TypeAlias = npt.NDArray[np.int64]
# Observations and actions keep the dtype of their space, which only the space knows.
SpaceArray: TypeAlias = npt.NDArray[Any]
# Named parameters of a policy: "pi.0.weight" (in, out), "pi.0.bias" (out,), "log_std" (A,),
# "obs.mean" (D,) ...
Weights: TypeAlias = dict[str, FloatArray]


def non_finite(weights: Weights) -> str | None:
    """The name of an array that holds NaN or infinity; None where all are numbers."""
    return next((name for name, array in weights.items() if not np.isfinite(array).all()), None)
