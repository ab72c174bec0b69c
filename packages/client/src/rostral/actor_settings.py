"""What an actor's process must know of its options: written by the creator, read at each start."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rostral.concurrency import DEFAULT_GROUP
from rostral.exceptions import UnsupportedOptionError
from rostral.options import ActorOptions, MethodOptions

# How many calls of an async actor may be under way unless it says otherwise.
ASYNC_CONCURRENCY = 1000
PLAIN_METHOD = MethodOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorSettings:
    """How an actor runs its calls."""

    is_async: bool
    concurrency: int  # of the default group
    groups: Mapping[str, int] = field(default_factory=dict)  # limits of the named groups
    in_order: bool  # whether a call waits for the earlier ones of its caller

    @staticmethod
    def of(cls: type, options: ActorOptions, names: tuple[str, ...]) -> ActorSettings:
        """The settings of a class with its options.

        Raises ValueError where the options contradict the class.
        """
        is_async = any(is_coroutine_method(cls, name) for name in ("__init__", *names))
        concurrency = options.max_concurrency or (ASYNC_CONCURRENCY if is_async else 1)
        groups = options.concurrency_groups or {}
        is_concurrent = is_async or concurrency > 1
        wanted = options.allow_out_of_order_execution
        if wanted is False and is_concurrent:
            raise ValueError(
                f"allow_out_of_order_execution is False, but {cls.__qualname__} is "
                + ("async" if is_async else f"threaded (max_concurrency={concurrency})")
                + ": such an actor runs calls as they become ready"
            )
        settings = ActorSettings(
            is_async=is_async,
            concurrency=concurrency,
            groups=groups,
            in_order=not (is_concurrent if wanted is None else wanted),
        )
        for name in names:
            settings.group_number(settings.of_method(cls, name).concurrency_group)
        return settings

    def group_number(self, name: str | None) -> int:
        """The number of a group. Raises UnsupportedOptionError: no such group."""
        return group_number(name, tuple(self.groups))

    @staticmethod
    def of_method(cls: type, name: str) -> MethodOptions:
        """What the decorator of a method says."""
        marked = getattr(getattr(cls, name, None), "__rostral_method__", None)
        return marked if isinstance(marked, MethodOptions) else PLAIN_METHOD


def group_number(name: str | None, groups: Sequence[str]) -> int:
    """The number of a group among the named ones, from 1; 0 is the default group, None too.

    Raises UnsupportedOptionError: no such group.
    """
    if name is None or name == DEFAULT_GROUP:
        return 0
    if name not in groups:
        raise UnsupportedOptionError(
            f"there is no concurrency group {name!r}: the actor has "
            + (", ".join(map(repr, groups)) or "none"),
            hint="name the groups at the class: @remote(concurrency_groups={'io': 2})",
        )
    return 1 + groups.index(name)


def is_coroutine_method(cls: type, name: str) -> bool:
    """Whether the class's method must run on an event loop."""
    function = getattr(cls, name, None)
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
