"""Environments in processes of their own that step straight into shared memory.

For environments that hold Python's lock and cost more than a wake-up: each process owns a run of
neighbours, and one row of all of them lies in memory that every process maps. A step is a byte each
way. The mapping has no name, so that nothing is left behind whoever dies; a process that dies is an
error that says so, and rollout actors are what outlives it.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rostral_rl.arrays import SpaceArray
from rostral_rl.errors import InvalidSettingError, RLError, SimulationError
from rostral_rl.simulate.crew import split
from rostral_rl.simulate.journal import EnvState
from rostral_rl.simulate.slabs import Slab
from rostral_rl.simulate.vector import EnvFactory, Finals, VectorEnv
from rostral_rl.spaces import Space

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

STEP, RESET, STATES, RESTORE, CLOSE = b"s", b"r", b"q", b"l", b"c"
DONE, TOLD, FAILED = b"d", b"t", b"f"
FAULTS = (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError, AssertionError)
"""What an environment's fault looks like; the sampler's list."""
ANSWER_S_MAX = 300.0
"""Longest wait for a process; an environment slower than this hangs."""
ALIGNMENT = 64


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


@dataclass(frozen=True, slots=True)
class Row:
    """One step of B environments in shared memory.

    Attributes:
        slab: T is 1.
        final_obs: (B, *obs_shape), true last observations; of those that ended in this step.
    """

    slab: Slab
    final_obs: SpaceArray

    def part(self, envs: slice) -> Row:
        """Some of the environments; shares memory."""
        slab = self.slab
        columns = {name: getattr(slab, name)[:, envs] for name in Slab.__slots__}
        return Row(Slab(**columns), self.final_obs[envs])


class SharedVector:
    """B environments in processes; a `VectorEnv`. Not thread-safe.

    Args:
        source: What to make, and in how many processes.
        seeds: (B,) seeds of the first resets.

    Raises:
        SimulationError: An environment cannot be made, or a process ends.
    """

    def __init__(self, source: SharedSource, seeds: Sequence[int]) -> None:
        from rostral_rl.simulate.make import make_seeded

        probe = make_seeded(source.env, seeds[:1])
        self.observation_space: Space = probe.observation_space
        self.action_space: Space = probe.action_space
        probe.close()
        self.count = len(seeds)
        # Forking a process that has loaded torch's thread pools is asking for a hang.
        context = multiprocessing.get_context("spawn")
        columns = _columns(self.count, self.observation_space, self.action_space)
        memory = context.RawArray("B", _bytes(columns) + ALIGNMENT)
        self._row = _mapped(memory, columns)
        self._parts: list[slice] = []
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        try:
            for first, count in split(self.count, min(source.processes, self.count)):
                ours, theirs = context.Pipe()
                part = slice(first, first + count)
                process = context.Process(
                    target=_serve,
                    args=(theirs, memory, source.env, list(seeds), part),
                    daemon=True,
                    name=f"rostral-envs-{first}",
                )
                process.start()
                theirs.close()
                self._parts.append(part)
                self._pipes.append(ours)
                self._processes.append(process)
            self._gather()
        except BaseException:
            self.close()
            raise

    def reset(self, obs: SpaceArray) -> None:
        """See `VectorEnv.reset`."""
        self._ask(RESET)
        obs[...] = self._row.slab.obs[0]

    def step(self, slab: Slab, t: int) -> Finals | None:
        """See `VectorEnv.step`."""
        row = self._row.slab
        row.actions[0] = slab.actions[t]
        self._ask(STEP)
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
        for pipe, part in zip(self._pipes, self._parts, strict=True):
            with suppress(OSError):  # A dead process is told of when it does not answer.
                pipe.send_bytes(RESTORE)
                pipe.send(list(states[part]))
        self._gather()
        obs[...] = self._row.slab.obs[0]

    def close(self) -> None:
        """See `VectorEnv.close`."""
        pipes, self._pipes = self._pipes, []
        for pipe in pipes:
            with suppress(OSError):  # It is dead already.
                pipe.send_bytes(CLOSE)
            pipe.close()
        while self._processes:
            process = self._processes.pop()
            process.join(5.0)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()

    def _ask(self, command: bytes) -> list[Any]:
        for pipe in self._pipes:
            with suppress(OSError):  # A dead process is told of when it does not answer.
                pipe.send_bytes(command)
        return self._gather()

    def _gather(self) -> list[Any]:
        """One answer of each process; the first error is raised when all have answered."""
        answers: list[Any] = []
        error: Exception | None = None
        for pipe, part in zip(self._pipes, self._parts, strict=True):
            where = f"environments {part.start} to {part.stop - 1}"
            try:
                if not pipe.poll(ANSWER_S_MAX):
                    raise SimulationError(f"{where} did not answer within {ANSWER_S_MAX:g} s")
                kind = pipe.recv_bytes()
                answer = None if kind == DONE else pipe.recv()
            except (EOFError, OSError) as lost:
                raise SimulationError(
                    f"the process of {where} died",
                    hint="workers=N plays in actors, which are replaced",
                ) from lost
            if kind == FAILED:
                error = error or answer
            answers.append(answer)
        if error is not None:
            raise error
        return answers


def _columns(count: int, observation_space: Space, action_space: Space) -> Row:
    """A row of `count` environments in private memory."""
    slab = Slab.allocate(1, count, observation_space=observation_space, action_space=action_space)
    return Row(slab, np.zeros_like(slab.obs[0]))


def _arrays(row: Row) -> dict[str, SpaceArray]:
    return {name: getattr(row.slab, name) for name in Slab.__slots__} | {"final": row.final_obs}


def _bytes(row: Row) -> int:
    """Room for a row, each column aligned."""
    return sum(-(-array.nbytes // ALIGNMENT) * ALIGNMENT for array in _arrays(row).values())


def _mapped(memory: Any, like: Row) -> Row:
    """The same columns in shared memory, which is zero but for `valid`."""
    raw = np.frombuffer(memory, np.uint8)
    offset = -raw.ctypes.data % ALIGNMENT
    found: dict[str, SpaceArray] = {}
    for name, array in _arrays(like).items():
        view = raw[offset : offset + array.nbytes].view(array.dtype).reshape(array.shape)
        found[name] = view
        offset += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    final = found.pop("final")
    return Row(Slab(**found), final)


def _serve(
    pipe: Connection, memory: Any, env: str | EnvFactory, seeds: list[int], envs: slice
) -> None:
    """What a process does until it is told to close, or nobody is there any more."""
    from rostral_rl.simulate.make import make_seeded

    vector: VectorEnv | None = None
    try:
        vector = make_seeded(env, seeds[envs])
        whole = _columns(len(seeds), vector.observation_space, vector.action_space)
        row = _mapped(memory, whole).part(envs)
        row.slab.valid[...] = True
        _answer(pipe, None)
        while (command := pipe.recv_bytes()) != CLOSE:
            try:
                _answer(pipe, _obey(command, vector, row, pipe))
            except (*FAULTS, RLError) as error:
                _refuse(pipe, error)
    except (*FAULTS, RLError) as error:
        _refuse(pipe, error)
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        pass  # Whoever asked is gone.
    finally:
        if vector is not None:
            vector.close()


def _obey(command: bytes, vector: VectorEnv, row: Row, pipe: Connection) -> Any:
    slab = row.slab
    match command:
        case b"s":
            finals = vector.step(slab, 0)
            if finals is not None:
                row.final_obs[finals.index] = finals.obs
            slab.obs[0] = slab.obs[1]
        case b"r":
            vector.reset(slab.obs[0])
        case b"q":
            return vector.states()
        case _:
            vector.restore(pipe.recv(), slab.obs[0])
    return None


def _answer(pipe: Connection, answer: Any) -> None:
    pipe.send_bytes(DONE if answer is None else TOLD)
    if answer is not None:
        pipe.send(answer)


def _refuse(pipe: Connection, error: Exception) -> None:
    if not isinstance(error, RLError):
        error = SimulationError(f"an environment failed: {type(error).__name__}: {error}")
    pipe.send_bytes(FAILED)
    pipe.send(error)
