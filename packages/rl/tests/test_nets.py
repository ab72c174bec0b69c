"""Nets with convolutions and memory: what acts in NumPy is what learns in torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

import rostral_rl as rl
from rostral_rl.errors import (
    ConfigError,
    InvalidSettingError,
    PolicyCorruptError,
    ShapeError,
    UsageError,
)
from rostral_rl.forward import NetSpec
from rostral_rl.images import NATURE, SMALL, image_of, usual_convolutions
from rostral_rl.net import Net, multiplications, shapes, trunk_widths
from rostral_rl.policy import policy_class
from rostral_rl.recurrent import RecurrentPolicy
from rostral_rl.train.parts.memory import Memory
from rostral_rl.train.parts.shared import SharedActorCritic
from rostral_rl.train.trainer import net_spec

FRAMES = spaces.Box(0, 255, (84, 84, 4), np.uint8)
STACKED = spaces.Box(0, 255, (4, 84, 84), np.uint8)
TINY = spaces.Box(0, 255, (10, 12, 3), np.uint8)
FIVE = spaces.Discrete(5)


def spec_for(space: Any, **more: Any) -> NetSpec:
    given = {"hidden": (16,), "activation": "relu", "conv": None, **more}
    return net_spec(space, FIVE, **given)


def bytes_of(space: Any, count: int) -> Any:
    return np.random.default_rng(1).integers(256, size=(count, *space.shape), dtype=np.uint8)


@pytest.mark.parametrize("lstm", [0, 7])
@pytest.mark.parametrize("space", [FRAMES, STACKED, TINY], ids=["last", "first", "tiny"])
def test_numpy_and_torch_look_at_an_image_alike(space: Any, lstm: int) -> None:
    spec = spec_for(space, lstm=lstm)
    twin = SharedActorCritic(spec, log_std=0.0, seed=3)
    weights = twin.weights()
    acting = {name for name in weights if not name.startswith("vf.")}
    assert {name: weights[name].shape for name in acting} == shapes(spec)
    net = Net(spec, weights)
    flat = bytes_of(space, 6).reshape(6, -1)
    features = torch.from_numpy(flat)
    state = np.random.default_rng(2).standard_normal((6, 2 * lstm)).astype(np.float32)
    with torch.no_grad():
        if lstm:
            memory = Memory(torch.from_numpy(state), torch.ones(1, 6))
            outputs, values, states = twin.unroll(features, memory)
            ours = net.step(flat, state)
            assert states is not None
            np.testing.assert_allclose(ours[2], states[0].numpy(), atol=2e-5)
            np.testing.assert_allclose(
                twin.values(features, memory.state).numpy(), values.numpy(), atol=2e-5
            )
        else:
            outputs, values = twin(features)
            ours = net.outputs(flat), net.values(flat), state
    np.testing.assert_allclose(ours[0], outputs.numpy(), atol=2e-5)
    np.testing.assert_allclose(ours[1], values.numpy(), atol=2e-5)


def test_the_memory_is_that_of_torchs_own_lstm() -> None:
    spec = NetSpec(inputs=3, hidden=(), outputs=2, activation="tanh", head="categorical", lstm=4)
    twin = SharedActorCritic(spec, log_std=0.0, seed=1)
    reference = torch.nn.LSTM(3, 4)
    with torch.no_grad():
        theirs = dict(reference.named_parameters())
        theirs["weight_ih_l0"].copy_(twin.input)
        theirs["weight_hh_l0"].copy_(twin.memory)
        theirs["bias_ih_l0"].copy_(twin.bias)
        theirs["bias_hh_l0"].zero_()
        x = torch.randn(9, 2, 3, generator=torch.Generator().manual_seed(0))
        state = torch.zeros(2, 8)
        _, _, states = twin.unroll(x.reshape(18, 3), Memory(state, torch.ones(9, 2)))
        expected, _ = reference(x)
    assert states is not None
    torch.testing.assert_close(states[:, :, :4], expected, atol=1e-6, rtol=1e-5)


def test_a_sequence_with_resets_is_as_many_sequences() -> None:
    spec = NetSpec(inputs=3, hidden=(5,), outputs=2, activation="tanh", head="categorical", lstm=4)
    twin = SharedActorCritic(spec, log_std=0.0, seed=1)
    x = torch.randn(10, 1, 3, generator=torch.Generator().manual_seed(0))
    keeps = torch.ones(10, 1)
    keeps[4] = 0.0
    start = torch.randn(1, 8, generator=torch.Generator().manual_seed(1))
    whole, values, _ = twin.unroll(x.flatten(0, 1), Memory(start, keeps))
    first, _, _ = twin.unroll(x[:4].flatten(0, 1), Memory(start, torch.ones(4, 1)))
    second, rated, _ = twin.unroll(x[4:].flatten(0, 1), Memory(torch.zeros(1, 8), torch.ones(6, 1)))
    torch.testing.assert_close(whole, torch.cat((first, second)))
    torch.testing.assert_close(values[4:], rated)
    # What comes after the reset teaches nothing before it.
    values[4:].sum().backward()  # type: ignore[no-untyped-call]
    gradient = twin.memory.grad
    twin.zero_grad()
    rated.sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(gradient, twin.memory.grad)


def test_images_are_known_by_their_bytes_and_size() -> None:
    assert usual_convolutions(FRAMES) == usual_convolutions(STACKED) == NATURE
    assert usual_convolutions(TINY) == SMALL
    assert usual_convolutions(spaces.Box(0.0, 1.0, (84, 84, 4), np.float32)) == ()
    assert usual_convolutions(spaces.Box(0, 255, (128,), np.uint8)) == ()
    assert image_of(STACKED) == ((84, 84, 4), True)
    assert image_of(spaces.Box(0, 255, (84, 96), np.uint8)) == ((84, 96, 1), False)
    # Mnih et al. 2015: 3136 units after the convolutions.
    assert trunk_widths(spec_for(FRAMES, hidden=(512,))) == (3136, 512)
    assert multiplications(spec_for(FRAMES)) == (
        20 * 20 * 32 * 256 + 9 * 9 * 64 * 512 + 7 * 7 * 64 * 576
    )


def test_convolutions_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidSettingError, match="too small for a convolution of 8 x 8"):
        spec_for(TINY, conv=((8, 8, 2), (8, 8, 1)))
    with pytest.raises(ConfigError, match=r"conv must be \(\) where"):
        rl.train("ppo", "CartPole-v1", conv=((8, 3, 1),))
    with pytest.raises(ConfigError, match="conv"):
        rl.PPO(conv=((8, 3),))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a multiple of steps = 32 with an lstm"):
        rl.PPO(envs=4, steps=32, minibatch=16, lstm=8)


def recurrent(space: Any = TINY) -> RecurrentPolicy:
    spec = spec_for(space, lstm=6)
    weights = SharedActorCritic(spec, log_std=0.0, seed=5).weights()
    # Larger, so that the memory decides about actions.
    weights = {k: v * 20 if k.startswith("pi") else v for k, v in weights.items()}
    made = policy_class(spec)(
        observation_space=space, action_space=FIVE, spec=spec, weights=weights
    )
    assert isinstance(made, RecurrentPolicy)
    return made


def test_a_player_remembers_and_forgets_where_told() -> None:
    policy = recurrent()
    obs = bytes_of(TINY, 12).reshape(6, 2, *TINY.shape)  # six steps of two episodes
    state = policy.start(2)
    expected = []
    for row in obs:
        actions, state = policy.step(row, state)
        expected.append(actions)
    player = policy.player()
    np.testing.assert_array_equal([player(row) for row in obs], expected)
    assert len({tuple(np.asarray(policy.act(row))) for row in obs}) > 0

    player.reset(np.array((True, False)))
    after = player._state
    assert after is not None and not after[0].any() and after[1].any()
    with pytest.raises(ShapeError, match="memory is of 2 episodes"):
        player(obs[0, :1])
    player.reset()
    np.testing.assert_array_equal(player(obs[0]), expected[0])
    player.reset()
    assert player(obs[0, 0]).shape == ()
    with pytest.raises(UsageError, match=r"policy\.player"):
        policy(obs[0])


def test_a_policy_with_memory_is_saved_and_loaded(tmp_path: Path) -> None:
    policy = recurrent()
    policy.save(tmp_path)
    loaded = rl.load(tmp_path)
    assert isinstance(loaded, RecurrentPolicy)
    assert loaded.spec == policy.spec
    obs = bytes_of(TINY, 4)
    state = np.full((4, 12), 0.3, np.float32)
    for ours, theirs in zip(policy.step(obs, state), loaded.step(obs, state), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    broken = dataclasses.replace(policy, weights={**policy.weights, "lstm.bias": np.zeros(3, "f4")})
    broken.save(tmp_path)
    with pytest.raises(PolicyCorruptError, match=r"lstm\.bias"):
        rl.load(tmp_path)
