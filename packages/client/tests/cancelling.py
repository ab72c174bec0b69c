"""What the tests of cancelling share: tasks that run for long, and looks at what is left."""

from __future__ import annotations

import gc
import sys
import time
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

import rostral
from rostral import _context
from rostral.exceptions import TaskCancelledError
from rostral.functions import FUNCTION_INDEX
from rostral_objectstore._native import repair
from rostral_objectstore.layout import TaskState

from .waiting import object_ids, until

# Workers cannot import this module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def results() -> set[bytes]:
    """All objects but the code that this process has exported, which it keeps."""
    gc.collect()  # Tracebacks of caught errors refer to themselves, and to references.
    return {object_id for object_id in object_ids() if object_id[16:] != FUNCTION_INDEX}


def cancelled() -> Any:
    return pytest.raises(TaskCancelledError)


def append(path: Path, line: object) -> None:
    with path.open("a") as file:
        file.write(f"{line}\n")


def lines(path: Path) -> list[str]:
    return path.read_text().split()


def actor_of(cls: Any) -> Any:
    """The actor class that the decorator has made of it."""
    return cls


def is_last(marks: Path, line: str) -> bool:
    return lines(marks)[-1:] == [line]


def begin(marks: Path, ref: Any) -> Any:
    until(lambda: lines(marks), "the task's beginning")
    return ref


@rostral.remote
def sleeper(marks: Path, name: str = "began", seconds: float = 60.0) -> str:
    append(marks, name)
    time.sleep(seconds)
    append(marks, "slept")
    return name


def busy_workers() -> list[Any]:
    """Tasks that run on the node."""
    tasks = repair.list_tasks(_context.connected().store.segment, 10_000)
    return [task for task in tasks if task["state"] != TaskState.DONE]
