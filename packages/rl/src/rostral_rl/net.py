"""A whole acting net in NumPy, with or without convolutions and memory.

Two forms. *Towers*: actor "pi.*" and critic "vf.*" share nothing. *Shared*: both are one layer on a
trunk of convolutions "conv.*", hidden layers "trunk.*" and a layer with memory "lstm.*", each where
the spec has it; so pixels are looked at once, and there is one memory. The torch twins are in
`rostral_rl.train.parts.nets`; tests hold both to the same numbers.

A memory's *state* is (N, S), hidden and cell side by side; zeros where an episode begins.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from rostral_rl import forward, spaces
from rostral_rl.arrays import FloatArray, SpaceArray, Weights
from rostral_rl.errors import InvalidSettingError
from rostral_rl.forward import Activation, NetSpec
from rostral_rl.spaces import Space

PIXEL = np.float32(1.0 / 255.0)
"""What bytes of an image are scaled by."""


class Net:
    """Acts, and rates where the weights hold a critic. Reads the weights without copying them.

    Args:
        spec: Shape of the net.
        weights: As one of the two forms names them.
    """

    def __init__(self, spec: NetSpec, weights: Weights) -> None:
        self.spec = spec
        self._weights = weights
        if spec.is_shared:
            self._trunk: _Trunk | None = _Trunk(spec, weights)
            layers = 1
        else:
            self._trunk = None
            layers = len(spec.widths) - 1
        kind = spec.activation
        self._pi = forward.Tower(weights, "pi", layers=layers, activation=kind)
        self._vf = (
            forward.Tower(weights, "vf", layers=layers, activation=kind)
            if "vf.0.weight" in weights
            else None
        )

    @property
    def has_critic(self) -> bool:
        """Whether `values` and `step` have anything to say of values."""
        return self._vf is not None

    def outputs(self, inputs: SpaceArray) -> FloatArray:
        """What the actor says, (N, A), of features (N, D); of nets without memory."""
        return self._actor(self._hidden(inputs), inputs)

    def values(self, inputs: SpaceArray) -> FloatArray:
        """What the critic says, (N,), of features (N, D); of nets without memory."""
        assert self._vf is not None
        return self._vf(self._hidden(inputs))[:, 0]

    def step(
        self, inputs: SpaceArray, state: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Moves a net with memory by one step.

        Args:
            inputs: Features (N, D).
            state: (N, S).

        Returns:
            The actor's outputs (N, A), the critic's values (N,), zeros where there is none, and the
            next state (N, S).
        """
        assert self._trunk is not None
        hidden, state = self._trunk.step(self._seen(inputs), state)
        value = np.zeros(len(hidden), np.float32) if self._vf is None else self._vf(hidden)[:, 0]
        return self._actor(hidden, inputs), value, state

    def _seen(self, inputs: SpaceArray) -> FloatArray:
        if self.spec.conv and inputs.dtype == np.uint8:
            return inputs * PIXEL
        return forward.normalised(inputs, self._weights)

    def _hidden(self, inputs: SpaceArray) -> FloatArray:
        seen = self._seen(inputs)
        return seen if self._trunk is None else self._trunk(seen)

    def _actor(self, hidden: FloatArray, inputs: SpaceArray) -> FloatArray:
        return forward.masked(self.spec, self._pi(hidden), inputs)


class _Trunk:
    """Convolutions, hidden layers and memory."""

    def __init__(self, spec: NetSpec, weights: Weights) -> None:
        self._spec = spec
        self._conv = [
            (weights[f"conv.{i}.weight"], weights[f"conv.{i}.bias"], stride)
            for i, (_, _, stride) in enumerate(spec.conv)
        ]
        self._layers = [
            (weights[f"trunk.{i}.weight"], weights[f"trunk.{i}.bias"])
            for i in range(len(spec.hidden))
        ]
        if spec.lstm:
            self._lstm = tuple(weights[f"lstm.{part}"] for part in ("weight", "memory", "bias"))

    def __call__(self, inputs: FloatArray) -> FloatArray:
        """Features (N, D) to what comes before the memory, (N, H)."""
        x = self._convolved(inputs)
        for weight, bias in self._layers:
            x = x @ weight  # (N, width)
            x += bias
            activate(self._spec.activation, x)
        return x

    def step(self, inputs: FloatArray, state: FloatArray) -> tuple[FloatArray, FloatArray]:
        """One step of the memory: hidden (N, H) and the next state (N, 2 H)."""
        weight, memory, bias = self._lstm
        width = self._spec.lstm
        gates = self(inputs) @ weight + state[:, :width] @ memory + bias  # (N, 4 H): i, f, g, o
        i, f, o = (sigmoid(gates[:, k * width : (k + 1) * width]) for k in (0, 1, 3))
        cell = f * state[:, width:] + i * np.tanh(gates[:, 2 * width : 3 * width])  # (N, H)
        hidden = o * np.tanh(cell)  # (N, H)
        return hidden, np.concatenate((hidden, cell), axis=1)

    def _convolved(self, inputs: FloatArray) -> FloatArray:
        if not self._conv:
            return inputs
        x = as_images(self._spec, inputs)  # (N, height, width, channels)
        for weight, bias, stride in self._conv:
            size, _, before, filters = weight.shape
            windows = sliding_window_view(x, (size, size), axis=(1, 2))[:, ::stride, ::stride]
            count, high, wide = windows.shape[:3]
            # Rows of each window first, so that runs of neighbours are copied at once.
            patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, size * size * before)
            flat = patches @ weight.reshape(-1, filters)  # (N * high * wide, filters)
            flat += bias
            activate(self._spec.activation, flat)
            x = flat.reshape(count, high, wide, filters)
        return x.reshape(len(x), -1)


