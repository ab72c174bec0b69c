"""The models that are served, their versions, and the way of a request to an answer.

All fronts, embedded, HTTP and gRPC, ask one engine, so that their requests share batches and meet
the same limits. It knows no sockets. Weights may be swapped from any thread; all else belongs to
one event loop.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from rostral_rl import spaces
from rostral_rl.arrays import FloatArray, SpaceArray, non_finite
from rostral_rl.errors import (
    InvalidSettingError,
    ModelRejectedError,
    NotServedError,
    RequestError,
    ShapeError,
    TooLargeError,
)
from rostral_rl.policy import Policy
from rostral_rl.serve.batcher import Asker, BatchConfig, Batcher, Current
from rostral_rl.serve.names import DEFAULT_MODEL, NAME_LENGTH_MAX
from rostral_rl.serve.servable import AnyServable, Servable, is_recurrent
from rostral_rl.serve.sessions import Session, SessionConfig, Sessions
from rostral_rl.serve.tally import Tally

_PROBE_SESSION = "rostral-probe"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Limits of one engine.

    Attributes:
        batch: Of each model's batcher.
        sessions: Of each recurrent model's sessions.
        versions_max: Versions of a model that can be asked for by number; the oldest goes.
        deadline_ms_max: A longer deadline is refused.
    """

    batch: BatchConfig = field(default_factory=BatchConfig)
    sessions: SessionConfig = field(default_factory=SessionConfig)
    versions_max: int = 4
    deadline_ms_max: float = 86_400_000.0

    def __post_init__(self) -> None:
        if self.versions_max < 1:
            raise InvalidSettingError(f"versions_max must be >= 1, got {self.versions_max!r}")


class Reply(NamedTuple):
    """What a request gets.

    Attributes:
        actions: One action, or (N, ...) of them for a batch.
        version: Of the weights that chose them.
    """

    actions: SpaceArray
    version: int


