"""The rows of `bench-gcs`: name, unit, which group measures it, what it must reach.

Owns the numbers that the project has set itself for the Global Control Store; measures nothing.
"""

from __future__ import annotations

from store_targets import Must, StoreRow

BATCH = 1000
VALUE_BYTES = 256
LIVE_RECORDS = 1_000_000
CALLERS = 64


def _rate(name: str, group: str, *musts: Must, note: str = "") -> StoreRow:
    return StoreRow(
        name=name, unit="rows/s", group=group, less_is_better=False, musts=musts, note=note
    )


def _time(name: str, unit: str, group: str, *musts: Must, note: str = "") -> StoreRow:
    return StoreRow(name=name, unit=unit, group=group, musts=musts, note=note)


ROWS: tuple[StoreRow, ...] = (
    _rate(
        "lineage, batches of 1,000",
        "bulk",
        Must(value=150_000.0),
        note="records of 256 bytes as TaskRow objects, packing them included; plain redis: MSET "
        "through redis-py",
    ),
    _rate("lineage, 64 callers, batching", "bulk", note="each call records one task"),
    _rate("lineage, 64 callers, no batching", "bulk"),
    _rate("object locations, batches of 1,000", "bulk"),
    _rate(
        "key-value of 256 bytes, 1,000 at once, batching",
        "bulk",
        note="on disk when acknowledged; plain redis is not",
    ),
    _rate("key-value of 256 bytes, 64 callers, no batching", "bulk"),
    _time("compare-and-set p50", "ms", "single", Must(value=0.5)),
    _time("compare-and-set p99", "ms", "single", Must(value=3.0)),
    _time("compare-and-set p50, no batching", "ms", "single", Must(value=0.5)),
    _time("compare-and-set p99, no batching", "ms", "single", Must(value=3.0)),
    _time(
        "an empty call p50",
        "ms",
        "single",
        note="the greeting: what the transport takes without any storage",
    ),
    _time("read of one row p50", "ms", "single"),
    _time("write seen by a watch p50", "ms", "single"),
    _time("write seen by a watch p99", "ms", "single", Must(value=5.0)),
    _time("refusal p99", "ms", "single", Must(value=50.0), note="a value that is too large"),
    _time(
        "restart with 1,000,000 live records",
        "s",
        "restart",
        Must(value=2.0),
        note="from the start of the process until it has answered a read of one of them",
    ),
)

FAILOVERS: dict[str, StoreRow] = {
    row.name: row
    for row in (
        _time(
            "failover: primary killed",
            "ms",
            "failover",
            Must(value=30.0),
            note="the longest request of all rounds, detection and recovery included; no "
            "acknowledged write may be lost",
        ),
        _time(
            "failover: primary silent (partition)",
            "ms",
            "failover",
            note="published beside it: it takes as long as the GCS waits for an answer; no "
            "acknowledged write may be lost",
        ),
    )
}
