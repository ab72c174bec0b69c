"""Environments in processes of their own that step straight into shared memory.

For environments that hold Python's lock and cost more than a wake-up: one row of all of them lies
in memory that every process maps, and a step is two bytes there and one back. A process that dies
is an error that says so, and rollout actors are what outlives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rostral_rl.arrays import SpaceArray
from rostral_rl.errors import InvalidSettingError
from rostral_rl.simulate.env_processes import RESET, RESTORE, STATES, STEP, EnvProcesses
from rostral_rl.simulate.journal import EnvState
from rostral_rl.simulate.slabs import Slab
from rostral_rl.simulate.vector import EnvFactory, Finals
from rostral_rl.spaces import Space


@dataclass(frozen=True, slots=True)
class SharedSource:
    """Says that environments shall live in processes of their own, and share memory with this one.

    Attributes:
        env: Gymnasium id, or a picklable callable that makes one environment.
        processes: How many; at most one per environment.
    """

    env: str | EnvFactory
    processes: int = 2

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise InvalidSettingError(f"processes must be >= 1, got {self.processes}")


class SharedVector:
    """Environments in processes; a `VectorEnv`. Not thread-safe.

    Args:
        source: What to make, and in how many processes.
        seeds: (B,) seeds of the first resets.

    Raises:
        SimulationError: An environment cannot be made, or a process ends.
    """

    def __init__(self, source: SharedSource, seeds: Sequence[int]) -> None:
        count = len(seeds)
        processes = min(source.processes, count)
        self._take(EnvProcesses(source.env, seeds, [slice(0, count)], processes), 0)

    @classmethod
    def halves(cls, source: SharedSource, seeds: Sequence[int]) -> tuple[SharedVector, ...]:
        """The same environments as two vectors, each of which has a part of every process.

        While one acts, all processes may step the other: `begin` and `finish`.

        Args:
            source: As above.
            seeds: (B,); at least two for each process.
        """
        middle = len(seeds) - len(seeds) // 2
        groups = [slice(0, middle), slice(middle, len(seeds))]
        processes = EnvProcesses(source.env, seeds, groups, source.processes)
        found = tuple(cls.__new__(cls) for _ in groups)
        for group, half in enumerate(found):
            half._take(processes, group)
        return found

    def _take(self, processes: EnvProcesses, group: int) -> None:
        parts = processes.parts[group]
        self._processes, self._group = processes, group
        self._row = processes.row.part(slice(parts[0].start, parts[-1].stop))
        self.count = parts[-1].stop - parts[0].start
        self.observation_space: Space = processes.observation_space
        self.action_space: Space = processes.action_space

    def reset(self, obs: SpaceArray) -> None:
        """See `VectorEnv.reset`."""
        self._ask(RESET)
        obs[...] = self._row.slab.obs[0]

    def step(self, slab: Slab, t: int) -> Finals | None:
        """See `VectorEnv.step`."""
        self.begin(slab, t)
        return self.finish(slab, t)

    def begin(self, slab: Slab, t: int) -> None:
        """The first half of `step`: has `slab.actions[t]` taken, and waits for nothing."""
        self._row.slab.actions[0] = slab.actions[t]
        self._processes.ask(STEP, self._group)

    def finish(self, slab: Slab, t: int) -> Finals | None:
        """The other half: waits until they are taken, and writes what came of it."""
        self._processes.gather(self._group)
        row = self._row.slab
        slab.obs[t + 1] = row.obs[1]
        for name in ("reward", "terminated", "truncated", "valid"):
            getattr(slab, name)[t] = getattr(row, name)[0]
        index = np.flatnonzero(row.terminated[0] | row.truncated[0])  # (K,)
        return Finals(index, self._row.final_obs[index]) if len(index) else None

    def states(self) -> list[EnvState | None]:
        """See `VectorEnv.states`."""
        return [state for answer in self._ask(STATES) for state in answer]

    def restore(self, states: Sequence[EnvState | None], obs: SpaceArray) -> None:
        """See `VectorEnv.restore`."""
        self._ask(RESTORE, states)
        obs[...] = self._row.slab.obs[0]

    def close(self) -> None:
        """See `VectorEnv.close`; that of one half closes the other, too."""
        self._processes.close()

    def _ask(self, command: bytes, more: Sequence[Any] | None = None) -> list[Any]:
        self._processes.ask(command, self._group, more)
        return self._processes.gather(self._group)
