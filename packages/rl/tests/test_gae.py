"""Advantages against a slow oracle that follows the definition, and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rostral_rl.arrays import BoolArray, FloatArray
from rostral_rl.train.parts.gae import advantages


def oracle(
    reward: FloatArray,
    value: FloatArray,
    next_value: FloatArray,
    done: BoolArray,
    *,
    gamma: float,
    lam: float,
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Sums (gamma * lam)^k * delta forward from every step, in double precision."""
    steps, count = reward.shape
    result = np.zeros((steps, count))
    for b in range(count):
        for t in range(steps):
            weight = 1.0
            for k in range(t, steps):
                delta = float(reward[k, b]) + gamma * float(next_value[k, b]) - float(value[k, b])
                result[t, b] += weight * delta
                if done[k, b]:
                    break
                weight *= gamma * lam
    return result


def fragment(
    steps: int, count: int, *, done_share: float, seed: int
) -> tuple[FloatArray, FloatArray, FloatArray, BoolArray]:
    generator = np.random.default_rng(seed)
    reward, value, next_value = generator.standard_normal((3, steps, count)).astype(np.float32)
    done = generator.random((steps, count)) < done_share
    # Half of the ends are terminations, after which nothing is worth anything.
    next_value[done & (generator.random((steps, count)) < 0.5)] = 0.0
    return reward, value, next_value, done


@pytest.mark.parametrize(
    ("gamma", "lam", "steps", "done_share"),
    [
        (0.99, 0.95, 24, 0.1),
        (0.9, 1.0, 24, 0.1),
        (1.0, 0.5, 24, 0.1),
        (1.0, 1.0, 12, 0.2),
        (0.98, 0.0, 24, 0.1),
        (0.99, 0.95, 24, 1.0),
        (0.99, 0.95, 1, 0.0),
        (0.99, 0.95, 1, 1.0),
    ],
)
def test_advantages_equal_the_oracle(
    gamma: float, lam: float, steps: int, done_share: float
) -> None:
    reward, value, next_value, done = fragment(steps, 5, done_share=done_share, seed=3)
    got = advantages(reward, value, next_value=next_value, done=done, gamma=gamma, lam=lam)
    expected = oracle(reward, value, next_value, done, gamma=gamma, lam=lam)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


def test_two_steps_by_hand() -> None:
    # delta_1 = 2 + 0.5 * 4 - 3 = 1;  delta_0 = 1 + 0.5 * 3 - 2 = 0.5;  A_0 = 0.5 + 0.25 * 1.
    got = advantages(
        np.array([[1.0], [2.0]], np.float32),
        np.array([[2.0], [3.0]], np.float32),
        next_value=np.array([[3.0], [4.0]], np.float32),
        done=np.zeros((2, 1), np.bool_),
        gamma=0.5,
        lam=0.5,
    )
    np.testing.assert_array_equal(got, np.array([[0.75], [1.0]], np.float32))


def test_nothing_flows_back_over_an_episode_end() -> None:
    reward, value, next_value, done = fragment(6, 1, done_share=0.0, seed=1)
    done[2] = True
    first = advantages(reward, value, next_value=next_value, done=done, gamma=0.9, lam=0.9)
    reward[3:] += 100.0
    second = advantages(reward, value, next_value=next_value, done=done, gamma=0.9, lam=0.9)
    np.testing.assert_array_equal(first[:3], second[:3])
    assert np.all(first[3:] != second[3:])
