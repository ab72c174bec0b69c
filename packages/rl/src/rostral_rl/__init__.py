"""Simulate, train and serve reinforcement-learning policies.

    import rostral_rl as rl

    run = rl.train("ppo", "CartPole-v1", total_steps=100_000, seed=1)
    result = run.evaluate(episodes=100)
    run.policy.save("cartpole/")
    act = rl.load("cartpole/")

Importing this does not load torch: acting needs NumPy alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rostral_rl.exports import resolve
from rostral_rl.serve import serve
from rostral_rl.train import resume, train

if TYPE_CHECKING:
    from rostral_rl.checkpoint import load_policy as load
    from rostral_rl.policy import Policy, PolicyInfo
    from rostral_rl.serve.client import PolicyClient
    from rostral_rl.serve.embedded import embed
    from rostral_rl.simulate.adapter import VectorSource
    from rostral_rl.simulate.record import record
    from rostral_rl.simulate.shared import SharedSource
    from rostral_rl.train.a2c import A2C
    from rostral_rl.train.apex import ApeX
    from rostral_rl.train.appo import APPO, IMPALA
    from rostral_rl.train.ars import ARS
    from rostral_rl.train.dqn import DQN
    from rostral_rl.train.es import ES
    from rostral_rl.train.parts.evaluate import Evaluation, evaluate
    from rostral_rl.train.parts.schedules import cosine, linear, piecewise
    from rostral_rl.train.ppo import PPO
    from rostral_rl.train.run import Run
    from rostral_rl.train.sac import SAC
    from rostral_rl.train.td3 import TD3

__version__ = "0.1.0"

__all__ = [
    "A2C",
    "APPO",
    "ARS",
    "DQN",
    "ES",
    "IMPALA",
    "PPO",
    "SAC",
    "TD3",
    "ApeX",
    "Evaluation",
    "Policy",
    "PolicyClient",
    "PolicyInfo",
    "Run",
    "SharedSource",
    "VectorSource",
    "cosine",
    "embed",
    "evaluate",
    "linear",
    "load",
    "piecewise",
    "record",
    "resume",
    "serve",
    "train",
]


def __getattr__(name: str) -> Any:
    return resolve(name)


def __dir__() -> list[str]:
    return sorted(__all__)
