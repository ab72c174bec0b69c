"""Options of remote functions and actors: names, types and defaults, checked where given."""

from __future__ import annotations

import datetime as dt
import math
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Final, Literal, TypedDict, TypeVar

from rostral import runtime_env as environments
from rostral.exceptions import UnsupportedOptionError
from rostral.legacy_options import LegacyKeywords, without_legacy
from rostral.node_choice import check_fallback, check_labels, check_selector
from rostral.runtime_env import RuntimeEnv
from rostral.scheduling_strategies import (
    Placement,
    SchedulingStrategy,
    check_strategy,
    placement_of,
)
from rostral_objectstore.layout import RETRY_FOREVER

RETURNS_MAX = 3000
MAX_RETRIES = 3
CONCURRENCY_MAX = 1 << 20
GROUPS_MAX = 256
PENDING_CALLS_MAX = 1 << 30
CALLS_MAX = 1 << 30
DEADLINE_S_MAX = 1e9
PRIORITY_MAX = 1_000_000
# Of the resource that says which kind of accelerator a node has: so many can be there at once.
ACCELERATOR_SHARE: Final = 0.001
# Each call since an actor's last checkpoint keeps its task record and its arguments.
CHECKPOINT_CALLS_MAX = 100_000
# How many items of a stream lie untaken at most, unless the caller says less: so many small ones
# take some ten megabytes, and a consumer that is a little late stops nobody.
UNTAKEN_MAX = 1 << 16

Options = TypeVar("Options", "TaskOptions", "ActorOptions", "MethodOptions")


class SharedKeywords(LegacyKeywords, total=False):
    """What remote functions and actor classes take alike, for type checkers."""

    num_cpus: float
    num_gpus: float
    memory: float
    resources: dict[str, float]
    name: str
    scheduling_strategy: SchedulingStrategy
    runtime_env: Mapping[str, Any]
    enable_task_events: bool
    accelerator_type: str
    label_selector: Mapping[str, str]
    fallback_strategy: Sequence[Mapping[str, Any]]
    _labels: Mapping[str, str]


class _OfTasks(TypedDict, total=False):
    max_retries: int
    retry_exceptions: bool | Sequence[type[BaseException]]
    deadline_s: float
    priority: int
    speculate: bool
    _generator_backpressure_num_objects: int


class _OfActors(TypedDict, total=False):
    namespace: str
    lifetime: Literal["detached", "non_detached"]
    get_if_exists: bool
    max_restarts: int
    max_task_retries: int
    max_pending_calls: int
    max_concurrency: int
    allow_out_of_order_execution: bool
    checkpoint_interval: int | dt.timedelta


class TaskKeywords(SharedKeywords, _OfTasks, total=False):
    """What a remote function's `options` takes beside `num_returns`, for type checkers."""


class ActorKeywords(SharedKeywords, _OfActors, total=False):
    """What an actor class's `options` takes, for type checkers."""


class RemoteKeywords(SharedKeywords, _OfTasks, _OfActors, total=False):
    """What `@remote(...)` takes: the options of either, and those that `options` does not take."""

    concurrency_groups: dict[str, int]
    max_calls: int


class MethodKeywords(TypedDict, total=False):
    """What `@method` and a method's `options` take beside `num_returns`, for type checkers."""

    max_task_retries: int
    retry_exceptions: bool | Sequence[type[BaseException]]
    deadline_s: float
    concurrency_group: str
    name: str
    enable_task_events: bool
    tensor_transport: str
    _generator_backpressure_num_objects: int


def check_quantity(name: str, value: object) -> float:
    """A finite number of 0 or more. Raises TypeError, ValueError."""
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


def _returns(value: object) -> None:
    """Checks `num_returns`."""
    if value is None or value == "streaming":
        return
    if value == "dynamic":
        warnings.warn(
            'num_returns="dynamic" is deprecated: use "streaming", which gives each item as it is '
            "yielded",
            DeprecationWarning,
            stacklevel=2,
        )
        return
    if isinstance(value, str):
        raise ValueError(f"num_returns is {value!r}: it must be a number, 'streaming' or 'dynamic'")
    _count("num_returns", value, 0, RETURNS_MAX)


