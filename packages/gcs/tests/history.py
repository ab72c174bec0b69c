"""What clients did and saw, checked against a model: a register for each key, with versions.

The store gives each write a version, so no search for an order is needed: the versions are the
order, and what is checked is that they agree with time, with what was read, and with each other.
A write whose outcome nobody knows may have happened or not, once, at any time after it began.

A delete has a version too, which its caller is not told. So that a row was not there must have a
delete that can have come between: after the newest write that was known before, and before the end
of the look. And whatever was known before a row was gone is not seen again after.
"""

from __future__ import annotations

import enum
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

__all__ = ["Kind", "Operation", "Outcome", "WatchLog", "check_history", "check_watch"]

# How long after its caller gave up a write whose outcome nobody knows may still be done.
_LATE_S = 15.0


class Kind(enum.Enum):
    """What was asked."""

    PUT = "put"
    CAS = "cas"
    GET = "get"
    DELETE = "delete"

    @property
    def is_put(self) -> bool:
        """Whether it writes a value."""
        return self in (Kind.PUT, Kind.CAS)


class Outcome(enum.Enum):
    """What came of it."""

    OK = "ok"
    CONFLICT = "conflict"
    UNKNOWN = "unknown"


@dataclass(slots=True)
class Operation:
    """One operation of one client.

    Attributes:
        kind: What was asked.
        key: Of which key.
        value: Written or read; each written one is unique. None: read, and not there.
        version: Of the row, as written or read; of a conflict: the one that was there, 0 for none.
        expected: Of a CAS, 0 for none; of a DELETE the version that it expects, 0 for any.
        start_s: On one monotonic clock.
        end_s: On the same.
        outcome: What came of it.
    """

    kind: Kind
    key: bytes
    start_s: float
    value: bytes | None = None
    version: int = 0
    expected: int = 0
    end_s: float = 0.0
    outcome: Outcome = Outcome.UNKNOWN

    @property
    def found_nothing(self) -> bool:
        """Whether it shows that the row was not there at some moment of it."""
        match self.kind:
            case Kind.GET:
                return self.outcome is Outcome.OK and self.value is None
            case Kind.CAS if self.outcome is Outcome.OK:
                return self.expected == 0
        return self.outcome is Outcome.CONFLICT and self.version == 0

    @property
    def left_nothing(self) -> bool:
        """Whether the row was gone when it ended, but for what others wrote meanwhile."""
        if self.kind is Kind.DELETE:
            return self.outcome is Outcome.OK
        return self.found_nothing and not (self.kind.is_put and self.outcome is Outcome.OK)


def check_history(operations: Sequence[Operation]) -> list[str]:
    """One line for each thing that cannot have been; none when all is well."""
    by_key: dict[bytes, list[Operation]] = defaultdict(list)
    for operation in operations:
        by_key[operation.key].append(operation)
    return [line for key, part in sorted(by_key.items()) for line in _check_key(key, part)]


def _check_key(key: bytes, operations: list[Operation]) -> Iterable[str]:
    name = key.decode(errors="replace")
    writes = {op.value: op for op in operations if op.kind.is_put}
    values: dict[int, bytes | None] = {}
    versions: dict[bytes, int] = {}
    for op in operations:
        if op.outcome is not Outcome.OK or op.value is None:
            continue
        if values.setdefault(op.version, op.value) != op.value:
            yield f"{name}: version {op.version} has two values"
        if versions.setdefault(op.value, op.version) != op.version:
            yield f"{name}: {op.value!r} was written twice: {versions[op.value]} and {op.version}"
    for value, version in versions.items():
        write = writes.get(value)
        if write is None:
            yield f"{name}: {value!r} was read and never written"
        elif write.outcome is Outcome.CONFLICT:
            yield f"{name}: {value!r} was refused, and is there with version {version}"
    yield from _check_times(name, operations, writes, versions)
    yield from _check_gone(name, operations)
    yield from _check_cas(name, operations, sorted(values))


