"""What an actor with checkpoints has been through, kept in the GCS: a checkpoint, and calls since.

This file owns the form of that. The rows of the table of checkpoints are numbered, and each number
is had once: so who adds one knows that nobody else has gone on with the actor. The newest says how
many calls are covered, where the checkpoint's bytes are (in the key-value table), and *whose* log
of calls counts, that of its own node. The log of a node that has lost the actor is read by nobody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec
from msgspec import Struct

from rostral_gcs import AsyncGcsClient
from rostral_gcs.errors import AlreadyExistsError
from rostral_gcs.ids import ActorID, NodeID
from rostral_gcs.tables.checkpoints import CheckpointRow
from rostral_scheduler.between.messages import Call, Done, Input
from rostral_scheduler.between.parted_values import VALUE_BYTES_MAX, PartedValues
from rostral_scheduler.between.transit_memory import CANCELLED
from rostral_scheduler.errors import LimitReachedError, RequestError

__all__ = ["ActorPasts", "Past", "Saved", "batches"]

_NAMESPACE = "rostral.calls"
_PLACE_BYTES = 8
_BATCH_BYTES = 4 << 20
_LOST = "lost: "
"""In the place of a checkpoint's key: what came since cannot be had again."""


class Saved(Struct, frozen=True, array_like=True, tag=True):
    """A checkpoint.

    Attributes:
        value: The state; None: there is none yet, it begins with its constructor.
        beside: What that refers to.
        answers: The results of calls it covers whose callers have not said that they have them.
    """

    value: Input | None = None
    beside: list[Input] = []
    answers: list[Done] = []


@dataclass(frozen=True, slots=True)
class Past:
    """What is to be done to bring an actor to where it was.

    Attributes:
        covers: How many calls the checkpoint covers.
        calls: Those after it, in their order; but for those that were cancelled.
        number: Of the newest row.
    """

    number: int = 0
    covers: int = 0
    saved: Saved = field(default_factory=Saved)
    calls: list[Call] = field(default_factory=list)


_encoder = msgspec.msgpack.Encoder()
_saved_decoder = msgspec.msgpack.Decoder(Saved)
_calls_decoder = msgspec.msgpack.Decoder(list[Call])


def _size_of(call: Call) -> int:
    """Bytes that a call takes in the log, about."""
    given = (*call.task.inputs, *call.task.beside)
    parts = sum(len(one.data or b"") + sum(map(len, one.buffers)) for one in given)
    return len(call.task.payload) + parts


def batches(first: int, calls: Sequence[Call]) -> Iterator[tuple[int, list[Call]]]:
    """Calls, the first of which has this place, as they are written at once."""
    batch: list[Call] = []
    size = 0
    for call in calls:
        size += _size_of(call)
        if batch and size > _BATCH_BYTES:
            yield first, batch
            first, batch, size = first + len(batch), [], _size_of(call)
        batch.append(call)
    if batch:
        yield first, batch


