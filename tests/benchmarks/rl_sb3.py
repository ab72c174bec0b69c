"""The workloads of `bench-rl` on Stable-Baselines3: run in its own environment, prints a row each.

Its settings are those of its zoo, which are its tuned ones too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from rl_targets import EQUAL, TUNED
from rl_timing import Rate, Solving, arguments, report


class Between(BaseCallback):  # type: ignore[misc,unused-ignore]
    """Calls `look` between updates, and ends the training when it says so."""

    def __init__(self, look: Callable[[int], bool]) -> None:
        super().__init__()
        self._look = look
        self._on = True

    def _on_rollout_start(self) -> None:
        self._on = self._on and self._look(self.num_timesteps)

    def _on_step(self) -> bool:
        return self._on


def ppo(seed: int) -> Any:
    """The zoo's PPO for CartPole-v1."""
    return PPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", n_envs=8, seed=seed),
        n_steps=32,
        batch_size=256,
        n_epochs=20,
        gamma=0.98,
        gae_lambda=0.8,
        learning_rate=lambda left: 1e-3 * left,
        clip_range=lambda left: 0.2 * left,
        ent_coef=0.0,
        seed=seed,
        device="cpu",
    )


def dqn(seed: int) -> Any:
    """The zoo's DQN for CartPole-v1."""
    return DQN(
        "MlpPolicy",
        make_vec_env("CartPole-v1", n_envs=1, seed=seed),
        learning_rate=2.3e-3,
        batch_size=64,
        buffer_size=100_000,
        gamma=0.99,
        learning_starts=1_000,
        target_update_interval=10,
        train_freq=256,
        gradient_steps=128,
        exploration_fraction=0.16,
        exploration_final_eps=0.04,
        policy_kwargs={"net_arch": [256, 256]},
        seed=seed,
        device="cpu",
    )


def sac(seed: int) -> Any:
    """The zoo's SAC for Pendulum-v1."""
    return SAC(
        "MlpPolicy",
        make_vec_env("Pendulum-v1", n_envs=1, seed=seed),
        learning_rate=1e-3,
        learning_starts=100,
        seed=seed,
        device="cpu",
    )


def rate(model: Any, total: int, seconds: float, *, skip: int) -> float | None:
    """Steps a second while learning."""
    clock = Rate(seconds, skip=skip)
    model.learn(total, callback=Between(clock.look))
    return clock.value()


def main() -> None:
    """Measures one group."""
    given = arguments()
    if given.group == "sac":
        value = rate(sac(1), 100_000, given.seconds, skip=150)
        report(f"SAC Pendulum, {EQUAL}", value)
        return
    make, total, skip = (ppo, 100_000, 256) if given.group == "ppo" else (dqn, 50_000, 1_500)
    title = given.group.upper()
    report(f"{title} CartPole, {EQUAL}", rate(make(1), 100_000, given.seconds, skip=skip))
    model = make(given.seed)
    solving = Solving(lambda obs: model.predict(obs, deterministic=True)[0], given.limit)
    model.learn(total, callback=Between(solving.look))
    solving.report(f"{title} CartPole to 475, {TUNED}")


if __name__ == "__main__":
    main()
