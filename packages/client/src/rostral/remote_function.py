"""Remote functions: what `@remote` makes of a function."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

from rostral._context import runtime
from rostral.arguments import encode
from rostral.object_ref import ObjectRef
from rostral.options import TaskOptions, changed

P = ParamSpec("P")
R = TypeVar("R")


class Signature:
    """Checks a call's arguments on the caller's side, fast for the calls that are plainly right."""

    __slots__ = ("_least", "_most", "_simple", "signature")

    def __init__(self, function: Callable[..., Any], *, drop_first: bool = False) -> None:
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):
            signature = inspect.Signature(
                [
                    inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL),
                    inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD),
                ]
            )
            drop_first = False
        parameters = list(signature.parameters.values())
        if drop_first:
            parameters = parameters[1:]
        self.signature = signature.replace(parameters=parameters)
        positional = [
            p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        self._least = sum(p.default is p.empty for p in positional)
        self._most = len(positional)
        if any(p.kind is p.VAR_POSITIONAL for p in parameters):
            self._most = 1 << 30
        self._simple = not any(
            p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters
        )

    def check(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raises TypeError, as calling the function here would."""
        if not kwargs and self._simple and self._least <= len(args) <= self._most:
            return
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{name}(): {error}") from None


class RemoteFunction(Generic[P, R]):
    """A function that runs in the cluster: `f.remote(...)` returns a reference at once."""

    def __init__(self, function: Callable[P, R], options: TaskOptions) -> None:
        self._function = function
        self._options = options
        self._signature = Signature(function)
        self._name = options.name or getattr(function, "__qualname__", repr(function))
        self._session = 0
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        raise TypeError(
            f"remote function {self._name} cannot be called directly: "
            f"use {self._name}.remote(...), or rostral.get({self._name}.remote(...)) for its value"
        )

    def options(self, **changes: Any) -> RemoteFunction[P, R]:
        """The same function with other options.

        Raises UnsupportedOptionError, TypeError, ValueError.
        """
        return RemoteFunction(self._function, changed(self._options, changes))

    def remote(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Submits a call. Returns a reference; a list of them for `num_returns` above 1; None for 0.

        Raises: TypeError for arguments the function does not take; NotPicklableError;
        UnschedulableError.
        """
        self._signature.check(self._name, args, kwargs)
        current = runtime()
        if self._session != current.session:
            self._export(current)
        refs = current.submit(
            self._queue,
            self._key,
            encode(args, kwargs, current.put),
            self._code,
            return_count=self._return_count,
            retries=self._retries,
        )
        if self._return_count == 1:
            return refs[0]
        return refs or None

    def _remote(
        self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None, **changes: Any
    ) -> Any:
        return self.options(**changes).remote(*args, **(kwargs or {}))

    def _export(self, current: Any) -> None:
        options = self._options
        self._queue = current.queue_for(options.demand)
        meta = {"retry_exceptions": options.retry_exceptions} if options.retry_exceptions else {}
        self._code: ObjectRef[Any] = current.functions.export(self._name, (self._function, meta))
        self._key = current.functions.key(self._code)
        self._return_count = options.num_returns
        self._retries = options.retries
        self._session = current.session

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteFunction, (self._function, self._options)
