"""How a net's outputs become actions: one class for each kind of head, in NumPy.

    categorical    one choice of a Discrete, drawn by the softmax of the outputs
    multi          one choice for each part of a MultiDiscrete, each part drawn by its own softmax
    gaussian       a Box, drawn around the outputs with a deviation that does not depend on what is
                   seen; clipped to the bounds by the environment's side alone
    greedy         one choice of a Discrete, the best of the outputs; another one now and then
    squashed       a Box, the hyperbolic tangent of a Gaussian whose mean and deviation are the
                   outputs, scaled to the bounds
    deterministic  a Box, the hyperbolic tangent of the outputs, scaled to the bounds; noise added

An action as drawn ("raw") is what algorithms store; `to_env` makes of it what an environment takes.
Exploration that changes while training goes on comes with the weights, as "act.*".
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from gymnasium import spaces as gym_spaces

from rostral_rl.arrays import FloatArray, SpaceArray, Weights

if TYPE_CHECKING:
    from rostral_rl.forward import NetSpec
    from rostral_rl.spaces import Space

HeadKind = Literal["categorical", "multi", "gaussian", "greedy", "squashed", "deterministic"]

LOG_2PI = math.log(2.0 * math.pi)
LOG_STD_RANGE = (-20.0, 2.0)
"""A squashed Gaussian's log deviation is cut to this, as in the paper's own code."""
MASKED = np.float32(-1e9)
"""Takes the place of a masked choice's output: its probability is 0, and no NaN comes of it."""


class Head(Protocol):
    """One kind of head. N rows; `spec` says how wide the parts are."""

    def allocate(self, spec: NetSpec, steps: int, count: int) -> SpaceArray:
        """Room for raw actions, (T, B) or (T, B, A)."""

    def draw_noise(self, spec: NetSpec, generator: np.random.Generator, steps: int) -> FloatArray:
        """Noise for `steps` steps of one environment, (T, ...) float32."""

    def sample(
        self, spec: NetSpec, outputs: FloatArray, noise: FloatArray, weights: Weights
    ) -> SpaceArray:
        """Draws raw actions from outputs (N, A) and one row of noise each."""

    def log_prob(
        self, spec: NetSpec, outputs: FloatArray, actions: SpaceArray, weights: Weights
    ) -> FloatArray:
        """Log-probability (N,) of raw actions; 0 for heads that have none."""

    def mode(self, spec: NetSpec, outputs: FloatArray) -> SpaceArray:
        """The raw action that is best by the outputs."""

    def to_env(self, space: Space, raw: SpaceArray) -> SpaceArray:
        """Makes raw actions acceptable to an environment."""


class Categorical:
    """See the module's table."""

    def allocate(self, spec: NetSpec, steps: int, count: int) -> SpaceArray:
        """See `Head.allocate`."""
        return np.zeros((steps, count), np.int64)

    def draw_noise(self, spec: NetSpec, generator: np.random.Generator, steps: int) -> FloatArray:
        """Uniforms (T,)."""
        return generator.random(steps, dtype=np.float32)

    def sample(
        self, spec: NetSpec, outputs: FloatArray, noise: FloatArray, weights: Weights
    ) -> SpaceArray:
        """(N,) int64, the uniforms inverted through the cumulative distribution."""
        return _invert(outputs, noise)

    def log_prob(
        self, spec: NetSpec, outputs: FloatArray, actions: SpaceArray, weights: Weights
    ) -> FloatArray:
        """See `Head.log_prob`."""
        return _log_mass(outputs, actions)

    def mode(self, spec: NetSpec, outputs: FloatArray) -> SpaceArray:
        """(N,) int64."""
        return np.asarray(outputs.argmax(axis=1))

    def to_env(self, space: Space, raw: SpaceArray) -> SpaceArray:
        """Adds where the space begins to count."""
        assert isinstance(space, gym_spaces.Discrete)
        return np.asarray(raw + space.start) if space.start else raw