def _check_times(
    name: str,
    operations: list[Operation],
    writes: dict[bytes | None, Operation],
    versions: dict[bytes, int],
) -> Iterable[str]:
    """Nobody sees less than what was acknowledged, or seen, before they asked."""
    ended = sorted(
        (op for op in operations if op.outcome is not Outcome.UNKNOWN), key=lambda op: op.end_s
    )
    # The newest that was known when an operation began; by it the row was gone when that ended.
    known_at_start: dict[int, int] = {}
    highest = gone = at = 0
    for op in sorted(operations, key=lambda op: op.start_s):
        while at < len(ended) and ended[at].end_s < op.start_s:
            earlier = ended[at]
            highest = max(highest, earlier.version)
            if earlier.left_nothing:
                gone = max(gone, known_at_start[id(earlier)])
            at += 1
        known_at_start[id(op)] = highest
        seen = _seen_version(op, versions)
        if seen is None:
            continue
        is_new = op.kind.is_put and op.outcome is not Outcome.CONFLICT
        if seen < highest or (is_new and seen == highest):
            yield (
                f"{name}: {op.kind.value} of {op.value!r} at {op.start_s:.3f} has version "
                f"{seen}, but {highest} was there before"
            )
        elif seen <= gone:
            yield f"{name}: version {seen} was there at {op.start_s:.3f}, and had been deleted"
    for op in operations:
        write = writes.get(op.value)
        if op.kind is not Kind.GET or op.outcome is not Outcome.OK or write is None:
            continue
        if op.end_s < write.start_s:
            yield f"{name}: {op.value!r} was read before it was written"


def _seen_version(op: Operation, versions: dict[bytes, int]) -> int | None:
    """The version that the row had in the course of it; None when that is not known."""
    if op.outcome is Outcome.UNKNOWN:
        return versions.get(op.value) if op.kind.is_put and op.value is not None else None
    if op.kind is Kind.DELETE and op.outcome is Outcome.OK:
        return op.expected or None
    if op.found_nothing and not (op.kind.is_put and op.outcome is Outcome.OK):
        return None
    return op.version


def _check_gone(name: str, operations: list[Operation]) -> Iterable[str]:
    """That a row was not there has a delete which can have been the reason."""
    deletes = [
        op for op in operations if op.kind is Kind.DELETE and op.outcome is not Outcome.CONFLICT
    ]
    acknowledged = [op for op in operations if op.kind.is_put and op.outcome is Outcome.OK]
    for op in operations:
        if not op.found_nothing:
            continue
        newest_s = max((one.start_s for one in acknowledged if one.end_s < op.start_s), default=-1)
        if newest_s < 0:
            continue
        if not any(
            delete.start_s < op.end_s
            and (delete.outcome is Outcome.UNKNOWN or delete.end_s > newest_s)
            for delete in deletes
        ):
            yield (
                f"{name}: nothing was there for {op.kind.value} at {op.start_s:.3f}, and nobody "
                "had deleted it"
            )


def _check_cas(name: str, operations: list[Operation], seen: list[int]) -> Iterable[str]:
    """A compare-and-set follows at once on the version that it expected."""
    for op in operations:
        if op.kind is Kind.CAS and op.outcome is Outcome.OK and op.expected:
            between = [version for version in seen if op.expected < version < op.version]
            if between:
                yield f"{name}: a CAS from {op.expected} to {op.version} passed over {between}"
        conditional = op.kind is Kind.CAS or (op.kind is Kind.DELETE and op.expected)
        if conditional and op.outcome is Outcome.CONFLICT and op.version == op.expected:
            yield f"{name}: a CAS was refused although {op.expected} was there"


