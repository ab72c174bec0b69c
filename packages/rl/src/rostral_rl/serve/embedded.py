"""Serving within a cluster: policies in an actor, which tasks, actors and drivers ask directly.

The paper's embedded serving (OSDI'18 section 5.2.3): a request is an actor call, its observations
lie in shared memory where the asker put them, and requests of all askers share batches. No socket,
no serialisation.
"""

from __future__ import annotations

import struct
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

import rostral
from rostral_rl.arrays import SpaceArray
from rostral_rl.errors import UnavailableError
from rostral_rl.serve.batcher import BatchConfig
from rostral_rl.serve.engine import Engine, EngineConfig, Reply
from rostral_rl.serve.front import load
from rostral_rl.serve.names import DEFAULT_MODEL

if TYPE_CHECKING:
    from rostral_rl.serve.front import Source
    from rostral_rl.serve.servable import AnyServable

CALLS_MAX = 1024
"""Requests that the actor has begun, at most; more wait in its mailbox."""


_PACKED_BYTES_MAX = 512
_PACKED_KINDS = frozenset("biuf")
_HEAD = struct.Struct("<qcB6x")
"""A number, the array's type and how many dimensions it has; these follow, and then its bytes."""

Sent: TypeAlias = tuple[SpaceArray, int] | bytes
"""An array and a number on their way. A small one as plain bytes, which the engine sends as they
are: to pickle it takes longer than to choose an action."""


def packed(array: SpaceArray, number: int = 0) -> Sent:
    """An array and a number as they travel; `unpacked` is the inverse."""
    dtype = array.dtype
    # What has no byte order of its own is told by its one letter.
    if array.nbytes > _PACKED_BYTES_MAX or dtype.kind not in _PACKED_KINDS or not dtype.isnative:
        return array, number
    shape = array.shape
    dimensions = struct.pack(f"<{len(shape)}q", *shape)
    return _HEAD.pack(number, dtype.char.encode(), len(shape)) + dimensions + array.tobytes()


def unpacked(sent: Sent) -> tuple[SpaceArray, int]:
    """The array and the number; the array may be read-only."""
    if type(sent) is not bytes:
        return sent  # type: ignore[return-value]
    number, char, count = _HEAD.unpack_from(sent)
    shape = struct.unpack_from(f"<{count}q", sent, _HEAD.size)
    array = np.ndarray(shape, char.decode(), sent, _HEAD.size + 8 * count)
    return array, number


def _sent(obs: Any) -> Any:
    """Observations on their way: bytes where `packed` makes them of an array, else as they are."""
    try:
        array = np.asarray(obs)
    except ValueError:  # A tuple of observations, or nonsense that the engine will name.
        return obs
    if array.dtype.hasobject:
        return obs
    sent = packed(array)
    return sent if type(sent) is bytes else array


class _PolicyActor:
    """The engine as an async actor: one event loop, as in the other fronts."""

    def __init__(self, models: Mapping[str, AnyServable], config: EngineConfig) -> None:
        self._engine = Engine(models, config)

    def act_plain(self, sent: bytes) -> Sent | Coroutine[Any, Any, Sent]:
        """Answers what `packed` made bytes of, for whoever asks for nothing in particular.

        No coroutine: a quick policy has its answer here and now.
        """
        obs, _ = unpacked(sent)
        reply = self._engine.act_at_once(obs)
        return self.act(sent) if reply is None else packed(*reply)

    async def act(self, sent: Any, which: dict[str, Any] | None = None) -> Sent:
        """Answers; see `Engine.act`."""
        obs = unpacked(sent)[0] if type(sent) is bytes else sent
        return packed(*await self._engine.act(obs, **(which or {})))

    async def swap(self, policy: AnyServable, model: str, version: int | None) -> int:
        """Serves other weights; see `Engine.swap`."""
        return self._engine.swap(policy, model=model, version=version)

    async def end_session(self, session: str, model: str) -> bool:
        """Forgets a session's state."""
        return self._engine.end_session(session, model=model)

    async def describe(self) -> dict[str, dict[str, Any]]:
        """See `Engine.describe`."""
        return self._engine.describe()


