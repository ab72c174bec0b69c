"""DQN, Ape-X, SAC and TD3: losses by hand, and probes that say what is learned."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from gymnasium import spaces

import rostral_rl as rl
from rostral_rl import forward
from rostral_rl.train.apex import ApeX
from rostral_rl.train.dqn import DQN, goals, q_loss
from rostral_rl.train.off_policy import Minibatch
from rostral_rl.train.parts.optimiser import FlatAdam
from rostral_rl.train.parts.qnet import QNet
from rostral_rl.train.sac import SAC, LogNumber, frozen
from rostral_rl.train.td3 import TD3

SPEC = forward.NetSpec(inputs=1, hidden=(1,), outputs=2, activation="relu", head="greedy")


def net(values: tuple[float, float]) -> QNet:
    """Says `values`, times what it sees if that is positive."""
    made = QNet(SPEC, duelling=False, seed=0)
    with torch.no_grad():
        for layer in (made.trunk[0], made.advantage):
            cast("Any", layer).bias.zero_()
        cast("Any", made.trunk[0]).weight.fill_(1.0)
        made.advantage.weight.copy_(torch.tensor(values)[:, None])
    return made


def batch() -> Minibatch:
    return Minibatch(
        features=torch.tensor([[1.0], [2.0]]),
        actions=torch.tensor([0, 1]),
        reward=torch.tensor([0.5, 1.0]),
        next_features=torch.tensor([[1.0], [4.0]]),
        discount=torch.tensor([0.9, 0.0]),
        weight=torch.tensor([1.0, 0.5]),
    )


@pytest.mark.parametrize(("double", "following"), [(True, 7.0), (False, 8.0)])
def test_the_q_loss_by_hand(double: bool, following: float) -> None:
    online, target = net((3.0, 2.0)), net((7.0, 8.0))
    with torch.no_grad():
        next_values = target(batch().next_features)
        chosen = online(batch().next_features).argmax(1) if double else None
    goal = goals(batch(), next_values, chosen)
    loss, error, values = q_loss(online, batch(), goal)
    # Online prefers action 0, whose value the target puts at 7; on its own it would take 8.
    np.testing.assert_allclose(goal.tolist(), [0.5 + 0.9 * following, 1.0], rtol=1e-6)
    assert values.tolist() == [3.0, 4.0]
    np.testing.assert_allclose(error.tolist(), [3.0 - goal[0].item(), 3.0], rtol=1e-6)
    huber = [abs(e) - 0.5 for e in error.tolist()]
    assert loss.item() == pytest.approx((huber[0] + 0.5 * huber[1]) / 2, rel=1e-6)


def test_a_frozen_critic_passes_gradients_on_and_keeps_none() -> None:
    critic = torch.nn.Linear(2, 1)
    x = torch.ones(3, 2, requires_grad=True)
    with frozen(critic):
        torch.autograd.backward(critic(x).sum())
    assert x.grad is not None and critic.weight.grad is None
    assert critic.weight.requires_grad


def test_temperature_stays_positive_and_moves_towards_the_wanted_entropy() -> None:
    number = LogNumber(0.2)
    assert number().item() == pytest.approx(0.2)
    optimiser = FlatAdam(number)
    for entropy, grows in ((-3.0, True), (2.0, False)):
        before = number().item()
        for _ in range(20):
            optimiser.step(number.log * (entropy + 1.0), lr=0.1)
        assert (number().item() > before) == grows


def test_ape_x_explores_by_a_ladder_and_dqn_by_a_schedule() -> None:
    ladder = ApeX(envs=4, epsilon=0.4, ladder=7.0, minibatch=4, start=8)
    with ladder.build("CartPole-v1", total_steps=256) as trainer:
        found = cast("Any", trainer)._epsilon()
    np.testing.assert_allclose(found, 0.4 ** (1.0 + 7.0 * np.arange(4) / 3), rtol=1e-5)

    settings = DQN(
        envs=2, steps=2, minibatch=4, start=4, explore=0.5, epsilon=rl.linear(1.0, 0.1), hidden=(4,)
    )
    with settings.build("CartPole-v1", total_steps=44) as trainer:
        epsilons = [iteration.metrics["epsilon"] for iteration in trainer]
    # Counted in steps of the whole training: at its end after half of them.
    np.testing.assert_allclose(
        epsilons[:6], np.linspace(1.0, 0.1, 6)[[1, 2, 3, 4, 5, 5]], atol=1e-6
    )
    assert epsilons[-1] == pytest.approx(0.1)


class Target:
    """One step: pays for being near 0.5 with a Box action, or for taking choice 1."""

    def __new__(cls, space: Any) -> Any:
        import gymnasium

        class OneStep(gymnasium.Env[Any, Any]):
            observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
            action_space = space

            def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
                super().reset(seed=seed)
                return np.zeros(1, np.float32), {}

            def step(self, action: Any) -> Any:
                reward = -abs(float(action[0]) - 1.0) if space.shape else float(action)
                return np.zeros(1, np.float32), reward, True, False, {}

        return OneStep()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [SAC, TD3])
def test_a_box_action_is_found(kind: type[SAC] | type[TD3]) -> None:
    def make() -> Any:
        return Target(spaces.Box(-1.0, 3.0, (1,), np.float32))

    more: dict[str, Any] = {"noise": 0.3} if kind is TD3 else {}
    more |= {"minibatch": 32, "start": 64, "buffer": 2_000}
    settings = kind(envs=4, steps=4, updates=8, hidden=(16,), lr=1e-2, **more)
    with settings.build(make, total_steps=1_200, seed=1) as trainer:
        for _ in trainer:
            pass
        found = float(trainer.policy([0.0])[0])
    assert found == pytest.approx(1.0, abs=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [DQN, ApeX])
def test_the_better_choice_and_its_value_are_found(kind: type[DQN]) -> None:
    def make() -> Any:
        return Target(spaces.Discrete(2))

    settings = kind(
        envs=4, steps=4, updates=8, minibatch=32, start=32, hidden=(8,), lr=1e-2, target_every=32
    )
    with settings.build(make, total_steps=800, seed=1) as trainer:
        for _ in trainer:
            pass
        policy = trainer.policy
    assert int(policy([0.0])) == 1
    np.testing.assert_allclose(policy.outputs(np.zeros((1, 1), np.float32)), [[0.0, 1.0]], atol=0.2)


def test_a_prioritised_training_learns_from_what_surprises() -> None:
    settings = DQN(envs=2, steps=8, updates=4, minibatch=16, start=32, alpha=0.6, hidden=(8,))
    with settings.build("CartPole-v1", total_steps=320, seed=0) as trainer:
        rows = [iteration.metrics for iteration in trainer]
    assert all(np.isfinite(row["loss"]) for row in rows[2:])
    priorities = cast("Any", trainer)._replay.state()["priority"]
    assert len(np.unique(priorities)) > 10
