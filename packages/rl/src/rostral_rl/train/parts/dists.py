"""Log-probability and entropy in torch, for losses; NumPy twins are in `rostral_rl.forward`."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from rostral_rl.heads import LOG_2PI, LOG_STD_RANGE


def categorical(logits: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability (N,) of `actions` (N,) int64 and entropy (N,), from logits (N, A)."""
    log_mass = torch.log_softmax(logits, dim=-1)  # (N, A)
    logp = log_mass.gather(-1, actions[:, None])[:, 0]  # (N,)
    entropy = -(log_mass.exp() * log_mass).sum(-1)  # (N,)
    return logp, entropy


def gaussian(mean: Tensor, log_std: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """The same of a diagonal Gaussian, from means (N, A) and log_std (A,), of `actions` (N, A)."""
    z = (actions - mean) * torch.exp(-log_std)  # (N, A)
    logp = -0.5 * (z * z).sum(-1) - log_std.sum() - 0.5 * LOG_2PI * mean.shape[-1]  # (N,)
    entropy = (log_std.sum() + 0.5 * (LOG_2PI + 1.0) * mean.shape[-1]).expand(len(mean))  # (N,)
    return logp, entropy


def multi(logits: Tensor, parts: tuple[int, ...], actions: Tensor) -> tuple[Tensor, Tensor]:
    """The same of independent categoricals, from logits (N, sum of parts), of (N, parts) int64."""
    split = torch.split(logits, list(parts), dim=1)  # (N, n) each
    pairs = [categorical(part, actions[:, i]) for i, part in enumerate(split)]
    return sum_of([logp for logp, _ in pairs]), sum_of([entropy for _, entropy in pairs])


def squashed(outputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Draws from a squashed Gaussian, so that a gradient reaches `outputs`.

    Args:
        outputs: (N, 2 A), means and log deviations.
        noise: (N, A) standard normals.

    Returns:
        Actions (N, A) in [-1, 1] and their log-probability (N,).
    """
    mean, log_std = outputs.chunk(2, dim=1)  # (N, A) each
    log_std = log_std.clamp(*LOG_STD_RANGE)
    before = mean + log_std.exp() * noise  # (N, A)
    # log(1 - tanh(u)^2), written so that it does not round to log(0) for large u.
    slope = 2.0 * (math.log(2.0) - before - F.softplus(-2.0 * before))  # (N, A)
    logp = (-0.5 * noise.square() - log_std - 0.5 * LOG_2PI - slope).sum(1)  # (N,)
    return before.tanh(), logp


def sum_of(terms: list[Tensor]) -> Tensor:
    """Sum of tensors of one shape."""
    return torch.stack(terms).sum(0)
