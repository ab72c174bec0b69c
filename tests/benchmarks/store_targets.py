"""The rows of `bench-store`: name, unit, which group measures it, what it must reach.

Owns the numbers that the project has set itself for the store; measures nothing. A row may have
several: an absolute one, one beside what the machine can do, and never to be slower than Ray.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

SIZES: dict[str, int] = {
    "16 B": 16,
    "1 KB": 1_000,
    "100 KB": 100_000,
    "1 MB": 1_000_000,
    "100 MB": 100_000_000,
    "1 GB": 1_000_000_000,
}
SIZE_GROUPS: dict[str, tuple[str, ...]] = {
    "small": ("16 B", "1 KB"),
    "medium": ("100 KB", "1 MB"),
    "large": ("100 MB", "1 GB"),
}
PROCESSES = (1, 2, 4)
# Where a size is named by its rate, gigabytes say more than calls.
GIGABYTES_FROM = 100_000
OBJECT_SIZES = (16, 100)
OBJECT_COUNT = 1_000_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Must:
    """One thing that a row must reach.

    Invariant: `value` is in the row's unit when `against` is empty, else a ratio to that engine.
    """

    value: float
    against: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoreRow:
    """One row."""

    name: str
    unit: str
    group: str
    # Of times and sizes less is better; of rates more.
    less_is_better: bool = True
    musts: tuple[Must, ...] = ()
    # What the reader has to know to read the figures right.
    note: str = ""

    def ratio(self, ours: float, theirs: float) -> float:
        """How many times better we are, whichever way the unit points."""
        better, worse = (ours, theirs) if self.less_is_better else (theirs, ours)
        return worse / better if better else float("inf")

    def reaches(self, must: Must, ours: float) -> bool:
        """Whether an absolute figure is reached."""
        return ours <= must.value if self.less_is_better else ours >= must.value


LIKE_RAY = Must(value=1.0, against="ray")


def row_name(what: str, size: str, processes: int) -> str:
    """The name of a row of sizes and processes."""
    return f"{what} {size}, {processes} process{'es' if processes > 1 else ''}"


def rate_unit(size: str) -> str:
    """The unit in which a rate of the size is given."""
    return "GB/s" if SIZES[size] >= GIGABYTES_FROM else "calls/s"


def _of_sizes() -> Iterator[StoreRow]:
    for group, sizes in SIZE_GROUPS.items():
        for size in sizes:
            for processes in PROCESSES:
                yield from _of_size(group, size, processes)


def _of_size(group: str, size: str, processes: int) -> Iterator[StoreRow]:
    alone_and_small = processes == 1 and group == "small"
    shared_source = (
        "all processes read one source, so that what is in memory at a time stays below 8 GB"
        if size == "1 GB"
        else ""
    )
    quick_put = (Must(value=2.0),) if alone_and_small else ()
    like_memcpy = (Must(value=0.8, against="memcpy"),) if group == "large" else ()
    quick_get = Must(value=1.0 if alone_and_small else 10.0)

    def row(what: str, unit: str, *musts: Must, note: str = "") -> StoreRow:
        return StoreRow(
            name=row_name(what, size, processes),
            unit=unit,
            group=group,
            less_is_better=unit == "us",
            musts=(*musts, LIKE_RAY),
            note=note,
        )

    yield row("put", "us", *quick_put, note=shared_source)
    yield row("put rate", rate_unit(size), *like_memcpy, note=shared_source)
    yield row("first get", "us", Must(value=10.0))
    yield row("repeated get", "us", quick_get)
    yield row("get rate", "calls/s")


ROWS: tuple[StoreRow, ...] = (
    *_of_sizes(),
    StoreRow(
        name="first get and read of 100 MB",
        unit="GB/s",
        group="large",
        less_is_better=False,
        musts=(LIKE_RAY,),
        note="another process gets it and adds up all of its words",
    ),
    StoreRow(
        name="put of 128 MB just after start",
        unit="GB/s",
        group="cold",
        less_is_better=False,
        musts=(Must(value=2.5), LIKE_RAY),
        note="memcpy: into memory that was never touched",
    ),
    StoreRow(
        name="put seen by a process that waits",
        unit="us",
        group="waiting",
        musts=(Must(value=5.0),),
        note="it has begun to wait 20 us before; needs a core for each of the two",
    ),
    StoreRow(
        name="put seen by a process that sleeps",
        unit="us",
        group="waiting",
        note="it has begun to wait 1 ms before: the kernel has to wake it",
    ),
    *(
        row
        for size in OBJECT_SIZES
        for row in (
            StoreRow(
                name=f"memory used per object of {size} B, beyond its bytes",
                unit="B",
                group="million",
                musts=(Must(value=256.0),),
                note="of the store, by its own account; 1,000,000 live",
            ),
            StoreRow(
                name=f"memory taken per object of {size} B, beyond its bytes",
                unit="B",
                group="million",
                musts=(Must(value=256.0),),
                note="pages of the segment that the kernel has given out; 1,000,000 live",
            ),
            StoreRow(
                name=f"client's memory per handle of {size} B",
                unit="B",
                group="million",
                note="private memory of the process that holds them: handle, list and bookkeeping",
            ),
            StoreRow(
                name=f"store and client per object of {size} B, beyond its bytes",
                unit="B",
                group="million",
                note="pages of the segment and the client's private memory together",
            ),
            StoreRow(
                name=f"put rate of {size} B, first of a million",
                unit="calls/s",
                group="million",
                less_is_better=False,
            ),
            StoreRow(
                name=f"put rate of {size} B, last of a million, of the first",
                unit="share",
                group="million",
                less_is_better=False,
                musts=(Must(value=0.8),),
            ),
        )
    ),
    StoreRow(
        name="spill, working set three times the store",
        unit="GB/s",
        group="spill",
        less_is_better=False,
        musts=(Must(value=0.8, against="disk"),),
    ),
    StoreRow(
        name="restore in random order",
        unit="GB/s",
        group="spill",
        less_is_better=False,
        musts=(Must(value=0.8, against="disk"),),
    ),
    StoreRow(
        name="objects restored with a wrong checksum",
        unit="objects",
        group="spill",
        musts=(Must(value=0.0),),
    ),
    StoreRow(
        name="transfer of 1 GB between two nodes",
        unit="GB/s",
        group="transfer",
        less_is_better=False,
        musts=(Must(value=0.8, against="tcp"),),
    ),
    StoreRow(
        name="transfer of 100 MB between two nodes",
        unit="GB/s",
        group="transfer",
        less_is_better=False,
        musts=(Must(value=0.8, against="tcp"),),
    ),
    StoreRow(
        name="transfer of 1 KB between two nodes",
        unit="us",
        group="transfer",
        musts=(Must(value=1000.0),),
    ),
    StoreRow(
        name="1 GB whose source is killed half way, from the second holder",
        unit="s",
        group="transfer",
    ),
)