class ActorPasts:
    """The pasts of all actors, as one node reads and writes them.

    Every method raises GcsError when the GCS cannot do it.
    """

    def __init__(self, own_id: bytes, client: AsyncGcsClient) -> None:
        self._own_id, self._client = own_id, client
        self._values = PartedValues(client, _NAMESPACE)

    # ---- writing

    async def save(self, actor_id: bytes, number: int, covers: int, saved: Saved) -> None:
        """Writes the checkpoint with this number; may be repeated.

        Raises AlreadyExistsError when another node has gone on with the actor, LimitReachedError
        for a checkpoint that is too large.
        """
        data = _encoder.encode(saved)
        _check_size(actor_id, "a checkpoint", len(data))
        key = actor_id + b"c" + number.to_bytes(_PLACE_BYTES, "big") + self._own_id
        await self._values.write(key, data)
        await self._add(
            CheckpointRow(
                actor_id=ActorID(actor_id),
                number=number,
                call_count=covers,
                location=key.hex(),
                size_bytes=len(data),
                digest=_digest(data),
                node_id=NodeID(self._own_id),
            )
        )
        await self._forget_before(actor_id, number)

    async def lose(self, actor_id: bytes, number: int, covers: int, reason: str) -> None:
        """Says that the actor cannot be brought to where it is, until the next checkpoint is there.

        Raises AlreadyExistsError as `save`.
        """
        await self._add(
            CheckpointRow(
                actor_id=ActorID(actor_id),
                number=number,
                call_count=covers,
                location=_LOST + reason,
                node_id=NodeID(self._own_id),
            )
        )

    async def _add(self, row: CheckpointRow) -> None:
        try:
            await self._client.add_checkpoint(row)
        except AlreadyExistsError:
            rows = await self._client.list_checkpoints(row.actor_id)
            if not rows or rows[-1] != row:
                raise  # Not of ours, whose answer was lost.

    async def append(self, actor_id: bytes, first: int, calls: Sequence[Call]) -> None:
        """Writes calls that ran from the place `first` on; may be repeated with the same calls.

        Raises LimitReachedError.
        """
        data = _encoder.encode(list(calls))
        _check_size(actor_id, "a call's arguments", len(data))
        await self._values.write(self._log(actor_id, self._own_id) + _place(first), data)

    async def forget_log(self, actor_id: bytes, first: int) -> None:
        """The calls that were written at this place are covered now."""
        await self._values.remove(self._log(actor_id, self._own_id) + _place(first))

    async def _forget_before(self, actor_id: bytes, number: int) -> None:
        for row in await self._client.list_checkpoints(ActorID(actor_id)):
            if row.number < number and row.location and not row.location.startswith(_LOST):
                await self._values.remove(bytes.fromhex(row.location))
        await self._client.remove_checkpoints(ActorID(actor_id), before=number)

    async def remove(self, actor_id: bytes) -> None:
        """Removes all that there is of an actor."""
        await self._values.remove(actor_id)
        rows = await self._client.list_checkpoints(ActorID(actor_id))
        if rows:
            await self._client.remove_checkpoints(ActorID(actor_id), before=rows[-1].number + 1)

    # ---- reading

    async def actor_ids(self) -> set[bytes]:
        """Of which actors a checkpoint or a call is kept."""
        return {key[: ActorID.SIZE] for key in await self._values.keys(b"")}

    async def take_over(self, actor_id: bytes) -> Past | None:
        """From here on it is this node's to write; returns what it has been through.

        None: nothing was written of it. Raises RequestError when that cannot be had again.
        """
        while True:
            rows = await self._client.list_checkpoints(ActorID(actor_id))
            if not rows:
                return None
            past = await self._read(rows[-1])
            if past.calls:
                await self._write_log(actor_id, past)
            former = rows[-1].node_id
            try:
                await self.save(actor_id, past.number, past.covers, past.saved)
            except AlreadyExistsError:
                continue  # Its former node had one more to write.
            if former is not None and former.binary() != self._own_id:
                await self._values.remove(self._log(actor_id, former.binary()))
            return past

    async def _write_log(self, actor_id: bytes, past: Past) -> None:
        for first, calls in batches(past.covers + 1, past.calls):
            await self.append(actor_id, first, calls)

    async def _read(self, row: CheckpointRow) -> Past:
        actor_id = row.actor_id.binary()
        if row.location.startswith(_LOST):
            raise RequestError(f"its state is lost: {row.location.removeprefix(_LOST)}")
        data = await self._values.read(bytes.fromhex(row.location))
        if data is None or _digest(data) != row.digest:
            raise RequestError(f"its state is lost: its checkpoint {row.number} is damaged")
        node_id = b"" if row.node_id is None else row.node_id.binary()
        calls = await self._read_log(actor_id, node_id, row.call_count)
        # What was cancelled is not run again: so the places of those after it are others now.
        calls = [call for call in calls if not call.task.flags & CANCELLED]
        return Past(row.number + 1, row.call_count, _saved_decoder.decode(data), calls)

    async def _read_log(self, actor_id: bytes, node_id: bytes, covers: int) -> list[Call]:
        prefix = self._log(actor_id, node_id)
        calls: list[Call] = []
        for key in await self._values.keys(prefix):
            first = int.from_bytes(key[len(prefix) :], "big")
            data = await self._values.read(key)
            if data is None or first > covers + 1 + len(calls):
                break
            found = _calls_decoder.decode(data)
            calls += found[covers + 1 + len(calls) - first :]
        return calls

    def _log(self, actor_id: bytes, node_id: bytes) -> bytes:
        return actor_id + b"l" + node_id


def _place(place: int) -> bytes:
    return place.to_bytes(_PLACE_BYTES, "big")


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _check_size(actor_id: bytes, what: str, size: int) -> None:
    if size > VALUE_BYTES_MAX:
        raise LimitReachedError(
            f"{what} of actor {actor_id.hex()} takes {size} bytes: with more than "
            f"{VALUE_BYTES_MAX} it cannot be kept for the death of its node",
            hint="keep less in the actor, or pass less at once",
        )
