"""PPO: the loss by hand, twins of distributions, schedules, settings, what stops a training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

import rostral_rl as rl
from rostral_rl import forward
from rostral_rl.errors import InvalidSettingError, NonFiniteLossError, UnknownNameError
from rostral_rl.heads import HeadKind
from rostral_rl.train.parts import dists
from rostral_rl.train.parts.nets import ActorCritic
from rostral_rl.train.parts.normalise import RunningMoments
from rostral_rl.train.parts.optimiser import FlatAdam
from rostral_rl.train.parts.settings import build_settings
from rostral_rl.train.ppo import PPO, Batch, ppo_loss

SMALL: dict[str, Any] = {"envs": 4, "steps": 8, "minibatch": 16, "epochs": 2, "hidden": (8,)}


def spec_for(head: HeadKind, outputs: int = 3) -> forward.NetSpec:
    return forward.NetSpec(inputs=4, hidden=(7, 5), outputs=outputs, activation="relu", head=head)


@pytest.mark.parametrize("head", ["categorical", "gaussian"])
def test_torch_and_numpy_agree_on_outputs_values_and_log_probabilities(
    head: HeadKind,
) -> None:
    spec = spec_for(head)
    net = ActorCritic(spec, log_std=-0.3, seed=1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1)
    weights = net.weights()
    obs = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    outputs, value = net(torch.from_numpy(obs))
    mine = forward.Tower(weights, "pi", layers=3, activation="relu")(obs)
    critic = forward.Tower(weights, "vf", layers=3, activation="relu")(obs)
    np.testing.assert_allclose(mine, outputs.detach().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(critic[:, 0], value.detach().numpy(), rtol=1e-5, atol=1e-6)

    noise = forward.draw_noise(spec, np.random.default_rng(1), 20)
    actions = forward.sample(spec, mine, noise, weights)
    logp = forward.log_prob(spec, mine, actions, weights)
    if net.log_std is None:
        theirs, entropy = dists.categorical(outputs, torch.from_numpy(actions))
        reference: Any = torch.distributions.Categorical(logits=outputs)
        expected = reference.entropy()
    else:
        theirs, entropy = dists.gaussian(outputs, net.log_std, torch.from_numpy(actions))
        reference = torch.distributions.Normal(outputs, net.log_std.exp())
        expected = reference.entropy().sum(-1)
    np.testing.assert_allclose(logp, theirs.detach().numpy(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy, expected)


def batch_of(net: ActorCritic, *, ratio: list[float], advantage: list[float]) -> Batch:
    """Samples whose probability ratio is `ratio`, by shifting the old log-probability."""
    count = len(ratio)
    features = torch.linspace(-1.0, 1.0, count * 4).reshape(count, 4)
    actions = torch.arange(count) % 3
    with torch.no_grad():
        outputs, value = net(features)
        logp, _ = dists.categorical(outputs, actions)
    return Batch(
        features=features,
        actions=actions,
        logp=logp - torch.tensor(ratio).log(),
        value=value,
        advantage=torch.tensor(advantage),
        target=value + 2.0,
    )


def test_the_loss_by_hand() -> None:
    net = ActorCritic(spec_for("categorical"), log_std=0.0, seed=0)
    batch = batch_of(net, ratio=[1.5, 0.5, 1.1, 1.5], advantage=[1.0, -1.0, 2.0, -1.0])
    settings = PPO(**SMALL, clip=0.2, vf_coef=0.5, ent_coef=0.0, normalise_advantage=False)
    loss, terms = ppo_loss(net, batch, settings, 0.0)
    diagnostics = terms.diagnostics()
    # min(r A, clip(r) A): 1.2 * 1; -max(0.5, 0.8) = -0.8; 1.1 * 2; -1.5 (pessimism does not clip).
    surrogate = (1.2 - 0.8 + 2.2 - 1.5) / 4
    assert loss.item() == pytest.approx(-surrogate + 0.5 * 4.0, abs=1e-5)
    assert diagnostics.tolist()[0] == pytest.approx(-surrogate, abs=1e-5)
    assert diagnostics.tolist()[1] == pytest.approx(4.0, abs=1e-5)
    assert diagnostics.tolist()[4] == pytest.approx(0.75)


def test_advantages_are_normalised_within_the_minibatch() -> None:
    net = ActorCritic(spec_for("categorical"), log_std=0.0, seed=0)
    settings = PPO(**SMALL, vf_coef=0.0, ent_coef=0.0)
    raw = batch_of(net, ratio=[1.0, 1.1, 0.9, 1.0], advantage=[1.0, 2.0, 3.0, 6.0])
    scaled = batch_of(net, ratio=[1.0, 1.1, 0.9, 1.0], advantage=[12.0, 22.0, 32.0, 62.0])
    first, second = (ppo_loss(net, b, settings, 0.0)[0].item() for b in (raw, scaled))
    assert first == pytest.approx(second, abs=1e-5)


def test_the_clipped_value_loss_takes_the_larger_error() -> None:
    net = ActorCritic(spec_for("categorical"), log_std=0.0, seed=0)
    batch = batch_of(net, ratio=[1.0, 1.0], advantage=[0.0, 0.0])
    far = Batch(
        batch.features, batch.actions, batch.logp, batch.value - 1.0, batch.advantage, batch.target
    )
    settings = PPO(**SMALL, clip_value=0.5, vf_coef=1.0, ent_coef=0.0, normalise_advantage=False)
    # The critic moved from v - 1 to v; only half of that counts, so the error is 2.5 and not 2.
    assert ppo_loss(net, far, settings, 0.0)[0].item() == pytest.approx(2.5**2, abs=1e-4)


def test_flat_adam_equals_torchs() -> None:
    mine = ActorCritic(spec_for("gaussian"), log_std=0.0, seed=2)
    theirs = ActorCritic(spec_for("gaussian"), log_std=0.0, seed=2)
    flat = FlatAdam(mine)
    adam = torch.optim.Adam(theirs.parameters(), lr=0.01, eps=1e-5)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        features = torch.randn(16, 4, generator=generator) * 3
        actions = torch.randn(16, 3, generator=generator)

        def loss(
            net: ActorCritic, features: torch.Tensor = features, actions: torch.Tensor = actions
        ) -> torch.Tensor:
            outputs, value = net(features)
            assert net.log_std is not None
            logp, _ = dists.gaussian(outputs, net.log_std, actions)
            total: torch.Tensor = value.square().mean() - logp.mean()
            return total

        flat.step(loss(mine), lr=0.01, norm_max=0.5)
        adam.zero_grad()
        loss(theirs).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        adam.step()
    for ours, reference in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-6)


def test_initial_weights_are_orthogonal_with_their_gains() -> None:
    weights = ActorCritic(spec_for("categorical", 2), log_std=0.0, seed=0).weights()
    first = weights["pi.0.weight"]  # (4, 7)
    np.testing.assert_allclose(first @ first.T, 2.0 * np.eye(4), atol=1e-5)
    last = weights["pi.2.weight"]  # (5, 2)
    np.testing.assert_allclose(last.T @ last, 1e-4 * np.eye(2), atol=1e-7)
    value = weights["vf.2.weight"]  # (5, 1)
    np.testing.assert_allclose(value.T @ value, np.eye(1), atol=1e-5)
    assert not any(weights[f"pi.{i}.bias"].any() for i in range(3))


def test_linear_schedules_reach_their_end_at_the_last_update_and_not_after() -> None:
    settings = PPO(**SMALL, lr=rl.linear(1e-3), gamma=0.9)
    with settings.build("CartPole-v1", total_steps=5 * settings.batch) as trainer:
        iterations = list(trainer)
    rates = [iteration.metrics["lr"] for iteration in iterations]
    np.testing.assert_allclose(rates, [1e-3, 7.5e-4, 5e-4, 2.5e-4, 0.0], atol=1e-9)


def test_the_policy_does_not_move_in_the_update_whose_rate_is_zero() -> None:
    settings = PPO(**SMALL, lr=rl.linear(1e-3))
    with settings.build("CartPole-v1", total_steps=2 * settings.batch) as trainer:
        trainer.step()
        before = trainer.policy
        trainer.step()
        after = trainer.policy
    for name, array in before.weights.items():
        np.testing.assert_array_equal(array, after.weights[name])
    assert (before.info.version, after.info.version) == (1, 2)


def test_total_steps_are_rounded_up_to_whole_updates() -> None:
    settings = PPO(**SMALL)
    with settings.build("CartPole-v1", total_steps=settings.batch + 1) as trainer:
        assert [iteration.env_steps for iteration in trainer] == [32, 64]


def test_the_same_seed_gives_the_same_run_and_another_does_not() -> None:
    def final(seed: int) -> np.ndarray[Any, Any]:
        run = rl.train("ppo", "CartPole-v1", total_steps=128, seed=seed, **SMALL)
        return run.policy.weights["pi.0.weight"]

    np.testing.assert_array_equal(final(4), final(4))
    assert np.any(final(4) != final(5))


def test_the_ratio_is_one_before_the_first_gradient_step_also_with_a_normaliser() -> None:
    settings = PPO(**{**SMALL, "epochs": 1, "minibatch": 32}, normalise_obs=True, lr=0.0)
    with settings.build("CartPole-v1", total_steps=200) as trainer:
        for iteration in trainer:
            assert iteration.metrics["kl"] == pytest.approx(0.0, abs=1e-6)
            assert iteration.metrics["clipped_share"] == 0.0


def test_moments_merged_in_parts_are_those_of_the_whole() -> None:
    data = np.random.default_rng(0).normal(3.0, 2.0, (500, 3)).astype(np.float32)
    moments = RunningMoments(3)
    for part in (data[:7], data[7:200], data[200:]):
        moments.merge(part)
    np.testing.assert_allclose(moments.mean, data.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.variance, data.var(0), rtol=1e-5)


def test_a_loss_that_is_not_finite_stops_the_training_and_keeps_the_policy() -> None:
    settings = PPO(**SMALL, lr=1e30, grad_norm_max=1e30, vf_coef=1e30)
    with settings.build("CartPole-v1", total_steps=10_000) as trainer:
        with pytest.raises(NonFiniteLossError, match="loss"):
            for _ in trainer:
                pass
        assert all(np.isfinite(array).all() for array in trainer.policy.weights.values())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"envs": 0}, "envs must be an integer > 0"),
        ({"steps": -1}, "steps must be an integer > 0"),
        ({"minibatch": 2.5}, "minibatch must be an integer > 0"),
        ({"minibatch": 48}, "does not divide"),
        ({"gamma": 0.0}, "gamma must be in"),
        ({"gamma": 1.5}, "gamma must be in"),
        ({"gamma": math.nan}, "gamma must be in"),
        ({"lam": -0.1}, "lam must be in"),
        ({"lr": "fast"}, "lr must be a number"),
        ({"lr": -1e-3}, "lr must be in"),
        ({"clip": rl.linear(0.2, -0.1)}, "clip must be in"),
        ({"hidden": 64}, "hidden must be a tuple"),
        ({"hidden": (64, 0)}, "hidden must be an integer > 0"),
        ({"activation": "gelu"}, "one of tanh, relu"),
        ({"lr": {"from": 1.0}}, "not a schedule"),
    ],
)
def test_a_setting_out_of_range_is_refused_before_anything_starts(
    settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidSettingError, match=said):
        rl.train("ppo", "CartPole-v1", **{**SMALL, **settings})


def test_misspelt_names_get_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="ppo"):
        rl.train("pp0", "CartPole-v1")
    with pytest.raises(UnknownNameError, match="CartPole-v1"):
        rl.train("ppo", "Cartpole-v1")
    with pytest.raises(UnknownNameError, match="gamma"):
        rl.train("ppo", "CartPole-v1", gama=0.9)
    with pytest.raises(InvalidSettingError, match="total_steps"):
        rl.train("ppo", "CartPole-v1", total_steps=0)
    with pytest.raises(InvalidSettingError, match="workers"):
        rl.train("ppo", "CartPole-v1", workers=-1)


def test_own_settings_win_over_the_preset_and_the_preset_over_defaults() -> None:
    settings = build_settings(PPO, "ppo", "CartPole-v1", {"lam": 0.5, "hidden": [16]})
    assert (settings.lam, settings.gamma, settings.hidden) == (0.5, 0.98, (16,))
    assert build_settings(PPO, "ppo", "Acrobot-v1", {}).gamma == 0.99


def test_a_box_of_two_dimensions_is_no_action_space_of_ours() -> None:
    from rostral_rl.errors import UnsupportedSpaceError
    from rostral_rl.spaces import action_width

    with pytest.raises(UnsupportedSpaceError):
        action_width(spaces.Box(-1.0, 1.0, (2, 2), np.float32))
