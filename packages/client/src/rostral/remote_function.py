"""Remote functions: what `@remote` makes of a function."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypeVar, Unpack, cast, overload

from rostral._context import runtime
from rostral.arguments import Arguments, encode
from rostral.coroutine_tasks import is_coroutine_function
from rostral.exceptions import UnsupportedOptionError
from rostral.generator import DynamicObjectRefGenerator, ObjectRefGenerator
from rostral.node_choice import where_of
from rostral.object_ref import ObjectRef
from rostral.options import TaskKeywords, TaskOptions, changed
from rostral.returns import resolved, returns_of
from rostral.runtime import Runtime
from rostral.signature import Signature

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

# Exports of one function under different names; a program that makes up names has them exported.
EXPORTS_MAX = 64


class RemoteFunction(Generic[P, R]):
    """A function that runs in the cluster: `f.remote(...)` returns a reference at once."""

    __name__: str

    def __init__(
        self,
        function: Callable[P, R],
        options: TaskOptions,
        original: RemoteFunction[P, Any] | None = None,
    ) -> None:
        self._function = function
        self._options = options
        # With other options it is the same code: exported once, however often `options` is called.
        self._exports: dict[object, ObjectRef[Any]] = {} if original is None else original._exports
        self._signature: Signature = (
            Signature(function) if original is None else original._signature
        )
        self._name = options.name or str(getattr(function, "__qualname__", function))
        # Of which of this process's sessions what `_export` sets is; none yet.
        self._session = 0
        # For which lane `_queue` is, and the queues of other lanes that were used here.
        self._lane = 0
        self._queues: dict[int, int] = {}
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Always raises TypeError: the call must say that it is remote."""
        raise TypeError(
            f"remote function {self._name} cannot be called directly: use "
            f"{self._name}.remote(...), or rostral.get({self._name}.remote(...)) for its value"
        )

    def __repr__(self) -> str:
        return f"RemoteFunction({self._name})"

    @overload
    def options(  # type: ignore[overload-overlap]  # a literal 1 is not any int
        self, *, num_returns: Literal[1] = 1, **changes: Unpack[TaskKeywords]
    ) -> RemoteFunction[P, R]: ...
    @overload
    def options(
        self, *, num_returns: int, **changes: Unpack[TaskKeywords]
    ) -> MultiResultFunction[P]: ...
    @overload
    def options(
        self, *, num_returns: Literal["streaming"], **changes: Unpack[TaskKeywords]
    ) -> StreamingFunction[P, Any]: ...
    @overload
    def options(
        self, *, num_returns: Literal["dynamic"], **changes: Unpack[TaskKeywords]
    ) -> DynamicFunction[P]: ...
    def options(self, **changes: Any) -> RemoteFunction[P, Any]:
        """The same function with other options.

        Raises: UnsupportedOptionError, TypeError, ValueError.
        """
        return remote_function(self._function, self._changed(changes), self)

    def _changed(self, changes: dict[str, Any]) -> TaskOptions:
        if "max_calls" in changes:
            raise UnsupportedOptionError(
                f"max_calls in the options of a call of {self._name}: it counts all calls",
                hint="say it where the function is made remote: @remote(max_calls=...)",
            )
        return changed(self._options, changes)

    if TYPE_CHECKING:
        # A reference may stand for the value of any argument. A call with one among its first
        # three is not checked further: no type says "each parameter, or a reference to it".
        @overload
        def remote(self, *args: P.args, **kwargs: P.kwargs) -> ObjectRef[R]: ...
        @overload
        def remote(self, a: ObjectRef[Any], /, *more: Any, **kwargs: Any) -> ObjectRef[R]: ...
        @overload
        def remote(
            self, a: Any, b: ObjectRef[Any], /, *more: Any, **kwargs: Any
        ) -> ObjectRef[R]: ...
        @overload
        def remote(
            self, a: Any, b: Any, c: ObjectRef[Any], /, *more: Any, **kwargs: Any
        ) -> ObjectRef[R]: ...
        def remote(self, *args: Any, **kwargs: Any) -> Any:
            """Submits a call."""

    else:

        def remote(self, *args, **kwargs):
            """Submits a call.

            Returns a reference; a list of them for `num_returns` above 1; None for 0.

            Raises: TypeError for arguments the function does not take; NotPicklableError;
            ObjectStoreFullError; UnschedulableError.
            """
            self._signature.check(self._name, args, kwargs)
            current = runtime()
            if self._lane != current.lane:
                self._enter(current)
            if current.captures and self._options.scheduling_strategy is None:
                captured = current.captured_placement()
                if captured is not None:
                    return self.options(scheduling_strategy=captured).remote(*args, **kwargs)
            if self._yields:
                return self._submit_yielding(current, encode(args, kwargs, current.put))
            refs = current.submit(
                self._queue,
                self._key,
                encode(args, kwargs, current.put),
                self._code,
                return_count=self._return_count,
                retries=self._retries,
                deadline_ns=current.deadline_after(self._allowed_ns) if self._allowed_ns else 0,
            )
            if self._return_count == 1:
                return refs[0]
            return refs or None

    def _submit_yielding(self, current: Runtime, arguments: Arguments) -> Any:
        """Submits a call of what streams, or of what gives one reference to all that it yields."""
        _, flags, room = self._returns
        deadline_ns = current.deadline_after(self._allowed_ns) if self._allowed_ns else 0
        if room:
            reader = current.submit_stream(
                self._queue,
                self._key,
                arguments,
                self._code,
                retries=self._retries,
                room=room,
                deadline_ns=deadline_ns,
            )
            return ObjectRefGenerator(reader.completion, reader)
        (ref,) = current.submit(
            self._queue,
            self._key,
            arguments,
            self._code,
            return_count=1,
            retries=self._retries,
            flags=flags,
            deadline_ns=deadline_ns,
        )
        return ref

    def _remote(
        self,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Any:
        """The form that Ray's users know: options and arguments in one call."""
        function = remote_function(self._function, self._changed(changes), self)
        return cast(Any, function).remote(*args, **(kwargs or {}))

    def _enter(self, current: Runtime) -> None:
        """Finds the queue for what the running task, or the driver, submits."""
        if self._session != current.session:
            self._export(current)
        queue = self._queues.get(current.lane)
        if queue is None:
            options = self._options
            queue = current.queue_for(
                options.demand,
                options.placement,
                self._environment,
                options.priority,
                where_of(options),
            )
            self._queues[current.lane] = queue
        self._queue = queue
        self._lane = current.lane

    def _export(self, current: Runtime) -> None:
        options = self._options
        placement = options.placement
        self._environment = current.environment_for(options.runtime_env)
        self._queues = {}
        limit = options.run_limit
        code = (current.session, self._name, options.retry_exceptions, placement, limit)
        if code not in self._exports:
            if len(self._exports) >= EXPORTS_MAX:
                self._exports.clear()
            meta = {
                "retry_exceptions": options.retry_exceptions,
                "placement": placement,
                "run_limit": limit,
                "is_async": is_coroutine_function(self._function),
            }
            exported = current.functions.export(self._name, (self._function, meta))
            self._exports[code] = exported
        self._code = self._exports[code]
        self._key = current.functions.key(self._code)
        self._returns = returns_of(options)
        self._return_count = self._returns.object_count
        self._yields = isinstance(options.num_returns, str)
        self._retries = options.retries
        self._allowed_ns = options.allowed_ns
        self._session = current.session

    def __reduce__(self) -> tuple[Any, ...]:
        return remote_function, (self._function, self._options)


class MultiResultFunction(RemoteFunction[P, Any]):
    """One with `num_returns` other than 1: a call gives a list of references, or None for 0."""

    if TYPE_CHECKING:

        def remote(self, *args: Any, **kwargs: Any) -> Any:
            """Submits a call."""


class StreamingFunction(RemoteFunction[P, T]):
    """One that yields: a call gives a generator of references."""

    if TYPE_CHECKING:

        @overload  # type: ignore[override]
        def options(
            self, *, num_returns: int, **changes: Unpack[TaskKeywords]
        ) -> MultiResultFunction[P]: ...
        @overload
        def options(
            self, *, num_returns: Literal["dynamic"], **changes: Unpack[TaskKeywords]
        ) -> DynamicFunction[P]: ...
        @overload
        def options(
            self,
            *,
            num_returns: Literal["streaming"] = "streaming",
            **changes: Unpack[TaskKeywords],
        ) -> StreamingFunction[P, T]: ...
        def options(self, **changes: Any) -> Any:
            """The same function with other options."""

        @overload  # type: ignore[override]
        def remote(self, *args: P.args, **kwargs: P.kwargs) -> ObjectRefGenerator[T]: ...
        @overload
        def remote(
            self, a: ObjectRef[Any], /, *more: Any, **kwargs: Any
        ) -> ObjectRefGenerator[T]: ...
        @overload
        def remote(
            self, a: Any, b: ObjectRef[Any], /, *more: Any, **kwargs: Any
        ) -> ObjectRefGenerator[T]: ...
        @overload
        def remote(
            self, a: Any, b: Any, c: ObjectRef[Any], /, *more: Any, **kwargs: Any
        ) -> ObjectRefGenerator[T]: ...
        def remote(self, *args: Any, **kwargs: Any) -> Any:
            """Submits a call."""


class DynamicFunction(RemoteFunction[P, DynamicObjectRefGenerator]):
    """One with `num_returns="dynamic"`: all that it yields is there when it has ended."""


def remote_function(
    function: Callable[P, R],
    options: TaskOptions,
    original: RemoteFunction[P, Any] | None = None,
) -> RemoteFunction[P, R]:
    """The remote function of the class that its options ask for; `original` has others."""
    options = resolved(options, function)
    cls = _CLASSES.get(options.num_returns, MultiResultFunction)
    return cast(RemoteFunction[P, R], cls(function, options, original))


_CLASSES: dict[int | str | None, type[RemoteFunction[..., Any]]] = {
    1: RemoteFunction,
    "streaming": StreamingFunction,
    "dynamic": DynamicFunction,
}
