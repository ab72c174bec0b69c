"""The policy object: observations in, actions out, and everything that is needed in between.

It owns the spaces, the net's weights and the observation normaliser, so that what was trained is
what is evaluated, saved, loaded and served. It knows nothing of training, files or sockets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike

import numpy as np
import numpy.typing as npt

from rostral_rl import forward, spaces
from rostral_rl.arrays import FloatArray, SpaceArray, Weights
from rostral_rl.heads import HEADS
from rostral_rl.net import Net, read


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyInfo:
    """Where a policy comes from; carried along, never needed to act.

    Attributes:
        algorithm: Name of the algorithm that trained it.
        env: Gymnasium id, or None for an environment given as a callable.
        env_steps: Steps of training behind these weights.
        seed: Root seed of that training.
        version: Update number; a server reports it with every action.
    """

    algorithm: str = ""
    env: str | None = None
    env_steps: int = 0
    seed: int = 0
    version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Acts: `policy(obs)` for one observation or a batch.

    Thread-safe, for it changes nothing but the generator of `sample=True`.
    """

    observation_space: spaces.Space
    action_space: spaces.Space
    spec: forward.NetSpec
    weights: Weights
    info: PolicyInfo = field(default_factory=PolicyInfo)
    _net: Net = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_net", Net(self.spec, self.weights))

    def __call__(
        self,
        obs: npt.ArrayLike,
        *,
        sample: bool = False,
        generator: np.random.Generator | None = None,
    ) -> SpaceArray:
        """Chooses actions.

        Args:
            obs: One observation of the observation space, or a batch of N of them.
            sample: Draw from the policy's distribution instead of taking its mode.
            generator: Source of the draws; a fresh unseeded one by default. Used only with
                `sample`.

        Returns:
            One action, or N of them along the first axis, in the action space's dtype and bounds.

        Raises:
            ShapeError: `obs` does not fit the observation space; says what was expected and what
                came.
        """
        batch, single = spaces.as_batch(self.observation_space, obs)
        outputs = self.outputs(batch)  # (N, A)
        raw = draw(self, outputs, generator) if sample else forward.mode(self.spec, outputs)
        actions = self.to_env(raw)
        return np.asarray(actions[0]) if single else actions

    def act(self, batch: SpaceArray) -> SpaceArray:
        """The best actions, (N, ...), for observations (N, *shape) that are known to fit."""
        return self.to_env(forward.mode(self.spec, self.outputs(batch)))

    def outputs(self, batch: SpaceArray) -> FloatArray:
        """What the net says, (N, A), of observations (N, *shape) that are known to fit."""
        return self._net.outputs(read(self.spec, self.observation_space, batch))

    def to_env(self, raw: SpaceArray) -> SpaceArray:
        """Turns the head's actions into the action space's: its offset, or its bounds."""
        return HEADS[self.spec.head].to_env(self.action_space, raw)

    def save(self, folder: str | PathLike[str]) -> None:
        """Writes the policy folder; see `rostral_rl.checkpoint`."""
        from rostral_rl.checkpoint import save_policy

        save_policy(self, folder)


def draw(policy: Policy, outputs: FloatArray, generator: np.random.Generator | None) -> SpaceArray:
    """Raw actions drawn from a net's outputs (N, A); from a fresh generator where there is none."""
    generator = generator or np.random.default_rng()
    noise = np.stack(
        [forward.draw_noise(policy.spec, generator, 1)[0] for _ in range(len(outputs))]
    )
    return forward.sample(policy.spec, outputs, noise, policy.weights)


def policy_class(spec: forward.NetSpec) -> type[Policy]:
    """The class of policies with such a net: one with a memory is asked in another way."""
    if spec.lstm:
        from rostral_rl.recurrent import RecurrentPolicy

        return RecurrentPolicy
    return Policy
