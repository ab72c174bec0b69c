"""The checkpoint table: which checkpoints of which actors there are, and where they lie.

This file owns CheckpointRow and its codec. The checkpoint's bytes lie elsewhere: a row says where,
how large they are and what they hash to, so that a damaged one is known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from google.protobuf.message import DecodeError

from rostral_gcs._proto import rows_pb2
from rostral_gcs.errors import InvalidArgumentError
from rostral_gcs.ids import ActorID, NodeID
from rostral_gcs.tables.checks import check_seconds

__all__ = ["CHECKPOINTS", "CheckpointRow", "CheckpointTable"]

_NUMBER_BYTES: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRow:
    """One checkpoint.

    Attributes:
        actor_id: The actor.
        number: Counts the actor's checkpoints, from 1, over all restarts.
        call_count: How many calls it covers.
        location: Where its bytes lie: an object id, a path, a URL.
        size_bytes: Their size.
        digest: What they hash to; may be empty.
        node_id: The node that made it; None when that does not matter.
        time_s: When, Unix time.
        version: The stored row's version; 0 for a row not stored yet.
    """

    actor_id: ActorID
    number: int
    call_count: int
    location: str
    size_bytes: int = 0
    digest: bytes = b""
    node_id: NodeID | None = None
    time_s: float = 0.0
    version: int = field(default=0, compare=False)

    def check(self) -> None:
        """Refuses fields out of range.

        Raises:
            InvalidArgumentError: Says which field and what is allowed.
        """
        check_seconds("time_s", self.time_s)
        for name in ("number", "call_count", "size_bytes"):
            if not 0 <= getattr(self, name) < 2**63:
                raise InvalidArgumentError(
                    f"{name} of a checkpoint of actor {self.actor_id.hex()} is "
                    f"{getattr(self, name)}; allowed: 0 or more",
                    hint="correct the field",
                )


class CheckpointTable:
    """Codec of the checkpoint table; keys are actor id and number, so that they are in order."""

    name = "checkpoints"

    def key_of(self, row: CheckpointRow) -> bytes:
        """Actor id, then number, big-endian."""
        row.check()
        return row.actor_id.binary() + row.number.to_bytes(_NUMBER_BYTES, "big")

    def encode(self, row: CheckpointRow) -> bytes:
        """The row's value, checked."""
        row.check()
        return rows_pb2.CheckpointValue(
            node_id=row.node_id.binary() if row.node_id is not None else b"",
            call_count=row.call_count,
            size_bytes=row.size_bytes,
            time_s=row.time_s,
            location=row.location,
            digest=row.digest,
        ).SerializeToString()

    def decode(self, key: bytes, value: bytes, version: int) -> CheckpointRow:
        """The row again."""
        try:
            found = rows_pb2.CheckpointValue.FromString(value)
            return CheckpointRow(
                actor_id=ActorID(key[: ActorID.SIZE]),
                number=int.from_bytes(key[ActorID.SIZE :], "big"),
                call_count=found.call_count,
                location=found.location,
                size_bytes=found.size_bytes,
                digest=found.digest,
                node_id=NodeID(found.node_id) if found.node_id else None,
                time_s=found.time_s,
                version=version,
            )
        except (DecodeError, ValueError) as error:
            raise InvalidArgumentError(
                f"not a row of table checkpoints: {str(error)[:80]}",
                hint="write it with this client",
            ) from error


CHECKPOINTS = CheckpointTable()
