"""Which GPUs the libraries of a worker's process see: those that its task or actor was given.

CUDA reads `CUDA_VISIBLE_DEVICES` once, when a process first uses it. So it is set before the code
of a task or actor is loaded, and a process that has had a GPU ends with its task (`max_calls`).
Only on nodes that offer GPUs: elsewhere nobody has been given any, and nothing is taken away.

A task or actor is given the GPU on which its arguments' arrays lie, if that is free: its process
asks for it once it knows its arguments, and before any library has seen a GPU.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rostral_objectstore._native.handle import Handle
from rostral_objectstore._native.table import ObjectTable
from rostral_objectstore._native.task import ClaimedTask
from rostral_objectstore.device_ids import name_of, sizes_by_device
from rostral_objectstore.errors import ObjectStoreError
from rostral_objectstore.layout import ObjectState
from rostral_scheduler import WorkerStart
from rostral_scheduler.environment import decode_environment

VARIABLE = "CUDA_VISIBLE_DEVICES"
# Ray's: with 0, who is given no GPU keeps what the node's own environment says.
OVERRIDE_VARIABLE = "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"


class VisibleDevices:
    """What this process lets its libraries see.

    Args:
        start: of this worker; what its runtime environment sets itself stays.
        node_gpu_count: GPUs that the node offers.
    """

    def __init__(self, start: WorkerStart, node_gpu_count: float) -> None:
        own = decode_environment(start.environment)[1].env_vars if start.environment else {}
        self.is_managed = node_gpu_count > 0 and VARIABLE not in own
        self.are_shown = False
        """Whether libraries see any now that the task or actor was given."""
        self._have_been_shown = False
        self._of_node = os.environ.get(VARIABLE)
        self._keeps_on_zero = os.environ.get(OVERRIDE_VARIABLE) == "0"

    def near_task(self, table: ObjectTable, task: ClaimedTask) -> list[bytes]:
        """On which devices the task's arguments have arrays, where most bytes are first.

        None, if libraries of this process have seen GPUs before: they keep to those.
        """
        if self._have_been_shown:
            return []
        return _near(table, (table.adopt_held(Handle, loc) for loc in task.dependencies))

    def near_actor(self, table: ObjectTable, creation: Mapping[str, Any]) -> list[bytes]:
        """The same of an actor's arguments, by the object that says how to make the actor."""
        if not self.is_managed:
            return []
        with contextlib.suppress(ObjectStoreError):
            made_by = table.adopt(Handle, creation["loc"], creation["version"], creation["id"])
            arguments = [table.find(Handle, id) for id in table.references(made_by)]
            return _near(table, (argument for argument in arguments if argument is not None))
        return []

    def show(self, gpu_ids: Sequence[int]) -> None:
        """Lets libraries see these of the node's GPUs, and no other."""
        if not self.is_managed:
            return
        self.are_shown = bool(gpu_ids)
        self._have_been_shown |= self.are_shown
        if gpu_ids or not self._keeps_on_zero:
            os.environ[VARIABLE] = ",".join(name_of(self._of_node, index) for index in gpu_ids)
        elif self._of_node is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = self._of_node


def _near(table: ObjectTable, arguments: Iterator[Handle]) -> list[bytes]:
    references: list[bytes] = []
    with contextlib.suppress(ObjectStoreError):  # what is gone, the task itself runs into
        for handle in arguments:
            if table.state(handle) == ObjectState.SEALED:
                references += table.references(handle)
    sizes = sizes_by_device(references)
    return sorted(sizes, key=lambda digest: -sizes[digest])
