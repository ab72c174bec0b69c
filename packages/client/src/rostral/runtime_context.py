"""What a piece of code can ask about itself: which job, node, process, task and actor it is in."""

from __future__ import annotations

import os
import warnings
from typing import Any

from rostral import _context
from rostral.actor import ActorHandle
from rostral.interrupt import is_cancelled
from rostral.object_ref import ObjectRef
from rostral.runtime import Runtime, TaskScope
from rostral_gcs.ids import ActorID, JobID, NodeID, TaskID, WorkerID


class RuntimeContext:
    """Facts about where the caller runs. Ids are lower-case hexadecimal.

    Get one with `get_runtime_context`. What is said of a task or an actor is said of the one that
    makes the call; a thread that a task has started itself is in no task.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    # ---- ids

    def get_job_id(self) -> str:
        """The job, which is one driver from `init` to its end."""
        return self._runtime.job_id.hex()

    def get_node_id(self) -> str:
        """The node that this process is on."""
        return self._runtime.node_id.hex()

    def get_worker_id(self) -> str:
        """This process; of a driver, its job's id."""
        return self._runtime.root.task_id.hex()

    def get_task_id(self) -> str | None:
        """The task or actor call that runs here; None in a driver."""
        scope = self._task()
        return None if scope is None else scope.task_id.hex()

    def get_actor_id(self) -> str | None:
        """The actor that runs here; None where there is none."""
        scope = self._task()
        return None if scope is None or scope.actor_id is None else scope.actor_id.hex()

    def get_placement_group_id(self) -> str | None:
        """The placement group that this runs in; None: in none."""
        scope = self._task()
        placement = None if scope is None else scope.placement
        return None if placement is None else placement.group_id.hex()

    def is_canceled(self) -> bool:
        """Whether the task that runs here was cancelled.

        Raises: RuntimeError outside of a task, and in a coroutine.
        """
        return is_cancelled()

    @property
    def job_id(self) -> JobID:
        """The job's id as an object. Deprecated: use `get_job_id`."""
        _warn_of_attribute("job_id")
        return JobID(self._runtime.job_id)

    @property
    def node_id(self) -> NodeID:
        """The node's id as an object. Deprecated: use `get_node_id`."""
        _warn_of_attribute("node_id")
        return NodeID(self._runtime.node_id)

    @property
    def worker_id(self) -> WorkerID:
        """The process's id as an object. Deprecated: use `get_worker_id`."""
        _warn_of_attribute("worker_id")
        return WorkerID(self._runtime.root.task_id)

    @property
    def task_id(self) -> TaskID | None:
        """The task's id as an object, or None. Deprecated: use `get_task_id`."""
        _warn_of_attribute("task_id")
        scope = self._task()
        return None if scope is None else TaskID(scope.task_id)

    @property
    def actor_id(self) -> ActorID | None:
        """The actor's id as an object, or None. Deprecated: use `get_actor_id`."""
        _warn_of_attribute("actor_id")
        scope = self._task()
        return None if scope is None or scope.actor_id is None else ActorID(scope.actor_id)

    # ---- the task and the actor

    def get_task_name(self) -> str | None:
        """The task's name: its option, else its function's; None in a driver."""
        scope = self._task()
        if scope is None:
            return None
        return scope.name if scope.actor_id is None else scope.function_name

    def get_task_function_name(self) -> str | None:
        """The task's function, or class and method; None in a driver."""
        scope = self._task()
        return None if scope is None else scope.function_name

    def get_actor_name(self) -> str | None:
        """The actor's name; empty when it has none, None outside of an actor."""
        return None if self.get_actor_id() is None else self._assignment()["name"] or ""

    @property
    def current_actor(self) -> ActorHandle[Any]:
        """A handle of the actor that runs here.

        Raises RuntimeError outside of an actor.
        """
        scope = self._task()
        if scope is None or scope.actor_id is None:
            raise RuntimeError("current_actor was asked for outside of an actor")
        info = self._runtime.ask("actor_info", {"actor_id": scope.actor_id})
        at = info["creation"]
        creation: ObjectRef[Any] = self._runtime.table.adopt(
            ObjectRef, at["loc"], at["version"], at["id"]
        )
        return ActorHandle(scope.actor_id, int(info["mailbox"]), creation, info["meta"])

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """Whether the actor that runs here was restarted; False outside of an actor."""
        return self.get_actor_id() is not None and int(self._assignment()["restarts"]) > 0

    # ---- resources

    def get_assigned_resources(self) -> dict[str, float]:
        """What the task or actor holds at this moment, by name; empty in a driver."""
        return dict(self._held()["resources"])

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        """The accelerators that it holds: their ids by kind."""
        return {"GPU": [str(index) for index in self._held()["gpu_ids"]]}

    # ---- the cluster

    @property
    def namespace(self) -> str:
        """Where names of actors live."""
        return self._runtime.namespace

    @property
    def gcs_address(self) -> str:
        """HOST:PORT of the cluster's control store."""
        return self._runtime.facts["address"]

    def get_node_labels(self) -> dict[str, str]:
        """The labels of this node."""
        for node in self._runtime.ask("nodes", {})["nodes"]:
            if node["node_id"] == self._runtime.node_id:
                return dict(node["labels"])
        return {}

    def get_session_name(self) -> str:
        """The name of the node's session, which is also that of its directory."""
        return os.path.basename(self._runtime.facts["session_dir"])

    def get_temp_dir(self) -> str:
        """The directory that the session's lies in."""
        return os.path.dirname(self._runtime.facts["session_dir"])

    def get_runtime_env_string(self) -> str:
        """The runtime environment as JSON; `{}` when there is none."""
        return self._runtime.environment or "{}"

    def get(self) -> dict[str, object]:
        """The ids as objects, by name, those of a task and an actor where there is one."""
        scope = self._task()
        found: dict[str, object] = {
            "job_id": JobID(self._runtime.job_id),
            "node_id": NodeID(self._runtime.node_id),
            "namespace": self.namespace,
        }
        if scope is not None:
            found["task_id"] = TaskID(scope.task_id)
            if scope.actor_id is not None:
                found["actor_id"] = ActorID(scope.actor_id)
        return found

    # ---- how it is known

    def _task(self) -> TaskScope | None:
        return _context.task_scope.get()

    def _assignment(self) -> dict[str, Any]:
        return self._runtime.ask("worker_assignment", {"worker_id": self._runtime.root.task_id})

    def _held(self) -> dict[str, Any]:
        if self._task() is None and self._runtime.root.name in DRIVERS:
            return {"resources": {}, "gpu_ids": []}
        return self._runtime.ask("worker_resources", {})


# The root scopes of processes that hold no resources for themselves.
DRIVERS = ("driver", "inline")


def _warn_of_attribute(name: str) -> None:
    warnings.warn(
        f"RuntimeContext.{name} is deprecated: use get_{name}(), which gives a string",
        DeprecationWarning,
        stacklevel=3,
    )


def get_runtime_context() -> RuntimeContext:
    """What the caller can ask about itself.

    Starts a cluster on first use. Raises NotConnectedError.
    """
    return RuntimeContext(_context.runtime())


def get_gpu_ids() -> list[int]:
    """The GPUs that the task or actor that calls this holds; none in a driver.

    Starts a cluster on first use. Raises NotConnectedError.
    """
    return [int(index) for index in get_runtime_context().get_accelerator_ids()["GPU"]]
