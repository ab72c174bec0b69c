"""What must be refused, with what it must say: one table, and what an environment may not do."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import rostral_rl as rl
from rostral_rl.errors import (
    CheckpointMismatchError,
    ConfigError,
    EnvContractError,
    InvalidSettingError,
    NonFiniteLossError,
    RLError,
    SimulationError,
    UnknownNameError,
)

CART = "CartPole-v1"


@pytest.mark.parametrize(
    ("algorithm", "settings", "key", "allowed"),
    [
        ("ppo", {"steps": 0}, "steps", "an integer > 0"),
        ("ppo", {"envs": -2}, "envs", "an integer > 0"),
        ("ppo", {"minibatch": 1.5}, "minibatch", "an integer > 0"),
        ("ppo", {"epochs": True}, "epochs", "an integer > 0"),
        ("ppo", {"gamma": 0.0}, "gamma", "in (0, 1]"),
        ("a2c", {"gamma": 1.1}, "gamma", "in (0, 1]"),
        ("appo", {"gamma": float("nan")}, "gamma", "in (0, 1]"),
        ("appo", {"rho_max": 0.0}, "rho_max", "in (0, inf]"),
        ("impala", {"lam": 2.0}, "lam", "in [0, 1]"),
        ("dqn", {"minibatch": 0}, "minibatch", "an integer > 0"),
        ("dqn", {"buffer": 10, "start": 20}, "start", "at most buffer = 10"),
        ("dqn", {"epsilon": 1.5}, "epsilon", "in [0, 1]"),
        ("dqn", {"n_step": 0}, "n_step", "an integer > 0"),
        ("apex", {"ladder": -1.0}, "ladder", "in [0, inf]"),
        ("sac", {"tau": 0.0}, "tau", "in (0, 1]"),
        ("sac", {"temperature": -1.0}, "temperature", "in (0, inf]"),
        ("td3", {"delay": 0}, "delay", "an integer > 0"),
        ("es", {"sigma": 0.0}, "sigma", "in (0, inf]"),
        ("es", {"pairs": 0}, "pairs", "an integer > 0"),
        ("ars", {"top": 99}, "top", "at most pairs = 4"),
        ("ppo", {"hidden": 64}, "hidden", "a tuple of widths"),
        ("ppo", {"activation": "swish"}, "activation", "one of tanh, relu"),
        ("ppo", {"lr": "fast"}, "lr", "a number or a schedule"),
        ("ppo", {"total_steps": 0}, "total_steps", "an integer > 0"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(
    algorithm: str, settings: dict[str, Any], key: str, allowed: str
) -> None:
    env = "Pendulum-v1" if algorithm in ("sac", "td3") else CART
    with pytest.raises(ConfigError) as caught:
        rl.train(algorithm, env, **settings)
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.key, error.allowed, error.code) == (key, allowed, "CONFIG")
    assert str(error).startswith(f"CONFIG: {key} must be {allowed}, got ")
    assert len(str(error)) < 160


def test_a_setting_of_another_algorithm_is_unknown_and_the_nearest_is_offered() -> None:
    with pytest.raises(UnknownNameError, match="setting of dqn 'epoch'"):
        rl.train("dqn", CART, epoch=3)
    with pytest.raises(UnknownNameError, match="did you mean gamma"):
        rl.train("sac", "Pendulum-v1", gama=0.9)


class Strange(gymnasium.Env[Any, Any]):
    """Keeps to the interface, but for what `reset_answer` and `step_answer` return."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, reset_answer: Any = None, step_answer: Any = None, at: int = 3) -> None:
        self._reset_answer = reset_answer
        self._step_answer = step_answer
        self._at = at
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        usual: Any = (np.zeros(2, np.float32), {})
        return usual if self._reset_answer is None else self._reset_answer

    def step(self, action: Any) -> Any:
        self._steps += 1
        if self._step_answer is not None and self._steps >= self._at:
            if isinstance(self._step_answer, Exception):
                raise self._step_answer
            return self._step_answer
        return np.zeros(2, np.float32), 0.0, False, False, {}


ZEROS = np.zeros(2, np.float32)
FAR = np.full(2, 7.0, np.float32)
NAN = np.full(2, np.nan, np.float32)


@pytest.mark.parametrize(
    ("env", "field", "step", "said"),
    [
        (lambda: Strange(reset_answer=ZEROS), "reset", 0, "reset returned array"),
        (lambda: Strange(reset_answer=(ZEROS, None)), "reset", 0, "wants (observation, info)"),
        (lambda: Strange(reset_answer=(FAR, {})), "obs", 0, "outside its space"),
        (lambda: Strange(reset_answer=(np.zeros(3), {})), "obs", 0, "outside its space"),
        (lambda: Strange(step_answer=(ZEROS, 0.0, False, {}), at=5), "step", 4, "step returned"),
        (lambda: Strange(step_answer=(FAR, 0.0, False, False, {}), at=1), "obs", 0, "outside"),
        (lambda: Strange(step_answer=(NAN, 0.0, False, False, {}), at=5), "obs", 5, "not finite"),
        (
            lambda: Strange(step_answer=(ZEROS, np.inf, False, False, {}), at=5),
            "reward",
            4,
            "not finite",
        ),
    ],
)
def test_an_environment_that_breaks_the_interface_is_told_where(
    env: Callable[[], Any], field: str, step: int, said: str
) -> None:
    with pytest.raises(EnvContractError, match="ENV_CONTRACT") as caught:
        rl.train("ppo", env, total_steps=32, envs=1, steps=16, minibatch=16)
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.field, error.step) == (field, step)
    assert said in str(error)


