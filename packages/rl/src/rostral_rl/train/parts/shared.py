"""Actor and critic on one trunk: convolutions, hidden layers, memory; twins of `rostral_rl.net`."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from rostral_rl.arrays import Weights
from rostral_rl.forward import NetSpec
from rostral_rl.net import PIXEL, trunk_widths
from rostral_rl.train.parts.memory import Memory
from rostral_rl.train.parts.nets import build_tower, masked, tower_weights


class Trunk(nn.Module):
    """Features to hidden units, by convolutions and hidden layers.

    Args:
        spec: Shape of the net.
        generator: Of the initial weights, which are orthogonal with a gain of sqrt(2).
    """

    def __init__(self, spec: NetSpec, generator: torch.Generator) -> None:
        super().__init__()
        self._spec = spec
        kind = nn.Tanh if spec.activation == "tanh" else nn.ReLU
        self.conv = nn.ModuleList()
        channels = spec.image[2] if spec.image is not None else 0
        for filters, size, stride in spec.conv:
            layer = nn.Conv2d(channels, filters, size, stride)
            orthogonal(layer.weight, math.sqrt(2.0), generator)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            self.conv.append(layer)
            channels = filters
        self.activation = kind()
        layers: list[nn.Module] = []
        widths = trunk_widths(spec)
        for before, after in pairwise(widths):
            linear = nn.Linear(before, after)
            orthogonal(linear.weight, math.sqrt(2.0), generator)
            nn.init.zeros_(linear.bias)
            layers += [linear, kind()]
        self.hidden = nn.Sequential(*layers)
        #: Width of what comes out.
        self.width = widths[-1]

    def forward(self, features: Tensor) -> Tensor:
        """Maps features (N, D), float32 or the bytes of images, to (N, H)."""
        if self.conv:
            features = self._convolved(features)
        hidden: Tensor = self.hidden(features)
        return hidden

    def weights(self) -> Weights:
        """Copies the parameters out, by the names that `rostral_rl.net` reads."""
        result = tower_weights("trunk", self.hidden)
        for i, layer in enumerate(self.conv):
            assert isinstance(layer, nn.Conv2d) and layer.bias is not None
            weight = layer.weight.detach().cpu().numpy().transpose(2, 3, 1, 0)
            result[f"conv.{i}.weight"] = np.ascontiguousarray(weight)
            result[f"conv.{i}.bias"] = layer.bias.detach().cpu().numpy().copy()
        return result

    def _convolved(self, features: Tensor) -> Tensor:
        assert self._spec.image is not None
        high, wide, channels = self._spec.image
        if features.dtype == torch.uint8:
            features = features.float() * float(PIXEL)
        if self._spec.channels_first:
            x = features.view(-1, channels, high, wide)
        else:
            x = features.view(-1, high, wide, channels).permute(0, 3, 1, 2)
        for layer in self.conv:
            x = self.activation(layer(x))
        # Flattened channel by channel last, as the NumPy form has them.
        return x.permute(0, 2, 3, 1).flatten(1)


class SharedActorCritic(nn.Module):
    """Two linear layers, actor and critic, on one trunk, with a memory where the spec has one.

    Args:
        spec: Shape of the net.
        log_std: Initial log standard deviation of a Gaussian.
        seed: Seeds the initial weights.
    """

    def __init__(self, spec: NetSpec, *, log_std: float, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.spec = spec
        self.trunk = Trunk(spec, generator)
        width = self.trunk.width
        if spec.lstm:
            self.input = nn.Parameter(blocks(spec.lstm, width, generator))  # (4 H, in)
            self.memory = nn.Parameter(blocks(spec.lstm, spec.lstm, generator))  # (4 H, H)
            self.bias = nn.Parameter(torch.zeros(4 * spec.lstm))
            width = spec.lstm
        kind = spec.activation
        self.pi = build_tower((width, spec.outputs), kind, last_gain=0.01, generator=generator)
        self.vf = build_tower((width, 1), kind, last_gain=1.0, generator=generator)
        self.log_std: nn.Parameter | None = None
        if spec.head == "gaussian":
            self.log_std = nn.Parameter(torch.full((spec.outputs,), log_std))

    def forward(self, features: Tensor, memory: Memory | None = None) -> tuple[Tensor, Tensor]:
        """Maps features (N, D) to the head's outputs (N, A) and values (N,)."""
        outputs, value, _ = self.unroll(features, memory)
        return outputs, value

    def unroll(
        self, features: Tensor, memory: Memory | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The same, and the states after each step, (T, m, S), of a net with memory.

        Args:
            features: (N, D); with memory the N = T * m samples of whole sequences.
            memory: Given for a net with memory.
        """
        hidden = self.trunk(features)  # (N, H)
        states: Tensor | None = None
        if memory is not None:
            hidden, states = self._remembered(hidden, memory)
        return masked(self.spec, self.pi(hidden), features), self.vf(hidden)[:, 0], states

    def values(self, features: Tensor, state: Tensor | None = None) -> Tensor:
        """Values (N,) of features (N, D), each after its own state (N, S) with a memory."""
        hidden = self.trunk(features)  # (N, H)
        if state is not None:
            hidden, _ = self._cell(hidden, *state.chunk(2, dim=1))
        values: Tensor = self.vf(hidden)[:, 0]
        return values

    def weights(self) -> Weights:
        """Copies all parameters out, matrices as (in, out), float32."""
        result = self.trunk.weights()
        result |= {**tower_weights("pi", self.pi), **tower_weights("vf", self.vf)}
        if self.spec.lstm:
            result["lstm.weight"] = np.ascontiguousarray(self.input.detach().cpu().numpy().T)
            result["lstm.memory"] = np.ascontiguousarray(self.memory.detach().cpu().numpy().T)
            result["lstm.bias"] = self.bias.detach().cpu().numpy().copy()
        if self.log_std is not None:
            result["log_std"] = self.log_std.detach().cpu().numpy().copy()
        return result

    def _cell(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = torch.lstm_cell(
            x, (hidden, cell), self.input, self.memory, self.bias, torch.zeros_like(self.bias)
        )
        return found

    def _remembered(self, x: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Runs the memory along (T * m, H); returns what it says (T * m, H) and its states."""
        steps, count = memory.keeps.shape
        hidden, cell = memory.state.chunk(2, dim=1)  # (m, H) each
        said: list[Tensor] = []
        cells: list[Tensor] = []
        for row, keeps in zip(x.view(steps, count, -1), memory.keeps[:, :, None], strict=True):
            hidden, cell = self._cell(row, hidden * keeps, cell * keeps)
            said.append(hidden)
            cells.append(cell)
        seen = torch.stack(said)  # (T, m, H)
        states = torch.cat((seen.detach(), torch.stack(cells).detach()), dim=2)  # (T, m, S)
        return seen.flatten(0, 1), states


def orthogonal(weight: Tensor, gain: float, generator: torch.Generator) -> None:
    """Fills a matrix, or convolution, with orthogonal rows."""
    nn.init.orthogonal_(weight, gain, generator=generator)


def blocks(width: int, inputs: int, generator: torch.Generator) -> Tensor:
    """The four gates' matrices, each orthogonal, (4 H, in)."""
    parts = [torch.empty(width, inputs) for _ in range(4)]
    for part in parts:
        orthogonal(part, 1.0, generator)
    return torch.cat(parts)
