"""How old the weights may be with which a fragment was played, where nobody waits.

Whoever is done first is taken; so a worker that the operating system lets sleep would come ever
later, with weights ever older. Close to the bound the oldest is waited for instead, whoever else is
done. Pure: versions in, a decision out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rostral_rl.errors import ConfigError

LAG_MAX = 20
"""Updates. Sample Factory's authors saw no harm below 20 to 30."""


@dataclass(frozen=True, slots=True)
class LagBound:
    """The promise that no fragment is learned from more than `updates` after its weights.

    Attributes:
        updates: Updates between the weights that acted and those that learn.
        per_update: Fragments that an update takes.
    """

    updates: int
    per_update: int = 1

    def check(self, workers: int) -> None:
        """Refuses what cannot be kept: with every worker's turn coming only so often.

        Raises:
            ConfigError: There are too many workers for the bound.
        """
        least = -(-workers // self.per_update)
        if self.updates < least:
            raise ConfigError("lag_max", self.updates, allowed=f">= {least} with {workers} workers")

    def is_due(self, versions: Sequence[int], version: int, taken: int) -> bool:
        """Whether the oldest fragment has to be taken next.

        Args:
            versions: Of the weights of the fragments under way, the oldest first.
            version: Updates done.
            taken: Fragments that the coming update has already.

        If all were taken in their order from now on, fragment j would be learned from in the update
        `version + (taken + j) // per_update`. Another may go before them only where each can still
        be one place later.
        """
        return any(
            seen + self.updates < version + (taken + 1 + j) // self.per_update
            for j, seen in enumerate(versions)
        )