def _untaken(value: object) -> None:
    """Checks `_generator_backpressure_num_objects`."""
    if value is not None and value != -1:
        _count("_generator_backpressure_num_objects", value, 1, UNTAKEN_MAX)


def _flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, not {type(value).__name__}")


def _text(name: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {type(value).__name__}")
    if not value or len(value) > 256 or not value.isprintable():
        raise ValueError(f"{name} must have 1 to 256 printable characters")
    return value


def _actor_name(name: str, value: object) -> str | None:
    text = _text(name, value)
    if text is not None and "/" in text:
        raise ValueError(f"{name} is {text[:80]!r}: it must not have a slash in it")
    return text


def check_custom_resources(resources: object) -> dict[str, float]:
    """Quantities of resources of one's own, by name. Raises TypeError, ValueError."""
    if not isinstance(resources, Mapping):
        raise TypeError(f"resources must be a dict, not {type(resources).__name__}")
    checked = {}
    for name, quantity in resources.items():
        if not isinstance(name, str):
            raise TypeError(f"resources has the name {name!r}: it must be a string")
        if name in ("CPU", "GPU", "memory"):
            raise ValueError(f"{name!r} in resources: use num_cpus, num_gpus or memory instead")
        checked[name] = check_quantity(f"resources[{name!r}]", quantity)
    return checked


def resources_of(options: Mapping[str, Any], num_cpus_default: float) -> dict[str, float]:
    """The resource demand that `num_cpus`, `num_gpus`, `memory` and `resources` say together.

    Raises: TypeError, ValueError.
    """
    demand: dict[str, float] = {}
    cpus = options.get("num_cpus")
    demand["CPU"] = num_cpus_default if cpus is None else check_quantity("num_cpus", cpus)
    if options.get("num_gpus") is not None:
        demand["GPU"] = check_quantity("num_gpus", options["num_gpus"])
        if demand["GPU"] > 1 and demand["GPU"] % 1:
            raise ValueError(f"num_gpus is {demand['GPU']}: above 1 it must be whole")
    if options.get("memory") is not None:
        demand["memory"] = check_quantity("memory", options["memory"])
    if options.get("resources") is not None:
        demand |= check_custom_resources(options["resources"])
    if options.get("accelerator_type") is not None:
        kind = _text("accelerator_type", options["accelerator_type"])
        demand[f"accelerator_type:{kind}"] = ACCELERATOR_SHARE
    return {name: quantity for name, quantity in demand.items() if quantity > 0}


def check_groups(groups: object) -> None:
    """Limits of concurrency groups, by name. Raises TypeError, ValueError."""
    if not isinstance(groups, Mapping):
        raise TypeError(f"concurrency_groups must be a dict, not {type(groups).__name__}")
    if len(groups) > GROUPS_MAX:
        raise ValueError(f"{len(groups)} concurrency groups: an actor has {GROUPS_MAX} at most")
    for name, limit in groups.items():
        if not isinstance(name, str):
            raise TypeError(f"concurrency_groups has the name {name!r}: it must be a string")
        _text("the name of a concurrency group", name)
        _count(f"concurrency_groups[{name!r}]", limit, 1, CONCURRENCY_MAX)


def _check_deadline(value: object) -> None:
    if value is not None and not 0 < check_quantity("deadline_s", value) <= DEADLINE_S_MAX:
        raise ValueError(
            f"deadline_s is {value}: it must be above 0 and at most {DEADLINE_S_MAX:g} seconds"
        )


def _allowed_ns(deadline_s: float | None) -> int:
    return 0 if deadline_s is None else max(1, round(deadline_s * 1e9))


def default_max_retries() -> int:
    """`max_retries` where it is not given: ROSTRAL_TASK_MAX_RETRIES, RAY_TASK_MAX_RETRIES, or 3.

    Raises ValueError for what is no number of retries.
    """
    for variable in ("ROSTRAL_TASK_MAX_RETRIES", "RAY_TASK_MAX_RETRIES"):
        text = os.environ.get(variable)
        if text:
            if not re.fullmatch(r"-1|[0-9]{1,9}", text):
                raise ValueError(
                    f"{variable} is {text[:80]!r}: it must be a number of retries, -1 for any"
                )
            return int(text)
    return MAX_RETRIES


def _retried(value: object) -> bool | tuple[type[BaseException], ...]:
    """Which of a user's exceptions are worth another try."""
    if isinstance(value, bool):
        return value
    if isinstance(value, list | tuple) and all(
        isinstance(kind, type) and issubclass(kind, BaseException) for kind in value
    ):
        return tuple(value)
    raise TypeError("retry_exceptions must be a bool or a list of exception types")


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedOptions:
    """Options that remote functions and actor classes have alike, checked."""

    CPU_COUNT: ClassVar[float]
    """How many CPUs are needed where `num_cpus` is not given."""

    num_cpus: float | None = None
    num_gpus: float | None = None
    memory: float | None = None
    resources: dict[str, float] | None = None
    name: str | None = None
    scheduling_strategy: SchedulingStrategy = None
    runtime_env: RuntimeEnv | None = None
    enable_task_events: bool = True
    accelerator_type: str | None = None
    label_selector: Mapping[str, str] | None = None
    fallback_strategy: Sequence[Mapping[str, Any]] | None = None
    _labels: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        resources_of(self.as_dict(), self.CPU_COUNT)
        check_strategy(self.scheduling_strategy)
        _flag("enable_task_events", self.enable_task_events)
        if self.label_selector is not None:
            check_selector("label_selector", self.label_selector)
        if self.fallback_strategy is not None:
            check_fallback(self.fallback_strategy)
        if self._labels is not None:
            check_labels("_labels", self._labels)
        object.__setattr__(self, "runtime_env", environments.parse(self.runtime_env))

    def as_dict(self) -> dict[str, Any]:
        """The options by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def demand(self) -> dict[str, float]:
        """What a run of a task needs, or an actor holds for its life."""
        return resources_of(self.as_dict(), self.CPU_COUNT)

    @property
    def placement(self) -> Placement | None:
        """The placement group that it runs in, if one was named."""
        return placement_of(self.scheduling_strategy)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions(SharedOptions):
    """Options of a remote function, checked. Fields carry the names that users type."""

    CPU_COUNT = 1.0

    num_returns: int | str | None = None
    max_retries: int = field(default_factory=default_max_retries)
    retry_exceptions: bool | tuple[type[BaseException], ...] = False
    max_calls: int | None = None
    deadline_s: float | None = None
    priority: int = 0
    speculate: bool = False
    _generator_backpressure_num_objects: int | None = None

    def __post_init__(self) -> None:
        # Not super(): with slots, a dataclass is another class than the one that is written here.
        SharedOptions.__post_init__(self)
        _returns(self.num_returns)
        _untaken(self._generator_backpressure_num_objects)
        _count("max_retries", self.max_retries, -1)
        if self.max_calls is not None:
            _count("max_calls", self.max_calls, 0, CALLS_MAX)
        _check_deadline(self.deadline_s)
        _count("priority", self.priority, -PRIORITY_MAX, PRIORITY_MAX)
        _flag("speculate", self.speculate)
        if self.speculate and isinstance(self.num_returns, str):
            raise ValueError(
                f"speculate=True with num_returns={self.num_returns!r}: what yields its results as "
                "it runs cannot run twice at the same time"
            )
        _text("name", self.name)
        object.__setattr__(self, "retry_exceptions", _retried(self.retry_exceptions))

    @property
    def run_limit(self) -> int:
        """After how many runs its worker ends; 0: after any number.

        Unless said otherwise 1 for what uses GPUs: few libraries give all of a device's memory back
        before their process ends.
        """
        if self.max_calls is not None:
            return self.max_calls
        return 1 if self.num_gpus else 0

    @property
    def allowed_ns(self) -> int:
        """`deadline_s` in nanoseconds; 0: no deadline."""
        return _allowed_ns(self.deadline_s)

    @property
    def retries(self) -> int:
        """`max_retries` as the task record has it."""
        return RETRY_FOREVER if self.max_retries < 0 else self.max_retries


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorOptions(SharedOptions):
    """Options of an actor class, checked. Fields carry the names that users type."""

    CPU_COUNT = 0.0

    namespace: str | None = None
    lifetime: str | None = None
    get_if_exists: bool = False
    max_restarts: int = 0
    max_task_retries: int = 0
    max_pending_calls: int = -1
    max_concurrency: int | None = None
    concurrency_groups: dict[str, int] | None = None
    allow_out_of_order_execution: bool | None = None
    checkpoint_interval: int | dt.timedelta | None = None

    @property
    def placement_demand(self) -> dict[str, float]:
        """What must be free for it to start: a CPU where nothing is said, though it holds none."""
        demand = self.demand
        return {"CPU": 1.0} if self.num_cpus is None and not demand else demand

    def __post_init__(self) -> None:
        SharedOptions.__post_init__(self)
        _actor_name("name", self.name)
        _actor_name("namespace", self.namespace)
        _count("max_restarts", self.max_restarts, -1)
        _count("max_task_retries", self.max_task_retries, -1)
        if self.max_pending_calls != -1:
            _count("max_pending_calls", self.max_pending_calls, 1, PENDING_CALLS_MAX)
        if self.max_concurrency is not None:
            _count("max_concurrency", self.max_concurrency, 1, CONCURRENCY_MAX)
        if self.concurrency_groups is not None:
            check_groups(self.concurrency_groups)
        if self.allow_out_of_order_execution is not None:
            _flag("allow_out_of_order_execution", self.allow_out_of_order_execution)
        self._check_checkpoint_interval()
        if self.lifetime not in (None, "detached", "non_detached"):
            raise ValueError(
                f"lifetime is {self.lifetime!r}: it must be None, 'detached' or 'non_detached'"
            )
        _flag("get_if_exists", self.get_if_exists)
        if self.get_if_exists and self.name is None:
            raise ValueError("get_if_exists needs a name")

    def _check_checkpoint_interval(self) -> None:
        interval = self.checkpoint_interval
        if interval is None:
            return
        if isinstance(interval, dt.timedelta):
            if interval <= dt.timedelta():
                raise ValueError(f"checkpoint_interval is {interval}: it must be above 0")
        elif isinstance(interval, bool) or not isinstance(interval, int):
            raise TypeError(
                "checkpoint_interval must be a number of calls or a datetime.timedelta, not "
                f"{type(interval).__name__}"
            )
        else:
            _count("checkpoint_interval", interval, 1, CHECKPOINT_CALLS_MAX)
        if self.max_concurrency is not None and self.max_concurrency > 1:
            raise ValueError(
                f"checkpoint_interval with max_concurrency={self.max_concurrency}: only calls that "
                "run one after the other can be replayed in their order"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodOptions:
    """Options of one actor method or call."""

    num_returns: int | str | None = None
    max_task_retries: int | None = None
    retry_exceptions: bool | tuple[type[BaseException], ...] = False
    deadline_s: float | None = None
    concurrency_group: str | None = None
    name: str | None = None
    enable_task_events: bool = True
    tensor_transport: str | None = None
    _generator_backpressure_num_objects: int | None = None

    def __post_init__(self) -> None:
        _returns(self.num_returns)
        _untaken(self._generator_backpressure_num_objects)
        if self.max_task_retries is not None:
            _count("max_task_retries", self.max_task_retries, -1)
        object.__setattr__(self, "retry_exceptions", _retried(self.retry_exceptions))
        _check_deadline(self.deadline_s)
        _text("concurrency_group", self.concurrency_group)
        _text("name", self.name)
        _flag("enable_task_events", self.enable_task_events)
        if self.tensor_transport not in (None, "object_store", "OBJECT_STORE"):
            raise UnsupportedOptionError(
                f"tensor_transport is {self.tensor_transport!r}: tensors travel through the "
                "object store",
                hint="leave the option out",
            )

    @property
    def allowed_ns(self) -> int:
        """`deadline_s` in nanoseconds; 0: no deadline."""
        return _allowed_ns(self.deadline_s)


def changed(options: Options, changes: Mapping[str, Any]) -> Options:
    """The options with some changed.

    Raises UnsupportedOptionError naming the nearest that exists.
    """
    known = [f.name for f in fields(options)]
    if "scheduling_strategy" in known:
        changes = without_legacy(changes)
    for name in changes:
        if name not in known:
            raise UnsupportedOptionError.unknown(name, known)
    return replace(options, **changes)