@dataclass(slots=True)
class WatchLog:
    """What one watch told.

    Attributes:
        events: Key and version of each change, in their order; a key of None begins a snapshot.
        is_snapshot: Whether the event of the same index belongs to a snapshot.
        is_delete: Whether it tells of a delete.
    """

    events: list[tuple[bytes | None, int]] = field(default_factory=list)
    is_snapshot: list[bool] = field(default_factory=list)
    is_delete: list[bool] = field(default_factory=list)

    def add(
        self, key: bytes | None, version: int, *, is_snapshot: bool, is_delete: bool = False
    ) -> None:
        """Takes an event in."""
        self.events.append((key, version))
        self.is_snapshot.append(is_snapshot)
        self.is_delete.append(is_delete)

    @property
    def resync_count(self) -> int:
        """How often it had to begin again."""
        return sum(key is None for key, _ in self.events) - 1


def check_watch(log: WatchLog, operations: Sequence[Operation]) -> list[str]:
    """Order, repeats and gaps: each acknowledged write was told, or a later one by a snapshot."""
    lines: list[str] = []
    last = 0
    latest: dict[bytes, int] = {}
    told: set[tuple[bytes, int]] = set()
    in_snapshots: dict[bytes, int] = {}
    for (key, version), is_snapshot in zip(log.events, log.is_snapshot, strict=True):
        if key is None:
            # Whoever begins again may be told once more of what it knew.
            last = 0
            latest.clear()
            continue
        if not is_snapshot:
            if version <= last:
                lines.append(f"watch: version {version} came after {last}")
            last = version
        if version <= latest.get(key, 0):
            lines.append(f"watch: {key!r} was told version {version} after {latest[key]}")
        latest[key] = version
        told.add((key, version))
        if is_snapshot:
            in_snapshots[key] = max(version, in_snapshots.get(key, 0))
    for op in operations:
        if not op.kind.is_put or op.outcome is not Outcome.OK:
            continue
        # Of a row that was deleted while the watch was away its snapshot says nothing.
        is_told = (op.key, op.version) in told or in_snapshots.get(op.key, 0) >= op.version
        if not is_told and not (log.resync_count and _may_be_deleted(op, operations)):
            lines.append(f"watch: {op.key!r} version {op.version} was never told")
    return [*lines, *_check_deletes_told(log, operations)]


def _may_be_deleted(write: Operation, operations: Sequence[Operation]) -> bool:
    return any(
        op.kind is Kind.DELETE
        and op.key == write.key
        and op.outcome is not Outcome.CONFLICT
        and (op.outcome is Outcome.UNKNOWN or op.end_s > write.start_s)
        for op in operations
    )


def _check_deletes_told(log: WatchLog, operations: Sequence[Operation]) -> Iterable[str]:
    """No more deletes than were asked for, and what is there in the end is what was told last."""
    asked = Counter(op.key for op in operations if op.kind is Kind.DELETE)
    told: Counter[bytes] = Counter()
    last: dict[bytes, int] = {}
    for (key, version), is_delete in zip(log.events, log.is_delete, strict=True):
        if key is None:
            last.clear()
        elif is_delete:
            told[key] += 1
            last.pop(key, None)
        else:
            last[key] = version
    for key, count in told.items():
        if count > asked[key]:
            yield f"watch: {count} deletes of {key!r} were told, {asked[key]} asked for"
    for final in _final_reads(operations):
        version = last.get(final.key, 0)
        if version != final.version:
            yield (
                f"watch: {final.key!r} has version {final.version} in the end, and {version} was "
                "told last"
            )


def _final_reads(operations: Sequence[Operation]) -> Iterable[Operation]:
    """Reads of keys that nobody can have written to any more."""
    by_key: dict[bytes, list[Operation]] = defaultdict(list)
    for op in operations:
        by_key[op.key].append(op)
    for part in by_key.values():
        final = max(part, key=lambda op: op.start_s)
        writes = [op for op in part if op.kind is not Kind.GET]
        if final.kind is Kind.GET and final.outcome is Outcome.OK:
            is_quiet = all(
                op.end_s < final.start_s - (_LATE_S if op.outcome is Outcome.UNKNOWN else 0)
                for op in writes
            )
            if is_quiet:
                yield final
