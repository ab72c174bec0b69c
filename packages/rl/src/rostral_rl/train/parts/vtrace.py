"""V-trace (Espeholt et al. 2018, eq. 1): value targets for steps that an older policy played."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rostral_rl.arrays import BoolArray, FloatArray


class VTrace(NamedTuple):
    """What to learn from a fragment.

    Attributes:
        target: (T, B) float32, what the critic shall say of each observation.
        advantage: (T, B) float32, weights of the policy gradient; the clipped ratio is in them.
    """

    target: FloatArray
    advantage: FloatArray


def vtrace(
    log_ratio: FloatArray,
    reward: FloatArray,
    value: FloatArray,
    *,
    next_value: FloatArray,
    done: BoolArray,
    gamma: float,
    lam: float = 1.0,
    rho_max: float = 1.0,
    c_max: float = 1.0,
) -> VTrace:
    """Corrects n-step returns by clipped probability ratios.

    As in `gae.advantages`, what the next state is worth and whether the next row belongs to the
    same episode are two questions.

    Args:
        log_ratio: (T, B), log probability of the actions now less that when they were drawn.
        reward: (T, B).
        value: (T, B), the critic's word now on what was observed at t.
        next_value: (T, B), its word on what truly followed step t; 0 where the episode terminated.
        done: (T, B), terminated or truncated at step t.
        gamma: Discount, in (0, 1].
        lam: Trace decay, in [0, 1].
        rho_max: Ratios in the error of a step are cut here: decides what is converged to.
        c_max: Ratios along the trace are cut here: decides how fast.

    Returns:
        Targets, and advantages of the policy gradient.
    """
    ratio = np.exp(log_ratio)  # (T, B)
    rho = np.minimum(ratio, np.float32(rho_max))  # (T, B)
    trace = np.minimum(ratio, np.float32(c_max)) * np.float32(gamma * lam)  # (T, B)
    trace = np.where(done, np.float32(0.0), trace)
    delta = rho * (reward + gamma * next_value - value)  # (T, B)
    above = np.empty_like(delta)  # (T, B), target less value
    running = np.zeros(delta.shape[1], np.float32)  # (B,)
    for t in range(len(delta) - 1, -1, -1):
        running = delta[t] + trace[t] * running
        above[t] = running
    target = value + above  # (T, B)
    following = next_value.copy()  # (T, B)
    # Inside the episode the next row's own target is the better word on what follows.
    following[:-1] = np.where(done[:-1], next_value[:-1], target[1:])
    advantage = rho * (reward + gamma * following - value)  # (T, B)
    return VTrace(target.astype(np.float32), advantage.astype(np.float32))
