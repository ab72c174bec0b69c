"""A policy as an ONNX file. Needs the `onnx` extra.

Features, normaliser, net and head are all inside: observations go in and actions come out, and no
preprocessing is left to whoever runs it. The graph is written node by node from the same arrays
that act here: no tracing, and no torch. Our spaces and provenance lie in the file's
metadata, under `METADATA_KEY`.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces as gym_spaces

from rostral_rl import forward, nested, spaces
from rostral_rl.arrays import SpaceArray
from rostral_rl.checkpoint import replace_file, unwritable
from rostral_rl.errors import MissingExtraError, ModelRejectedError
from rostral_rl.heads import MASKED
from rostral_rl.net import PIXEL
from rostral_rl.policy import Policy
from rostral_rl.recurrent import RecurrentPolicy

try:
    import onnx
    from onnx import TensorProto, helper, numpy_helper
except ImportError as error:
    raise MissingExtraError(
        f"ONNX needs {error.name}", hint="pip install 'rostral-rl[onnx]'"
    ) from error

METADATA_KEY = "rostral"
OPSET = 17
"""Old enough for every runtime of the last years; all that is used here was there long before."""
IR_VERSION = 8
PARITY_ROWS = 64


def export_onnx(policy: Policy, file: str | os.PathLike[str]) -> None:
    """Writes a policy's best actions as an ONNX graph: "obs" (N, *shape) to "action" (N, ...).

    A policy with memory has a second input "state" (N, S) and a second output "next_state". A Dict
    or Tuple observation goes in flattened, as `spaces.stored` describes it. The file is checked
    before it is written: by ONNX's own checker, and by running it beside the policy.

    Raises:
        ModelRejectedError: The graph's actions differ from the policy's; our bug.
        FolderUnwritableError: The file cannot be written.
        MissingExtraError: The `onnx` extra is not installed.
    """
    from rostral_rl.serve.onnx import OnnxPolicy, OnnxRecurrent

    content = _Graph(policy).model().SerializeToString()
    form = OnnxRecurrent if policy.spec.lstm else OnnxPolicy
    check_parity(policy, form(content, name=str(file)))
    try:
        replace_file(Path(file), content)
    except OSError as error:
        raise unwritable(Path(file).parent, error) from error


def check_parity(policy: Policy, exported: Any, *, seed: int = 0) -> None:
    """Runs both on the same observations of a seeded sample.

    Raises:
        ModelRejectedError: An action differs, beyond the rounding of float32.
    """
    space = spaces.stored(policy.observation_space)
    space.seed(seed)
    batch = np.stack([np.asarray(space.sample()) for _ in range(PARITY_ROWS)])
    if isinstance(policy, RecurrentPolicy):
        start = policy.start(len(batch))
        ours, theirs = policy.step(batch, start)[0], exported.step(batch, start)[0]
        some = np.random.default_rng(seed).uniform(-1.0, 1.0, start.shape).astype(np.float32)
        same = _close(policy.step(batch, some)[1], exported.step(batch, some)[1])
    else:
        ours, theirs, same = policy.act(batch), exported.act(batch), True
    if ours.dtype.kind == "f":
        same = same and _close(ours, theirs)
    else:
        # Where two choices are as good as equal, either may win.
        outputs = np.sort(policy.outputs(batch), axis=1)
        close = np.isclose(outputs[:, -1:], outputs[:, -2:-1], rtol=1e-4, atol=1e-5)
        same = same and bool(np.all((ours == theirs).reshape(len(batch), -1) | close))
    if not same:
        raise ModelRejectedError("the exported graph acts differently from the policy")


def _close(ours: SpaceArray, theirs: SpaceArray) -> bool:
    return bool(np.allclose(ours, theirs, rtol=1e-4, atol=1e-5))


class _Graph:
    """The nodes so far; each method adds some and returns the name of what they yield."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._activation = "Tanh" if policy.spec.activation == "tanh" else "Relu"

    def model(self) -> Any:
        """The whole file."""
        spec = self._policy.spec
        features = self._features("obs")
        value = self._seen(features)
        layers = len(spec.widths) - 1
        if spec.is_shared:
            value, layers = self._trunk(value), 1
        value = self._layers("pi", value, layers, ends=True)
        if spec.mask_at is not None:
            mask = self._slice(features, spec.mask_at, spec.mask_at + spec.outputs)
            allowed = self._add("Greater", mask, np.float32(0.5))
            value = self._add("Where", allowed, value, MASKED)
        self._act(value)
        return self._finish()

    def _seen(self, features: str) -> str:
        """Features as the first layer reads them: pixels scaled, all else normalised."""
        policy = self._policy
        if policy.spec.conv and policy.observation_space.dtype == np.uint8:
            return self._add("Mul", features, PIXEL)
        if "obs.mean" not in policy.weights:
            return features
        value = self._add("Sub", features, policy.weights["obs.mean"])
        value = self._add("Div", value, policy.weights["obs.std"])
        clip = np.float32(forward.OBS_CLIP)
        return self._add("Clip", value, -clip, clip)

    def _layers(self, name: str, value: str, count: int, *, ends: bool) -> str:
        """Linear layers, each but the last of a net with its activation."""
        for i in range(count):
            weight, bias = (self._policy.weights[f"{name}.{i}.{p}"] for p in ("weight", "bias"))
            value = self._add("Gemm", value, weight, bias)
            if i < count - 1 or not ends:
                value = self._add(self._activation, value)
        return value

    def _trunk(self, value: str) -> str:
        """What actor and critic share: convolutions, hidden layers, memory."""
        spec = self._policy.spec
        if spec.conv:
            value = self._convolutions(value)
        value = self._layers("trunk", value, len(spec.hidden), ends=False)
        return self._memory(value) if spec.lstm else value

    def _convolutions(self, value: str) -> str:
        spec, weights = self._policy.spec, self._policy.weights
        assert spec.image is not None
        high, wide, channels = spec.image
        if spec.channels_first:
            value = self._add("Reshape", value, np.array((-1, channels, high, wide), np.int64))
        else:
            value = self._add("Reshape", value, np.array((-1, high, wide, channels), np.int64))
            value = self._add("Transpose", value, perm=(0, 3, 1, 2))
        for i, (_, _, stride) in enumerate(spec.conv):
            kernel = weights[f"conv.{i}.weight"].transpose(3, 2, 0, 1)
            value = self._add(
                "Conv", value, kernel, weights[f"conv.{i}.bias"], strides=(stride, stride)
            )
            value = self._add(self._activation, value)
        value = self._add("Transpose", value, perm=(0, 2, 3, 1))
        return self._add("Reshape", value, np.array((0, -1), np.int64))

    def _memory(self, value: str) -> str:
        """One step of the layer with memory; writes "next_state"."""
        weights, width = self._policy.weights, self._policy.spec.lstm
        hidden, cell = self._slice("state", 0, width), self._slice("state", width, 2 * width)
        gates = self._add(
            "Add",
            self._add("Gemm", value, weights["lstm.weight"], weights["lstm.bias"]),
            self._add("MatMul", hidden, weights["lstm.memory"]),
        )
        parts = [self._slice(gates, k * width, (k + 1) * width) for k in range(4)]
        take, keep, show = (self._add("Sigmoid", parts[k]) for k in (0, 1, 3))
        new = self._add("Mul", take, self._add("Tanh", parts[2]))
        cell = self._add("Add", self._add("Mul", keep, cell), new)
        hidden = self._add("Mul", show, self._add("Tanh", cell))
        self._nodes.append(helper.make_node("Concat", [hidden, cell], ["next_state"], axis=1))
        return hidden

    def _features(self, name: str) -> str:
        """What `spaces.features` makes of "obs"."""
        space = spaces.stored(self._policy.observation_space)
        match space:
            case gym_spaces.Discrete():
                return self._one_hot(name, int(space.n), int(space.start))
            case gym_spaces.MultiDiscrete():
                flat = self._add("Reshape", name, np.array((0, -1), np.int64))
                sizes, starts = space.nvec.ravel().tolist(), space.start.ravel().tolist()
                parts = [
                    self._one_hot(
                        self._add("Gather", flat, np.array(i, np.int64), axis=1), size, start
                    )
                    for i, (size, start) in enumerate(zip(sizes, starts, strict=True))
                ]
                return self._add("Concat", *parts, axis=1)
            case _:
                value = self._add("Cast", name, to=TensorProto.FLOAT)
                return self._add("Reshape", value, np.array((0, -1), np.int64))

    def _one_hot(self, name: str, size: int, start: int) -> str:
        index = self._add("Cast", name, to=TensorProto.INT64)
        index = self._add("Sub", index, np.array(start, np.int64))
        return self._add(
            "OneHot", index, np.array(size, np.int64), np.array((0, 1), np.float32), axis=-1
        )

    def _act(self, outputs: str) -> None:
        """What the head makes of the outputs; the last node's result is "action"."""
        policy, spec = self._policy, self._policy.spec
        space = policy.action_space
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(space.dtype))
        match space:
            case gym_spaces.Discrete():
                action = self._add("ArgMax", outputs, axis=1, keepdims=0)
                action = self._add("Add", action, np.array(space.start, np.int64))
            case gym_spaces.MultiDiscrete():
                bounds = [0, *np.cumsum(spec.parts).tolist()]
                best = [
                    self._add("ArgMax", self._slice(outputs, a, b), axis=1, keepdims=1)
                    for a, b in pairwise(bounds)
                ]
                action = self._add("Concat", *best, axis=1)
                action = self._add("Add", action, space.start.ravel().astype(np.int64))
            case gym_spaces.Box() if spec.head == "gaussian":
                # Not Clip, whose bounds are scalars.
                action = self._add("Max", outputs, space.low.astype(np.float32))
                action = self._add("Min", action, space.high.astype(np.float32))
            case gym_spaces.Box():
                raw = self._add("Tanh", self._slice(outputs, 0, spec.actions))
                half = ((space.high - space.low) / 2.0).astype(np.float32)
                action = self._add("Add", raw, np.float32(1.0))
                action = self._add("Mul", action, half)
                action = self._add("Add", action, space.low.astype(np.float32))
            case _:
                raise ModelRejectedError(f"actions of {space} cannot be exported")
        self._nodes.append(helper.make_node("Cast", [action], ["action"], to=kind))

    def _slice(self, name: str, start: int, end: int) -> str:
        indices = (np.array([value], np.int64) for value in (start, end, 1))
        return self._add("Slice", name, *indices)

    def _add(self, kind: str, *inputs: str | SpaceArray | np.generic, **attributes: Any) -> str:
        names = [each if isinstance(each, str) else self._constant(each) for each in inputs]
        result = f"v{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, names, [result], **attributes))
        return result

    def _constant(self, value: SpaceArray | np.generic) -> str:
        name = f"c{len(self._constants)}"
        array = np.ascontiguousarray(value).reshape(np.shape(value))
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def _finish(self) -> Any:
        policy = self._policy
        stored = spaces.stored(policy.observation_space)
        inputs, outputs = [_value("obs", stored)], [_value("action", policy.action_space)]
        if policy.spec.lstm:
            state = gym_spaces.Box(-np.inf, np.inf, (policy.spec.state_width,), np.float32)
            inputs.append(_value("state", state))
            outputs.append(_value("next_state", state))
        graph = helper.make_graph(self._nodes, "policy", inputs, outputs, self._constants)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            producer_name="rostral-rl",
            ir_version=IR_VERSION,
        )
        described = {
            "observation_space": spaces.to_json(stored),
            "action_space": spaces.to_json(policy.action_space),
            "info": dataclasses.asdict(policy.info),
            "flattened": nested.is_nested(policy.observation_space),
        }
        helper.set_model_props(model, {METADATA_KEY: json.dumps(described)})
        onnx.checker.check_model(model, full_check=True)
        return model


def _value(name: str, space: spaces.Space) -> Any:
    """A named input or output of N rows."""
    shape: Sequence[int | str] = ("N", *(space.shape or ()))
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(space.dtype))
    return helper.make_tensor_value_info(name, kind, shape)
