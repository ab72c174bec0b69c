"""Gradients that are written out are autograd's."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch

import rostral_rl as rl
from rostral_rl import forward
from rostral_rl.heads import HEADS, HeadKind
from rostral_rl.train.dqn import q_loss
from rostral_rl.train.off_policy import Minibatch
from rostral_rl.train.parts import dists
from rostral_rl.train.parts.direct import PPOGradient, QGradient
from rostral_rl.train.parts.nets import ActorCritic
from rostral_rl.train.parts.optimiser import FlatAdam
from rostral_rl.train.parts.qnet import BoxActor, QNet, TwinQ
from rostral_rl.train.parts.soft import SoftGradient
from rostral_rl.train.ppo import PPO, Batch, Trainer, ppo_loss, weighed

ROWS = 40


def spec_of(head: HeadKind, activation: forward.Activation, *, mask: bool) -> forward.NetSpec:
    return forward.NetSpec(
        inputs=9,
        hidden=(8, 7),
        outputs=6,
        activation=activation,
        head=head,
        parts=(2, 4) if head == "multi" else (),
        mask_at=1 if mask else None,
    )


def batch_of(spec: forward.NetSpec, weights: Any) -> Batch:
    """Rows with ratios inside and outside the limits on both sides."""
    generator = np.random.default_rng(4)
    features = generator.standard_normal((ROWS, spec.inputs)).astype(np.float32)
    if spec.mask_at is not None:
        allowed = features[:, 1:7]
        allowed[...] = generator.integers(2, size=allowed.shape)
        allowed[:, 2] = 1.0
    layers = len(spec.widths) - 1
    tower = forward.Tower(weights, "pi", layers=layers, activation=spec.activation)
    outputs = forward.masked(spec, tower(features), features)
    noise = forward.draw_noise(spec, generator, ROWS)
    actions = HEADS[spec.head].sample(spec, outputs, noise, weights)
    logp = forward.log_prob(spec, outputs, actions, weights)
    drift = generator.uniform(-0.6, 0.6, ROWS).astype(np.float32)
    columns = (actions, logp + drift, generator.standard_normal((3, ROWS)).astype(np.float32))
    return Batch(
        torch.from_numpy(features),
        torch.from_numpy(columns[0]),
        torch.from_numpy(columns[1]),
        *torch.from_numpy(columns[2]),
    )


@pytest.mark.parametrize("ent_coef", [0.0, 0.03])
@pytest.mark.parametrize(
    ("head", "activation", "mask"),
    [
        ("categorical", "tanh", False),
        ("categorical", "relu", True),
        ("multi", "relu", False),
        ("gaussian", "tanh", False),
    ],
)
def test_the_gradient_is_autograds(
    head: HeadKind, activation: forward.Activation, mask: bool, ent_coef: float
) -> None:
    spec = spec_of(head, activation, mask=mask)
    settings = PPO(envs=4, steps=10, minibatch=40, ent_coef=ent_coef, vf_coef=0.7)
    net = ActorCritic(spec, log_std=-0.3, seed=3)
    with torch.no_grad():
        for parameter in net.pi.parameters():
            parameter.mul_(1.5)
    FlatAdam(net)
    batch = batch_of(spec, net.weights())
    loss, expected = ppo_loss(net, batch, settings, 0.0)
    for parameter in net.parameters():
        assert parameter.grad is not None
        parameter.grad.zero_()
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    assert 0.2 < float(expected.diagnostics()[4]) < 0.9, "some rows are clipped, and some are not"

    for parameter in net.parameters():
        assert parameter.grad is not None
        parameter.grad.fill_(7.0)  # Whatever was there before is gone.
    terms = PPOGradient(net)(
        batch.features,
        batch.actions,
        batch.logp,
        weighed(batch.advantage, settings),
        batch.target,
        clip=0.2,
        vf_coef=0.7,
        ent_coef=ent_coef,
    )
    for (name, parameter), gradient in zip(net.named_parameters(), gradients, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6, msg=name)
    for ours, theirs in zip(terms, expected, strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("duelling", [False, True])
def test_the_gradient_of_action_values_is_autograds(duelling: bool) -> None:
    spec = spec_of("greedy", "relu", mask=False)
    net = QNet(spec, duelling=duelling, seed=2)
    FlatAdam(net)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(ROWS, 9, generator=generator)
    batch = Minibatch(
        features=features,
        actions=torch.randint(6, (ROWS,), generator=generator),
        reward=torch.zeros(ROWS),
        next_features=features,
        discount=torch.zeros(ROWS),
        weight=torch.rand(ROWS, generator=generator),
    )
    goal = torch.randn(ROWS, generator=generator) * 2
    loss, *expected = q_loss(net, batch, goal)
    for parameter in net.parameters():
        assert parameter.grad is not None
        parameter.grad.zero_()
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    for parameter in net.parameters():
        assert parameter.grad is not None
        parameter.grad.fill_(7.0)
    ours = QGradient(net)(features, batch.actions, goal, batch.weight)
    for (name, parameter), gradient in zip(net.named_parameters(), gradients, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6, msg=name)
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("duelling", [False, True])
@pytest.mark.parametrize("mask", [False, True])
def test_the_values_that_are_asked_for_are_the_nets(duelling: bool, mask: bool) -> None:
    net = QNet(spec_of("greedy", "tanh", mask=mask), duelling=duelling, seed=2)
    FlatAdam(net)
    generator = torch.Generator().manual_seed(0)
    gradient = QGradient(net)
    for rows in (ROWS, 7):
        features = torch.randn(rows, 9, generator=generator)
        with torch.no_grad():
            expected = net(features)
        torch.testing.assert_close(gradient.values(features), expected, rtol=1e-5, atol=1e-6)
        assert gradient.choose(features).tolist() == expected.argmax(1).tolist()


def test_a_training_takes_the_steps_that_autograd_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {"envs": 4, "steps": 16, "minibatch": 32, "epochs": 2}

    def trained() -> Any:
        with PPO(**given).build("CartPole-v1", total_steps=256, seed=3) as trainer:
            for _ in trainer:
                pass
            return trainer.weights

    direct = trained()
    build = Trainer.__init__

    def without(self: Trainer, settings: PPO, plan: Any) -> None:
        build(self, settings, plan)
        self._direct = None

    monkeypatch.setattr(Trainer, "__init__", without)
    for name, array in trained().items():
        np.testing.assert_allclose(direct[name], array, atol=1e-4, err_msg=name)


def test_what_the_written_gradient_does_not_know_takes_autograd() -> None:
    given: dict[str, Any] = {"envs": 2, "steps": 8, "minibatch": 8}
    for more in ({"clip_value": 0.2}, {"lstm": 4}):
        run = rl.train("ppo", "CartPole-v1", total_steps=32, **given, **more)
        assert run.env_steps == 32


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_the_gradients_of_a_soft_actor_and_its_critics_are_autograds(
    activation: forward.Activation,
) -> None:
    spec = forward.NetSpec(
        inputs=5, hidden=(8, 7), outputs=6, activation=activation, head="squashed"
    )
    actor = BoxActor(spec, seed=1)
    critic, target = (TwinQ(5, 3, (8, 7), seed=seed) for seed in (2, 3))
    with torch.no_grad():
        # Deviations on both sides of their limit.
        cast("Any", actor.pi[-1]).bias[3:].add_(torch.tensor([2.1, 0.0, -1.0]))
        cast("Any", actor.pi[-1]).weight.mul_(3.0)
    for net in (actor, critic):
        FlatAdam(net)
    generator = torch.Generator().manual_seed(0)
    features, following = torch.randn(2, ROWS, 5, generator=generator)
    noise = torch.randn(2 * ROWS, 3, generator=generator)
    actions = torch.rand(ROWS, 3, generator=generator) * 2.0 - 1.0
    reward, discount = torch.rand(2, ROWS, generator=generator)
    temperature = torch.tensor(0.3)
    with torch.no_grad():
        said = critic(features, dists.squashed(actor(features), noise[ROWS:])[0])  # (2, N)
        critic.biases[-1][0].add_((said[1] - said[0]).quantile(0.5))

    with torch.no_grad():
        drawn, logp = dists.squashed(actor(following), noise[:ROWS])
        goal = reward + discount * (target(following, drawn).amin(0) - temperature * logp)
    values = critic(features, actions)
    critic_loss = 0.5 * (values - goal).square().mean(1).sum()
    by_critic = torch.autograd.grad(critic_loss, list(critic.parameters()))
    outputs = actor(features)
    action, logp = dists.squashed(outputs, noise[ROWS:])
    actor_loss = (temperature * logp - critic(features, action).amin(0)).mean()
    by_actor = torch.autograd.grad(actor_loss, list(actor.parameters()))
    assert 0 < int((outputs[:, 3:] > 2.0).sum()) < ROWS, "some deviations are cut, some are not"
    chosen = critic(features, action).argmin(0)
    assert 0 < int(chosen.sum()) < ROWS, "each critic is the smaller one somewhere"

    gradient = SoftGradient(actor, critic, target, inputs=5)
    for _ in range(2):  # What is kept from the first step does not show in the second.
        for parameter in (*actor.parameters(), *critic.parameters()):
            assert parameter.grad is not None
            parameter.grad.fill_(7.0)
        gradient.draw(features, following, noise.numpy())
        ours = gradient.critics(actions, reward.numpy(), discount.numpy(), temperature.item())
        assert ours == pytest.approx((critic_loss.item(), values.mean().item()), rel=1e-5)
        for parameter, expected in zip(critic.parameters(), by_critic, strict=True):
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-6)
        ours = gradient.actor(temperature.item())
        assert ours == pytest.approx((actor_loss.item(), logp.mean().item()), rel=1e-5)
        for parameter, expected in zip(actor.parameters(), by_actor, strict=True):
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-6)
