"""Gradients of plain nets written out, beside autograd's: PPO's of two towers, and DQN's.

A net of 2x64 has so little arithmetic that autograd's bookkeeping costs as much again: 60 recorded
operations and as many nodes to walk back. Here the same products follow each other by hand and land
in the optimiser's flat buffer. Tests hold it to autograd's own numbers. Nets that are not two plain
towers, and losses with a clipped critic, take autograd.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rostral_rl.arrays import FloatArray
from rostral_rl.forward import NetSpec
from rostral_rl.heads import LOG_2PI, MASKED
from rostral_rl.train.parts.nets import ActorCritic, masked
from rostral_rl.train.parts.qnet import QNet

aten = torch.ops.aten


class LossTerms(NamedTuple):
    """Parts of one minibatch's loss.

    Attributes:
        policy: () float32, clipped surrogate, negated.
        value: () float32, the critic's squared error.
        entropy: () float32.
        ratio: (M,) float32, probability now over probability when drawn.
        clipped: (M,) float32, the same within its limits.
    """

    policy: Tensor
    value: Tensor
    entropy: Tensor
    ratio: Tensor
    clipped: Tensor

    @torch.no_grad()
    def diagnostics(self) -> Tensor:
        """Policy loss, value loss, entropy, KL estimate and clipped share, (5,) float32."""
        # Schulman's low-variance estimate of KL(old, new): E[(r - 1) - log r], never negative.
        divergence = (self.ratio - 1.0 - self.ratio.log()).mean()
        share = (self.ratio != self.clipped).float().mean()
        return torch.stack((self.policy, self.value, self.entropy, divergence, share))


class TowerGradient:
    """One tower, forth and back; the gradient goes to where its parameters' gradients lie.

    What lies between two layers is kept from call to call while the number of rows stays: fresh
    pages cost as much as the arithmetic on them.

    Args:
        layers: Linear ones, and what else is between them, which is left out; their parameters
            have gradients already, and stay where they are.
        activation: "tanh" or "relu".
    """

    def __init__(self, layers: Iterable[nn.Module], activation: str) -> None:
        self._layers = [_Layer(layer) for layer in layers if isinstance(layer, nn.Linear)]
        self._tanh = activation == "tanh"
        self._inputs: list[Tensor] = []  # of each layer, (N, width)
        self._outputs: list[Tensor] = []  # of each layer, (N, width)
        self._slopes: list[Tensor] = []  # the loss's gradient by each layer's input but the first's

    def forth(self, features: Tensor) -> Tensor:
        """Features (N, D) to outputs (N, A), which the next call overwrites."""
        if not self._outputs or len(self._outputs[0]) != len(features):
            self._make_room(len(features))
        x = features
        self._inputs.clear()
        for i, (layer, room) in enumerate(zip(self._layers, self._outputs, strict=True)):
            if i:
                x = x.tanh_() if self._tanh else x.relu_()
            self._inputs.append(x)
            x = layer.forth(x, room)
        return x

    @property
    def hidden(self) -> Tensor:
        """What the last layer read, (N, H)."""
        return self._inputs[-1]

    def back(self, slope: Tensor, by_hidden: Tensor | None = None) -> None:
        """The loss's gradient by the outputs (N, A), to that by the parameters.

        Args:
            slope: (M, A), of the first M rows; nothing comes from the others.
            by_hidden: (M, H), what comes to `hidden` from elsewhere.
        """
        rows = len(slope)
        for i in reversed(range(len(self._layers))):
            layer, x = self._layers[i], self._inputs[i][:rows]
            layer.learn(x, slope)
            if not i:
                break
            room = self._slopes[i - 1][:rows]
            torch.mm(slope, layer.weight, out=room)
            if by_hidden is not None:
                room += by_hidden
                by_hidden = None
            if self._tanh:
                aten.tanh_backward.grad_input(room, x, grad_input=room)
            else:
                aten.threshold_backward.grad_input(room, x, 0, grad_input=room)
            slope = room

    def _make_room(self, rows: int) -> None:
        self._outputs = [torch.empty(rows, len(layer.bias)) for layer in self._layers]
        self._slopes = [torch.empty_like(room) for room in self._outputs[:-1]]


def unbounded() -> np.errstate:
    """NumPy as torch is: what overflows is infinite, without a warning. Who learns looks for it."""
    return np.errstate(over="ignore", invalid="ignore")


NARROW = 8
"""Width up to which a product is NumPy's: of 256 rows by (64, 2) or (4, 64) it took 2 to 4 us where
torch took 7, and of 512 by (256, 2) and (3, 256) 9 where torch took 20 and 37."""


class _Layer:
    """A linear layer's parameters and gradients, without autograd's bookkeeping."""

    def __init__(self, layer: nn.Linear) -> None:
        assert layer.weight.grad is not None and layer.bias.grad is not None
        self.weight = layer.weight.detach()  # (out, in)
        self.bias = layer.bias.detach()  # (out,)
        self._transposed = self.weight.t()  # (in, out)
        self._by_weight = layer.weight.grad  # (out, in)
        self._by_bias = layer.bias.grad  # (out,)
        after, before = self.weight.shape
        self._narrow_output, self._narrow = after <= NARROW, min(after, before) <= NARROW
        # The same memory as arrays.
        self._matrix: FloatArray = self._transposed.numpy()
        self._offset: FloatArray = self.bias.numpy()
        self._by_matrix: FloatArray = self._by_weight.numpy()

    def forth(self, x: Tensor, room: Tensor) -> Tensor:
        """Inputs (N, in) to outputs (N, out), which are put into `room`."""
        if not self._narrow_output:
            return torch.addmm(self.bias, x, self._transposed, out=room)
        outputs: FloatArray = room.numpy()
        with unbounded():
            np.matmul(x.numpy(), self._matrix, out=outputs)
            outputs += self._offset
        return room

    def learn(self, x: Tensor, slope: Tensor) -> None:
        """Sets the gradient, from inputs (N, in) and that of the loss by the outputs (N, out)."""
        if self._narrow:
            with unbounded():
                np.matmul(slope.numpy().T, x.numpy(), out=self._by_matrix)
        else:
            torch.mm(slope.t(), x, out=self._by_weight)
        torch.sum(slope, 0, out=self._by_bias)


class Drawn:
    """Log-probabilities (N,) and entropies (N,) of actions, and the way back to the outputs."""

    def __init__(self, spec: NetSpec, log_std: Tensor | None, outputs: Tensor, actions: Tensor):
        self._actions = actions
        self._log_std = log_std
        if log_std is not None:
            self._scale = torch.exp(-log_std)  # (A,)
            self._z = (actions - outputs) * self._scale  # (N, A)
            width = outputs.shape[1]
            total = log_std.sum() + 0.5 * LOG_2PI * width
            self.logp = self._z.square().sum(1).mul_(-0.5).sub_(total)
            self.entropy = (log_std.sum() + 0.5 * (LOG_2PI + 1.0) * width).expand(len(outputs))
            return
        self._parts = list(spec.parts) or [outputs.shape[1]]
        chosen = actions[:, None] if actions.ndim == 1 else actions  # (N, parts)
        self._log_mass = [
            torch.log_softmax(part, 1) for part in torch.split(outputs, self._parts, dim=1)
        ]
        self._mass = [part.exp() for part in self._log_mass]
        self._chosen = chosen
        picked = [part.gather(1, chosen[:, i : i + 1]) for i, part in enumerate(self._log_mass)]
        self.logp = picked[0][:, 0] if len(picked) == 1 else torch.cat(picked, 1).sum(1)
        self._entropies = [
            -(mass * log_mass).sum(1)
            for mass, log_mass in zip(self._mass, self._log_mass, strict=True)
        ]
        self.entropy = (
            self._entropies[0] if len(picked) == 1 else torch.stack(self._entropies).sum(0)
        )

    def back(self, by_logp: Tensor, by_entropy: float) -> Tensor:
        """Gradient by the outputs (N, A), from those by log-probabilities (N,) and entropies."""
        if self._log_std is not None:
            by_mean = by_logp[:, None] * self._z * self._scale  # (N, A)
            by_log_std = (by_logp[:, None] * (self._z.square() - 1.0)).sum(0)  # (A,)
            assert self._log_std.grad is not None
            self._log_std.grad.copy_(by_log_std + by_entropy * len(by_logp))
            return by_mean
        slopes: list[Tensor] = []
        for i, (mass, log_mass) in enumerate(zip(self._mass, self._log_mass, strict=True)):
            slope = mass * -by_logp[:, None]  # (N, A)
            slope.scatter_add_(1, self._chosen[:, i : i + 1], by_logp[:, None])
            if by_entropy:
                slope -= by_entropy * mass * (log_mass + self._entropies[i][:, None])
            slopes.append(slope)
        return slopes[0] if len(slopes) == 1 else torch.cat(slopes, 1)


class PPOGradient:
    """PPO's loss of an actor's and a critic's tower, and its gradient.

    Args:
        net: Two towers, whose parameters have gradients already.
    """

    def __init__(self, net: ActorCritic) -> None:
        self._net = net
        self._pi = TowerGradient(net.pi, net.spec.activation)
        self._vf = TowerGradient(net.vf, net.spec.activation)

    @torch.no_grad()
    def __call__(
        self,
        features: Tensor,
        actions: Tensor,
        old_logp: Tensor,
        advantage: Tensor,
        target: Tensor,
        *,
        clip: float,
        vf_coef: float,
        ent_coef: float,
    ) -> LossTerms:
        """Sets the gradient of all parameters.

        Args:
            features: (N, D).
            actions: (N,) or (N, parts) int64, or (N, A) float32.
            old_logp: (N,), when they were drawn.
            advantage: (N,), normalised where it shall be.
            target: (N,), what the critic shall say.
            clip: How far the ratio may leave 1.
            vf_coef: Weight of the critic's squared error.
            ent_coef: Weight of the entropy.

        Returns:
            What the loss is made of.
        """
        count = len(features)
        spec = self._net.spec
        outputs = masked(spec, self._pi.forth(features), features)
        drawn = Drawn(spec, self._net.log_std, outputs, actions)
        ratio = (drawn.logp - old_logp).exp_()  # (N,)
        clipped = ratio.clamp(1.0 - clip, 1.0 + clip)
        free, cut = ratio * advantage, clipped * advantage
        error = self._vf.forth(features)[:, 0] - target  # (N,)
        # Within the limits both are equal, and the gradient is that of the ratio.
        by_logp = free.mul(free <= cut).mul_(-1.0 / count)
        slope = drawn.back(by_logp, -ent_coef / count)
        if spec.mask_at is not None:
            # A masked output is a constant: its mass is 0, and so is its slope.
            slope.masked_fill_(outputs <= float(MASKED) / 2.0, 0.0)
        self._pi.back(slope)
        self._vf.back((error * (2.0 * vf_coef / count))[:, None])
        return LossTerms(
            -torch.minimum(free, cut).mean(),
            error.square().mean(),
            drawn.entropy.mean(),
            ratio,
            clipped,
        )


class QGradient:
    """The weighed Huber loss of the values of actions taken, and its gradient.

    Args:
        net: Of hidden layers alone, whose parameters have gradients already.
    """

    def __init__(self, net: QNet) -> None:
        self._net = net
        layers = [*net.trunk, net.advantage]
        self._advantage, self._chooser = (
            TowerGradient(layers, net.spec.activation) for _ in range(2)
        )

    @torch.no_grad()
    def choose(self, features: Tensor) -> Tensor:
        """The choices (N,) of the highest value in states (N, D)."""
        # The state's own value is the same for all choices.
        advantage = self._chooser.forth(features)  # (N, A)
        return masked(self._net.spec, advantage, features).argmax(1)

    @torch.no_grad()
    def values(self, features: Tensor) -> Tensor:
        """Values (N, A) of all choices in states (N, D), which the next call overwrites."""
        value, advantage = self._net.value, self._chooser.forth(features)  # (N, A)
        if value is not None:
            advantage = advantage + self._state(value, advantage, self._chooser.hidden)
        return masked(self._net.spec, advantage, features)

    @staticmethod
    def _state(value: nn.Linear, advantage: Tensor, hidden: Tensor) -> Tensor:
        """What makes values of advantages (N, A): (N, 1)."""
        state = torch.addmm(value.bias, hidden, value.weight.t())  # (N, 1)
        return state - advantage.mean(1, keepdim=True)

    @torch.no_grad()
    def __call__(
        self, features: Tensor, actions: Tensor, goal: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sets the gradient of all parameters.

        Args:
            features: (N, D).
            actions: (N,) int64, those taken.
            goal: (N,), what their values should be.
            weight: (N,).

        Returns:
            Errors (N,) and values (N,).
        """
        chosen = actions[:, None]  # (N, 1)
        advantage = self._advantage.forth(features)  # (N, A)
        value, hidden = self._net.value, self._advantage.hidden  # (N, H)
        values = advantage.gather(1, chosen)[:, 0]  # (N,)
        if value is not None:
            values = values + self._state(value, advantage, hidden)[:, 0]
        error = values - goal  # (N,)
        by_value = (error.clamp(-1.0, 1.0) * weight).div_(len(error))[:, None]  # (N, 1)
        slope = torch.zeros_like(advantage).scatter_(1, chosen, by_value)  # (N, A)
        by_hidden: Tensor | None = None
        if value is not None:
            assert value.weight.grad is not None and value.bias.grad is not None
            slope -= by_value / advantage.shape[1]
            torch.mm(by_value.t(), hidden, out=value.weight.grad)
            torch.sum(by_value, 0, out=value.bias.grad)
            by_hidden = torch.mm(by_value, value.weight)  # (N, H)
        self._advantage.back(slope, by_hidden)
        return error, values
