"""Serves a policy, learns from what it served, and swaps in the new weights while it serves.

    python closed_loop.py
    python closed_loop.py --updates 3 --players 4
    python closed_loop.py --address 10.0.0.1:6380

One cluster holds everything: an actor serves the policy; players, which are actors too, ask it for
every action of their environments; the driver learns from what they lived through and swaps, while
they play on; and visitors, who know nothing of all that, ask from the first moment to the last. An
answer carries the version that gave it, so that the learner knows under which weights an action was
drawn, however many swaps lay between.

Progress is shown on stderr. The last line on stdout is one JSON object:

    {"first_return_mean": ..., "last_return_mean": ..., "env_steps": ..., "swaps": ...,
     "answered": ..., "lost": 0, "versions_seen": ..., "wall_s": ...}

`answered`, `lost` and `versions_seen` are the visitors'. Exit status 1 where a request was lost, or
where the mean return of the last episodes stayed below --goal.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode

import rostral
import rostral_rl as rl
from rostral_rl import forward
from rostral_rl.arrays import BoolArray, FloatArray, SpaceArray
from rostral_rl.policy import Policy, PolicyInfo
from rostral_rl.serve.embedded import EmbeddedPolicy
from rostral_rl.train.actor_critic import log_prob_and_entropy
from rostral_rl.train.parts import gae
from rostral_rl.train.parts.nets import ActorCritic
from rostral_rl.train.parts.optimiser import FlatAdam
from rostral_rl.train.ppo import Batch, ppo_loss

ENV = "CartPole-v1"
VISITS_PER_S = 200.0
ENVS = 32  # of all players together
STEPS = 32  # of each environment between two looks of the learner
SETTINGS = rl.PPO(
    envs=ENVS, steps=STEPS, minibatch=256, epochs=10, lr=2e-3, gamma=0.98, lam=0.8, ent_coef=0.0
)
SPEC = forward.NetSpec(inputs=4, hidden=(64, 64), outputs=2, activation="tanh", head="categorical")


class Exploring(NamedTuple):
    """What is served: the policy's distribution, not its mode. Any object of this form will do."""

    policy: Policy
    generator: np.random.Generator

    @property
    def observation_space(self) -> gymnasium.Space[Any]:
        """The policy's."""
        return self.policy.observation_space

    @property
    def action_space(self) -> gymnasium.Space[Any]:
        """The policy's."""
        return self.policy.action_space

    @property
    def info(self) -> PolicyInfo:
        """The policy's."""
        return self.policy.info

    def act(self, batch: SpaceArray) -> SpaceArray:
        """Draws one action for each observation (N, 4)."""
        return self.policy(batch, sample=True, generator=self.generator)


class Life(NamedTuple):
    """T steps of B environments.

    Attributes:
        obs: (T, B, 4).
        following: (T, B, 4), what truly followed, across no reset.
        actions: (T, B) int64.
        reward: (T, B).
        terminated: (T, B).
        truncated: (T, B).
        version: (T,), of the weights that acted.
        returns: Of the episodes that ended.
    """

    obs: FloatArray
    following: FloatArray
    actions: SpaceArray
    reward: FloatArray
    terminated: BoolArray
    truncated: BoolArray
    version: SpaceArray
    returns: list[float]


@rostral.remote
class Player:
    """Lives in environments, and asks for every action."""

    def __init__(self, served: EmbeddedPolicy, envs: int, seed: int) -> None:
        self._served = served
        self._envs = gymnasium.make_vec(
            ENV,
            num_envs=envs,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
        )
        self._obs, _ = self._envs.reset(seed=seed)
        self._sums = np.zeros(envs)

    def play(self) -> Life:
        """Takes STEPS steps."""
        columns: list[list[Any]] = [[] for _ in range(7)]
        returns: list[float] = []
        for _ in range(STEPS):
            actions, version = self._served.submit(self._obs).reply()
            obs, reward, terminated, truncated, infos = self._envs.step(actions)
            following = obs.copy()
            self._sums += reward
            for b in np.flatnonzero(terminated | truncated):
                following[b] = infos["final_obs"][b]
                returns.append(float(self._sums[b]))
                self._sums[b] = 0.0
            step = (self._obs, following, actions, reward, terminated, truncated, version)
            for column, value in zip(columns, step, strict=True):
                column.append(value)
            self._obs = obs
        stacked: list[Any] = [np.stack(column) for column in columns]
        return Life(*stacked, returns=returns)


@rostral.remote
class Visitor:
    """Somebody who only wants answers."""

    def __init__(self, served: EmbeddedPolicy) -> None:
        self._served = served
        self._answered, self._lost = 0, 0
        self._versions: set[int] = set()

    def visit(self, seconds: float) -> tuple[int, int, set[int]]:
        """Asks for so long; returns how often it was answered and not, and by which versions."""
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            try:
                self._versions.add(self._served.submit(np.zeros(4, np.float32)).reply(10.0).version)
                self._answered += 1
            except rostral.exceptions.RostralError:
                self._lost += 1
            time.sleep(1.0 / VISITS_PER_S)  # A visitor who never rests would be all that is served.
        return self._answered, self._lost, self._versions


