"""The rows of `bench-rl`: name, unit, beside whom, what must and should be reached.

Owns the numbers that the project has set itself for learning on one node with two CPUs; measures
nothing. A ratio above 1 means that Rostral is better.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

PeerName = Literal["sb3", "rllib", "gymnasium"]

GROUPS: dict[str, tuple[PeerName, ...]] = {
    "simulate": ("gymnasium",),
    "ppo": ("sb3", "rllib"),
    "dqn": ("sb3",),
    "sac": ("sb3",),
}
"""Rows that one process of an engine measures, and whose processes are run for it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RLTarget:
    """One row.

    Attributes:
        name: As the scripts print it.
        unit: Of the value.
        group: A key of `GROUPS`.
        peer: Beside whom.
        must: Smallest ratio that will do.
        aim: The ratio that is wanted.
        less_is_better: True of seconds.
    """

    name: str
    unit: str
    group: str
    peer: PeerName
    must: float
    aim: float
    less_is_better: bool = False

    def ratio(self, ours: float, theirs: float) -> float:
        """How many times better we are, whichever way the unit points."""
        better, worse = (ours, theirs) if self.less_is_better else (theirs, ours)
        return worse / better if better else float("inf")


LEARNERS: tuple[PeerName, ...] = ("sb3", "rllib")
EQUAL = "equal settings"
TUNED = "own settings"

TARGETS: tuple[RLTarget, ...] = (
    RLTarget(
        name="CartPole, 256 at once",
        unit="steps/s",
        group="simulate",
        peer="gymnasium",
        must=1.0,
        aim=1.5,
    ),
    *(
        RLTarget(
            name=f"{env}, one after the other",
            unit="steps/s",
            group="simulate",
            peer="gymnasium",
            must=20.0,
            aim=40.0,
        )
        for env in ("CartPole", "Pendulum", "MountainCar", "Acrobot")
    ),
    *(
        RLTarget(
            name=f"PPO CartPole, {EQUAL}",
            unit="steps/s",
            group="ppo",
            peer=peer,
            must=must,
            aim=aim,
        )
        for peer, must, aim in zip(LEARNERS, (3.0, 5.0), (6.0, 10.0), strict=True)
    ),
    *(
        RLTarget(
            name=f"PPO CartPole to 475, {TUNED}",
            unit="s",
            group="ppo",
            peer=peer,
            must=3.0,
            aim=5.0,
            less_is_better=True,
        )
        for peer in LEARNERS
    ),
    RLTarget(
        name=f"DQN CartPole, {EQUAL}", unit="steps/s", group="dqn", peer="sb3", must=3.0, aim=6.0
    ),
    RLTarget(
        name=f"DQN CartPole to 475, {TUNED}",
        unit="s",
        group="dqn",
        peer="sb3",
        must=3.0,
        aim=5.0,
        less_is_better=True,
    ),
    RLTarget(
        name=f"SAC Pendulum, {EQUAL}", unit="steps/s", group="sac", peer="sb3", must=2.0, aim=3.0
    ),
)
