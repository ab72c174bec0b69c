"""Heads: NumPy and torch agree, densities integrate to one, masks forbid, bounds hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rostral_rl import forward
from rostral_rl.heads import HEADS, HeadKind
from rostral_rl.train.parts import dists
from rostral_rl.train.parts.nets import ActorCritic
from rostral_rl.train.parts.qnet import BoxActor, QNet, TwinQ


def spec(head: HeadKind, outputs: int, **more: Any) -> forward.NetSpec:
    return forward.NetSpec(
        inputs=4, hidden=(6,), outputs=outputs, activation="relu", head=head, **more
    )


def test_the_squashed_gaussians_density_integrates_to_one() -> None:
    shape = spec("squashed", 2)
    grid = np.linspace(-1.0, 1.0, 40_003)[1:-1, None].astype(np.float32)
    outputs = np.tile(np.array([[0.4, -0.7]], np.float32), (len(grid), 1))
    density = np.exp(HEADS["squashed"].log_prob(shape, outputs, grid, {}).astype(float))
    assert density.sum() * (2.0 / 40_002) == pytest.approx(1.0, abs=1e-3)


def test_squashed_samples_and_their_log_probability_are_the_same_in_torch() -> None:
    shape = spec("squashed", 6)
    generator = np.random.default_rng(0)
    outputs = generator.standard_normal((50, 6)).astype(np.float32)
    noise = HEADS["squashed"].draw_noise(shape, generator, 50)
    mine = HEADS["squashed"].sample(shape, outputs, noise, {})
    theirs, logp = dists.squashed(torch.from_numpy(outputs), torch.from_numpy(noise[:, :3]))
    np.testing.assert_allclose(mine, theirs.numpy(), atol=1e-6)
    inside = np.abs(mine).max(axis=1) < 0.999
    reference = HEADS["squashed"].log_prob(shape, outputs, mine, {})
    np.testing.assert_allclose(reference[inside], logp.numpy()[inside], atol=2e-3)


def test_the_squashed_log_probability_is_finite_where_the_tangent_is_flat() -> None:
    outputs = torch.tensor([[60.0, 1.0], [-60.0, 1.0]], requires_grad=True)
    action, logp = dists.squashed(outputs, torch.zeros(2, 1))
    assert torch.isfinite(logp).all()
    logp.sum().backward()  # type: ignore[no-untyped-call]
    assert outputs.grad is not None and torch.isfinite(outputs.grad).all()
    assert action.abs().max() <= 1.0


def test_warm_up_draws_evenly_and_noise_stays_within_bounds() -> None:
    for head, outputs in (("squashed", 2), ("deterministic", 1)):
        shape = spec(head, outputs)  # type: ignore[arg-type]
        noise = HEADS[shape.head].draw_noise(shape, np.random.default_rng(1), 20_000)
        said = np.full((20_000, outputs), 3.0, np.float32)
        even = HEADS[shape.head].sample(shape, said, noise, {"act.uniform": np.ones((), "f4")})
        assert np.histogram(even, bins=4, range=(-1, 1))[0].min() > 4_800
        loud = {"act.noise": np.array(5.0, np.float32)}
        assert np.abs(HEADS[shape.head].sample(shape, said, noise, loud)).max() <= 1.0


def test_box_heads_are_scaled_to_the_bounds_of_the_space() -> None:
    space = spaces.Box(np.array([-2.0, 10.0]), np.array([4.0, 20.0]), dtype=np.float64)
    raw = np.array([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]], np.float32)
    scaled = HEADS["squashed"].to_env(space, raw)
    np.testing.assert_allclose(scaled, [[-2.0, 10.0], [1.0, 15.0], [4.0, 20.0]])
    assert scaled.dtype == np.float64


def test_epsilon_is_the_share_of_random_actions_and_never_picks_a_masked_one() -> None:
    shape = spec("greedy", 3)
    outputs = np.tile(np.array([[1.0, 5.0, -1e9]], np.float32), (20_000, 1))
    noise = HEADS["greedy"].draw_noise(shape, np.random.default_rng(2), 20_000)
    weights = {"act.epsilon": np.full(20_000, 0.4, np.float32)}
    shares = np.bincount(HEADS["greedy"].sample(shape, outputs, noise, weights), minlength=3)
    np.testing.assert_allclose(shares / 20_000, [0.2, 0.8, 0.0], atol=0.01)
    assert (HEADS["greedy"].sample(shape, outputs, noise, {}) == 1).all()


def test_multi_discrete_is_the_product_of_its_parts_in_numpy_and_torch() -> None:
    shape = spec("multi", 7, parts=(3, 4))
    outputs = np.random.default_rng(0).standard_normal((12, 7)).astype(np.float32)
    grid = np.stack(np.meshgrid(np.arange(3), np.arange(4), indexing="ij"), -1).reshape(-1, 2)
    rows = np.tile(outputs[:1], (12, 1))
    logp = HEADS["multi"].log_prob(shape, rows, grid, {})
    assert np.exp(logp.astype(float)).sum() == pytest.approx(1.0, abs=1e-6)
    theirs, entropy = dists.multi(torch.from_numpy(rows), (3, 4), torch.from_numpy(grid))
    np.testing.assert_allclose(logp, theirs.numpy(), atol=1e-5)
    assert float(entropy[0]) == pytest.approx(-(np.exp(logp) * logp).sum(), abs=1e-5)
    space = spaces.MultiDiscrete([3, 4], start=[5, 0])
    assert space.contains(HEADS["multi"].to_env(space, HEADS["multi"].mode(shape, rows))[0])


def test_a_masked_choice_has_no_probability_and_the_entropy_is_finite() -> None:
    shape = spec("categorical", 3, mask_at=1)
    net = ActorCritic(shape, log_std=0.0, seed=0)
    features = torch.tensor([[0.3, 1.0, 0.0, 1.0], [0.1, 0.0, 1.0, 0.0]])
    outputs, _ = net(features)
    logp, entropy = (t.detach() for t in dists.categorical(outputs, torch.tensor([1, 1])))
    assert logp[0] < -1e8 and logp[1] == 0.0
    assert torch.isfinite(entropy).all() and float(entropy[1]) == pytest.approx(0.0)
    acting = forward.Tower(net.weights(), "pi", layers=2, activation="relu")(features.numpy())
    mine = forward.masked(shape, acting, features.numpy())
    np.testing.assert_allclose(mine, outputs.detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("duelling", [False, True])
def test_the_acting_tower_of_a_q_net_is_the_net(duelling: bool) -> None:
    shape = forward.NetSpec(inputs=4, hidden=(8, 6), outputs=3, activation="relu", head="greedy")
    net = QNet(shape, duelling=duelling, seed=3)
    features = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    tower = forward.Tower(net.weights(), "pi", layers=3, activation="relu")
    np.testing.assert_allclose(tower(features.numpy()), net(features).detach().numpy(), atol=1e-5)


def test_the_acting_tower_of_a_box_actor_is_the_net() -> None:
    shape = spec("squashed", 4)
    net = BoxActor(shape, seed=3)
    features = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    tower = forward.Tower(net.weights(), "pi", layers=2, activation="relu")
    np.testing.assert_allclose(tower(features.numpy()), net(features).detach(), atol=1e-5)


def test_twin_critics_are_two_nets() -> None:
    net = TwinQ(4, 2, (8, 6), seed=0)
    generator = torch.Generator().manual_seed(0)
    features, actions = (torch.randn(10, width, generator=generator) for width in (4, 2))
    found = net(features, actions)
    for k in range(2):
        x = torch.cat((features, actions), 1)
        for i, (weight, bias) in enumerate(zip(net.weights, net.biases, strict=True)):
            x = x @ weight[k] + bias[k]
            x = torch.relu(x) if i < 2 else x
        torch.testing.assert_close(found[k], x[:, 0])
    assert not torch.allclose(found[0], found[1]), "they begin apart"
