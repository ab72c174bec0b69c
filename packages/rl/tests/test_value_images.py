"""Values learned from pictures: DQN and Ape-X on convolutions, acting in NumPy, resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

import rostral_rl as rl
from rostral_rl.errors import ConfigError
from rostral_rl.net import Net
from rostral_rl.train.algorithms import settings_for
from rostral_rl.train.parts.qnet import QNet
from rostral_rl.train.trainer import net_spec

from .beacon import Beacon

GIVEN: dict[str, Any] = {
    "envs": 8,
    "steps": 4,
    "updates": 4,
    "minibatch": 32,
    "start": 64,
    "hidden": (32,),
    "lr": 3e-3,
    "target_every": 64,
    "gamma": 0.9,
    "buffer": 4_000,
}


@pytest.mark.parametrize("duelling", [False, True])
def test_numpy_and_torch_rate_a_picture_alike(duelling: bool) -> None:
    space = spaces.Box(0, 255, (3, 12, 10), np.uint8)
    spec = net_spec(
        *(space, spaces.Discrete(5)), hidden=(16,), activation="relu", head="greedy", conv=None
    )
    twin = QNet(spec, duelling=duelling, seed=3)
    seen = np.random.default_rng(1).integers(256, size=(6, spec.inputs), dtype=np.uint8)
    with torch.no_grad():
        expected = twin(torch.from_numpy(seen)).numpy()
    np.testing.assert_allclose(Net(spec, twin.weights()).outputs(seen), expected, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["dqn", "apex"])
def test_values_of_pictures_are_learned(algorithm: str) -> None:
    run = rl.train(algorithm, Beacon, total_steps=6_000, seed=1, **GIVEN)
    assert run.policy.spec.conv == ((16, 3, 1),)
    assert run.evaluate(episodes=200, seed=9).mean >= 0.9


@pytest.mark.slow
def test_a_training_on_pictures_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    settings = settings_for("dqn", "", GIVEN)

    def build() -> Any:
        return settings.build(Beacon, total_steps=16 * settings.batch, seed=3)

    with build() as reference:
        expected = [iteration.metrics["return_mean"] for iteration in reference]
    with build() as interrupted:
        for _ in range(8):
            interrupted.step()
        interrupted.save(tmp_path)
    with rl.resume(tmp_path, env=Beacon) as resumed:
        assert [iteration.metrics["return_mean"] for iteration in resumed] == expected[8:]
        for name, array in reference.weights.items():
            np.testing.assert_array_equal(resumed.weights[name], array, err_msg=name)


def test_convolutions_of_what_is_no_picture_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"conv must be \(\) where"):
        rl.train("dqn", "CartPole-v1", conv=((8, 3, 1),))
