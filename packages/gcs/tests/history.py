"""What clients did and saw, checked against a model: a register for each key, with versions.

The store gives each write a version, so no search for an order is needed: the versions are the
order, and what is checked is that they agree with time, with what was read, and with each other.
A write whose outcome nobody knows may have happened or not, once, at any time after it began.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

__all__ = ["Kind", "Operation", "Outcome", "WatchLog", "check_history", "check_watch"]


class Kind(enum.Enum):
    """What was asked."""

    PUT = "put"
    CAS = "cas"
    GET = "get"


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
        version: Of the row, as written or read; of a conflict: the one that was there.
        expected: Of a CAS.
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


def check_history(operations: Sequence[Operation]) -> list[str]:
    """One line for each thing that cannot have been; none when all is well."""
    by_key: dict[bytes, list[Operation]] = defaultdict(list)
    for operation in operations:
        by_key[operation.key].append(operation)
    return [line for key, part in sorted(by_key.items()) for line in _check_key(key, part)]


def _check_key(key: bytes, operations: list[Operation]) -> Iterable[str]:
    name = key.decode(errors="replace")
    writes = {op.value: op for op in operations if op.kind is not Kind.GET}
    values: dict[int, bytes | None] = {}
    versions: dict[bytes, int] = {}
    for op in operations:
        if op.outcome is not Outcome.OK or (op.kind is Kind.GET and op.value is None):
            continue
        assert op.value is not None
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
    yield from _check_cas(name, operations, sorted(values))


def _check_times(
    name: str,
    operations: list[Operation],
    writes: dict[bytes | None, Operation],
    versions: dict[bytes, int],
) -> Iterable[str]:
    """Nobody sees less than what was acknowledged, or seen, before they asked."""
    known = [op for op in operations if op.outcome is not Outcome.UNKNOWN]
    ended = sorted(known, key=lambda op: op.end_s)
    highest, at = 0, 0
    for op in sorted(operations, key=lambda op: op.start_s):
        while at < len(ended) and ended[at].end_s < op.start_s:
            highest = max(highest, ended[at].version)
            at += 1
        version = op.version
        if op.outcome is Outcome.UNKNOWN:
            if op.kind is Kind.GET or op.value not in versions:
                continue
            version = versions[op.value]
        is_new = op.kind is not Kind.GET and op.outcome is not Outcome.CONFLICT
        if version < highest or (is_new and version == highest):
            yield (
                f"{name}: {op.kind.value} of {op.value!r} at {op.start_s:.3f} has version "
                f"{version}, but {highest} was there before"
            )
    for op in operations:
        write = writes.get(op.value)
        if op.kind is not Kind.GET or op.outcome is not Outcome.OK or write is None:
            continue
        if op.end_s < write.start_s:
            yield f"{name}: {op.value!r} was read before it was written"


def _check_cas(name: str, operations: list[Operation], seen: list[int]) -> Iterable[str]:
    """A compare-and-set follows at once on the version that it expected."""
    for op in operations:
        if op.kind is not Kind.CAS:
            continue
        if op.outcome is Outcome.OK:
            between = [version for version in seen if op.expected < version < op.version]
            if between:
                yield f"{name}: a CAS from {op.expected} to {op.version} passed over {between}"
        elif op.outcome is Outcome.CONFLICT and op.version == op.expected:
            yield f"{name}: a CAS was refused although {op.expected} was there"


@dataclass(slots=True)
class WatchLog:
    """What one watch told.

    Attributes:
        events: Key and version of each change, in their order; a key of None begins a snapshot.
        is_snapshot: Whether the event of the same index belongs to a snapshot.
    """

    events: list[tuple[bytes | None, int]] = field(default_factory=list)
    is_snapshot: list[bool] = field(default_factory=list)

    def add(self, key: bytes | None, version: int, *, is_snapshot: bool) -> None:
        """Takes an event in."""
        self.events.append((key, version))
        self.is_snapshot.append(is_snapshot)

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
        if op.kind is Kind.GET or op.outcome is not Outcome.OK:
            continue
        if (op.key, op.version) not in told and in_snapshots.get(op.key, 0) < op.version:
            lines.append(f"watch: {op.key!r} version {op.version} was never told")
    return lines
