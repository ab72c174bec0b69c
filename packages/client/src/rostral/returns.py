"""What a call gives: so many references, one to all that it yields, or a generator of them."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import NamedTuple, TypeVar

from rostral.options import UNTAKEN_MAX, MethodOptions, TaskOptions
from rostral_objectstore.layout import TaskFlag

Resolved = TypeVar("Resolved", TaskOptions, MethodOptions)


class Returns(NamedTuple):
    """What a call gives, as its task record has it.

    `room` is of a stream: how many items may lie there that nobody has taken; else 0.
    """

    object_count: int
    flags: int
    room: int


def returns_of(options: TaskOptions | MethodOptions) -> Returns:
    """What `num_returns` and the back-pressure say together."""
    if options.num_returns == "streaming":
        untaken = options._generator_backpressure_num_objects
        return Returns(1, 0, UNTAKEN_MAX if untaken is None or untaken == -1 else untaken)
    if options.num_returns == "dynamic":
        return Returns(1, TaskFlag.DYNAMIC, 0)
    return Returns(options.num_returns if isinstance(options.num_returns, int) else 1, 0, 0)


def resolved(options: Resolved, code: object) -> Resolved:
    """The options with `num_returns` as the code has it: a generator function streams."""
    if options.num_returns is not None:
        return options
    is_generator = inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code)
    return replace(options, num_returns="streaming" if is_generator else 1)