@pytest.mark.parametrize("algorithm", ["es", "ars"])
@pytest.mark.parametrize(
    ("answer", "field"),
    [
        ((ZEROS, np.nan, False, False, {}), "reward"),
        ((NAN, 0.0, False, False, {}), "obs"),
        ((ZEROS, 0.0, False, {}), "step"),
    ],
)
def test_a_population_breaks_off_as_well(algorithm: str, answer: Any, field: str) -> None:
    """A NaN among the scores would be the best of all ranks."""
    with pytest.raises(EnvContractError) as caught:
        rl.train(algorithm, lambda: Strange(step_answer=answer, at=5), total_steps=64, pairs=2)
    assert caught.value.field == field
    assert caught.value.step in (4, 5)


@pytest.mark.parametrize(
    ("algorithm", "settings"), [("dqn", {"steps": 8}), ("ppo", {}), ("es", {}), ("ars", {})]
)
@pytest.mark.parametrize("error", [KeyError, gymnasium.error.ResetNeeded, OSError])
def test_what_an_environment_raises_is_a_simulation_error_with_its_words(
    algorithm: str, settings: dict[str, Any], error: type[Exception]
) -> None:
    def make() -> Any:
        return Strange(step_answer=error("no such lever"))

    with pytest.raises(SimulationError, match=rf"{error.__name__}.*no such lever"):
        rl.train(algorithm, make, total_steps=64, **settings)


LATE = rl.piecewise([(0.0, 1e-3), (0.3, 1e-3), (0.31, 1e30)])
"""Fine at first, so that there is a checkpoint, and then beyond all bounds."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "env", "settings"),
    [
        ("ppo", CART, {"envs": 2, "steps": 16, "minibatch": 16}),
        ("a2c", CART, {}),
        ("appo", CART, {}),
        ("impala", CART, {}),
        ("dqn", CART, {"start": 40, "steps": 8, "hidden": (8,)}),
        ("sac", "Pendulum-v1", {"start": 40, "steps": 8, "hidden": (8,)}),
        ("td3", "Pendulum-v1", {"start": 40, "steps": 8, "hidden": (8,)}),
    ],
)
def test_a_diverged_training_says_the_step_and_the_last_checkpoint(
    algorithm: str, env: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(NonFiniteLossError) as caught:
        rl.train(
            algorithm,
            env,
            total_steps=4_000,
            out=tmp_path,
            checkpoint_every=2,
            lr=LATE,
            **settings,
        )
    error = pickle.loads(pickle.dumps(caught.value))
    assert error.step is not None and error.step > 0
    assert error.checkpoint == str(tmp_path / "checkpoint")
    assert f"at step {error.step}" in str(error) and error.checkpoint in str(error)
    with rl.resume(error.checkpoint) as resumed:
        assert resumed.env_steps <= error.step


@pytest.mark.parametrize("algorithm", ["es", "ars"])
def test_parameters_that_leave_all_bounds_are_not_taken(algorithm: str, tmp_path: Path) -> None:
    """Two generations that are fine, and then a step that float32 cannot hold."""
    settings: Any = {"lr": rl.piecewise([(0.0, 0.01), (0.1, 0.01), (0.11, 1e39)]), "pairs": 2}
    with pytest.raises(NonFiniteLossError, match="not finite after") as caught:
        rl.train(algorithm, CART, total_steps=4_000, out=tmp_path, checkpoint_every=1, **settings)
    error = caught.value
    assert error.step is not None and error.step > 0
    assert error.checkpoint == str(tmp_path / "checkpoint")


def test_without_a_checkpoint_it_says_so() -> None:
    with pytest.raises(NonFiniteLossError, match="no checkpoint was written") as caught:
        rl.train("a2c", CART, lr=1e30)
    assert caught.value.checkpoint is None


def test_every_refusal_is_one_of_ours_and_leaves_nothing_behind(tmp_path: Path) -> None:
    calls: list[Callable[[], object]] = [
        lambda: rl.train("ppo", CART, gamma=2.0, out=tmp_path / "a"),
        lambda: rl.train("nothing", CART, out=tmp_path / "b"),
        lambda: rl.train("ppo", "NoSuch-v0", out=tmp_path / "c"),
        lambda: rl.train("dqn", "Pendulum-v1", out=tmp_path / "d"),
        lambda: rl.train("ppo", CART, workers=-1, out=tmp_path / "e"),
        lambda: rl.train("ppo", CART, checkpoint_every=-1, out=tmp_path / "f"),
        lambda: rl.train("ppo", CART, seed=-1, out=tmp_path / "g"),
        lambda: rl.resume(tmp_path / "h"),
    ]
    for call in calls:
        with pytest.raises(RLError):
            call()
    assert list(tmp_path.iterdir()) == []
    assert issubclass(ConfigError, InvalidSettingError)
    assert CheckpointMismatchError.code == "CHECKPOINT_MISMATCH"
