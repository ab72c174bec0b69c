"""Adam with gradient clipping over one flat buffer.

A small net has a dozen small tensors, and torch's own clipping and Adam pay per tensor: 245 us a
step for a 2x64 actor and critic, as much as their backward pass. With all parameters and gradients
as views of two flat buffers it is one pass of torch's fused kernel over each.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from rostral_rl.arrays import FloatArray, SpaceArray
from rostral_rl.errors import CheckpointMismatchError, NonFiniteLossError

BETA_1 = 0.9
BETA_2 = 0.999
EPSILON = 1e-5
"""Larger than torch's default: damps the first steps, when second moments are tiny."""


class FlatAdam:
    """Adam (Kingma & Ba 2015) on all parameters of a module at once.

    Takes the parameters over: they become views of this object's buffer, and so do their gradients.

    Args:
        module: A module whose parameters are all float32, on one device.
    """

    def __init__(self, module: nn.Module) -> None:
        parameters = list(module.parameters())
        #: Number of parameters.
        self.size = size = sum(p.numel() for p in parameters)
        device = parameters[0].device
        self._value = torch.empty(size, device=device)  # (P,)
        self._gradient = torch.zeros(size, device=device)  # (P,)
        self._first = torch.zeros(size, device=device)  # (P,)
        self._second = torch.zeros(size, device=device)  # (P,)
        self._steps = torch.zeros((), device=device)
        offset = 0
        for p in parameters:
            part = slice(offset, offset + p.numel())
            self._value[part] = p.detach().reshape(-1)
            p.data = self._value[part].view_as(p)
            p.grad = self._gradient[part].view_as(p)
            offset += p.numel()

    @torch.no_grad()
    def step(self, loss: Tensor, *, lr: float, norm_max: float = math.inf) -> None:
        """Differentiates `loss` and takes one step down.

        Args:
            loss: () float32.
            lr: Step size.
            norm_max: The gradient of all parameters together is scaled down to this length.

        Raises:
            NonFiniteLossError: Loss or gradient is NaN or infinite. The parameters have not been
                touched.
        """
        self.differentiate(loss)
        self.descend(loss.item(), lr=lr, norm_max=norm_max)

    @property
    def gradient(self) -> FloatArray:
        """Of all parameters, (P,); shares memory. Of a module on the CPU alone."""
        gradient: FloatArray = self._gradient.numpy()
        return gradient

    @torch.no_grad()
    def differentiate(self, loss: Tensor) -> None:
        """Leaves the loss's gradient in the parameters."""
        self._gradient.zero_()
        with torch.enable_grad():
            loss.backward()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def descend(self, loss: float, *, lr: float, norm_max: float = math.inf) -> None:
        """Takes one step down a gradient that lies in the parameters already.

        Arguments and errors: see `step`.
        """
        norm = torch.linalg.vector_norm(self._gradient).item()
        if not math.isfinite(norm) or not math.isfinite(loss):
            raise NonFiniteLossError(
                f"loss {loss} with a gradient of length {norm} after {int(self._steps)} steps",
                hint="lower lr, or check the scale of rewards and observations",
            )
        if norm > norm_max:
            self._gradient.mul_(norm_max / norm)
        # What `torch.optim.Adam(fused=True)` comes to, without the 30 us on its way there.
        self._steps += 1
        torch._fused_adam_(
            [self._value],
            [self._gradient],
            [self._first],
            [self._second],
            [],
            [self._steps],
            lr=lr,
            beta1=BETA_1,
            beta2=BETA_2,
            weight_decay=0.0,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
        )

    @torch.no_grad()
    def copy_to(self, other: FlatAdam, share: float = 1.0) -> None:
        """Moves another module's parameters, of the same shape, this share of the way to ours."""
        if share == 1.0:
            other._value.copy_(self._value)
        else:
            other._value.lerp_(self._value, share)

    def state(self) -> dict[str, SpaceArray]:
        """Parameters and moments, copied out."""
        return {
            "value": self._value.cpu().numpy().copy(),
            "first": self._first.cpu().numpy().copy(),
            "second": self._second.cpu().numpy().copy(),
            "steps": np.array(int(self._steps), np.int64),
        }

    def load(self, state: dict[str, SpaceArray]) -> None:
        """Takes `state` back.

        Raises:
            CheckpointMismatchError: It is of a net of another size.
        """
        if state["value"].shape != (self.size,):
            raise CheckpointMismatchError(
                f"the checkpoint's net has {state['value'].size} parameters, this one {self.size}",
                hint="resume with the settings that it was made with",
            )
        for name, buffer in (
            ("value", self._value),
            ("first", self._first),
            ("second", self._second),
        ):
            buffer.copy_(torch.from_numpy(state[name].copy()))
        self._steps.fill_(int(state["steps"]))