class Engine:
    """Serves one or more models.

    Args:
        models: By name; `DEFAULT_MODEL` answers those who name none.
        config: Limits.

    Raises:
        InvalidSettingError: No model, or a name that no URL would hold.
        ModelRejectedError: A policy failed at its first observation.
    """

    def __init__(self, models: Mapping[str, AnyServable], config: EngineConfig) -> None:
        if not models:
            raise InvalidSettingError("no model to serve")
        self._config = config
        self._models = {name: _Model(_checked(name), p, config) for name, p in models.items()}
        self._closing = False

    @property
    def problem(self) -> str | None:
        """Why no more requests should be sent just now; None where they may."""
        if self._closing:
            return "stopping"
        full = [name for name, model in self._models.items() if model.batcher.is_full]
        return f"the queue of {full[0]} is full" if full else None

    def swap(
        self, policy: AnyServable, *, model: str = DEFAULT_MODEL, version: int | None = None
    ) -> int:
        """Serves other weights from the next batch on; what is under way ends with the old ones.

        May be called from any thread. No request is lost or answered by two versions.

        Args:
            policy: Of the same spaces.
            model: Which to replace.
            version: Its number, greater than the present one; by default the policy's own where
                that is greater, else one more than the present.

        Returns:
            The number that answers will carry.

        Raises:
            NotServedError: No such model.
            ModelRejectedError: Other spaces, or it failed at its first observation.
            InvalidSettingError: The version is not greater than the present one.
        """
        return self._model(model).swap(policy, version)

    def policy(self, model: str = DEFAULT_MODEL, version: int | None = None) -> AnyServable:
        """The policy that answers.

        Raises:
            NotServedError: No such model or version.
        """
        return self._model(model).loaded(version)[0]

    async def act(
        self,
        obs: npt.ArrayLike,
        *,
        model: str = DEFAULT_MODEL,
        version: int | None = None,
        session: str | None = None,
        reset: bool = False,
        deadline_s: float | None = None,
    ) -> Reply:
        """Answers one observation, or a batch.

        Args:
            obs: One observation of the model's space, or (N, *shape).
            model: Which.
            version: An older one; the newest by default.
            session: Whose memory, for a recurrent policy; others need none.
            reset: An episode begins: forget the session's state.
            deadline_s: Seconds from now after which nobody waits any more.

        Raises:
            NotServedError: No such model or version.
            ShapeError: The observation does not fit.
            TooLargeError: More rows than a batch may have.
            RequestError: A deadline out of range; a session missing, or malformed.
            OverloadedError: The queue or the table of sessions is full.
            DeadlineError: The deadline passed before the request's turn came.
        """
        if deadline_s is not None and not 0.0 < deadline_s * 1e3 <= self._config.deadline_ms_max:
            raise RequestError(
                f"the deadline is {deadline_s * 1e3:g} ms",
                hint=f"> 0 and <= {self._config.deadline_ms_max:g}",
            )
        served = self._models.get(model)
        if served is None:
            served = self._model(model)
        batch, single = spaces.as_batch(served.observation_space, obs)
        self._check_rows(len(batch))
        batcher = served.batcher if version is None else served.batcher_of(version)
        if served.state_width is None:
            answer = await batcher.submit(batch, deadline_s=deadline_s)
            actions, _, by = answer
        else:
            memory = served.memory(session, reset=reset)
            actions, by = await served.step(batcher, batch, memory, deadline_s)
        return Reply(np.asarray(actions[0]) if single else actions, by)

    def act_at_once(self, obs: npt.ArrayLike) -> Reply | None:
        """As `act(obs)`, without a coroutine: what a quick policy costs is mostly the way to it.

        None: not now, or not so; await `act`. An eager batcher is needed, at rest, and a default
        model without memory.

        Raises:
            ShapeError, TooLargeError: As for `act`.
        """
        served = self._models.get(DEFAULT_MODEL)
        if served is None or served.state_width is not None:
            return None
        batch, single = spaces.as_batch(served.observation_space, obs)
        self._check_rows(len(batch))
        answer = served.batcher.at_once(batch)
        if answer is None:
            return None
        actions = answer.actions
        return Reply(np.asarray(actions[0]) if single else actions, answer.version)

    def hand_in(self, batch: SpaceArray, asker: Asker, *, model: str = DEFAULT_MODEL) -> None:
        """As `act` for the newest weights of a policy without memory, but tells `asker`.

        Args:
            batch: (N, *shape), known to fit `plain_space(model)`.
            asker: Gets all rows' actions, of a later turn of the loop.
            model: Which.

        Raises:
            ShapeError, TooLargeError, OverloadedError: As for `act`; the asker hears no more.
        """
        self._check_rows(len(batch))
        self._models[model].batcher.enqueue(batch, asker)

    def plain_space(self, model: str) -> spaces.Space:
        """The space of a model's observations, if it may be asked by `hand_in`.

        Raises:
            NotServedError: No such model.
            RequestError: It has memory, and needs sessions.
        """
        served = self._model(model)
        if served.state_width is not None:
            raise RequestError(f"{model} is recurrent")
        return served.observation_space

    async def probe(self) -> None:
        """Returns when every model has acted on some observation: they do their work.

        Raises:
            OverloadedError, DeadlineError: Others were first.
        """
        for name, model in self._models.items():
            session = None if model.state_width is None else _PROBE_SESSION
            obs = model.observation_space.sample()
            await self.act(obs, model=name, session=session, reset=session is not None)

    def end_session(self, session: str, *, model: str = DEFAULT_MODEL) -> bool:
        """Forgets a session's state; whether there was one."""
        return self._model(model).sessions.end(session)

    def describe(self) -> dict[str, dict[str, Any]]:
        """For each model: spaces, provenance, versions, and what its batcher does, as JSON."""
        return {name: model.describe() for name, model in self._models.items()}

    def tallies(self) -> dict[str, tuple[Batcher, Tally, int, int]]:
        """For each model: its batcher, its counts, its sessions and its version."""
        return {
            name: (model.batcher, model.tally, len(model.sessions), model.loaded(None)[1])
            for name, model in self._models.items()
        }

    async def close(self) -> None:
        """Answers what is waiting, then stops."""
        self._closing = True
        for model in self._models.values():
            await model.close()

    def _model(self, name: str) -> _Model:
        if name not in self._models:
            known = ", ".join(sorted(self._models))
            raise NotServedError(f"no model {name[:80]!r} is served", hint=f"there is {known}")
        return self._models[name]

    def _check_rows(self, rows: int) -> None:
        if rows == 0:
            raise ShapeError("the batch is empty", hint="one observation at least")
        if rows > self._config.batch.batch_max:
            raise TooLargeError(
                f"the batch has {rows} observations, the limit is {self._config.batch.batch_max}",
                hint="send it in parts",
            )


