"""Actor and critic as torch modules, and their export to arrays that act and travel."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from rostral_rl.arrays import Weights
from rostral_rl.forward import NetSpec
from rostral_rl.heads import MASKED
from rostral_rl.train.parts.memory import Memory


class ActorCritic(nn.Module):
    """Two towers that share nothing, and a state-independent log-std for a Gaussian.

    Args:
        spec: Shape of the actor; the critic differs in its single output.
        log_std: Initial log standard deviation of a Gaussian.
        seed: Seeds the initial weights.
    """

    def __init__(self, spec: NetSpec, *, log_std: float, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.spec = spec
        # Gains of Schulman's code: a nearly uniform first policy, and a critic of unit scale.
        self.pi = build_tower((*spec.widths,), spec.activation, last_gain=0.01, generator=generator)
        self.vf = build_tower(
            (*spec.widths[:-1], 1), spec.activation, last_gain=1.0, generator=generator
        )
        self.log_std: nn.Parameter | None = None
        if spec.head == "gaussian":
            self.log_std = nn.Parameter(torch.full((spec.outputs,), log_std))

    def forward(self, features: Tensor, memory: Memory | None = None) -> tuple[Tensor, Tensor]:
        """Maps features (N, D) to the head's outputs (N, A) and values (N,)."""
        return masked(self.spec, self.pi(features), features), self.vf(features)[:, 0]

    def unroll(
        self, features: Tensor, memory: Memory | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The same; towers have no memory and no states to tell."""
        return *self(features), None

    def values(self, features: Tensor, state: Tensor | None = None) -> Tensor:
        """Values (N,) of features (N, D)."""
        values: Tensor = self.vf(features)[:, 0]
        return values

    def weights(self) -> Weights:
        """Copies all parameters out, matrices as (in, out), float32."""
        result = {**tower_weights("pi", self.pi), **tower_weights("vf", self.vf)}
        if self.log_std is not None:
            result["log_std"] = self.log_std.detach().cpu().numpy().copy()
        return result


def masked(spec: NetSpec, outputs: Tensor, features: Tensor) -> Tensor:
    """Takes out the choices that the mask among the features forbids; see `forward.masked`."""
    if spec.mask_at is None:
        return outputs
    mask = features[:, spec.mask_at : spec.mask_at + spec.outputs]  # (N, A)
    return torch.where(mask > 0.5, outputs, float(MASKED))


def tower_weights(name: str, tower: nn.Sequential) -> Weights:
    """Copies a tower's parameters out, matrices as (in, out), float32."""
    result: Weights = {}
    linears = [layer for layer in tower if isinstance(layer, nn.Linear)]
    for i, layer in enumerate(linears):
        result[f"{name}.{i}.weight"] = np.ascontiguousarray(layer.weight.detach().cpu().numpy().T)
        result[f"{name}.{i}.bias"] = layer.bias.detach().cpu().numpy().copy()
    return result


def build_tower(
    widths: tuple[int, ...], activation: str, *, last_gain: float, generator: torch.Generator
) -> nn.Sequential:
    """A perceptron with orthogonal weights of gain sqrt(2), `last_gain` in its last layer."""
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise(widths)):
        last = i == len(widths) - 2
        layer = nn.Linear(before, after)
        nn.init.orthogonal_(
            layer.weight, last_gain if last else math.sqrt(2.0), generator=generator
        )
        nn.init.zeros_(layer.bias)
        layers.append(layer)
        if not last:
            layers.append(nn.Tanh() if activation == "tanh" else nn.ReLU())
    return nn.Sequential(*layers)
