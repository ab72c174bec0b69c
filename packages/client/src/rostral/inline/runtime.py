"""The runtime of an inline session: the usual one, which does the waiting's work itself."""

from __future__ import annotations

import os
import time
from typing import Any, TypeVar

from rostral import _context
from rostral.exceptions import RostralError, UnsupportedOptionError
from rostral.inline.scheduler import InlineScheduler
from rostral.inline.store import InlineStore
from rostral.inline.worker import DEPTH_MAX
from rostral.launcher import NodeSettings
from rostral.object_ref import ObjectRef
from rostral.runtime import Runtime, TaskScope
from rostral.runtime_env import RuntimeEnv

T = TypeVar("T")

ROOT = "inline"
ADDRESS = "inline"
MEMORY_BYTES = 1 << 30
# Between two looks for what has become ready while other threads work.
LOOK_INTERVAL_S = 0.002
# Between two looks for actors that nobody refers to any more.
FORGET_INTERVAL_S = 0.05


class InlineRuntime(Runtime):
    """A runtime whose tasks and actors run in its own process."""

    def __init__(self, settings: NodeSettings, job_id: bytes, namespace: str) -> None:
        node_id = os.urandom(16)
        store = InlineStore(settings.memory_bytes or MEMORY_BYTES, node_id, job_id)
        self._inline = InlineScheduler(offered(settings), settings.labels)
        super().__init__(
            store,
            self._inline,
            job_id=job_id,
            namespace=namespace,
            node_id=node_id,
            root=TaskScope(job_id, ROOT),
            facts={
                "node_id": node_id.hex(),
                "address": ADDRESS,
                "session_dir": "",
                "object_store_socket": "",
                "scheduler_socket": "",
                "job_id": job_id.hex(),
                "namespace": namespace,
            },
        )
        self._inline.serve(self)
        self._looked_s = time.monotonic()
        _context.set_end_of_actor(self._inline.actors.leave)
        self.at_close(self._end)

    def _end(self) -> None:
        _context.set_end_of_actor(None)
        self._inline.actors.close()

    def environment_for(self, env: RuntimeEnv | None) -> str:
        """None: it would have to be this process's. Raises UnsupportedOptionError."""
        refuse_environment(env)
        return ""

    # Who would take the items is often the very thread that makes them.
    waits_for_room = False

    def _submit(self, *args: Any, **kwargs: Any) -> Any:
        # Whatever is submitted, and however: it is run here as soon as it can be.
        refs = super()._submit(*args, **kwargs)
        if self._inline.worker.depth < DEPTH_MAX:
            self._inline.run_ready()
        self._forget_actors()
        return refs

    def _forget_actors(self) -> None:
        now_s = time.monotonic()
        if now_s - self._looked_s > FORGET_INTERVAL_S:
            self._looked_s = now_s
            self._inline.actors.end_forgotten()

    def wait_sealed(
        self,
        refs: list[ObjectRef[T]],
        count: int,
        timeout_s: float | None,
        *,
        stop_at_error: bool = False,
    ) -> int:
        """As the base class; runs in this thread what is ready meanwhile.

        Raises RostralError where the wait could never end: nothing runs, and nothing can.
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            self._inline.run_ready()
            left_s = LOOK_INTERVAL_S if deadline_s is None else deadline_s - time.monotonic()
            sealed = super().wait_sealed(
                refs, count, max(0.0, min(left_s, LOOK_INTERVAL_S)), stop_at_error=stop_at_error
            )
            if sealed >= count or left_s <= 0 or (stop_at_error and self._has_error(refs)):
                return sealed
            if deadline_s is None and not self._may_go_on():
                raise RostralError(
                    f"{count - sealed} of {len(refs)} objects will never be ready: this thread "
                    "waits for them, and nothing else runs that could make them",
                    hint="an actor that waits for a call of its own would wait for ever anywhere",
                )

    def _may_go_on(self) -> bool:
        return self._inline.worker.others_run() or self._inline.actors.has_threads()

    def _has_error(self, refs: list[ObjectRef[T]]) -> bool:
        reads = (self.table.read(ref) for ref in refs if self.table.is_sealed(ref))
        return any(read is not None and read[1] for read in reads)


def refuse_environment(env: RuntimeEnv | None) -> None:
    """Raises UnsupportedOptionError for a runtime environment that is not empty."""
    if env:
        raise UnsupportedOptionError(
            "runtime_env: everything inline runs in this process, with what it has",
            hint="set it up before, or call rostral.init() without mode='inline'",
        )


def offered(settings: NodeSettings) -> dict[str, float]:
    """What the one "node" offers, as a node of a cluster with these settings would."""
    cpus = settings.num_cpus
    return {
        **settings.resources,
        "CPU": float(len(os.sched_getaffinity(0))) if cpus is None else cpus,
        "GPU": settings.num_gpus,
        "memory": float(settings.task_memory_bytes),
    }
