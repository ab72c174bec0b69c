"""Loads what `rostral_rl` re-exports on first use, so that acting does not import torch."""

from __future__ import annotations

import importlib
from typing import Any

LAZY = {
    "Evaluation": ("rostral_rl.train.parts.evaluate", "Evaluation"),
    "DQN": ("rostral_rl.train.dqn", "DQN"),
    "PPO": ("rostral_rl.train.ppo", "PPO"),
    "VectorSource": ("rostral_rl.simulate.adapter", "VectorSource"),
    "Policy": ("rostral_rl.policy", "Policy"),
    "PolicyClient": ("rostral_rl.serve.client", "PolicyClient"),
    "PolicyInfo": ("rostral_rl.policy", "PolicyInfo"),
    "Run": ("rostral_rl.train.run", "Run"),
    "evaluate": ("rostral_rl.train.parts.evaluate", "evaluate"),
    "linear": ("rostral_rl.train.parts.schedules", "linear"),
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
