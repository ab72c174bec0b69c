"""Processes that own environments, and step them straight into shared memory when told to.

A process owns a run of neighbours from each *group*: those that step together. It takes commands
one after the other, so that while it steps one group the next command for another may lie there
already. The mapping has no name, so that nothing is left behind whoever dies.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rostral_rl.arrays import SpaceArray
from rostral_rl.errors import RLError, SimulationError
from rostral_rl.simulate.crew import split
from rostral_rl.simulate.slabs import Slab
from rostral_rl.simulate.vector import EnvFactory, VectorEnv
from rostral_rl.spaces import Space

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

STEP, RESET, STATES, RESTORE = b"s", b"r", b"q", b"l"
CLOSE = b"c"
DONE, TOLD, FAILED = b"d", b"t", b"f"
FAULTS = (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError, AssertionError)
"""What an environment's fault looks like; the sampler's list."""
ANSWER_S_MAX = 300.0
"""Longest wait for a process; an environment slower than this hangs."""
ALIGNMENT = 64


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


class EnvProcesses:
    """B environments in processes, in groups. Not thread-safe.

    Args:
        env: Gymnasium id, or a picklable callable that makes one environment.
        seeds: (B,) seeds of the first resets.
        groups: Which environments step together; each group has as many as there are processes,
            or more.
        processes: How many.

    Raises:
        SimulationError: An environment cannot be made, or a process ends.
    """

    def __init__(
        self, env: str | EnvFactory, seeds: Sequence[int], groups: Sequence[slice], processes: int
    ) -> None:
        from rostral_rl.simulate.make import make_seeded

        probe = make_seeded(env, seeds[:1])
        self.observation_space: Space = probe.observation_space
        self.action_space: Space = probe.action_space
        probe.close()
        # Forking a process that has loaded torch's thread pools is asking for a hang.
        context = multiprocessing.get_context("spawn")
        columns = _columns(len(seeds), self.observation_space, self.action_space)
        memory = context.RawArray("B", _bytes(columns) + ALIGNMENT)
        #: One step of all.
        self.row = _mapped(memory, columns)
        self._owed: deque[int] = deque()  # groups that were asked and have not answered
        # Answers that came while another group's were awaited, or what went wrong.
        self._told: dict[int, list[Any] | Exception] = {}
        self._pipes: list[Connection] = []
        self.running: list[Any] = []
        #: For each group, what each process has of it.
        self.parts = [
            [
                slice(group.start + first, group.start + first + count)
                for first, count in split(group.stop - group.start, processes)
            ]
            for group in groups
        ]
        try:
            for parts in zip(*self.parts, strict=True):
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=_serve,
                    args=(theirs, memory, env, list(seeds), parts),
                    daemon=True,
                    name=f"rostral-envs-{parts[0].start}",
                )
                process.start()
                theirs.close()
                self._pipes.append(ours)
                self.running.append(process)
            self._owed.append(0)
            self.gather(0)
        except BaseException:
            self.close()
            raise

    def ask(self, command: bytes, group: int, more: Sequence[Any] | None = None) -> None:
        """Has a group do something; `gather` waits until it is done.

        Args:
            command: `STEP`, `RESET`, `STATES` or `RESTORE`.
            group: Which; its answer before must have been gathered, or it is thrown away.
            more: Goes along, divided among the processes by the environments that they have.
        """
        while group in self._owed:  # After an error elsewhere, which nobody asks for any more.
            self._receive()
        self._told.pop(group, None)
        self._owed.append(group)
        start = self.parts[group][0].start
        for pipe, part in zip(self._pipes, self.parts[group], strict=True):
            with suppress(OSError):  # A dead process is told of when it does not answer.
                pipe.send_bytes(command + bytes((group,)))
                if more is not None:
                    pipe.send(list(more[part.start - start : part.stop - start]))

    def gather(self, group: int) -> list[Any]:
        """One answer of each process; the first error is raised when all have answered.

        Raises:
            SimulationError: A process died or hangs, or an environment failed.
        """
        while group not in self._told:
            self._receive()
        told = self._told.pop(group)
        if isinstance(told, Exception):
            raise told
        return told

    def _receive(self) -> None:
        """Takes the answers of the group that was asked first, for when they are gathered."""
        group = self._owed.popleft()
        answers: list[Any] = []
        error: Exception | None = None
        for pipe, part in zip(self._pipes, self.parts[group], strict=True):
            where = f"environments {part.start} to {part.stop - 1}"
            try:
                if not pipe.poll(ANSWER_S_MAX):
                    error = SimulationError(f"{where} did not answer within {ANSWER_S_MAX:g} s")
                    break
                kind = pipe.recv_bytes()
                answer = None if kind == DONE else pipe.recv()
            except (EOFError, OSError) as lost:
                error = SimulationError(
                    f"the process of {where} died",
                    hint="workers=N plays in actors, which are replaced",
                )
                error.__cause__ = lost
                break
            if kind == FAILED:
                error = error or answer
            answers.append(answer)
        self._told[group] = answers if error is None else error

    def close(self) -> None:
        """Ends the processes. May be called twice."""
        pipes, self._pipes = self._pipes, []
        for pipe in pipes:
            with suppress(OSError):  # It is dead already.
                pipe.send_bytes(CLOSE)
            pipe.close()
        while self.running:
            process = self.running.pop()
            process.join(5.0)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()


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
    pipe: Connection,
    memory: Any,
    env: str | EnvFactory,
    seeds: list[int],
    parts: Sequence[slice],
) -> None:
    """What a process does until it is told to close, or nobody is there any more."""
    from rostral_rl.simulate.make import make_seeded

    vectors: list[VectorEnv] = []
    try:
        vectors.extend(make_seeded(env, seeds[part]) for part in parts)
        whole = _columns(len(seeds), vectors[0].observation_space, vectors[0].action_space)
        rows = [_mapped(memory, whole).part(part) for part in parts]
        for row in rows:
            row.slab.valid[...] = True
        _answer(pipe, None)
        while (command := pipe.recv_bytes()) != CLOSE:
            group = command[1]
            try:
                _answer(pipe, _obey(command[:1], vectors[group], rows[group], pipe))
            except (*FAULTS, RLError) as error:
                _refuse(pipe, error)
    except (*FAULTS, RLError) as error:
        _refuse(pipe, error)
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        pass  # Whoever asked is gone.
    finally:
        for vector in vectors:
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
