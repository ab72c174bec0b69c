"""Dict and Tuple observations, masks and MultiDiscrete actions: learned, saved, loaded, served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import rostral_rl as rl
from rostral_rl import spaces as own
from rostral_rl.errors import ShapeError
from rostral_rl.simulate import make_vector

NESTED = spaces.Dict(
    {
        "b": spaces.Tuple((spaces.Discrete(3), spaces.MultiBinary(2))),
        "a": spaces.Box(-1.0, 1.0, (2, 2), np.float32),
        "action_mask": spaces.MultiBinary(4),
    }
)


class MaskedBandit(gymnasium.Env[Any, Any]):
    """Four arms of which two are allowed, others end in disgrace; the higher arm pays more."""

    observation_space = NESTED
    action_space = spaces.Discrete(4)

    def _seen(self) -> Any:
        allowed = self.np_random.choice(4, 2, replace=False)
        self.mask = np.zeros(4, np.int8)
        self.mask[allowed] = 1
        return {
            "a": np.zeros((2, 2), np.float32),
            "b": (np.int64(self.np_random.integers(3)), np.zeros(2, np.int8)),
            "action_mask": self.mask,
        }

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        assert self.mask[action], "a forbidden arm was pulled"
        return self._seen(), float(action) / 3.0, True, False, {}


class TwoDials(gymnasium.Env[Any, Any]):
    """Pays for each of two dials that is turned to what is shown."""

    observation_space = spaces.MultiDiscrete([3, 2])
    action_space = spaces.MultiDiscrete([3, 2])

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._shown = self.np_random.integers([3, 2])
        return self._shown, {}

    def step(self, action: Any) -> Any:
        reward = float(np.sum(np.asarray(action) == self._shown))
        return self._shown, reward, True, False, {}


def _without(obs: dict[str, Any], key: str) -> Any:
    return {k: v for k, v in obs.items() if k != key}


def test_nested_observations_flatten_in_order_and_only_in_their_shape() -> None:
    assert own.feature_count(NESTED) == 4 + 4 + 3 + 2
    assert own.mask_columns(NESTED, spaces.Discrete(4)) == slice(4, 8)
    assert own.mask_at(NESTED, spaces.Discrete(5)) is None
    obs: Any = {
        "a": np.arange(4, dtype=np.float32).reshape(2, 2),
        "b": (np.int64(1), np.array([0, 1], np.int8)),
        "action_mask": np.array([1, 0, 0, 1], np.int8),
    }
    flat = own.encode(NESTED, obs)
    # Gymnasium sorts the keys of a Dict.
    np.testing.assert_array_equal(flat, [0, 1, 2, 3, 1, 0, 0, 1, 0, 1, 0, 0, 1])
    batch, single = own.as_batch(NESTED, obs)
    assert single and np.array_equal(batch[0], flat)
    with pytest.raises(ShapeError, match="no part 'b'"):
        own.as_batch(NESTED, _without(obs, "b"))
    many: Any = {**obs, "a": np.zeros((3, 2, 2), np.float32)}
    with pytest.raises(ShapeError, match="different lengths"):
        own.as_batch(NESTED, many)
    assert own.alike(NESTED, own.from_json(own.to_json(NESTED)))
    assert not own.alike(NESTED, spaces.Dict({"a": NESTED["a"]}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        ("ppo", {"envs": 8, "steps": 16, "minibatch": 64, "lr": 1e-2, "normalise_obs": True}),
        ("dqn", {"envs": 8, "steps": 4, "updates": 8, "start": 64, "lr": 3e-3, "hidden": (32,)}),
    ],
)
def test_a_forbidden_choice_is_never_taken_and_the_best_allowed_one_is_learned(
    algorithm: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    run = rl.train(algorithm, MaskedBandit, total_steps=3_072, seed=1, **settings)
    # The better of two arms out of four pays (3 + 3 + 3 + 2 + 2 + 1) / 6 thirds in the mean.
    assert run.evaluate(episodes=300, seed=5).mean > 0.7
    run.policy.save(tmp_path)
    loaded = rl.load(tmp_path)
    env = MaskedBandit()
    for seed in range(20):
        obs, _ = env.reset(seed=seed)
        action = loaded(obs)
        assert env.mask[int(action)] and int(action) == int(run.policy(obs))


@pytest.mark.slow
def test_multi_discrete_actions_are_learned_part_by_part() -> None:
    run = rl.train(
        "ppo", TwoDials, total_steps=6_144, seed=1, envs=8, steps=16, minibatch=64, lr=1e-2
    )
    assert run.evaluate(episodes=100, seed=5).mean > 1.9
    action = run.policy(np.array([2, 1]))
    assert action.shape == (2,) and action.tolist() == [2, 1]


def test_the_vector_of_a_nested_environment_keeps_its_space() -> None:
    vector = make_vector(MaskedBandit, 2, seed=0)
    assert vector.observation_space == NESTED
    assert own.stored(vector.observation_space).shape == (13,)
    vector.close()
