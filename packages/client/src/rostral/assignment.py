"""What a process knows of the actor that it is: told by the scheduler when it starts.

This file owns that record. What the user sees of it is the runtime context's affair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rostral.actor import ActorHandle

__all__ = ["ActorAssignment"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorAssignment:
    """One life of one actor.

    Attributes:
        actor_id: 16 bytes, the same in every life.
        name: Its name, or None.
        namespace: Of the name.
        class_name: Of its class.
        restarts: How many processes it has had before this one.
        resources: What it holds for its life, by name.
        gpu_ids: Which of the node's GPUs are among that.
        mailbox: Where its calls arrive.
        meta: What a handle says of its class, pickled.
    """

    actor_id: bytes
    name: str | None
    namespace: str
    class_name: str
    restarts: int
    resources: Mapping[str, float]
    gpu_ids: tuple[int, ...]
    mailbox: int
    meta: bytes

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> ActorAssignment:
        """From the scheduler's answer."""
        return cls(
            actor_id=bytes(told["actor_id"]),
            name=told["name"],
            namespace=told["namespace"],
            class_name=told["class_name"],
            restarts=int(told["restarts"]),
            resources=dict(told["resources"]),
            gpu_ids=tuple(told["gpu_ids"]),
            mailbox=int(told["mailbox"]),
            meta=bytes(told["meta"]),
        )

    @property
    def was_reconstructed(self) -> bool:
        """Whether an earlier process of the actor has died, and this one took its place."""
        return self.restarts > 0

    def handle(self) -> ActorHandle[Any]:
        """A handle of the actor itself, which does not keep it alive."""
        return ActorHandle(self.actor_id, self.mailbox, None, self.meta)
