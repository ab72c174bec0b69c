"""The algorithms by name, and their settings; torch is loaded with the first that is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rostral_rl.names import unknown_name
from rostral_rl.simulate.make import EnvSource

if TYPE_CHECKING:
    from rostral_rl.train.trainer import Settings

# Name: module below `rostral_rl.train`, class of its settings.
MODULES: dict[str, tuple[str, str]] = {
    "a2c": ("a2c", "A2C"),
    "apex": ("apex", "ApeX"),
    "appo": ("appo", "APPO"),
    "ars": ("ars", "ARS"),
    "dqn": ("dqn", "DQN"),
    "es": ("es", "ES"),
    "impala": ("appo", "IMPALA"),
    "ppo": ("ppo", "PPO"),
    "sac": ("sac", "SAC"),
    "td3": ("td3", "TD3"),
}


def settings_class(algorithm: str) -> type[Settings]:
    """The class of an algorithm's settings.

    Raises:
        UnknownNameError: No such algorithm; suggests the nearest.
    """
    if algorithm not in MODULES:
        raise unknown_name("algorithm", algorithm, MODULES)
    module, name = MODULES[algorithm]
    found: type[Settings] = getattr(importlib.import_module(f"rostral_rl.train.{module}"), name)
    return found


def settings_for(algorithm: str, env: EnvSource, given: Mapping[str, object]) -> Settings:
    """An algorithm's settings: the caller's own, else the preset's for `env`, else the defaults.

    Raises:
        UnknownNameError: No such algorithm or setting.
        InvalidSettingError: A value of the wrong type or out of range.
    """
    kind = settings_class(algorithm)
    from rostral_rl.train.parts.settings import build_settings

    return build_settings(kind, algorithm, env if isinstance(env, str) else None, given)