def read(spec: NetSpec, space: Space, obs: SpaceArray) -> SpaceArray:
    """Observations (N, *shape) as what a net reads, (N, D): features, or pixels as they are.

    May be a view of `obs`.
    """
    if spec.conv:
        return obs.reshape(len(obs), spec.inputs)
    return spaces.features(space, obs)


def activate(kind: Activation, x: FloatArray) -> None:
    """The activation, in place."""
    if kind == "tanh":
        np.tanh(x, out=x)
    else:
        np.maximum(x, 0.0, out=x)


def sigmoid(x: FloatArray) -> FloatArray:
    """The logistic function, written as a hyperbolic tangent because that cannot overflow."""
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x), np.float32)


def as_images(spec: NetSpec, inputs: FloatArray) -> FloatArray:
    """Features (N, D) as images (N, height, width, channels)."""
    assert spec.image is not None
    high, wide, channels = spec.image
    if spec.channels_first:
        return inputs.reshape(-1, channels, high, wide).transpose(0, 2, 3, 1)
    return inputs.reshape(-1, high, wide, channels)


def trunk_widths(spec: NetSpec) -> tuple[int, ...]:
    """Width before, between and after the hidden layers of a shared net's trunk.

    Raises:
        InvalidSettingError: The image is smaller than a convolution's window.
    """
    if not spec.conv:
        return (spec.inputs, *spec.hidden)
    assert spec.image is not None
    high, wide, channels = spec.image
    for filters, size, stride in spec.conv:
        if min(high, wide) < size:
            raise InvalidSettingError(
                f"an image of {high} x {wide} is too small for a convolution of {size} x {size}",
                hint="give conv other layers, as (filters, size, stride), or ()",
            )
        high, wide, channels = (high - size) // stride + 1, (wide - size) // stride + 1, filters
    return (high * wide * channels, *spec.hidden)


def multiplications(spec: NetSpec) -> int:
    """Multiply-adds of one row's way through the convolutions; 0 where there are none."""
    if not spec.conv:
        return 0
    assert spec.image is not None
    high, wide, channels = spec.image
    total = 0
    for filters, size, stride in spec.conv:
        high, wide = (high - size) // stride + 1, (wide - size) // stride + 1
        total += high * wide * filters * size * size * channels
        channels = filters
    return total


def shapes(spec: NetSpec) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what acts; the critic, the normaliser and exploration not counted."""
    found: dict[str, tuple[int, ...]] = {}

    def linear(name: str, before: int, after: int) -> None:
        found[f"{name}.weight"] = (before, after)
        found[f"{name}.bias"] = (after,)

    if spec.is_shared:
        channels = spec.image[2] if spec.image is not None else 0
        for i, (filters, size, _) in enumerate(spec.conv):
            found[f"conv.{i}.weight"] = (size, size, channels, filters)
            found[f"conv.{i}.bias"] = (filters,)
            channels = filters
        widths = trunk_widths(spec)
        for i, (before, after) in enumerate(pairwise(widths)):
            linear(f"trunk.{i}", before, after)
        if spec.lstm:
            found["lstm.weight"] = (widths[-1], 4 * spec.lstm)
            found["lstm.memory"] = (spec.lstm, 4 * spec.lstm)
            found["lstm.bias"] = (4 * spec.lstm,)
        linear("pi.0", spec.lstm or widths[-1], spec.outputs)
    else:
        for i, (before, after) in enumerate(pairwise(spec.widths)):
            linear(f"pi.{i}", before, after)
    if spec.head == "gaussian":
        found["log_std"] = (spec.outputs,)
    return found
