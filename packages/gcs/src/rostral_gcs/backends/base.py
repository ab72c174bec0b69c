"""What a shard asks of the place where its rows lie.

This file owns the interface and its records, no implementation. A backend stores; it decides
nothing: sequence numbers, versions and conflicts are the shard's. Each backend must pass the
conformance suite in ``tests/test_backend_conformance.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Protocol, runtime_checkable

from rostral_gcs.archive.schema import Filter

__all__ = [
    "Answer",
    "Backend",
    "Change",
    "Columns",
    "Gathered",
    "Movable",
    "Mover",
    "Opened",
    "Prompt",
    "Row",
    "SharedLeases",
    "SharedShards",
    "WritesBehind",
]


@dataclass(frozen=True, slots=True)
class Row:
    """A stored row. ``version`` is the sequence number of the write that made it."""

    key: bytes
    value: bytes
    version: int


@dataclass(frozen=True, slots=True)
class Change:
    """One applied write, as stored and as kept in the history. ``value`` None: deleted.

    Invariant: within a shard sequences have no gaps, so that a gap in the history is a loss.
    """

    sequence: int
    table: int
    key: bytes
    value: bytes | None
    watchable: bool


@dataclass(frozen=True, slots=True)
class Columns:
    """Puts of many rows of one appended table, as columns: an object for each would cost too much.

    Invariant: ``len(keys) == key_size * len(sizes)`` and ``len(values) == sum(sizes)``. Row ``i``
    has the sequence ``first_sequence + i``; of two rows with one key the later wins.
    """

    table: int
    first_sequence: int
    key_size: int
    keys: bytes
    sizes: Sequence[int]
    values: bytes

    def rows(self) -> Iterator[Row]:
        """The rows, one by one."""
        size = self.key_size
        bounds = pairwise(accumulate(self.sizes, initial=0))
        for index, (start, end) in enumerate(bounds):
            key = self.keys[index * size : (index + 1) * size]
            yield Row(key, self.values[start:end], self.first_sequence + index)


@dataclass(frozen=True, slots=True)
class Answer:
    """The remembered answer of a request, for when the request comes again."""

    request_id: bytes
    payload: bytes
    time_s: float


@dataclass(frozen=True, slots=True)
class Opened:
    """What a backend held when it was opened.

    Attributes:
        last_sequence: Of the newest write; 0 when there never was one.
        trimmed_sequence: History up to and including this sequence is gone.
        history_size: Bytes of values in the history.
        base_sequence: History is counted from here; sequences below it may have gaps.
        gaps: Sequences that no change has, from the first of each pair to the second, both apart.
            Whoever stands within one has seen what is lost.
    """

    last_sequence: int
    trimmed_sequence: int
    history_size: int
    base_sequence: int = 0
    gaps: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Gathered:
    """What a group of writes must know.

    Attributes:
        answers: Of the requests that were answered already.
        rows: Those that exist, by table and key.
        standing: What the backend holds at this moment; None when only we write to it.
    """

    answers: dict[bytes, bytes]
    rows: dict[tuple[int, bytes], Row]
    standing: Opened | None = None


class Backend(Protocol):
    """One shard's storage. All methods block and are called from one thread at a time.

    Every method may raise StorageError: the disk or the other side failed.

    A backend that several services share raises StateMovedError from ``commit`` when somebody else
    has written since ``gather``, or when nobody knows whether the commit was done: gather again,
    plan anew, commit again.
    """

    def listen(self, wake: Callable[[], None]) -> None:
        """Has ``wake`` called, from any thread, when others may have written. Before ``open``."""
        ...

    def open(self) -> Opened:
        """Opens, recovers what a killed process left, and says what there is."""
        ...

    def close(self) -> None:
        """Closes; nothing acknowledged is lost. May be called twice."""
        ...

    def refresh(self) -> Opened | None:
        """What there is now, whoever wrote it; None when only we do."""
        ...

    def gather(self, request_ids: Sequence[bytes], keys: Mapping[int, Sequence[bytes]]) -> Gathered:
        """The answers and, by table number, the rows that a group of writes must know."""
        ...

    def read(self, table: int, keys: Sequence[bytes]) -> dict[bytes, Row]:
        """The rows that exist among the keys."""
        ...

    def scan(
        self, table: int, prefix: bytes, after_key: bytes, limit: int, size_max: int
    ) -> tuple[list[Row], bool]:
        """Rows in key order, above ``after_key``, and whether more may follow.

        At most ``limit``, and none after the one with which the values pass ``size_max`` bytes.
        """
        ...

    def query(
        self, table: int, filters: Sequence[Filter], *, limit: int, token: bytes
    ) -> tuple[list[Row], bytes]:
        """A page of rows that meet all filters, and where the next begins; empty after the last.

        Of tables that are appended to. Any thread may call it, beside the other methods. No row is
        missed that is there all the time; one that is flushed or written meanwhile may come twice.
        """
        ...

    def commit(
        self, changes: Sequence[Change], answers: Sequence[Answer], *, durable: bool
    ) -> None:
        """Applies all or nothing; later changes win.

        Args:
            changes: In sequence order, following the last committed one without a gap.
            answers: Remembered in the same transaction.
            durable: Return only when it is safe on disk; else when the process's death cannot lose
                it.
        """
        ...

    def append(self, columns: Sequence[Columns], answers: Sequence[Answer]) -> None:
        """Applies all or nothing; the process's death cannot lose it when this returns.

        Args:
            columns: In sequence order, following the last committed write without a gap; of tables
                that are appended to (``TableSpec.appended``), which have no history.
            answers: Remembered in the same transaction.
        """
        ...

    def recall(self, request_id: bytes) -> bytes | None:
        """The remembered payload of a request."""
        ...

    def forget(self, before_s: float) -> None:
        """Drops answers older than the time."""
        ...

    def history(self, after_sequence: int, limit: int, size_max: int) -> list[Change]:
        """Watchable changes after the sequence, in order, bounded like ``scan``."""
        ...

    def trim(self, up_to_sequence: int) -> int:
        """Drops history up to and including the sequence; returns the bytes of values dropped."""
        ...


@runtime_checkable
class SharedLeases(Protocol):
    """A backend where services tell each other which leases were renewed."""

    def share_leases(self, leases_s: Mapping[bytes, float]) -> None:
        """Has each lease run for so many seconds from now on; one of 0 or less is dropped."""
        ...

    def remaining_leases(self, ids: Sequence[bytes]) -> dict[bytes, float]:
        """How many seconds those of the leases still run that do."""
        ...


@runtime_checkable
class Movable(Protocol):
    """A backend whose rows can be put and dropped as they are: no new version, no history."""

    def adopt(self, table: int, rows: Sequence[Row], last_sequence: int) -> None:
        """Takes in rows with their versions; further writes get sequences above ``last_sequence``.

        History is as if trimmed up to there. Safe on disk when it returns.
        """
        ...

    def drop(self, table: int, keys: Sequence[bytes]) -> None:
        """Deletes rows without a trace."""
        ...


class Mover(Protocol):
    """What growing does to one shard of a store that several services use.

    A shard's *layout* names the table of shards by which it may be written to. While shards are
    added it is nobody's, so that writes wait. Every method may be called again.
    """

    def layout(self) -> str:
        """The shard's layout."""
        ...

    def claim(self, before: str, name: str, claim_s: float) -> str:
        """Begins a growth, if the first shard has that layout; empty: another one holds.

        ``claim_s``: for how long nobody else may give it up.
        """
        ...

    def set_layout(self, before: str, after: str) -> bool:
        """Gives the shard another layout, if it has that of before."""
        ...

    def take(self, layout: str) -> bool:
        """Gives a new shard the layout of a growth; False: it is none, or a later growth's."""
        ...

    def renew(self, layout: str, claim_s: float) -> bool:
        """Says that whoever grows is still at it; False: it was given up."""
        ...

    def give_up(self, layout: str, before: str) -> bool:
        """Ends the growth of somebody who is gone; False: it may still be there."""
        ...

    def adopt(self, layout: str, table: int, rows: Sequence[Row], last_sequence: int) -> bool:
        """Puts rows as they are; False: another layout holds, and not all of them were put."""
        ...

    def empty(self, layout: str, table: int) -> bool:
        """Deletes all rows of a table; False: another layout holds."""
        ...

    def read(self, table: int, keys: Sequence[bytes]) -> dict[bytes, Row]:
        """The rows that exist among the keys, whatever the layout."""
        ...

    def replicas(self) -> int:
        """How many must have a write before it is acknowledged."""
        ...

    def store_map(
        self, layout: str, after: str, shard_count: int, table: int, rows: Sequence[Row]
    ) -> bool:
        """Stores the new table of shards and gives this shard its layout, in one step."""
        ...

    def drop(self, table: int, keys: Sequence[bytes]) -> None:
        """Deletes rows without a trace."""
        ...


