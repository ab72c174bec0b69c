"""Log-probability and entropy in torch, for losses; NumPy twins are in `rostral_rl.forward`."""

from __future__ import annotations

import torch
from torch import Tensor

from rostral_rl.forward import LOG_2PI


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
