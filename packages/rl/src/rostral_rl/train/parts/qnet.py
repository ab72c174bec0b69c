"""Nets that rate actions: of a Discrete, all at once; of a Box, the one they are given."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from rostral_rl.arrays import Weights
from rostral_rl.forward import NetSpec
from rostral_rl.train.parts.nets import masked, tower_weights
from rostral_rl.train.parts.shared import Trunk


class QNet(nn.Module):
    """Values of all choices of a Discrete, by hidden layers alone or after convolutions.

    Args:
        spec: Shape of the acting net.
        duelling: A last layer each for the state's value and for the actions' advantages, of which
            only the difference from their mean counts.
        seed: Seeds the initial weights.
    """

    def __init__(self, spec: NetSpec, *, duelling: bool, seed: int) -> None:
        super().__init__()
        self.spec = spec
        generator = torch.Generator().manual_seed(seed)
        # With convolutions the hidden layers are theirs, and `trunk` is empty.
        self.pixels = Trunk(spec, generator) if spec.conv else None
        layers: list[nn.Module] = []
        width = spec.widths[-2] if self.pixels is None else self.pixels.width
        if self.pixels is None:
            for before, after in zip(spec.widths[:-2], spec.widths[1:-1], strict=True):
                layers.append(linear(before, after, generator))
                layers.append(nn.Tanh() if spec.activation == "tanh" else nn.ReLU())
        self.trunk = nn.Sequential(*layers)
        self.advantage = linear(width, spec.outputs, generator)
        self.value = linear(width, 1, generator) if duelling else None

    def forward(self, features: Tensor) -> Tensor:
        """Maps features (N, D) to values (N, A)."""
        hidden = self.trunk(features) if self.pixels is None else self.pixels(features)  # (N, H)
        values: Tensor = self.advantage(hidden)  # (N, A)
        if self.value is not None:
            values = values - values.mean(1, keepdim=True) + self.value(hidden)
        return masked(self.spec, values, features)

    def weights(self) -> Weights:
        """Copies the acting tower out: the two last layers are linear, their sum is one layer."""
        if self.pixels is None:
            result, last = tower_weights("pi", self.trunk), len(self.spec.widths) - 2
        else:
            result, last = self.pixels.weights(), 0
        weight = self.advantage.weight.detach().numpy().T  # (H, A)
        bias = self.advantage.bias.detach().numpy()  # (A,)
        if self.value is not None:
            weight = weight - weight.mean(1, keepdims=True) + self.value.weight.detach().numpy().T
            bias = bias - bias.mean() + self.value.bias.detach().numpy()
        result[f"pi.{last}.weight"] = np.array(weight, np.float32, order="C")
        result[f"pi.{last}.bias"] = np.array(bias, np.float32)
        return result


class TwinQ(nn.Module):
    """Two critics of a Box action, computed together: one product for both, layer by layer.

    Args:
        inputs: D, width of the features.
        actions: A, width of an action.
        hidden: Width of each hidden layer.
        seed: Seeds the initial weights.
    """

    def __init__(self, inputs: int, actions: int, hidden: tuple[int, ...], *, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        widths = (inputs + actions, *hidden, 1)
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for before, after in pairwise(widths):
            bound = 1.0 / math.sqrt(before)
            self.weights.append(nn.Parameter(uniform((2, before, after), bound, generator)))
            self.biases.append(nn.Parameter(uniform((2, 1, after), bound, generator)))

    def forward(self, features: Tensor, actions: Tensor) -> Tensor:
        """Maps features (N, D) and actions (N, A) to both critics' values (2, N)."""
        x = torch.cat((features, actions), 1).expand(2, -1, -1)  # (2, N, D + A)
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)  # (2, N, width)
            if i < last:
                x = torch.relu(x)
        return x[:, :, 0]


class BoxActor(nn.Module):
    """Outputs for a Box action: means and log deviations, or the action before its tangent.

    Args:
        spec: Shape of the acting net.
        seed: Seeds the initial weights.
    """

    def __init__(self, spec: NetSpec, *, seed: int) -> None:
        super().__init__()
        self.spec = spec
        generator = torch.Generator().manual_seed(seed)
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(zip(spec.widths[:-1], spec.widths[1:], strict=True)):
            if i:
                layers.append(nn.Tanh() if spec.activation == "tanh" else nn.ReLU())
            layers.append(linear(before, after, generator))
        self.pi = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """Maps features (N, D) to outputs."""
        outputs: Tensor = self.pi(features)
        return outputs

    def weights(self) -> Weights:
        """The parameters, matrices as (in, out); shares memory, for they act at every step."""
        result: Weights = {}
        linears = [layer for layer in self.pi if isinstance(layer, nn.Linear)]
        for i, layer in enumerate(linears):
            result[f"pi.{i}.weight"] = layer.weight.detach().numpy().T
            result[f"pi.{i}.bias"] = layer.bias.detach().numpy()
        return result


def linear(before: int, after: int, generator: torch.Generator) -> nn.Linear:
    """A layer with torch's usual even initial weights, drawn from `generator`."""
    layer = nn.Linear(before, after)
    bound = 1.0 / math.sqrt(before)
    with torch.no_grad():
        layer.weight.copy_(uniform(tuple(layer.weight.shape), bound, generator))
        layer.bias.copy_(uniform(tuple(layer.bias.shape), bound, generator))
    return layer


def uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> Tensor:
    """Even draws from [-bound, bound]."""
    return (torch.rand(shape, generator=generator) * 2.0 - 1.0) * bound
