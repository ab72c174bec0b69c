"""What a local scheduler answers, answered in this process."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from rostral.exceptions import UnsupportedOptionError
from rostral.inline.actors import InlineActor, InlineActors, describe
from rostral.inline.cancellations import InlineCancellations
from rostral.inline.worker import InlineWorker
from rostral_objectstore._native.queue import Queue
from rostral_objectstore.control import Body
from rostral_scheduler.core.resources import NodeResources, ResourceSet
from rostral_scheduler.core.where import NodeFacts, Where, check_here

if TYPE_CHECKING:
    from rostral.runtime import Runtime

QUEUE_READY = 1
QUEUE_CAPACITY = 1 << 14


class InlineScheduler:
    """The scheduler of an inline session.

    Resources are checked for what the "node" could ever give; nothing waits for them, as nothing
    runs at the same time.

    Args:
        resources: what it offers.
        labels: of its one node.
    """

    def __init__(self, resources: dict[str, float], labels: dict[str, str]) -> None:
        self._ledger = NodeResources(ResourceSet.of(resources))
        self._labels = labels
        self._queues: dict[bytes, int] = {}
        self._methods: dict[str, Callable[[Body], Body]] = {
            "get_queue": self._get_queue,
            "create_actor": self._create_actor,
            "get_actor": lambda body: _found(self.actors.find(body["name"], body["namespace"])),
            "actor_info": lambda body: _found(self.actors.get(body["actor_id"])),
            "kill_actor": self._kill_actor,
            "cancel_task": lambda body: self.cancellations.cancel_task(body),
            "cancel_children": lambda body: self.cancellations.cancel_children(body),
            "list_actors": self._list_actors,
            "named_actors": self._named_actors,
            "worker_assignment": self._worker_assignment,
            "worker_resources": lambda _: {"resources": dict(self.worker.demand), "gpu_ids": []},
            "nodes": lambda _: {"nodes": [self._node()]},
            "cluster_resources": lambda _: {"resources": self._ledger.total.as_floats()},
            "available_resources": lambda _: {"resources": self._available()},
            "status": self._status,
            "unregister_driver": lambda _: {},
        }

    def serve(self, runtime: Runtime) -> None:
        """Schedules for this runtime from now on."""
        self._runtime = runtime
        self.worker = InlineWorker(runtime)
        self.actors = InlineActors(runtime, self.worker)
        self.cancellations = InlineCancellations(runtime)

    def call(self, method: str, body: Body) -> Body:
        """Answers. Raises UnsupportedOptionError for what has no meaning in one process."""
        answer = self._methods.get(method)
        if answer is None:
            raise UnsupportedOptionError(
                f"{method.replace('_', ' ')}: that needs a cluster, and this session is inline",
                hint="call rostral.init() without mode='inline'",
            )
        return answer(body)

    def close(self) -> None:
        """Nothing is left to end."""

    def run_ready(self) -> bool:
        """Runs tasks and calls that are ready, in this thread. Returns whether there were any."""
        ran = False
        while self.worker.run_ready() or self.actors.run_ready():
            ran = True
        return ran

    # ---- tasks

    def _get_queue(self, body: Body) -> Body:
        shape = ResourceSet.of(body["resources"])
        self._check_here(body, shape)
        self._ledger.check_feasible(shape)
        key = shape.key()
        if key not in self._queues:
            queue = Queue.create(
                self._runtime.store.segment, QUEUE_CAPACITY, QUEUE_READY, body["job_id"], key
            )
            self._queues[key] = queue.loc
            self.worker.serve(queue.loc, shape.as_floats())
        return {"queue": self._queues[key]}

    def _check_here(self, body: Body, shape: ResourceSet) -> None:
        facts = NodeFacts(
            node_id=self._runtime.node_id, total=self._ledger.total, labels=self._labels
        )
        check_here(Where.of(body.get("where")), facts, shape)

    # ---- actors

    def _create_actor(self, body: Body) -> Body:
        if body["checkpointed"]:
            raise UnsupportedOptionError(
                f"checkpoint_interval of {body['class_name']}: no actor dies alone inline, where "
                "all share one process, so there is nothing to come back from",
                hint="leave the option out, or call rostral.init() without mode='inline'",
            )
        placement = ResourceSet.of(body["placement_resources"])
        shape = placement.maximum(ResourceSet.of(body["resources"]))
        self._check_here(body, shape)
        self._ledger.check_feasible(shape)
        return {"mailbox": self.actors.create(body).mailbox.loc}

    def _kill_actor(self, body: Body) -> Body:
        self.actors.kill(self.actors.get(body["actor_id"]), no_restart=bool(body["no_restart"]))
        return {}

    def _named_actors(self, body: Body) -> Body:
        actors = self._list_actors(body)["actors"]
        return {
            "actors": [
                {"name": one["name"], "namespace": one["namespace"]}
                for one in actors
                if one["name"] and one["state"] != "DEAD"
            ]
        }

    def _list_actors(self, _: Body) -> Body:
        return {"actors": [describe(actor, self._runtime) for actor in self.actors.by_id.values()]}

    def _worker_assignment(self, _: Body) -> Body:
        actor = self.actors.current()
        return {} if actor is None else actor.assignment

    # ---- the "cluster"

    def _available(self) -> dict[str, float]:
        free = self._ledger.total.as_floats()
        for demand in (self.worker.demand, *(actor.demand for actor in self.actors.living())):
            for name, amount in demand.items():
                free[name] = max(0.0, free.get(name, 0.0) - amount)
        return free

    def _status(self, body: Body) -> Body:
        return {
            "node_id": self._runtime.node_id,
            "resources": self._ledger.total.as_floats(),
            "available": self._available(),
            "workers": [],
            **self._list_actors(body),
        }

    def _node(self) -> Body:
        return {
            "node_id": self._runtime.node_id,
            "alive": True,
            "address": "127.0.0.1",
            "hostname": socket.gethostname(),
            "store_socket": "",
            "scheduler_socket": "",
            "resources": self._ledger.total.as_floats(),
            "available": self._available(),
            "labels": dict(self._labels),
            "death_cause": "",
        }


def _found(actor: InlineActor) -> Body:
    return {
        "actor_id": actor.actor_id,
        "state": "DEAD" if actor.death is not None else "ALIVE",
        "mailbox": actor.mailbox.loc,
        "meta": actor.body["meta"],
        "creation": actor.body["creation"],
        "death": actor.death,
        "restarts": actor.restarts,
    }
