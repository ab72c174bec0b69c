"""A worker's runtime environment, from the inside: its import path, and its set-up hook."""

from __future__ import annotations

import base64
import importlib
import os
import pickle
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from rostral.exceptions import RuntimeEnvSetupError
from rostral.runtime_env import PICKLED
from rostral_scheduler import WorkerStart
from rostral_scheduler.environment import decode_environment


def enter(start: WorkerStart) -> None:
    """Puts the environment's packages on the import path, also of Python programs started here."""
    if not start.python_path:
        return
    sys.path[:0] = start.python_path
    inherited = os.environ.get("PYTHONPATH")
    paths = [*start.python_path, *([inherited] if inherited else [])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)


def set_thread_counts(start: WorkerStart, names: Sequence[str], count: int) -> None:
    """Has libraries that are loaded from here on use as many threads as the work has CPUs.

    Once, since they read these variables when they are loaded. What the environment sets stays.
    """
    own = decode_environment(start.environment)[1].env_vars if start.environment else {}
    os.environ.update((name, str(count)) for name in names if name not in own)


def run_setup_hook(start: WorkerStart) -> None:
    """Calls the environment's set-up hook, if it has one.

    Raises: RuntimeEnvSetupError, with the traceback of what the hook raised.
    """
    if not start.environment:
        return
    _, spec = decode_environment(start.environment)
    if not spec.setup_hook:
        return
    try:
        _load(spec.setup_hook)()
    except Exception as error:  # whatever the user's code raises
        raise RuntimeEnvSetupError(
            "the runtime environment's worker_process_setup_hook raised in process "
            f"{os.getpid()}:\n{traceback.format_exc().rstrip()}"
        ) from error


def _load(hook: str) -> Callable[[], Any]:
    if hook.startswith(PICKLED):
        code: Callable[[], Any] = pickle.loads(base64.b64decode(hook.removeprefix(PICKLED)))
        return code
    module, _, name = hook.rpartition(".")
    named: Callable[[], Any] = getattr(importlib.import_module(module), name)
    return named