@runtime_checkable
class SharedShards(Protocol):
    """A backend of a store to which any of several services may add shards.

    Reads, once another layout than the expected holds, and writes, when it is not the expected one,
    raise ShardsMovedError.
    """

    @property
    def mover(self) -> Mover:
        """What growing does to it."""
        ...

    @property
    def layout(self) -> str:
        """The shard's layout, as was last heard."""
        ...

    def expect(self, layout: str) -> None:
        """Has the shard be used by this layout. Any thread may say so."""
        ...


@runtime_checkable
class Prompt(Protocol):
    """A backend that does small commits so soon that an event loop may wait for them."""

    def can_commit_at_once(
        self, keys: Mapping[int, Sequence[bytes]], *, size: int, last_sequence: int
    ) -> bool:
        """Whether a commit needs no other work.

        Args:
            keys: Of the rows that it must know, by table.
            size: Bytes of the values that it writes.
            last_sequence: Of the newest change that the shard knows.
        """
        ...

    def commit_at_once(
        self, changes: Sequence[Change], answers: Sequence[Answer], *, durable: bool
    ) -> None:
        """As ``commit``; raises StateMovedError where that would have to wait."""
        ...


@runtime_checkable
class WritesBehind(Protocol):
    """A backend that is not done with a commit when it may be acknowledged."""

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to do."""
        ...

    def settle(self) -> None:
        """Does some of what is left, when nobody waits. Later calls do it when they must."""
        ...
