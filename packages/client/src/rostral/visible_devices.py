"""Which GPUs the libraries of a worker's process see: those that its task or actor was given.

CUDA reads `CUDA_VISIBLE_DEVICES` once, when a process first uses it. So it is set before the code
of a task or actor is loaded, and a process that has had a GPU ends with its task (`max_calls`).
Only on nodes that offer GPUs: elsewhere nobody has been given any, and nothing is taken away.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

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
        self._of_node = os.environ.get(VARIABLE)
        self._keeps_on_zero = os.environ.get(OVERRIDE_VARIABLE) == "0"

    def show(self, gpu_ids: Sequence[int]) -> None:
        """Lets libraries see these of the node's GPUs, and no other."""
        if not self.is_managed:
            return
        self.are_shown = bool(gpu_ids)
        if gpu_ids or not self._keeps_on_zero:
            os.environ[VARIABLE] = ",".join(self._name(index) for index in gpu_ids)
        elif self._of_node is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = self._of_node

    def _name(self, index: int) -> str:
        """What CUDA calls the node's GPU: the node itself may have been given some only."""
        named = [name.strip() for name in (self._of_node or "").split(",") if name.strip()]
        return named[index] if index < len(named) else str(index)
