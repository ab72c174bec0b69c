"""ONNX files as policies: ours, and those of other programs. Needs the `onnx` extra.

A file without memory has one input (N, *shape) and gives actions first; one with memory has a
second input and a second output, the states (N, S). Where it says N itself, as exporters do that
were shown one example and told nothing else, batches are cut and filled up to that. ONNX files hold
no code. Where the file does not say what its spaces are, they follow from its input and output,
unless the caller says.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces as gym_spaces

from rostral_rl import spaces
from rostral_rl.arrays import FloatArray, SpaceArray
from rostral_rl.errors import MissingExtraError, ModelRejectedError, PolicyNotFoundError
from rostral_rl.policy import PolicyInfo

try:
    import onnxruntime
except ImportError as error:
    raise MissingExtraError(
        f"serving ONNX needs {error.name}", hint="pip install 'rostral-rl[onnx]'"
    ) from error

METADATA_KEY = "rostral"
_DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
}


class OnnxPolicy:
    """An ONNX file without memory; fits `Servable`.

    Args:
        content: The file's bytes.
        name: What errors call it.
        observation_space: Where the file does not say; else what its input looks like.
        action_space: Likewise.

    Raises:
        ModelRejectedError: Not an ONNX file, or none of this form.
    """

    def __init__(
        self,
        content: bytes,
        *,
        name: str = "the model",
        observation_space: spaces.Space | None = None,
        action_space: spaces.Space | None = None,
    ) -> None:
        options = onnxruntime.SessionOptions()
        # A net this small is done before a second thread has begun, and others need the core.
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # Its classes have no common root but this.
            raise ModelRejectedError(f"{name} is no ONNX model: {error}") from error
        self._inputs = [each.name for each in self._session.get_inputs()]
        self._outputs = [each.name for each in self._session.get_outputs()]
        self._check_form(name)
        first = self._session.get_inputs()[0].shape[:1]
        # Rows that a pass must have; None where any number will do.
        self._batch_size = first[0] if first and isinstance(first[0], int) else None
        said = self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        told: dict[str, Any] = {} if said is None else json.loads(said)
        self.info = PolicyInfo(**told.get("info", {}))
        if told:
            observation_space = observation_space or spaces.from_json(told["observation_space"])
            action_space = action_space or spaces.from_json(told["action_space"])
        self.observation_space = observation_space or _box(self._session.get_inputs()[0], name)
        self.action_space = action_space or _actions(self._session.get_outputs()[0], name)

    def act(self, batch: SpaceArray) -> SpaceArray:
        """See `Servable.act`."""
        (actions,) = self._run(1, batch)
        return actions.astype(self.action_space.dtype, copy=False)

    def _run(self, outputs: int, *inputs: SpaceArray) -> list[SpaceArray]:
        """The first so many outputs, (N, ...) each, of inputs (N, ...)."""
        size = self._batch_size
        if size is None or len(inputs[0]) == size:
            return self._run_once(outputs, inputs)
        runs = [
            self._run_once(outputs, [_filled(each[start : start + size], size) for each in inputs])
            for start in range(0, len(inputs[0]), size)
        ]
        return [np.concatenate(parts)[: len(inputs[0])] for parts in zip(*runs, strict=True)]

    def _run_once(self, outputs: int, inputs: Sequence[SpaceArray]) -> list[SpaceArray]:
        given = dict(zip(self._inputs, inputs, strict=True))
        results: list[SpaceArray] = self._session.run(self._outputs[:outputs], given)
        return results

    def _check_form(self, name: str) -> None:
        if len(self._inputs) != 1:
            raise ModelRejectedError(
                f"{name} has {len(self._inputs)} inputs, {', '.join(self._inputs)}",
                hint="observations, and states where it has memory",
            )


class OnnxRecurrent(OnnxPolicy):
    """An ONNX file with memory; fits `Recurrent`. Arguments and errors as of `OnnxPolicy`."""

    @property
    def state_width(self) -> int:
        """See `Recurrent.state_width`."""
        return int(self._session.get_inputs()[1].shape[1])

    def step(self, batch: SpaceArray, state: FloatArray) -> tuple[SpaceArray, FloatArray]:
        """See `Recurrent.step`."""
        actions, after = self._run(2, batch, state)
        return actions.astype(self.action_space.dtype, copy=False), after

    def _check_form(self, name: str) -> None:
        width = self._session.get_inputs()[1].shape[1:]
        if len(self._outputs) < 2 or len(width) != 1 or not isinstance(width[0], int):
            raise ModelRejectedError(
                f"{name} has states of shape (N, {', '.join(map(str, width))}) and "
                f"{len(self._outputs)} outputs",
                hint="states (N, S) of fixed S as second input and second output",
            )


def load_onnx(
    file: str | os.PathLike[str],
    *,
    observation_space: spaces.Space | None = None,
    action_space: spaces.Space | None = None,
) -> OnnxPolicy:
    """Reads an ONNX file: an `OnnxRecurrent` where it has a second input.

    Raises:
        PolicyNotFoundError: There is no such file.
        ModelRejectedError: It is no ONNX file, or none of a policy.
        MissingExtraError: The `onnx` extra is not installed.
    """
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise PolicyNotFoundError(f"cannot read {file}: {error.strerror}") from error
    form: type[OnnxPolicy] = OnnxRecurrent if _input_count(content, str(file)) == 2 else OnnxPolicy
    return form(
        content, name=str(file), observation_space=observation_space, action_space=action_space
    )


def _filled(rows: SpaceArray, size: int) -> SpaceArray:
    """As many rows as a pass must have, the last one over and over where some are missing."""
    missing = size - len(rows)
    return np.concatenate((rows, np.repeat(rows[-1:], missing, axis=0))) if missing else rows


def _input_count(content: bytes, name: str) -> int:
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelRejectedError(f"{name} is no ONNX model: {error}") from error
    return len(session.get_inputs())


def _box(described: Any, name: str) -> spaces.Space:
    """Observations of any value, of the input's shape."""
    dtype = _DTYPES.get(described.type)
    shape = described.shape[1:]
    if dtype is None or not all(isinstance(length, int) for length in shape):
        raise ModelRejectedError(
            f"{name} reads {described.type} {described.shape}",
            hint="say what its observation_space is",
        )
    if np.dtype(dtype).kind == "f":
        return gym_spaces.Box(-np.inf, np.inf, tuple(shape), dtype)
    limits = np.iinfo(np.dtype(dtype))
    return gym_spaces.Box(int(limits.min), int(limits.max), tuple(shape), dtype)


def _actions(described: Any, name: str) -> spaces.Space:
    """Choices where the output is whole numbers; else a vector of any value."""
    dtype = _DTYPES.get(described.type)
    shape = tuple(described.shape[1:])
    if dtype is not None and np.dtype(dtype).kind == "f" and len(shape) == 1:
        return gym_spaces.Box(-np.inf, np.inf, shape, dtype)
    if dtype is not None and np.dtype(dtype).kind == "i" and not shape:
        return gym_spaces.Discrete(int(np.iinfo(np.int32).max))
    raise ModelRejectedError(
        f"{name} gives {described.type} {described.shape}", hint="say what its action_space is"
    )
