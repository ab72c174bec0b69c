"""The workloads of `bench-rl` on RLlib: run in its own environment, prints a row each.

Its tuned settings are those of its own CartPole script, in one process: with so cheap an
environment, its runners cost more than they bring on two CPUs.
"""

from __future__ import annotations

from typing import Any

import ray
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

from rl_targets import EQUAL, TUNED
from rl_timing import Rate, Solving, arguments, report

SAMPLED = "num_env_steps_sampled_lifetime"


def config(envs: int, model: dict[str, Any], **training: Any) -> Any:
    """PPO on CartPole-v1, in this process."""
    made = PPOConfig().environment("CartPole-v1")
    made = made.env_runners(num_env_runners=0, num_envs_per_env_runner=envs)
    made = made.training(**training).learners(num_learners=0)
    return made.rl_module(model_config=DefaultModelConfig(**model))


def equal() -> Any:
    """The settings that the others run with, but for the schedules of step size and clipping."""
    return config(
        8,
        {"fcnet_hiddens": [64, 64], "fcnet_activation": "tanh", "vf_share_layers": False},
        train_batch_size_per_learner=256,
        minibatch_size=256,
        num_epochs=20,
        lr=1e-3,
        gamma=0.98,
        lambda_=0.8,
        clip_param=0.2,
        entropy_coeff=0.0,
        vf_loss_coeff=0.5,
        use_kl_loss=False,
        grad_clip=0.5,
    )


def tuned() -> Any:
    """Those of RLlib's script."""
    return config(
        16,
        {"fcnet_hiddens": [32], "fcnet_activation": "linear", "vf_share_layers": True},
        lr=3e-4,
        num_epochs=6,
        vf_loss_coeff=0.01,
    )


def steps(result: dict[str, Any]) -> int:
    """Environment steps so far."""
    return int(result["env_runners"][SAMPLED])


def greedy(algorithm: Any) -> Any:
    """Acts by the newest weights."""

    def act(obs: Any) -> Any:
        with torch.no_grad():
            batch = {"obs": torch.from_numpy(obs)}
            said = algorithm.get_module().forward_inference(batch)["action_dist_inputs"]
        return said.argmax(1).numpy()

    return act


def main() -> None:
    """Measures one group."""
    given = arguments()
    ray.init(num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False)
    clock = Rate(given.seconds, skip=256)
    algorithm = equal().build_algo()
    while clock.look(steps(algorithm.train())):
        pass
    report(f"PPO CartPole, {EQUAL}", clock.value())
    algorithm.stop()

    algorithm = tuned().debugging(seed=given.seed).build_algo()
    solving = Solving(greedy(algorithm), given.limit)
    while solving.look(steps(algorithm.train())):
        pass
    solving.report(f"PPO CartPole to 475, {TUNED}")
    algorithm.stop()


if __name__ == "__main__":
    main()
