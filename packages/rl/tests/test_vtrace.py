"""V-trace: against the paper's sums written out, and its limits."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from rostral_rl.train.parts import gae
from rostral_rl.train.parts.vtrace import VTrace, vtrace

STEPS, COUNT = 7, 3


def drawn(seed: int, *, spread: float) -> dict[str, Any]:
    generator = np.random.default_rng(seed)

    def normal() -> Any:
        return generator.standard_normal((STEPS, COUNT)).astype(np.float32)

    value, next_value, ends = normal(), normal(), generator.random((STEPS, COUNT)) < 0.3
    # Within an episode what follows is the next row.
    next_value[:-1] = np.where(ends[:-1], next_value[:-1], value[1:])
    next_value[ends & (generator.random((STEPS, COUNT)) < 0.5)] = 0.0
    return {
        "log_ratio": spread * normal(),
        "reward": normal(),
        "value": value,
        "next_value": next_value,
        "done": ends,
    }


def slow(
    columns: dict[str, Any],
    *,
    gamma: float,
    lam: float,
    rho_max: float,
    c_max: float,
) -> VTrace:
    """v_s = V(x_s) + sum over t of gamma^(t-s) (product of c_i) rho_t delta_t, as it is written."""
    ratio = np.exp(columns["log_ratio"].astype(float))
    rho, c = np.minimum(ratio, rho_max), lam * np.minimum(ratio, c_max)
    delta = rho * (columns["reward"] + gamma * columns["next_value"] - columns["value"])
    target = columns["value"].astype(float)
    for s, b in itertools.product(range(STEPS), range(COUNT)):
        factor = 1.0
        for t in range(s, STEPS):
            target[s, b] += factor * delta[t, b]
            if columns["done"][t, b]:
                break
            factor *= gamma * c[t, b]
    advantage = np.zeros((STEPS, COUNT))
    for s, b in itertools.product(range(STEPS), range(COUNT)):
        alone = columns["done"][s, b] or s == STEPS - 1
        following = columns["next_value"][s, b] if alone else target[s + 1, b]
        error = columns["reward"][s, b] + gamma * following - columns["value"][s, b]
        advantage[s, b] = rho[s, b] * error
    return VTrace(target.astype(np.float32), advantage.astype(np.float32))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("gamma", "lam", "rho_max", "c_max"),
    [(0.9, 1.0, 1.0, 1.0), (1.0, 1.0, 1.0, 1.0), (0.97, 0.8, 2.0, 0.5), (0.5, 0.0, 1.0, 1.0)],
)
def test_vtrace_equals_the_sums_of_the_paper(
    seed: int, gamma: float, lam: float, rho_max: float, c_max: float
) -> None:
    columns = drawn(seed, spread=1.0)
    given: dict[str, Any] = {"gamma": gamma, "lam": lam, "rho_max": rho_max, "c_max": c_max}
    found, expected = vtrace(**columns, **given), slow(columns, **given)
    np.testing.assert_allclose(found.target, expected.target, atol=1e-5)
    np.testing.assert_allclose(found.advantage, expected.advantage, atol=1e-5)


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_on_policy_its_targets_are_those_of_advantage_estimation(lam: float) -> None:
    columns = drawn(9, spread=0.0)
    found = vtrace(**columns, gamma=0.95, lam=lam)
    rest = {name: columns[name] for name in ("next_value", "done")}
    advantage = gae.advantages(columns["reward"], columns["value"], **rest, gamma=0.95, lam=lam)
    np.testing.assert_allclose(found.target, advantage + columns["value"], atol=1e-5)


def test_an_action_that_the_policy_would_not_take_now_teaches_nothing() -> None:
    columns = drawn(3, spread=0.0)
    columns["log_ratio"][:] = -50.0
    found = vtrace(**columns, gamma=0.9)
    np.testing.assert_allclose(found.target, columns["value"], atol=1e-6)
    np.testing.assert_allclose(found.advantage, 0.0, atol=1e-6)
