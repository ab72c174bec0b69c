"""The schedulers of Rostral: a local scheduler with its worker pool on each node.

Names are loaded at first use (PEP 562): a worker process that only needs ``WorkerStart`` and the
errors must not pay for the daemon.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from rostral_scheduler import errors
from rostral_scheduler.worker_start import WorkerStart

if TYPE_CHECKING:
    from rostral_scheduler.config import LocalSchedulerConfig
    from rostral_scheduler.local.daemon import LocalScheduler

_HOMES = {
    "LocalScheduler": "local.daemon",
    "LocalSchedulerConfig": "config",
}

__all__ = ["LocalScheduler", "LocalSchedulerConfig", "WorkerStart", "errors"]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