class Learner:
    """A net, its optimiser, and the weights of the versions that may still be answering."""

    def __init__(self, seed: int) -> None:
        self._net = ActorCritic(SPEC, log_std=0.0, seed=seed)
        self._adam = FlatAdam(self._net)
        self._shuffle = np.random.default_rng(seed)
        self._seed = seed
        self._acted = ActorCritic(SPEC, log_std=0.0, seed=seed)
        self._past: dict[int, dict[str, torch.Tensor]] = {}
        self.version = 0
        self._remember()

    def policy(self) -> Exploring:
        """The present weights, to be served."""
        env = gymnasium.make(ENV)
        policy = Policy(
            observation_space=env.observation_space,
            action_space=env.action_space,
            spec=SPEC,
            weights=self._net.weights(),
            info=PolicyInfo(algorithm="ppo", env=ENV, version=self.version),
        )
        return Exploring(policy, np.random.default_rng((self._seed, self.version)))

    def learn(self, lives: list[Life]) -> None:
        """One update from what was served."""
        parts = [self._samples(life) for life in lives]
        batch = Batch(*(torch.cat([p[i] for p in parts]) for i in range(6)))
        for _ in range(SETTINGS.epochs):
            order = torch.from_numpy(self._shuffle.permutation(len(batch.logp)))
            for rows in order.split(SETTINGS.minibatch):
                loss, _ = ppo_loss(self._net, batch.rows(rows), SETTINGS, 0.0)
                self._adam.step(loss, lr=float(SETTINGS.lr), norm_max=0.5)  # type: ignore[arg-type]
        self.version += 1
        self._remember()

    def _remember(self) -> None:
        self._past[self.version] = {k: v.clone() for k, v in self._net.state_dict().items()}
        self._past.pop(self.version - 8, None)

    @torch.no_grad()
    def _samples(self, life: Life) -> tuple[torch.Tensor, ...]:
        """What `Batch` holds, (T * B, ...), as the weights saw it that acted."""
        logp, value, after = [], [], []
        for t, version in enumerate(life.version.tolist()):
            if version != (life.version[t - 1] if t else None):
                self._acted.load_state_dict(self._past[version])
            outputs, values = self._acted(torch.from_numpy(life.obs[t].copy()))
            actions = torch.from_numpy(life.actions[t].copy())
            logp.append(log_prob_and_entropy(self._acted, outputs, actions)[0].numpy())
            value.append(values.numpy())
            after.append(self._acted(torch.from_numpy(life.following[t].copy()))[1].numpy())
        values_array = np.stack(value)  # (T, B)
        advantage = gae.advantages(
            life.reward.astype(np.float32),
            values_array,
            next_value=np.where(life.terminated, 0.0, np.stack(after)).astype(np.float32),
            done=life.terminated | life.truncated,
            gamma=SETTINGS.gamma,
            lam=SETTINGS.lam,
        )
        columns = (
            *(life.obs, life.actions, np.stack(logp), values_array),
            *(advantage, advantage + values_array),
        )
        return tuple(torch.from_numpy(c.reshape(-1, *c.shape[2:]).copy()) for c in columns)


def run(updates: int, goal: float, seed: int, player_count: int) -> dict[str, float]:
    """Serves, learns and swaps until the goal is met or `updates` are made."""
    start_s = time.monotonic()
    torch.set_num_threads(1)  # The net is small, and the other core has players.
    learner = Learner(seed)
    served = rl.embed(learner.policy())
    # They wait for answers more than they work, so that two share a CPU.
    players = [
        Player.options(num_cpus=0.5).remote(served, ENVS // player_count, seed + i)
        for i in range(player_count)
    ]
    visitor = Visitor.options(num_cpus=0).remote(served)
    visit = visitor.visit.remote(1.0)
    means: list[float] = []
    recent: list[float] = []
    playing = [player.play.remote() for player in players]
    for update in range(updates):
        lives = rostral.get(playing)
        # On they go, by the present weights, and by the next ones as soon as these are served.
        playing = [player.play.remote() for player in players]
        recent = [*recent, *(r for life in lives for r in life.returns)][-100:]
        means.append(float(np.mean(recent)) if recent else 0.0)
        print(f"update {update}: mean return {means[-1]:.1f}", file=sys.stderr, flush=True)
        learner.learn(lives)
        served.swap(learner.policy(), version=learner.version)
        if rostral.wait([visit], timeout=0)[0]:
            visit = visitor.visit.remote(1.0)
        if means[-1] >= goal:
            break
    rostral.get([visit, *playing])
    # Once more, so that the newest weights have been asked too.
    answered, lost, versions = rostral.get(visitor.visit.remote(0.05))
    served.close()
    return {
        "first_return_mean": round(means[0], 2),
        "last_return_mean": round(means[-1], 2),
        "env_steps": len(means) * player_count * (ENVS // player_count) * STEPS,
        "swaps": learner.version,
        "answered": answered,
        "lost": lost,
        "versions_seen": len(versions),
        "wall_s": round(time.monotonic() - start_s, 2),
    }


def main() -> int:
    """Runs the loop on a cluster of its own; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=120, help="at most")
    parser.add_argument("--goal", type=float, default=195.0, help="mean of the last 100 returns")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--players", type=int, default=2, help=f"they share {ENVS} environments")
    parser.add_argument("--address", help="of a running cluster; by default one is made here")
    arguments = parser.parse_args()
    if arguments.updates < 1:
        parser.error("--updates must be positive")
    if not 1 <= arguments.players <= ENVS:
        parser.error(f"--players must lie in 1..{ENVS}")
    with rostral.init(arguments.address or "local"):
        result = run(arguments.updates, arguments.goal, arguments.seed, arguments.players)
    print(json.dumps(result), flush=True)
    return 0 if not result["lost"] and result["last_return_mean"] >= arguments.goal else 1


if __name__ == "__main__":
    sys.exit(main())