class Pending(NamedTuple):
    """A request under way; see `EmbeddedPolicy.submit`."""

    ref: rostral.ObjectRef[Sent]

    def reply(self, timeout_s: float | None = None) -> Reply:
        """Waits for actions and version.

        Raises:
            GetTimeoutError: They did not come in time.
            UnavailableError: The actor is dead.
            RLError: What `Engine.act` raises.
        """
        try:
            return Reply(*unpacked(rostral.get(self.ref, timeout=timeout_s)))
        except rostral.exceptions.ActorError as error:
            raise UnavailableError(
                f"the policy's actor is away: {error}", hint="it is restarted where it may be"
            ) from error


@dataclass(frozen=True, slots=True)
class EmbeddedPolicy:
    """A policy that an actor serves. May be sent to tasks and actors, which then ask it too.

    `embed` makes one. Thread-safe.
    """

    _actor: Any

    def act(self, obs: Any, **which: Any) -> SpaceArray:
        """Asks for the action of one observation, or of a batch; blocks.

        Args:
            obs: One observation of the policy's space, or (N, *shape). Large arrays travel through
                the object store.
            which: `model`, `version`, `session`, `reset`, `deadline_s` of `Engine.act`.

        Raises:
            UnavailableError: The actor is dead.
            RLError: What `Engine.act` raises.
        """
        return self.submit(obs, **which).reply().actions

    def submit(self, obs: Any, **which: Any) -> Pending:
        """As `act`, without waiting: `submit(obs).reply()` has actions and version."""
        sent = _sent(obs)
        if which:
            return Pending(self._actor.act.remote(sent, which))
        if type(sent) is bytes:
            return Pending(self._actor.act_plain.remote(sent))
        return Pending(self._actor.act.remote(sent))

    def swap(
        self, policy: AnyServable, *, model: str = DEFAULT_MODEL, version: int | None = None
    ) -> int:
        """Serves other weights from the next batch on; blocks until then. See `Engine.swap`."""
        swapped: int = rostral.get(self._actor.swap.remote(policy, model, version))
        return swapped

    def end_session(self, session: str, *, model: str = DEFAULT_MODEL) -> bool:
        """Forgets a session's state; whether there was one."""
        ended: bool = rostral.get(self._actor.end_session.remote(session, model))
        return ended

    def describe(self) -> dict[str, dict[str, Any]]:
        """See `Engine.describe`."""
        described: dict[str, dict[str, Any]] = rostral.get(self._actor.describe.remote())
        return described

    def close(self) -> None:
        """Ends the actor; requests under way fail."""
        rostral.kill(self._actor)


def embed(
    policy: Source | Mapping[str, Source],
    *,
    slo_ms: float = 5.0,
    restarts: int = 3,
    config: EngineConfig | None = None,
) -> EmbeddedPolicy:
    """Serves a policy from an actor of the cluster that this process is in.

    Args:
        policy: As for `rl.serve`.
        slo_ms: Latency objective of a request; drives the batch size.
        restarts: How often an actor that died is started again, with the weights given here; it
            knows nothing of later swaps, and what was under way fails with `UnavailableError`.
        config: All limits; `slo_ms` does not count then.

    Raises:
        PolicyNotFoundError: There is no policy folder of that name.
        ModelRejectedError: A folder is damaged or of another format, or its policy cannot act.
    """
    sources = policy if isinstance(policy, Mapping) else {DEFAULT_MODEL: policy}
    models = {name: load(source) for name, source in sources.items()}
    limits = config or EngineConfig(batch=BatchConfig(slo_ms=slo_ms, eager=True))
    Engine(models, limits)  # Errors are raised here, and not in the actor.
    actor = rostral.remote(_PolicyActor).options(
        max_concurrency=CALLS_MAX, max_restarts=restarts, num_cpus=0
    )
    return EmbeddedPolicy(actor.remote(models, limits))
