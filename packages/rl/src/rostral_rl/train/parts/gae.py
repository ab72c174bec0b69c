"""Generalised advantage estimation (Schulman et al. 2016, eq. 16), a pure function on arrays."""

from __future__ import annotations

import numpy as np

from rostral_rl.arrays import BoolArray, FloatArray


def advantages(
    reward: FloatArray,
    value: FloatArray,
    *,
    next_value: FloatArray,
    done: BoolArray,
    gamma: float,
    lam: float,
) -> FloatArray:
    """Estimates advantages backwards through time.

    Two different questions are kept apart: what the next state is worth (`next_value`: 0 after a
    termination, the critic's word on the true final observation after a truncation) and whether the
    *next row* belongs to the same episode (`done`).

    Args:
        reward: (T, B) float32.
        value: (T, B) float32, V of what was observed at t.
        next_value: (T, B) float32, V of what truly followed step t; 0 where the episode terminated.
        done: (T, B) bool, terminated or truncated at step t.
        gamma: Discount, in (0, 1].
        lam: Trace decay, in [0, 1].

    Returns:
        (T, B) float32. Value targets are this plus `value`.
    """
    delta = reward + gamma * next_value - value  # (T, B)
    decay = np.where(done, np.float32(0.0), np.float32(gamma * lam))  # (T, B)
    result = np.empty_like(delta)  # (T, B)
    running = np.zeros(delta.shape[1], np.float32)  # (B,)
    for t in range(len(delta) - 1, -1, -1):
        running = delta[t] + decay[t] * running
        result[t] = running
    return result
