"""Atari games by ale-py's own vector environment: preprocessed and stepped in C++ threads.

Gymnasium's ids mean what they mean elsewhere. "ALE/Pong-v5" repeats the last action a quarter of
the time (Machado et al. 2018); "PongNoFrameskip-v4" never does, and stands here for that game as
published tables take it, with the usual preprocessing: every fourth frame, the brighter of two,
84 by 84 in grey, four of them stacked, up to 30 idle steps at first, and fire where that starts it.
Rewards are the game's own; who learns may take their sign (`reward_sign`). Needs the `atari` extra.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from rostral_rl.errors import MissingExtraError, SimulationError
from rostral_rl.names import unknown_name
from rostral_rl.simulate.adapter import GymnasiumVector

STICKY = 0.25
"""How often "-v5" repeats an action."""
_ID = re.compile(r"(?:ALE/(?P<sticky>\w+)-v5|(?P<plain>\w+)NoFrameskip-v4)")


def is_atari(env: str) -> bool:
    """Whether the id names a game that this file makes."""
    return _ID.fullmatch(env) is not None


def check_game(env: str) -> None:
    """Refuses a game that ale-py does not have.

    Raises:
        UnknownNameError: No such game; suggests the nearest.
        MissingExtraError: The `atari` extra is not installed.
    """
    _register()
    if env not in gymnasium.registry:
        games = [name for name in gymnasium.registry if is_atari(name)]
        raise unknown_name("environment", env, games)


def atari_vector(env: str, seeds: Sequence[int]) -> GymnasiumVector:
    """Makes one game for each of `seeds` (B,).

    Raises:
        UnknownNameError: No such game.
        MissingExtraError: The `atari` extra is not installed.
    """
    check_game(env)
    from ale_py.vector_env import AtariVectorEnv

    class Games(AtariVectorEnv):  # type: ignore[misc,unused-ignore]
        """Takes a list of seeds, as Gymnasium's own vectors do."""

        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            wanted = seed if seed is None else np.array(seed, np.int64)
            return super().reset(seed=wanted, options=options)

    found = _ID.fullmatch(env)
    assert found is not None
    game = gymnasium.registry[env].kwargs["game"]
    try:
        made: GymnasiumVector = Games(
            game,
            len(seeds),
            num_threads=min(len(seeds), len(os.sched_getaffinity(0))),
            repeat_action_probability=STICKY if found["sticky"] else 0.0,
            autoreset_mode="SameStep",
            reward_clipping=False,
        )
    except (RuntimeError, ValueError) as error:
        raise SimulationError(f"ale-py cannot make {env}: {error}") from error
    return made


def _register() -> None:
    try:
        import ale_py
    except ImportError as error:
        raise MissingExtraError(
            "Atari games need ale-py", hint="pip install 'rostral-rl[atari]'"
        ) from error
    gymnasium.register_envs(ale_py)
