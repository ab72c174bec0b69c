"""`remote`: makes a function or a class run in the cluster."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, Unpack, overload

from rostral.actor import ActorClass
from rostral.checkpoint import check_hooks
from rostral.exceptions import UnsupportedOptionError
from rostral.options import ActorOptions, RemoteKeywords, TaskOptions, changed
from rostral.remote_function import (
    DynamicFunction,
    MultiResultFunction,
    RemoteFunction,
    StreamingFunction,
    remote_function,
)

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
# What yields: generator functions, and functions that return an iterator.
Yielding = Callable[P, Iterator[T]] | Callable[P, AsyncIterator[T]]


class PlainClass(Protocol[P, T_co]):
    """A class, seen as what makes its instances: so a checker finds its constructor's arguments."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T_co:
        """An instance."""
        ...

    def mro(self) -> list[type]:
        """What only a class has, so that no function is taken for one."""
        ...


class Decorator(Protocol):
    """What `@remote(...)` with options puts on a function or class."""

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a class is callable too
        self, target: PlainClass[P, T_co], /
    ) -> ActorClass[P, T_co]: ...
    @overload
    def __call__(self, target: Yielding[P, T], /) -> StreamingFunction[P, T]: ...
    @overload
    def __call__(self, target: Callable[P, Coroutine[Any, Any, T]], /) -> RemoteFunction[P, T]: ...
    @overload
    def __call__(self, target: Callable[P, R], /) -> RemoteFunction[P, R]: ...
    def __call__(self, target: Any, /) -> Any:
        """The function or class, remote."""


class StreamingDecorator(Protocol):
    """What `@remote(num_returns="streaming")` puts on a function."""

    def __call__(self, target: Yielding[P, T], /) -> StreamingFunction[P, T]:
        """The function, remote."""
        ...


class DynamicDecorator(Protocol):
    """What `@remote(num_returns="dynamic")` puts on a function."""

    def __call__(self, target: Callable[P, object], /) -> DynamicFunction[P]:
        """The function, remote."""
        ...


class MultiResultDecorator(Protocol):
    """What `@remote(num_returns=n)` puts on a function."""

    def __call__(self, target: Callable[P, object], /) -> MultiResultFunction[P]:
        """The function, remote."""
        ...


@overload
def remote(  # type: ignore[overload-overlap]  # a class is callable too
    target: PlainClass[P, T_co], /
) -> ActorClass[P, T_co]: ...
@overload
def remote(target: Yielding[P, T], /) -> StreamingFunction[P, T]: ...
@overload
def remote(target: Callable[P, Coroutine[Any, Any, T]], /) -> RemoteFunction[P, T]: ...
@overload
def remote(target: Callable[P, R], /) -> RemoteFunction[P, R]: ...
@overload
def remote(  # type: ignore[overload-overlap]  # a literal 1 is not any int
    *, num_returns: Literal[1] = 1, **options: Unpack[RemoteKeywords]
) -> Decorator: ...
@overload
def remote(*, num_returns: int, **options: Unpack[RemoteKeywords]) -> MultiResultDecorator: ...
@overload
def remote(
    *, num_returns: Literal["streaming"], **options: Unpack[RemoteKeywords]
) -> StreamingDecorator: ...
@overload
def remote(
    *, num_returns: Literal["dynamic"], **options: Unpack[RemoteKeywords]
) -> DynamicDecorator: ...
def remote(*args: Any, **options: Any) -> Any:
    """Makes a function or class run in the cluster: `@remote`, `@remote(num_cpus=2)`, `remote(f)`.

    Type checkers see a function's parameters and result through it, and a class's constructor in
    `Actors = remote(Class)`. What `@remote` on a class does mypy sees with `mypy_plugin` alone:
    else it takes the name for the plain class.

    Of a function's options `priority` (0) says which of those that are ready begins first: the
    highest among tasks of the job that need the same resources. With `speculate` a run that takes
    much longer than others of the function gets a second one on another node: the first result
    counts, so running twice must do no harm. The package's README has them all.

    Raises:
        UnsupportedOptionError: No such option (a ValueError).
        TypeError: An option of the wrong type.
        ValueError: An option out of range.
        AssertionError: Neither one function or class, nor keyword options; as in Ray.
    """
    if len(args) == 1 and not options and callable(args[0]):
        return _make_remote(args[0], {})
    if args or not options:
        raise AssertionError(
            "@remote goes on a function or class, bare or with keyword options: "
            "@remote(num_cpus=2, max_retries=3)"
        )
    _check_for_either(options)
    return lambda target: _make_remote(target, options)


def _check_for_either(options: dict[str, Any]) -> None:
    """Wrong names and types show where they are written, not where the decorator is applied."""
    with contextlib.suppress(UnsupportedOptionError):
        changed(ActorOptions(), options)
        return
    changed(TaskOptions(), options)


def _make_remote(target: Any, options: dict[str, Any]) -> Any:
    if isinstance(target, RemoteFunction | ActorClass):
        raise TypeError(f"{target!r} is remote already")
    if inspect.isclass(target):
        actor_options = changed(ActorOptions(), options)
        check_hooks(target, actor_options)
        return ActorClass(target, actor_options)
    if not callable(target):
        raise TypeError(f"@remote goes on a function or class, not on {type(target).__name__}")
    return remote_function(target, changed(TaskOptions(), options))
