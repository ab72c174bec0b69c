"""`Pool`: the interface of `multiprocessing.Pool` over tasks of the cluster.

Calls travel in chunks, each chunk one task, and all chunks wait in one queue: whichever worker is
free takes the next. What makes them a pool is a demand for CPUs of which exactly `processes` fit.
"""

from __future__ import annotations

import itertools
import math
import os
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import rostral
from rostral.util.multiprocessing.results import AsyncResult, ChunkRef, Failure, ResultIterator

T = TypeVar("T")

# Of a map without a chunk size: what the standard library's pool uses.
_CHUNKS_PER_PROCESS = 4
# Chunks of an imap that are under way at once: enough that workers find the next one waiting.
_AHEAD_PER_PROCESS = 32
_FUNCTIONS_KEPT = 64
# Of one CPU: demands are not counted finer.
_GRAINS = 10_000
# How many chunks a pool remembers before it looks which of them are done.
_LOOK_AT = 1000

_initialized: set[bytes] = set()
"""Of a worker process: the pools whose initializer has run in it."""


class _Start:
    """What a process of the pool does before its first call."""

    def __init__(self, initializer: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        self._pool_id = os.urandom(16)
        self._initializer = initializer
        self._arguments = arguments

    def __call__(self) -> None:
        if self._pool_id not in _initialized:
            self._initializer(*self._arguments)
            _initialized.add(self._pool_id)


def _run(
    start: _Start | None, function: Callable[..., Any], calls: Sequence[Any], kind: str
) -> list[Any]:
    """The values of some calls; a Failure for each that raised."""
    if start is not None:
        start()
    if kind == "apply":
        return [_outcome(lambda call: function(*call[0], **call[1]), calls, "map")]
    return [_outcome(function, call, kind) for call in calls]


def _outcome(function: Callable[..., Any], call: Any, kind: str) -> Any:
    try:
        return function(*call) if kind == "starmap" else function(call)
    except Exception as error:
        return Failure(error, traceback.format_exc())


class Pool:
    """Processes that run calls, with the interface of `multiprocessing.Pool`.

    Connects to a cluster, or starts one, if this process has not. Leaving a `with` block terminates
    it. Calls of a process that died run again. The processes are the cluster's workers: they
    outlive the pool, and what an initializer sets in them is there for the job's other tasks too.

    Args:
        processes: Calls at once; None for as many as the cluster has CPUs.
        initializer: Called in each process before its first call, with `initargs`.
        maxtasksperchild: Chunks after which a process is replaced by a fresh one.
        context: Ignored; there for programs written for the standard library.
        ray_address: Of the cluster, as `rostral.init` takes it.
        ray_remote_args: Options of the tasks; `num_cpus` overrides what `processes` says.

    Raises:
        ValueError: `processes` or `maxtasksperchild` is below 1.
        TypeError: The initializer cannot be called.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: object = None,
        ray_address: str | None = None,
        ray_remote_args: Mapping[str, Any] | None = None,
    ) -> None:
        del context
        if processes is not None and processes < 1:
            raise ValueError(f"processes is {processes}: it must be at least 1")
        if maxtasksperchild is not None and maxtasksperchild < 1:
            raise ValueError(f"maxtasksperchild is {maxtasksperchild}: it must be at least 1")
        if initializer is not None and not callable(initializer):
            raise TypeError("the initializer must be a callable")
        if not rostral.is_initialized():
            rostral.init(ray_address)
        cpus = [node["Resources"].get("CPU", 0.0) for node in rostral.nodes() if node["Alive"]]
        self._processes = processes or max(1, int(sum(cpus)))
        options: dict[str, Any] = {"num_cpus": cpus_per_process(self._processes, cpus)}
        if maxtasksperchild is not None:
            options["max_calls"] = maxtasksperchild
        self._options = options | dict(ray_remote_args or {})
        self._start = None if initializer is None else _Start(initializer, tuple(initargs))
        self._tasks: dict[int, tuple[Callable[..., Any], Any]] = {}
        self._under_way: list[ChunkRef] = []
        self._look_at = _LOOK_AT
        self._iterators: list[ResultIterator[Any]] = []
        self._is_open = True

    def _submit(self, function: Callable[..., Any], calls: Sequence[Any], kind: str) -> ChunkRef:
        if not self._is_open:
            raise ValueError("Pool not running")
        ref: ChunkRef = self._task_of(function).remote(calls, kind)
        self._under_way.append(ref)
        if len(self._under_way) >= self._look_at:
            self._under_way = rostral.wait(
                self._under_way, num_returns=len(self._under_way), timeout=0
            )[1]
            self._look_at = max(_LOOK_AT, 2 * len(self._under_way))
        return ref

    def _task_of(self, function: Callable[..., Any]) -> Any:
        """The function, with the initializer, as a remote function: sent to workers once."""
        known = self._tasks.get(id(function))
        if known is None:
            start = self._start

            def run_calls(calls: Sequence[Any], kind: str) -> list[Any]:
                return _run(start, function, calls, kind)

            if len(self._tasks) >= _FUNCTIONS_KEPT:
                self._tasks.clear()
            # With the function itself: its id is nobody else's while it is here.
            known = self._tasks[id(function)] = function, rostral.remote(**self._options)(run_calls)
        return known[1]

    # ---- single calls

    def apply(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
    ) -> T:
        """The value of one call; blocks. Raises what it raises."""
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        callback: Callable[[T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[T]:
        """Starts one call; returns at once."""
        chunk = self._submit(func, [tuple(args), dict(kwds or {})], "apply")
        return AsyncResult([chunk], lambda values: values[0], callback, error_callback)

    # ---- many calls

    def map(
        self, func: Callable[[Any], T], iterable: Iterable[Any], chunksize: int | None = None
    ) -> list[T]:
        """The values of calls with one argument each, in order; blocks.

        Raises what the first of them raised, when all are done.
        """
        return self.map_async(func, iterable, chunksize).get()

    def map_async(
        self,
        func: Callable[[Any], T],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[list[T]]:
        """Starts calls with one argument each; returns at once.

        `chunksize` calls travel together; by default a quarter of each process's share.
        """
        chunks = self._submit_all(func, iterable, chunksize, "map")
        return AsyncResult(chunks, lambda values: values, callback, error_callback)

    def starmap(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
    ) -> list[T]:
        """As `map`, with the arguments of each call in a tuple."""
        return self.starmap_async(func, iterable, chunksize).get()

    def starmap_async(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[list[T]]:
        """As `map_async`, with the arguments of each call in a tuple."""
        chunks = self._submit_all(func, iterable, chunksize, "starmap")
        return AsyncResult(chunks, lambda values: values, callback, error_callback)

    def _submit_all(
        self,
        function: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None,
        kind: str,
    ) -> list[ChunkRef]:
        calls = list(iterable)
        if chunksize is None:
            chunksize = max(1, math.ceil(len(calls) / (self._processes * _CHUNKS_PER_PROCESS)))
        step = _checked(chunksize)
        chunks = [calls[at : at + step] for at in range(0, len(calls), step)]
        if not self._is_open:
            raise ValueError("Pool not running")
        return [self._submit(function, chunk, kind) for chunk in chunks]

    def imap(
        self, func: Callable[[Any], T], iterable: Iterable[Any], chunksize: int = 1
    ) -> ResultIterator[T]:
        """Values in order, as they come. Takes from the iterable as values are taken from it."""
        return self._imap(func, iterable, chunksize, ordered=True)

    def imap_unordered(
        self, func: Callable[[Any], T], iterable: Iterable[Any], chunksize: int = 1
    ) -> ResultIterator[T]:
        """Values as they come, whichever is first."""
        return self._imap(func, iterable, chunksize, ordered=False)

    def _imap(
        self, func: Callable[[Any], T], iterable: Iterable[Any], chunksize: int, *, ordered: bool
    ) -> ResultIterator[T]:
        if not self._is_open:
            raise ValueError("Pool not running")
        chunks = self._lazily(func, iter(iterable), _checked(chunksize))
        ahead = self._processes * _AHEAD_PER_PROCESS
        results: ResultIterator[T] = ResultIterator(chunks, ahead, ordered=ordered)
        self._iterators = [*(i for i in self._iterators if not i.is_started), results]
        return results

    def _lazily(
        self, function: Callable[..., Any], calls: Iterator[Any], chunksize: int
    ) -> Iterator[ChunkRef]:
        while chunk := list(itertools.islice(calls, chunksize)):
            yield self._submit(function, chunk, "map")

    # ---- the end

    def close(self) -> None:
        """Takes no more calls; what was submitted is still done."""
        for iterator in self._iterators:
            iterator.start_all()
        self._iterators = []
        self._is_open = False

    def terminate(self) -> None:
        """Cancels what is not done: processes at work on it end."""
        self._is_open = False
        self._iterators = []
        under_way, self._under_way = self._under_way, []
        for ref in under_way:
            rostral.cancel(ref, force=True)

    def join(self) -> None:
        """Waits until what was submitted is done. Raises ValueError before `close`."""
        if self._is_open:
            raise ValueError("Pool is still running")
        if self._under_way:
            rostral.wait(self._under_way, num_returns=len(self._under_way))
            self._under_way = []

    def __enter__(self) -> Pool:
        if not self._is_open:
            raise ValueError("Pool not running")
        return self

    def __exit__(self, *_: object) -> None:
        self.terminate()

    def __reduce__(self) -> NoReturn:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")


def _checked(chunksize: int) -> int:
    if chunksize < 1:
        raise ValueError(f"chunksize is {chunksize}: it must be at least 1")
    return chunksize


def cpus_per_process(processes: int, node_cpus: Sequence[float]) -> float:
    """The least demand for CPUs of which at most `processes` fit into the nodes at once."""
    nodes = [round(cpus * _GRAINS) for cpus in node_cpus]
    shares = {cpus // count for cpus in nodes for count in range(1, processes + 1)} - {0}
    for share in sorted(shares):
        if sum(cpus // share for cpus in nodes) <= processes:
            return share / _GRAINS
    return max(node_cpus, default=0.0)
