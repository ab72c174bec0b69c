"""The probe ladder: five environments so small that a wrong number has one cause each."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import rostral_rl as rl
from rostral_rl import forward
from rostral_rl.train.ppo import PPO
from rostral_rl.train.trainer import Trainer


class Probe(gymnasium.Env[Any, Any]):
    """An episode of `length` steps; observation and reward are what the subclass says."""

    length = 1

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-1.0, 2.0, (1,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.at = 0
        self.seen = 0.0

    def look(self) -> float:
        return 0.0

    def reward(self, action: int) -> float:
        return 1.0

    def _obs(self) -> Any:
        self.seen = self.look()
        return np.array([self.seen], np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.at = 0
        return self._obs(), {}

    def step(self, action: Any) -> Any:
        reward = self.reward(int(action))
        self.at += 1
        ends = self.at == self.length
        return self._obs(), reward, ends, False, {}


class ConstantReward(Probe):
    """One step, reward 1: the critic alone."""


class RewardSeen(Probe):
    """One step, the reward is the observation: the critic's inputs."""

    def look(self) -> float:
        return float(self.np_random.choice((-1.0, 1.0)))

    def reward(self, action: int) -> float:
        return self.seen


class RewardLater(Probe):
    """Two steps, reward at the second: the discount."""

    length = 2

    def look(self) -> float:
        return float(self.at)

    def reward(self, action: int) -> float:
        return float(self.at)


class RewardForAction(Probe):
    """One step, reward 1 or -1 by action: the actor alone."""

    def reward(self, action: int) -> float:
        return 1.0 if action == 1 else -1.0


class RewardForMatch(RewardSeen):
    """One step, reward 1 where the action matches the observation: both."""

    def reward(self, action: int) -> float:
        return 1.0 if (self.seen > 0) == (action == 1) else -1.0


SETTINGS = PPO(
    envs=8,
    steps=16,
    minibatch=64,
    epochs=4,
    lr=5e-3,
    gamma=0.5,
    lam=0.95,
    ent_coef=0.0,
    hidden=(16,),
)


def trained(probe: type[Probe], updates: int = 40) -> Trainer[Any]:
    trainer = SETTINGS.build(probe, total_steps=updates * SETTINGS.batch, seed=1)
    with trainer:
        for _ in trainer:
            pass
    return trainer


def value(trainer: Trainer[Any], obs: float) -> float:
    critic = forward.Tower(trainer.weights, "vf", layers=2, activation="tanh")
    return float(critic(np.array([[obs]], np.float32))[0, 0])


@pytest.mark.slow
def test_the_critic_learns_a_constant() -> None:
    assert value(trained(ConstantReward), 0.0) == pytest.approx(1.0, abs=0.05)


@pytest.mark.slow
def test_the_critic_reads_its_observation() -> None:
    trainer = trained(RewardSeen)
    assert value(trainer, 1.0) == pytest.approx(1.0, abs=0.1)
    assert value(trainer, -1.0) == pytest.approx(-1.0, abs=0.1)


@pytest.mark.slow
def test_the_critic_discounts_what_comes_later() -> None:
    trainer = trained(RewardLater)
    assert value(trainer, 1.0) == pytest.approx(1.0, abs=0.1)
    assert value(trainer, 0.0) == pytest.approx(0.5, abs=0.1)


@pytest.mark.slow
def test_the_actor_learns_the_better_action() -> None:
    policy = trained(RewardForAction).policy
    drawn = policy(np.zeros((200, 1)), sample=True, generator=np.random.default_rng(0))
    assert drawn.mean() > 0.95


@pytest.mark.slow
def test_the_actor_learns_from_what_it_sees() -> None:
    policy = trained(RewardForMatch).policy
    assert policy([[-1.0], [1.0]]).tolist() == [0, 1]
    result = rl.evaluate(policy, RewardForMatch, episodes=50, seed=3)
    assert result.mean == 1.0
