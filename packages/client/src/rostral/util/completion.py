"""Results in the order in which they are done."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, Protocol, TypeVar, overload

from rostral.api import get, wait
from rostral.object_ref import ObjectRef

T = TypeVar("T")


class Remote(Protocol):
    """A remote function, or a method of an actor."""

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Submits a call."""


@overload
def as_completed(
    refs: Sequence[ObjectRef[T]], chunk_size: int = 10, *, yield_obj_refs: Literal[False] = False
) -> Iterator[T]: ...
@overload
def as_completed(
    refs: Sequence[ObjectRef[T]], chunk_size: int = 10, *, yield_obj_refs: Literal[True]
) -> Iterator[ObjectRef[T]]: ...
@overload
def as_completed(
    refs: Sequence[ObjectRef[T]], chunk_size: int = 10, *, yield_obj_refs: bool
) -> Iterator[Any]: ...
def as_completed(
    refs: Sequence[ObjectRef[Any]],
    chunk_size: int = 10,
    yield_obj_refs: bool = False,  # noqa: FBT001 - its place in the list is known
) -> Iterator[Any]:
    """The values of the references, each as soon as it is there. Blocks in between.

    Args:
        refs: References, each once.
        chunk_size: How many that are done are taken together, at most.
        yield_obj_refs: Yield the references instead of their values.

    Raises: ValueError for a `chunk_size` below 1; what `wait` and `get` raise.
    """
    _check_size("chunk_size", chunk_size)
    return _completed(list(refs), chunk_size, is_references=bool(yield_obj_refs))


def _completed(
    pending: list[ObjectRef[Any]], chunk_size: int, *, is_references: bool
) -> Iterator[Any]:
    while pending:
        # One at least; the others that are done by then come along.
        wait(pending, num_returns=1)
        ready, pending = wait(pending, num_returns=min(chunk_size, len(pending)), timeout=0)
        yield from ready if is_references else get(ready)


def map_unordered(
    fn: Remote,
    items: Iterable[Any],
    *,
    backpressure_size: int | None = 100,
    chunk_size: int = 10,
    yield_obj_refs: bool = False,
) -> Iterator[Any]:
    """Calls a remote function on each item; yields the results as they come. Blocks in between.

    Args:
        fn: The remote function, or method of an actor; takes one item.
        items: What it is called with; consumed as results are taken.
        backpressure_size: How many calls may be under way at once; None: all.
        chunk_size: How many results are taken together, at most.
        yield_obj_refs: Yield the references instead of their values.

    Raises: ValueError for a `chunk_size` below 1, or a `backpressure_size` below it; what the calls
        raise.
    """
    _check_size("chunk_size", chunk_size)
    if backpressure_size is not None:
        _check_size("backpressure_size", backpressure_size)
        if backpressure_size < chunk_size:
            raise ValueError(
                f"backpressure_size is {backpressure_size}: it must be at least chunk_size, "
                f"{chunk_size}"
            )
    return _mapped(fn, iter(items), backpressure_size, chunk_size, is_references=yield_obj_refs)


def _mapped(
    fn: Remote,
    items: Iterator[Any],
    under_way_max: int | None,
    chunk_size: int,
    *,
    is_references: bool,
) -> Iterator[Any]:
    pending = [fn.remote(item) for item in itertools.islice(items, under_way_max)]
    while pending:
        wait(pending, num_returns=1)
        ready, pending = wait(pending, num_returns=min(chunk_size, len(pending)), timeout=0)
        pending += [fn.remote(item) for item in itertools.islice(items, len(ready))]
        yield from ready if is_references else get(ready)


def _check_size(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} is {value}: it must be at least 1")
