"""Double buffering: one half of the environments steps while the other half's actions are found.

With environments in processes of their own nobody waits for an actor's net, and it waits for no
environment, as long as the two take about as long as each other. What each environment lives
through is the same: its noise is its own, and the fragments of the halves are put side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rostral_rl.arrays import Weights
from rostral_rl.simulate.fragment import Fragment, join
from rostral_rl.simulate.sampler import Sampler, SamplerState


class Plays(Protocol):
    """What a sampler does, for all environments or by halves."""

    def collect(self, weights: Weights, version: int) -> Fragment:
        """See `Sampler.collect`."""

    def states(self) -> list[SamplerState]:
        """See `Sampler.states`."""

    def restore(self, states: Sequence[SamplerState]) -> None:
        """See `Sampler.restore`."""

    def close(self) -> None:
        """See `Sampler.close`."""


class HalvesSampler:
    """Samplers that take turns, as one. Not thread-safe.

    Args:
        halves: Of neighbouring environments, in order.
    """

    def __init__(self, halves: Sequence[Sampler]) -> None:
        self._halves = halves

    def collect(self, weights: Weights, version: int) -> Fragment:
        """See `Sampler.collect`."""
        playing = dict(enumerate(half.playing(weights, version) for half in self._halves))
        fragments: dict[int, Fragment] = {}
        while playing:
            for i, half in list(playing.items()):
                try:
                    next(half)
                except StopIteration as end:
                    fragments[i] = end.value
                    del playing[i]
        return join([fragments[i] for i in range(len(fragments))])

    def states(self) -> list[SamplerState]:
        """See `Sampler.states`."""
        return [state for half in self._halves for state in half.states()]

    def restore(self, states: Sequence[SamplerState]) -> None:
        """See `Sampler.restore`."""
        start = 0
        for half in self._halves:
            half.restore(states[start : start + half.count])
            start += half.count

    def close(self) -> None:
        """See `Sampler.close`."""
        for half in self._halves:
            half.close()