class Multi:
    """See the module's table. The outputs of all parts lie side by side."""

    def allocate(self, spec: NetSpec, steps: int, count: int) -> SpaceArray:
        """See `Head.allocate`."""
        return np.zeros((steps, count, len(spec.parts)), np.int64)

    def draw_noise(self, spec: NetSpec, generator: np.random.Generator, steps: int) -> FloatArray:
        """Uniforms (T, parts)."""
        return generator.random((steps, len(spec.parts)), dtype=np.float32)

    def sample(
        self, spec: NetSpec, outputs: FloatArray, noise: FloatArray, weights: Weights
    ) -> SpaceArray:
        """(N, parts) int64."""
        columns = [_invert(o, noise[:, i]) for i, o in enumerate(_split(spec, outputs))]
        return np.stack(columns, axis=1)

    def log_prob(
        self, spec: NetSpec, outputs: FloatArray, actions: SpaceArray, weights: Weights
    ) -> FloatArray:
        """The sum over the parts, which are drawn independently."""
        total = np.zeros(len(outputs), np.float32)
        for i, part in enumerate(_split(spec, outputs)):
            total += _log_mass(part, actions[:, i])
        return total

    def mode(self, spec: NetSpec, outputs: FloatArray) -> SpaceArray:
        """(N, parts) int64."""
        return np.stack([part.argmax(axis=1) for part in _split(spec, outputs)], axis=1)

    def to_env(self, space: Space, raw: SpaceArray) -> SpaceArray:
        """Adds where each part begins to count."""
        assert isinstance(space, gym_spaces.MultiDiscrete)
        return (raw + space.start.ravel()).astype(space.dtype, copy=False)


class Gaussian:
    """See the module's table. The log-probability is that of the action before it is clipped.

    Only the environment sees the clipped action, because a clipped Gaussian has no density at its
    bounds.
    """

    def allocate(self, spec: NetSpec, steps: int, count: int) -> SpaceArray:
        """See `Head.allocate`."""
        return np.zeros((steps, count, spec.actions), np.float32)

    def draw_noise(self, spec: NetSpec, generator: np.random.Generator, steps: int) -> FloatArray:
        """Normals (T, A)."""
        return generator.standard_normal((steps, spec.outputs), dtype=np.float32)

    def sample(
        self, spec: NetSpec, outputs: FloatArray, noise: FloatArray, weights: Weights
    ) -> SpaceArray:
        """(N, A) float32, not clipped."""
        return np.asarray(outputs + np.exp(weights["log_std"]) * noise, np.float32)

    def log_prob(
        self, spec: NetSpec, outputs: FloatArray, actions: SpaceArray, weights: Weights
    ) -> FloatArray:
        """See `Head.log_prob`."""
        log_std = weights["log_std"]  # (A,)
        z = (actions - outputs) * np.exp(-log_std)  # (N, A)
        total = -0.5 * np.sum(z * z, axis=-1) - np.sum(log_std) - 0.5 * LOG_2PI * outputs.shape[-1]
        return np.asarray(total, np.float32)

    def mode(self, spec: NetSpec, outputs: FloatArray) -> SpaceArray:
        """(N, A) float32."""
        return outputs

    def to_env(self, space: Space, raw: SpaceArray) -> SpaceArray:
        """Clips to the bounds."""
        assert isinstance(space, gym_spaces.Box)
        return np.clip(raw, space.low, space.high).astype(space.dtype, copy=False)


class Greedy(Categorical):
    """See the module's table. "act.epsilon" (N,) is how often another choice is drawn."""

    def draw_noise(self, spec: NetSpec, generator: np.random.Generator, steps: int) -> FloatArray:
        """Uniforms (T, 2): whether to explore, and where."""
        return generator.random((steps, 2), dtype=np.float32)

    def sample(
        self, spec: NetSpec, outputs: FloatArray, noise: FloatArray, weights: Weights
    ) -> SpaceArray:
        """(N,) int64."""
        best = np.asarray(outputs.argmax(axis=1))  # (N,)
        if "act.epsilon" not in weights:
            return best
        explores = noise[:, 0] < weights["act.epsilon"]  # (N,)
        if not explores.any():
            return best
        # A masked choice is never explored: the uniform picks among those that are allowed.
        allowed = np.where(outputs > MASKED / 2, np.float32(0.0), MASKED)  # (N, A)
        return np.asarray(np.where(explores, _invert(allowed, noise[:, 1]), best))

    def log_prob(
        self, spec: NetSpec, outputs: FloatArray, actions: SpaceArray, weights: Weights
    ) -> FloatArray:
        """Zeros: who learns values has no use for it."""
        return np.zeros(len(outputs), np.float32)


