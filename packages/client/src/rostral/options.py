"""Options of remote functions and actors: their names, types and defaults, checked where they are given."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from rostral.exceptions import UnsupportedOptionError
from rostral_objectstore.layout import RETRY_FOREVER

RETURNS_MAX = 3000

Options = TypeVar("Options", "TaskOptions", "ActorOptions", "MethodOptions")


def _quantity(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} is {value}: it must be finite and not negative")
    return float(value)


def _count(name: str, value: object, least: int, most: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {type(value).__name__}")
    if value < least or (most is not None and value > most):
        raise ValueError(
            f"{name} is {value}: it must be at least {least}"
            + (f" and at most {most}" if most else "")
        )
    return value


def _text(name: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {type(value).__name__}")
    if not value or len(value) > 256 or not value.isprintable():
        raise ValueError(f"{name} must have 1 to 256 printable characters")
    return value


def resources_of(options: Mapping[str, Any], num_cpus_default: float) -> dict[str, float]:
    """The resource demand that `num_cpus`, `num_gpus`, `memory` and `resources` say together.

    Raises: TypeError, ValueError.
    """
    demand: dict[str, float] = {}
    cpus = options.get("num_cpus")
    demand["CPU"] = num_cpus_default if cpus is None else _quantity("num_cpus", cpus)
    if options.get("num_gpus") is not None:
        demand["GPU"] = _quantity("num_gpus", options["num_gpus"])
        if demand["GPU"] > 1 and demand["GPU"] % 1:
            raise ValueError(f"num_gpus is {demand['GPU']}: above 1 it must be whole")
    if options.get("memory") is not None:
        demand["memory"] = _quantity("memory", options["memory"])
    custom = options.get("resources")
    if custom is not None:
        if not isinstance(custom, dict):
            raise TypeError(f"resources must be a dict, not {type(custom).__name__}")
        for name, quantity in custom.items():
            if name in ("CPU", "GPU", "memory"):
                raise ValueError(f"{name!r} in resources: use num_cpus, num_gpus or memory instead")
            demand[str(name)] = _quantity(f"resources[{name!r}]", quantity)
    return {name: quantity for name, quantity in demand.items() if quantity > 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """Options of a remote function, checked. Fields carry the names that users type."""

    num_cpus: float | None = None
    num_gpus: float | None = None
    memory: float | None = None
    resources: dict[str, float] | None = None
    num_returns: int = 1
    max_retries: int = 3
    retry_exceptions: bool | tuple[type[BaseException], ...] = False
    name: str | None = None

    def __post_init__(self) -> None:
        resources_of(self.as_dict(), 1.0)
        _count("num_returns", self.num_returns, 0, RETURNS_MAX)
        _count("max_retries", self.max_retries, -1)
        _text("name", self.name)
        if isinstance(self.retry_exceptions, list):
            object.__setattr__(self, "retry_exceptions", tuple(self.retry_exceptions))
        if not isinstance(self.retry_exceptions, bool) and not (
            isinstance(self.retry_exceptions, tuple)
            and all(
                isinstance(kind, type) and issubclass(kind, BaseException)
                for kind in self.retry_exceptions
            )
        ):
            raise TypeError("retry_exceptions must be a bool or a list of exception types")

    def as_dict(self) -> dict[str, Any]:
        """The options by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def demand(self) -> dict[str, float]:
        """What a run needs: one CPU unless said otherwise."""
        return resources_of(self.as_dict(), 1.0)

    @property
    def retries(self) -> int:
        """`max_retries` as the task record has it."""
        return RETRY_FOREVER if self.max_retries < 0 else self.max_retries


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorOptions:
    """Options of an actor class, checked. Fields carry the names that users type."""

    num_cpus: float | None = None
    num_gpus: float | None = None
    memory: float | None = None
    resources: dict[str, float] | None = None
    name: str | None = None
    namespace: str | None = None
    lifetime: str | None = None
    get_if_exists: bool = False
    max_restarts: int = 0
    max_task_retries: int = 0
    max_pending_calls: int = -1
    max_concurrency: int | None = None

    def __post_init__(self) -> None:
        resources_of(self.as_dict(), 0.0)
        _text("name", self.name)
        _text("namespace", self.namespace)
        _count("max_restarts", self.max_restarts, -1)
        _count("max_task_retries", self.max_task_retries, -1)
        _count("max_pending_calls", self.max_pending_calls, -1)
        if self.max_concurrency is not None:
            _count("max_concurrency", self.max_concurrency, 1)
        if self.lifetime not in (None, "detached", "non_detached"):
            raise ValueError(
                f"lifetime is {self.lifetime!r}: it must be None, 'detached' or 'non_detached'"
            )
        if not isinstance(self.get_if_exists, bool):
            raise TypeError(
                f"get_if_exists must be a bool, not {type(self.get_if_exists).__name__}"
            )
        if self.get_if_exists and self.name is None:
            raise ValueError("get_if_exists needs a name")

    def as_dict(self) -> dict[str, Any]:
        """The options by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def demand(self) -> dict[str, float]:
        """What the actor holds for its life: nothing unless said."""
        return resources_of(self.as_dict(), 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodOptions:
    """Options of one actor method or call."""

    num_returns: int = 1
    max_task_retries: int | None = None
    name: str | None = field(default=None)

    def __post_init__(self) -> None:
        _count("num_returns", self.num_returns, 0, RETURNS_MAX)
        if self.max_task_retries is not None:
            _count("max_task_retries", self.max_task_retries, -1)


def changed(options: Options, changes: Mapping[str, Any]) -> Options:
    """The options with some changed.

    Raises UnsupportedOptionError naming the nearest that exists.
    """
    known = [f.name for f in fields(options)]
    for name in changes:
        if name not in known:
            import difflib

            near = difflib.get_close_matches(name, known, 1)
            raise UnsupportedOptionError(
                f"there is no option {name!r}" + (f", did you mean {near[0]!r}?" if near else ""),
                hint="options are " + ", ".join(known),
            )
    return replace(options, **changes)
