"""IMPALA (Espeholt et al. 2018) and APPO: actors never wait, and V-trace corrects for their lag.

IMPALA takes one step of the policy gradient per batch. APPO puts PPO's clipped surrogate in its
place, so that a batch can be used more than once. In both the fragments of whichever workers are
done first make the batch; who is done goes on at once with the newest weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from rostral_rl import forward
from rostral_rl.arrays import FloatArray
from rostral_rl.net import read
from rostral_rl.simulate.fragment import Fragment, join
from rostral_rl.simulate.lag import LAG_MAX, LagBound
from rostral_rl.train.actor_critic import (
    ActorCriticSettings,
    ActorCriticTrainer,
    flat,
    log_prob_and_entropy,
    mean_of,
    refuse_reward_scale,
)
from rostral_rl.train.parts.schedules import Linear, Schedule, at
from rostral_rl.train.parts.settings import check_count, check_number
from rostral_rl.train.parts.vtrace import VTrace, vtrace
from rostral_rl.train.trainer import Clock, Plan, Played, Trainer

LEARNING_RATE = Linear(5e-4, 0.0)
"""Default step size."""
METRICS = ("policy_loss", "value_loss", "entropy", "kl")


@dataclass(frozen=True, slots=True, kw_only=True)
class APPO(ActorCriticSettings):
    """Settings of APPO; those not named here are in `ActorCriticSettings`.

    Attributes:
        fragments: Workers' fragments per update; 0, the default, takes as many as there are
            workers, so that a batch has `envs * steps` steps.
        epochs: Passes over a batch; V-trace is computed anew before each.
        clip: How far the probability ratio may leave 1 before its gradient stops; None takes the
            plain policy gradient, which is IMPALA's. May be a schedule.
        lam: Trace decay, in [0, 1].
        rho_max: Cuts ratios in the error of a step.
        c_max: Cuts ratios along the trace.
        normalise_advantage: To unit deviation within the batch.
        lag_max: Updates that the weights which acted may be behind those that learn. Who comes near
            it is waited for.
    """

    algorithm: ClassVar[str] = "appo"

    steps: int = 64
    lr: Schedule = LEARNING_RATE
    fragments: int = 0
    epochs: int = 2
    clip: Schedule | None = 0.2
    lam: float = 0.95
    rho_max: float = 1.0
    c_max: float = 1.0
    normalise_advantage: bool = True
    lag_max: int = LAG_MAX

    def __post_init__(self) -> None:
        ActorCriticSettings.__post_init__(self)
        check_count("epochs", self.epochs)
        check_count("lag_max", self.lag_max)
        if self.fragments:
            check_count("fragments", self.fragments)
        if self.clip is not None:
            check_number("clip", self.clip)
        check_number("lam", self.lam, high=1.0)
        check_number("rho_max", self.rho_max, low_open=True)
        check_number("c_max", self.c_max, low_open=True)

    def trainer(self, plan: Plan) -> Trainer[APPO]:
        """See `Settings.trainer`."""
        return APPOTrainer(self, plan)


@dataclass(frozen=True, slots=True, kw_only=True)
class IMPALA(APPO):
    """APPO's settings with IMPALA's defaults: no clipping, each batch used once."""

    algorithm: ClassVar[str] = "impala"

    epochs: int = 1
    clip: Schedule | None = None
    lam: float = 1.0
    normalise_advantage: bool = False


class APPOTrainer(ActorCriticTrainer[APPO]):
    """APPO or IMPALA under way."""

    def __init__(self, settings: APPO, plan: Plan) -> None:
        refuse_reward_scale(settings, plan)
        self._wanted = settings.fragments or max(plan.workers, 1)
        self._bound = LagBound(settings.lag_max, self._wanted)
        self._bound.check(plan.workers)
        super().__init__(settings, plan)

    @property
    def fraction(self) -> float:
        """See `Trainer.fraction`; of steps here, since nobody waits for whole updates."""
        return self.env_steps / self.total_steps

    def _rows(self) -> int:
        return self.settings.batch

    def _iterate(self) -> Played:
        clock = Clock()
        fragments = [
            self._rollouts.next(self._weights, self.update, self._bound)
            for _ in range(self._wanted)
        ]
        lag = [self.update - int(f["version"]) for f in fragments]
        simulate_s = clock.lap()
        fraction = self.fraction
        fragment = join(fragments)
        terms = self._learn(fragment, fraction)
        self.update += 1
        self.env_steps += int(fragment["reward"].size)
        self._weights = self._export()
        return Played(
            returns=fragment["episode_return"],
            lengths=fragment["episode_length"],
            metrics={
                "lr": at(self.settings.lr, fraction),
                "lag": float(np.mean(lag)),
                "lag_max": float(max(lag)),
                **dict(zip(METRICS, terms.tolist(), strict=True)),
            },
            simulate_s=simulate_s,
            learn_s=clock.lap(),
        )

    def _learn(self, fragment: Fragment, fraction: float) -> FloatArray:
        settings = self.settings
        features = torch.from_numpy(self._features(fragment))  # (N, D)
        memory = self._memory(fragment)
        last = self._last_features(fragment)
        actions, old = flat(fragment["actions"]), flat(fragment["logp"])  # (N, ...), (N,)
        usable = flat(fragment["valid"])  # (N,)
        reward = self._rewards(fragment)  # (T, B)
        lr = at(settings.lr, fraction)
        told: list[Tensor] = []
        for _ in range(settings.epochs):
            outputs, value, states = self._net.unroll(features, memory)  # (N, A), (N,)
            logp, entropy = log_prob_and_entropy(self._net, outputs, actions)  # (N,), (N,)
            log_ratio = logp - old  # (N,)
            seen = self._correct(fragment, reward, log_ratio, (value, states), last)
            advantage = flat(seen.advantage)[usable]  # (N,)
            if settings.normalise_advantage:
                advantage = advantage / (advantage.std() + 1e-8)
            policy_loss = self._policy_loss(logp, log_ratio, usable, advantage, fraction)
            value_loss = (value - flat(seen.target)).square()[usable].mean()
            bonus = entropy[usable].mean()
            loss = policy_loss + settings.vf_coef * value_loss
            loss = loss - at(settings.ent_coef, fraction) * bonus
            self._adam.step(loss, lr=lr, norm_max=settings.grad_norm_max)
            with torch.no_grad():
                divergence = (log_ratio.exp() - 1.0 - log_ratio)[usable].mean()
                told.append(torch.stack((policy_loss, value_loss, bonus, divergence)))
        return mean_of(told)

    def _policy_loss(
        self, logp: Tensor, log_ratio: Tensor, usable: Tensor, advantage: Tensor, fraction: float
    ) -> Tensor:
        if self.settings.clip is None:
            return -(logp[usable] * advantage).mean()
        # The advantage holds the clipped ratio already; what is clipped here is how far this
        # batch's own steps have gone.
        ratio = log_ratio[usable].exp()
        base = ratio.detach().clamp(max=self.settings.rho_max)
        clip = at(self.settings.clip, fraction)
        gain = advantage / base.clamp(min=1e-3)
        return -torch.minimum(ratio * gain, ratio.clamp(1.0 - clip, 1.0 + clip) * gain).mean()

    def _last_features(self, fragment: Fragment) -> tuple[Tensor, Tensor]:
        """Features of what follows the last row (B, D), and of true last observations (K, D)."""
        ends, after = (
            forward.normalised(read(self._spec, self.observation_space, obs), self._weights)
            for obs in (fragment["final_obs"], fragment["obs"][-1])
        )
        return torch.from_numpy(after.copy()), torch.from_numpy(ends.copy())

    @torch.no_grad()
    def _correct(
        self,
        fragment: Fragment,
        reward: FloatArray,
        log_ratio: Tensor,
        said: tuple[Tensor, Tensor | None],
        last: tuple[Tensor, Tensor],
    ) -> VTrace:
        """V-trace with the critic as it is now: its values (N,), and states (T, B, S) or None."""
        shape = reward.shape
        value, states = said
        now: FloatArray = value.detach().numpy().reshape(shape)  # (T, B)
        following = np.empty(shape, np.float32)  # (T, B)
        following[:-1] = now[1:]
        following[-1] = self._net.values(last[0], None if states is None else states[-1]).numpy()
        index = fragment["final_index"]
        if len(index):
            ended = None if states is None else states[index[:, 0], index[:, 1]]  # (K, S)
            following[index[:, 0], index[:, 1]] = self._net.values(last[1], ended).numpy()
            following[fragment["terminated"]] = 0.0
        return vtrace(
            log_ratio.detach().numpy().reshape(shape),
            reward,
            now,
            next_value=following,
            done=fragment["terminated"] | fragment["truncated"],
            gamma=self.settings.gamma,
            lam=self.settings.lam,
            rho_max=self.settings.rho_max,
            c_max=self.settings.c_max,
        )
