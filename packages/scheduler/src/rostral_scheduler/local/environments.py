"""The environments of the node: each made when work for it waits, kept while it is used, and ended.

This file owns their records and the zygotes of those that need an interpreter of their own. An
environment with a folder and variables alone is a matter of the fork: its workers come from the
pool's zygote. Making files is in ``environment_setup.py``; who gets workers is decided in
``core/local.py``, which is told when an environment is ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, field

from rostral_gcs.services.users import uid_of
from rostral_scheduler.config import LocalSchedulerConfig
from rostral_scheduler.core.events import EnvironmentChanged, Event
from rostral_scheduler.environment import (
    NO_ENVIRONMENT,
    EnvironmentSpec,
    decode_environment,
)
from rostral_scheduler.errors import LimitReachedError, RuntimeEnvSetupError, WorkerStartError
from rostral_scheduler.local.environment_cache import Cache
from rostral_scheduler.local.environment_setup import PreparedFiles, prepare_files
from rostral_scheduler.local.zygote_process import ZygoteListener, ZygoteProcess
from rostral_scheduler.zygote_start import start_zygote

__all__ = ["Environments", "WorkerPlace"]

logger = logging.getLogger("rostral.scheduler.environments")

_VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlace:
    """Where and how a worker of an environment begins.

    Attributes:
        variables: Set in its environment.
        python_path: The head of its import path.
        working_dir: Its directory; empty: its job's.
        text: The encoded environment.
        zygote: Forks it; None: the pool's own does.
    """

    variables: dict[str, str] = field(default_factory=dict)
    python_path: tuple[str, ...] = ()
    working_dir: str = ""
    text: str = ""
    zygote: ZygoteProcess | None = None


# ASLEEP ──> PREPARING ──> READY ──> ASLEEP     (unused for a while, or its zygote died)
#               │  ^
#               v  │ after a while, if work waits
#             FAILED
class EnvironmentStage(enum.Enum):
    """Where an environment is in its life; the drawing is above."""

    ASLEEP = enum.auto()
    PREPARING = enum.auto()
    READY = enum.auto()
    FAILED = enum.auto()


@dataclass(slots=True, eq=False)
class _Environment:
    """One environment.

    Invariant: ``place`` and ``files`` are set exactly in READY, ``error`` exactly in FAILED.
    """

    key: bytes
    text: str
    spec: EnvironmentSpec
    stage: EnvironmentStage = EnvironmentStage.ASLEEP
    place: WorkerPlace | None = None
    files: PreparedFiles | None = None
    error: RuntimeEnvSetupError | None = None
    since_s: float = 0.0
    """Of a failed one: when it failed. Of a ready one: when it was last in use."""


class Environments:
    """All environments of the node, on one event loop.

    Args:
        config: Of the scheduler.
        listener: Hears of the workers that the environments' zygotes fork.
        tell: Gives an event to the policy.
    """

    def __init__(
        self,
        config: LocalSchedulerConfig,
        *,
        listener: ZygoteListener,
        tell: Callable[[Event], None],
    ) -> None:
        self._config = config
        self._listener = listener
        self._tell = tell
        self._by_key: dict[bytes, _Environment] = {}
        self._work: set[asyncio.Task[None]] = set()
        self.files = config.session_dir / "packages"
        self._uid = uid_of(config.worker_user)
        # What a job has installed runs as workers do, and they write to it by our common group.
        mode = 0o700 if self._uid is None else 0o770
        self._packages = Cache(
            config.session_dir / "unpacked",
            count_max=config.packages_kept_max,
            size_max=config.packages_size_max,
            mode=mode,
        )
        self._venvs = Cache(
            config.venv_dir or config.session_dir / "venvs",
            count_max=config.venvs_kept_max,
            size_max=config.venvs_size_max,
            mode=mode,
        )

    def intern(self, text: str) -> bytes:
        """The key of an encoded environment; empty text is the one that needs nothing.

        Raises: RequestError, LimitReachedError.
        """
        if not text:
            return NO_ENVIRONMENT
        key, spec = decode_environment(text)
        if key not in self._by_key:
            if len(self._by_key) >= self._config.environments_max:
                raise LimitReachedError(
                    f"the node has {len(self._by_key)} runtime environments, as many as it may "
                    "(environments_max)",
                    hint="use the same one for more tasks",
                )
            self._by_key[key] = _Environment(key, text, spec)
        return key

    # ---- what becomes of those that are wanted

    def look(self, wanted: Collection[bytes]) -> None:
        """Begins to make those for which work waits."""
        now_s = time.monotonic()
        for key in wanted:
            environment = self._by_key.get(key)
            if environment is None:
                continue
            forgiven = now_s - environment.since_s >= self._config.environment_failure_kept_s
            if environment.stage is EnvironmentStage.ASLEEP or (
                environment.stage is EnvironmentStage.FAILED and forgiven
            ):
                self.prepare(key)

    def prepare(self, key: bytes) -> None:
        """Begins to make the environment, unless it is there or under way."""
        environment = self._by_key.get(key)
        if environment is not None and environment.stage in (
            EnvironmentStage.ASLEEP,
            EnvironmentStage.FAILED,
        ):
            environment.stage, environment.error = EnvironmentStage.PREPARING, None
            self._begin(self._prepare(environment))

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _prepare(self, environment: _Environment) -> None:
        spec, files = environment.spec, None
        try:
            files = await prepare_files(
                spec, self.files, self._packages, self._venvs, uid=self._uid
            )
            environment.place = await self._make_place(environment, files)
        except RuntimeEnvSetupError as error:
            if files is not None:
                files.release()
            self._fail(environment, error)
            return
        environment.files = files
        environment.stage, environment.since_s = EnvironmentStage.READY, time.monotonic()
        self._tell(EnvironmentChanged(environment=environment.key, ready=True))
        for cache in (self._packages, self._venvs):
            with contextlib.suppress(OSError):
                await cache.trim()

    async def _make_place(self, environment: _Environment, files: PreparedFiles) -> WorkerPlace:
        spec, config = environment.spec, self._config
        known = {**os.environ, **config.worker_environment}
        variables = {
            name: _VARIABLE.sub(lambda found: known.get(found[1], ""), value)
            for name, value in spec.env_vars.items()
        }
        zygote = None
        if spec.needs_interpreter:
            try:
                started = start_zygote(
                    entry=config.worker_module,
                    preload=config.preload_modules,
                    environment={**config.worker_environment, **variables},
                    interpreter=shlex.split(files.interpreter) or [sys.executable],
                    path=[*filter(None, [files.site_packages]), *sys.path],
                    cgroup=config.worker_cgroup,
                    uid=self._uid,
                )
                zygote = ZygoteProcess(self._listener, started, entry=config.worker_module)
                await zygote.wait_ready(config.start_timeout_s)
            except (WorkerStartError, OSError) as error:
                raise RuntimeEnvSetupError(
                    f"the runtime environment's Python cannot run workers: {error}",
                    hint="what it installs, or its py_executable, must be able to import rostral",
                ) from error
        return WorkerPlace(
            variables=variables,
            python_path=tuple(files.python_path),
            working_dir=files.working_dir,
            text=environment.text,
            zygote=zygote,
        )

    def _fail(self, environment: _Environment, error: RuntimeEnvSetupError) -> None:
        logger.warning("%s", error)
        environment.stage, environment.since_s = EnvironmentStage.FAILED, time.monotonic()
        environment.error = error
        self._tell(EnvironmentChanged(environment=environment.key, ready=False))

    def worker_failed(self, key: bytes, error: RuntimeEnvSetupError) -> None:
        """A worker could not begin: its set-up hook raised."""
        environment = self._by_key.get(key)
        if environment is not None and environment.stage is EnvironmentStage.READY:
            self._sleep(environment)
            self._fail(environment, error)

    def error_of(self, key: bytes) -> RuntimeEnvSetupError | None:
        """Why work of the environment cannot run; None: it can, or it is not known yet."""
        environment = self._by_key.get(key)
        return None if environment is None else environment.error

    def place_of(self, key: bytes) -> WorkerPlace:
        """Where its workers begin. Raises WorkerStartError when it is not ready (any more)."""
        if key == NO_ENVIRONMENT:
            return WorkerPlace()
        environment = self._by_key.get(key)
        if environment is None or environment.place is None:
            raise WorkerStartError("its runtime environment is not ready")
        return environment.place

    # ---- what becomes of those that are not

    def tick(self, used: Collection[bytes], named: Collection[bytes]) -> None:
        """Ends what nobody has used for a while, and forgets what nobody can ask for.

        Args:
            used: Environments with a worker, or with work that waits.
            named: Those of a queue or an actor.
        """
        now_s = time.monotonic()
        for environment in list(self._by_key.values()):
            if environment.stage is EnvironmentStage.READY:
                if environment.key in used:
                    environment.since_s = now_s
                elif now_s - environment.since_s >= self._config.idle_environment_timeout_s:
                    self._sleep(environment)
            elif environment.stage is not EnvironmentStage.PREPARING and (
                environment.key not in used and environment.key not in named
            ):
                del self._by_key[environment.key]

    def zygote_lost(self, zygote: ZygoteProcess) -> None:
        """The zygote of an environment died: the next work makes another."""
        for environment in self._by_key.values():
            if environment.place is not None and environment.place.zygote is zygote:
                self._sleep(environment)

    def _sleep(self, environment: _Environment) -> None:
        place, files = environment.place, environment.files
        environment.place = environment.files = None
        environment.stage = EnvironmentStage.ASLEEP
        self._tell(EnvironmentChanged(environment=environment.key, ready=False))
        if files is not None:
            files.release()
        if place is not None and place.zygote is not None:
            self._begin(place.zygote.stop())

    async def stop(self) -> None:
        """Ends every zygote with its workers, and waits until they are gone."""
        for work in self._work:
            work.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        places = [environment.place for environment in self._by_key.values()]
        zygotes = [place.zygote for place in places if place is not None and place.zygote]
        await asyncio.gather(*(zygote.stop() for zygote in zygotes))
        for environment in self._by_key.values():
            if environment.files is not None:
                environment.files.release()

    def describe(self) -> list[dict[str, object]]:
        """What there is, for ``status``."""
        return [
            {"environment": environment.key, "stage": environment.stage.name}
            for environment in self._by_key.values()
        ]
