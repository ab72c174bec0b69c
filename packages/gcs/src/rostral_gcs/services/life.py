"""The life of a service on its event loop: signals, readiness, reload, watchdog, stop.

Every daemon of Rostral runs inside one ``ServiceLife``. Under systemd this is what its unit's
``Type=notify`` and ``WatchdogSec=`` rely on; in a terminal the same signals do the same.

    SIGTERM, SIGINT   stop in order; a second one ends the process at once
    SIGHUP            reload the configuration, or say why not and go on with the old one
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from rostral_gcs.errors import RostralError
from rostral_gcs.services import systemd
from rostral_gcs.services.collector import run_collector
from rostral_gcs.services.users import hide_memory

__all__ = ["ServiceLife"]

T = TypeVar("T")

_PAUSE_S: Final = 1.0
# Longer than any try with the pause after it.
_PATIENCE_S: Final = 60.0

logger = logging.getLogger("rostral.service")


class ServiceLife:
    """Use it as ``async with ServiceLife(...) as life`` around start and stop of the service.

    Args:
        probe: Returns once the service has done a piece of its proper work. The watchdog is fed
            after each: a service that does not work any more is restarted, though its process
            lives. None: that the event loop turns is enough.
        reload: Reads the configuration again and applies what can be changed while running;
            returns a line that says what it did. None: SIGHUP is refused.

    Attributes:
        stopping: Set by SIGTERM and SIGINT, and by whoever else wants the service to end.
    """

    def __init__(
        self,
        *,
        probe: Callable[[], Awaitable[object]] | None = None,
        reload: Callable[[], str] | None = None,
    ) -> None:
        self.stopping = asyncio.Event()
        self._probe = probe
        self._reload = reload
        self._status = ""
        self._beside: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._handle_reload)
        if systemd.is_managed():
            # In a terminal, somebody may want to debug it.
            hide_memory()
        if systemd.watchdog_interval_s() is not None:
            # A watchdog ends a service by SIGABRT: what it was doing goes to the journal.
            faulthandler.enable()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)
        for task in self._beside:
            task.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)

    async def patiently(
        self, start: Callable[[], Awaitable[T]], *expected: type[RostralError]
    ) -> T | None:
        """Starts what needs another service, which may come later than this one.

        Under a service manager it is tried again after one of the expected errors, for as long as
        it takes, and the manager is told what is waited for. Elsewhere the error is raised: who
        waits in a terminal wants to know.

        Returns:
            What was started; None: the service was told to stop before that.
        """
        while True:
            starting = asyncio.ensure_future(start())
            if not await self._before_stopping(starting):
                starting.cancel()
                await asyncio.gather(starting, return_exceptions=True)
                return None
            try:
                return await starting
            except expected as error:
                extended = f"EXTEND_TIMEOUT_USEC={int(_PATIENCE_S * 1e6)}"
                if not systemd.notify(f"STATUS=waiting: {error.message}", extended):
                    raise
                logger.warning("waiting: %s", error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PAUSE_S):
                    await self.stopping.wait()
                return None

    async def _before_stopping(self, waited: asyncio.Future[Any]) -> bool:
        """Whether it is done before the service is told to stop."""
        stopping = asyncio.ensure_future(self.stopping.wait())
        await asyncio.wait({waited, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        return waited.done()

    def ready(self, status: str) -> None:
        """Says that the service serves: everything is recovered and its sockets answer."""
        self._status = status
        systemd.notify("READY=1", f"STATUS={status}")
        self._beside.append(asyncio.create_task(run_collector(), name="collector"))
        interval_s = systemd.watchdog_interval_s()
        if interval_s is not None:
            self._beside.append(asyncio.create_task(self._feed(interval_s), name="watchdog"))

    async def wait(self) -> None:
        """Returns when the service is to end, and says that it does."""
        await self.stopping.wait()
        systemd.notify("STOPPING=1", "STATUS=ending what is under way")

    def _stop(self) -> None:
        if self.stopping.is_set():
            logger.warning("told to stop a second time: ending at once")
            sys.stderr.flush()
            os._exit(128 + signal.SIGTERM)
        self.stopping.set()

    def _handle_reload(self) -> None:
        systemd.reloading()
        if self._reload is None:
            outcome = "this service has nothing to reload; restart it"
            logger.warning(outcome)
        else:
            try:
                outcome = self._reload()
                logger.info("reloaded: %s", outcome)
            except RostralError as error:
                outcome = f"not reloaded: {error}"
                logger.error("%s", outcome)
        systemd.notify("READY=1", f"STATUS={self._status}; {outcome}".replace("\n", " "))

    async def _feed(self, interval_s: float) -> None:
        while True:
            if self._probe is not None:
                try:
                    await self._probe()
                except RostralError as error:
                    # It answers: what it cannot do, its callers are told.
                    logger.warning("the service does not do its work: %s", error)
                except Exception:
                    logger.exception("the service is broken: its watchdog will end it")
                    return
            systemd.notify("WATCHDOG=1")
            await asyncio.sleep(interval_s)
