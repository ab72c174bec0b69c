"""The workloads of `bench-rl` on Rostral: run by `bench_rl.py`, prints a row each."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

import rostral_rl as rl
from rl_targets import EQUAL, TUNED
from rl_timing import Rate, Solving, arguments, report
from rostral_rl.simulate import Slab, make_vector
from rostral_rl.train.algorithms import settings_for

# Those of Stable-Baselines3's zoo, which `rl_sb3.py` takes too.
EQUAL_PPO: dict[str, Any] = {
    "envs": 8,
    "steps": 32,
    "minibatch": 256,
    "epochs": 20,
    "gamma": 0.98,
    "lam": 0.8,
    "lr": rl.linear(1e-3),
    "clip": rl.linear(0.2),
    "ent_coef": 0.0,
}
EQUAL_DQN: dict[str, Any] = {
    "envs": 1,
    "steps": 256,
    "updates": 128,
    "minibatch": 64,
    "buffer": 100_000,
    "start": 1_000,
    "lr": 2.3e-3,
    "target_every": 10,
    "epsilon": rl.linear(1.0, 0.04),
    "explore": 0.16,
    "hidden": (256, 256),
    "double": False,
    "duelling": False,
    "gamma": 0.99,
    "n_step": 1,
}
EQUAL_SAC: dict[str, Any] = {
    "envs": 1,
    "steps": 1,
    "updates": 1,
    "minibatch": 256,
    "buffer": 1_000_000,
    "start": 100,
    "lr": 1e-3,
    "hidden": (256, 256),
}
TASKS = (
    ("CartPole", "CartPole-v1"),
    ("Pendulum", "Pendulum-v1"),
    ("MountainCar", "MountainCar-v0"),
    ("Acrobot", "Acrobot-v1"),
)
AT_ONCE = 256


def rate(algorithm: str, env: str, settings: dict[str, Any], seconds: float, *, skip: int) -> Any:
    """Steps a second while learning."""
    clock = Rate(seconds, skip=skip)
    chosen = settings_for(algorithm, "", settings)
    with chosen.build(env, total_steps=100_000, seed=1) as trainer:
        for iteration in trainer:
            if not clock.look(iteration.env_steps):
                break
    return clock.value()


def solve(algorithm: str, seed: int, limit_s: float) -> Solving:
    """Seconds and steps to 475 with the preset."""
    chosen = settings_for(algorithm, "CartPole-v1", {})
    total = 100_000 if algorithm == "ppo" else 50_000
    with chosen.build("CartPole-v1", total_steps=total, seed=seed) as trainer:
        solving = Solving(lambda obs: trainer.policy(obs), limit_s)
        for iteration in trainer:
            if not solving.look(iteration.env_steps):
                break
    return solving


def simulate(env: str, seconds: float) -> float:
    """Steps a second of `AT_ONCE` environments that take random actions."""
    vector = make_vector(env, AT_ONCE, seed=0)
    slab = Slab.allocate(
        64,
        AT_ONCE,
        observation_space=vector.observation_space,
        action_space=vector.action_space,
    )
    generator = np.random.default_rng(0)
    space: Any = vector.action_space
    if space.shape:
        slab.actions[...] = generator.uniform(space.low, space.high, slab.actions.shape)
    else:
        slab.actions[...] = generator.integers(space.n, size=slab.actions.shape)
    vector.reset(slab.obs[0])
    start, steps = time.perf_counter(), 0
    while (now := time.perf_counter()) - start < seconds:
        for t in range(64):
            vector.step(slab, t)
        steps += 64 * AT_ONCE
    return steps / (now - start)


def main() -> None:
    """Measures one group."""
    given = arguments()
    if given.group == "simulate":
        for name, env in TASKS:
            value = simulate(env, given.seconds / 4)
            report(f"{name}, one after the other", value)
            if name == "CartPole":
                report("CartPole, 256 at once", value)
    elif given.group == "sac":
        value = rate("sac", "Pendulum-v1", EQUAL_SAC, given.seconds, skip=150)
        report(f"SAC Pendulum, {EQUAL}", value)
    else:
        algorithm, title = given.group, given.group.upper()
        equal, skip = (EQUAL_PPO, 256) if algorithm == "ppo" else (EQUAL_DQN, 1_500)
        report(
            f"{title} CartPole, {EQUAL}",
            rate(algorithm, "CartPole-v1", equal, given.seconds, skip=skip),
        )
        solving = solve(algorithm, given.seed, given.limit)
        solving.report(f"{title} CartPole to 475, {TUNED}")


if __name__ == "__main__":
    main()