class _Model:
    """One model: its versions, the batcher of its newest one, and those of older ones in use."""

    def __init__(self, name: str, policy: AnyServable, config: EngineConfig) -> None:
        self.name = name
        self.observation_space = policy.observation_space
        self.state_width = policy.state_width if is_recurrent(policy) else None
        self._config = config
        self._lock = threading.Lock()
        version = policy.info.version
        self._latest = _try_out(policy, version)
        self._versions: dict[int, tuple[AnyServable, Current]] = {version: (policy, self._latest)}
        self.tally = Tally()
        self.batcher = Batcher(lambda: self._latest, config.batch, self.tally)
        self._older: dict[int, Batcher] = {}
        self.sessions = Sessions(config.sessions, time.monotonic)

    def swap(self, policy: AnyServable, version: int | None) -> int:
        old = self.loaded(None)[0]
        width = policy.state_width if is_recurrent(policy) else None
        for which in ("observation_space", "action_space"):
            if not spaces.alike(getattr(old, which), getattr(policy, which)):
                raise ModelRejectedError(
                    f"the {which} of {self.name} is {getattr(old, which)}, that of the new "
                    f"weights {getattr(policy, which)}",
                    hint="serve it under another name",
                )
        if width != self.state_width:
            raise ModelRejectedError(
                f"the states of {self.name} have width {self.state_width}, those of the new "
                f"weights {width}",
                hint="serve it under another name",
            )
        with self._lock:
            present = self._latest.version
            if version is None:
                version = max(policy.info.version, present + 1)
            if version <= present:
                raise InvalidSettingError(
                    f"version {version} of {self.name} is not newer than {present}, which is served"
                )
            current = _try_out(policy, version)
            # Made anew and not changed: the loop reads it meanwhile.
            versions = {**self._versions, version: (policy, current)}
            kept = sorted(versions)[-self._config.versions_max :]
            self._versions = {number: versions[number] for number in kept}
            self._latest = current
        return version

    def loaded(self, version: int | None) -> tuple[AnyServable, int]:
        versions = self._versions
        number = self._latest.version if version is None else version
        if number not in versions:
            raise NotServedError(
                f"version {number} of {self.name} is not served",
                hint=f"there is {', '.join(map(str, sorted(versions)))}",
            )
        return versions[number][0], number

    def batcher_of(self, version: int) -> Batcher:
        self.loaded(version)
        if version == self._latest.version:
            return self.batcher
        for number in [n for n, b in self._older.items() if n not in self._versions and b.is_idle]:
            self._older.pop(number).stop()
        if version not in self._older:
            current = self._versions[version][1]
            self._older[version] = Batcher(lambda: current, self._config.batch, self.tally)
        return self._older[version]

    def memory(self, name: str | None, *, reset: bool) -> Session:
        if name is None:
            raise RequestError(
                f"{self.name} is recurrent, and the request names no session",
                hint="give each episode an id, and reset it where the next begins",
            )
        return self.sessions.use(name, reset=reset)

    async def step(
        self, batcher: Batcher, batch: SpaceArray, session: Session, deadline_s: float | None
    ) -> tuple[SpaceArray, int]:
        assert self.state_width is not None
        async with session.turn:
            state = session.state
            if state is None:
                state = np.zeros((len(batch), self.state_width), np.float32)
            if len(state) != len(batch):
                raise ShapeError(
                    f"the session holds {len(state)} rows of state, the batch has {len(batch)}",
                    hint="as many as before, or reset the session",
                )
            actions, after, version = await batcher.submit(
                batch, state=state, deadline_s=deadline_s
            )
            # Its own bytes: a view would keep the whole batch's alive.
            session.state = None if after is None else after.copy()
        return actions, version

    def describe(self) -> dict[str, Any]:
        policy, version = self.loaded(None)
        return {
            "observation_space": spaces.to_json(policy.observation_space),
            "action_space": spaces.to_json(policy.action_space),
            "info": asdict(policy.info),
            "version": version,
            "versions": sorted(self._versions),
            "recurrent": self.state_width is not None,
            "sessions": len(self.sessions),
            "batch_limit": self.batcher.limit_rows,
            "batches": self.tally.passes,
            "observations": self.tally.rows,
        }

    async def close(self) -> None:
        for batcher in (self.batcher, *self._older.values()):
            await batcher.close()


def _try_out(policy: AnyServable, version: int) -> Current:
    """Acts on one observation of zeros: what cannot act is refused, and the rest is warm.

    Raises:
        ModelRejectedError: It raised, its weights are not all numbers, or its actions are not those
            of its space.
    """
    if isinstance(policy, Policy) and (bad := non_finite(policy.weights)) is not None:
        raise ModelRejectedError(
            f"the policy's {bad} holds NaN or infinity", hint="the training diverged"
        )
    if is_recurrent(policy):

        def run(obs: SpaceArray, state: FloatArray | None) -> tuple[SpaceArray, FloatArray | None]:
            assert state is not None
            return policy.step(obs, state)

        state: FloatArray | None = np.zeros((1, policy.state_width), np.float32)
    else:
        act, state = cast("Servable", policy).act, None

        def run(obs: SpaceArray, state: FloatArray | None) -> tuple[SpaceArray, FloatArray | None]:
            return act(obs), None

    try:
        actions, _ = run(_zeros(policy.observation_space), state)
        fits = actions.shape == (1, *(policy.action_space.shape or ()))
    except Exception as error:
        raise ModelRejectedError(f"the policy failed at its first observation: {error}") from error
    if not fits:
        raise ModelRejectedError(
            f"the policy's actions have shape {actions.shape[1:]}, its action space is "
            f"{policy.action_space}"
        )
    return Current(run, version)


def _zeros(space: spaces.Space) -> SpaceArray:
    """One observation, as a policy is handed it."""
    stored = spaces.stored(space)
    start = getattr(stored, "start", 0)
    zeros: SpaceArray = np.zeros((1, *(stored.shape or ())), stored.dtype)
    zeros += np.asarray(start, stored.dtype)  # A Discrete space may begin to count elsewhere.
    return zeros


def _checked(name: str) -> str:
    if not 0 < len(name) <= NAME_LENGTH_MAX or not name.replace("-", "").replace("_", "").isalnum():
        raise InvalidSettingError(
            f"not the name of a model: {name[:80]!r}",
            hint=f"letters, digits, - and _; at most {NAME_LENGTH_MAX}",
        )
    return name
