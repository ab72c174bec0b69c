"""Loads what `rostral_rl` re-exports on first use, so that acting does not import torch."""

from __future__ import annotations

import importlib
from typing import Any

LAZY = {
    "A2C": ("rostral_rl.train.a2c", "A2C"),
    "APPO": ("rostral_rl.train.appo", "APPO"),
    "ARS": ("rostral_rl.train.ars", "ARS"),
    "ApeX": ("rostral_rl.train.apex", "ApeX"),
    "DQN": ("rostral_rl.train.dqn", "DQN"),
    "ES": ("rostral_rl.train.es", "ES"),
    "IMPALA": ("rostral_rl.train.appo", "IMPALA"),
    "SAC": ("rostral_rl.train.sac", "SAC"),
    "TD3": ("rostral_rl.train.td3", "TD3"),
    "Evaluation": ("rostral_rl.train.parts.evaluate", "Evaluation"),
    "PPO": ("rostral_rl.train.ppo", "PPO"),
    "SharedSource": ("rostral_rl.simulate.shared", "SharedSource"),
    "VectorSource": ("rostral_rl.simulate.adapter", "VectorSource"),
    "Policy": ("rostral_rl.policy", "Policy"),
    "PolicyClient": ("rostral_rl.serve.client", "PolicyClient"),
    "PolicyInfo": ("rostral_rl.policy", "PolicyInfo"),
    "Run": ("rostral_rl.train.run", "Run"),
    "embed": ("rostral_rl.serve.embedded", "embed"),
    "evaluate": ("rostral_rl.train.parts.evaluate", "evaluate"),
    "record": ("rostral_rl.simulate.record", "record"),
    "cosine": ("rostral_rl.train.parts.schedules", "cosine"),
    "linear": ("rostral_rl.train.parts.schedules", "linear"),
    "piecewise": ("rostral_rl.train.parts.schedules", "piecewise"),
    "load": ("rostral_rl.checkpoint", "load_policy"),
}


def resolve(name: str) -> Any:
    """Imports a re-exported name.

    Raises:
        AttributeError: The package exports no such name.
    """
    if name not in LAZY:
        raise AttributeError(f"module 'rostral_rl' has no attribute {name!r}")
    module, attribute = LAZY[name]
    return getattr(importlib.import_module(module), attribute)
