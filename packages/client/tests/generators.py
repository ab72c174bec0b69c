"""Generators and marks that the tests of generators share, and what must be left after them."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rostral
from rostral import _context
from rostral.functions import FUNCTION_INDEX
from rostral_objectstore._native import repair

from .actors import get
from .waiting import object_ids, until


def left(before: set[bytes]) -> set[bytes]:
    """Objects made since, but for functions: a worker keeps those that it has sent out."""
    return {id for id in object_ids() - before if not id.endswith(FUNCTION_INDEX)}


def expect_nothing_left(before: set[bytes]) -> None:
    """No object but those from before, and no task."""
    gc.collect()  # exceptions that a test caught, and their frames, which keep its references
    until(lambda: not left(before), "the end of the test's objects")
    segment = _context.connected().store.segment
    until(lambda: not repair.list_tasks(segment, 100), "the end of the test's tasks")


def count_function(**options: Any) -> Any:
    @rostral.remote
    def count(n: int) -> Iterator[int]:
        yield from range(n)

    return count.options(**options) if options else count


def marking_function(marks: Path, **options: Any) -> Any:
    """Yields for ever; leaves a mark for each item, and one at its end."""

    @rostral.remote(max_retries=0)
    def endless() -> Iterator[int]:
        try:
            for number in range(1 << 62):
                write(marks, "item")
                yield number
        finally:
            write(marks, "closed")

    return endless.options(**options)


def write(marks: Path, word: str) -> None:
    with marks.open("a") as file:
        file.write(f"{word}\n")


def words(marks: Path) -> list[str]:
    return marks.read_text().split()


def values(generator: Any) -> list[Any]:
    return [get(ref) for ref in generator]