class Squashed:
    """See the module's table. Raw actions lie in [-1, 1]; "act.uniform" draws them evenly."""

    def allocate(self, spec: NetSpec, steps: int, count: int) -> SpaceArray:
        """See `Head.allocate`."""
        return np.zeros((steps, count, spec.actions), np.float32)

    def draw_noise(self, spec: NetSpec, generator: np.random.Generator, steps: int) -> FloatArray:
        """A normals, then A uniforms for the warm-up, (T, 2 A)."""
        normals = generator.standard_normal((steps, spec.actions), dtype=np.float32)
        uniforms = generator.random((steps, spec.actions), dtype=np.float32)
        return np.concatenate((normals, uniforms), axis=1)

    def sample(
        self, spec: NetSpec, outputs: FloatArray, noise: FloatArray, weights: Weights
    ) -> SpaceArray:
        """(N, A) float32."""
        width = spec.actions
        if "act.uniform" in weights:
            return np.asarray(2.0 * noise[:, width:] - 1.0, np.float32)
        log_std = np.clip(outputs[:, width:], *LOG_STD_RANGE)  # (N, A)
        return np.asarray(np.tanh(outputs[:, :width] + np.exp(log_std) * noise[:, :width]))

    def log_prob(
        self, spec: NetSpec, outputs: FloatArray, actions: SpaceArray, weights: Weights
    ) -> FloatArray:
        """Of raw actions inside (-1, 1): that of the Gaussian less the tangent's slope."""
        width = spec.actions
        log_std = np.clip(outputs[:, width:], *LOG_STD_RANGE)  # (N, A)
        inside = np.clip(actions, -1.0 + 1e-6, 1.0 - 1e-6)  # (N, A)
        before = np.arctanh(inside)  # (N, A)
        z = (before - outputs[:, :width]) * np.exp(-log_std)  # (N, A)
        density = -0.5 * z * z - log_std - 0.5 * LOG_2PI - np.log1p(-np.square(inside))
        return np.asarray(density.sum(axis=1), np.float32)

    def mode(self, spec: NetSpec, outputs: FloatArray) -> SpaceArray:
        """(N, A) float32: the mean's, which is not the density's peak but plays best."""
        return np.tanh(outputs[:, : spec.actions])

    def to_env(self, space: Space, raw: SpaceArray) -> SpaceArray:
        """Scales [-1, 1] to the bounds."""
        assert isinstance(space, gym_spaces.Box)
        half = (space.high - space.low) / 2.0  # (A,)
        return (space.low + (raw + 1.0) * half).astype(space.dtype, copy=False)


class Deterministic(Squashed):
    """See the module's table. "act.noise" () is the deviation of what is added."""

    def sample(
        self, spec: NetSpec, outputs: FloatArray, noise: FloatArray, weights: Weights
    ) -> SpaceArray:
        """(N, A) float32, within [-1, 1]."""
        width = spec.actions
        if "act.uniform" in weights:
            return np.asarray(2.0 * noise[:, width:] - 1.0, np.float32)
        chosen = np.tanh(outputs)  # (N, A)
        if "act.noise" in weights:
            chosen = chosen + weights["act.noise"] * noise[:, :width]
        return np.clip(chosen, -1.0, 1.0)

    def log_prob(
        self, spec: NetSpec, outputs: FloatArray, actions: SpaceArray, weights: Weights
    ) -> FloatArray:
        """Zeros: a point has no density."""
        return np.zeros(len(outputs), np.float32)


HEADS: dict[HeadKind, Head] = {
    "categorical": Categorical(),
    "multi": Multi(),
    "gaussian": Gaussian(),
    "greedy": Greedy(),
    "squashed": Squashed(),
    "deterministic": Deterministic(),
}


def _split(spec: NetSpec, outputs: FloatArray) -> list[FloatArray]:
    """Outputs (N, sum of parts) to one array for each part."""
    return np.split(outputs, np.cumsum(spec.parts)[:-1], axis=1)


def _invert(outputs: FloatArray, noise: FloatArray) -> SpaceArray:
    """Uniforms (N,) through the cumulative distribution of the softmax of (N, A): (N,) int64."""
    if outputs.shape[1] == 2:
        # The same inversion in closed form: P(first) is the logistic of the difference, written
        # as a hyperbolic tangent because that cannot overflow.
        first = 0.5 + 0.5 * np.tanh(0.5 * (outputs[:, 0] - outputs[:, 1]))  # (N,)
        return np.asarray(noise >= first, np.int64)
    mass = np.exp(outputs - outputs.max(axis=1, keepdims=True))  # (N, A)
    np.cumsum(mass, axis=1, out=mass)
    # Compared with noise * total, so that rounding can never leave the last choice out of reach.
    below = mass[:, :-1] <= (noise * mass[:, -1])[:, None]  # (N, A - 1)
    return np.asarray(below.sum(axis=1), np.int64)  # (N,)


def _log_mass(outputs: FloatArray, actions: SpaceArray) -> FloatArray:
    """Log of the softmax of (N, A) at `actions` (N,)."""
    shifted = outputs - outputs.max(axis=-1, keepdims=True)  # (N, A)
    normaliser = np.log(np.sum(np.exp(shifted), axis=-1))  # (N,)
    chosen = np.take_along_axis(shifted, actions[:, None], axis=-1)[:, 0]  # (N,)
    return np.asarray(chosen - normaliser, np.float32)
