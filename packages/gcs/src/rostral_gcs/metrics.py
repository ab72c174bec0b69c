"""A page of Prometheus metrics, on loopback, when a port is given for it.

This file owns the counting of calls and the names of the metrics; the page itself is
``services/metrics_page.py``. Nothing is counted, and no prometheus_client imported, without a port.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

import grpc
import grpc.aio

from rostral_gcs import __version__
from rostral_gcs.tokens import Tokens

if TYPE_CHECKING:
    from rostral_gcs.services.metrics_page import MetricsPage

__all__ = ["CallCounter", "GcsStats", "serve_metrics"]

_PREFIX: Final = "rostral_gcs_"
_BOUNDS_S: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True, slots=True)
class GcsStats:
    """What a server says of itself at one moment.

    Attributes:
        is_serving: As its health service says.
        is_insecure: Whether it listens on more than loopback without encryption.
        watches: Open now.
        refused_calls: Without the token, since the start.
        queued_commands: By shard.
        last_sequences: By shard.
    """

    is_serving: bool
    is_insecure: bool
    watches: int
    refused_calls: int
    queued_commands: Mapping[int, int]
    last_sequences: Mapping[int, int]


@dataclass(slots=True)
class _Calls:
    count: int = 0
    failed: int = 0
    sum_s: float = 0.0
    # One for each bound, and one above all.
    buckets: list[int] = field(default_factory=lambda: [0] * (len(_BOUNDS_S) + 1))


class CallCounter(grpc.aio.ServerInterceptor):  # type: ignore[misc,type-arg,unused-ignore]
    """Counts and times the calls that are answered once; a watch is none of them."""

    def __init__(self) -> None:
        self.calls: dict[str, _Calls] = {}

    def count(self, method: str, took_s: float, has_failed: bool) -> None:  # noqa: FBT001
        """Counts one call that has ended, whatever it travelled by."""
        counted = self.calls.setdefault(method, _Calls())
        counted.failed += has_failed
        counted.count += 1
        counted.sum_s += took_s
        counted.buckets[bisect.bisect_left(_BOUNDS_S, took_s)] += 1

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """Puts the counting around the call."""
        handler: Any = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return cast("grpc.RpcMethodHandler[Any, Any]", handler)
        call: Callable[[Any, Any], Awaitable[Any]] = handler.unary_unary
        method = handler_call_details.method.rpartition("/")[2]

        async def run(request: Any, context: Any) -> Any:
            started_s = time.perf_counter()
            has_failed = True
            try:
                reply = await call(request, context)
                has_failed = False
                return reply
            finally:
                self.count(method, time.perf_counter() - started_s, has_failed)

        return grpc.unary_unary_rpc_method_handler(
            run,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


class _Collector:
    def __init__(self, counter: CallCounter, stats: Callable[[], GcsStats]) -> None:
        self._counter = counter
        self._stats = stats
        self._started_s = time.time()

    def collect(self) -> Iterator[Any]:
        """The metrics of this moment."""
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            InfoMetricFamily,
        )

        def gauge(name: str, text: str, value: float) -> Any:
            return GaugeMetricFamily(_PREFIX + name, text, value=value)

        yield InfoMetricFamily(_PREFIX + "build", "What is running.", {"version": __version__})
        yield gauge("start_time_seconds", "When it started, since 1970.", self._started_s)
        stats = self._stats()
        yield gauge("serving", "1 when every shard answers.", stats.is_serving)
        yield gauge("insecure_mode", "1 when it listens unencrypted.", stats.is_insecure)
        yield gauge("watches", "Watches open now.", stats.watches)
        refused = "Calls without the token."
        yield CounterMetricFamily(_PREFIX + "refused_calls", refused, value=stats.refused_calls)
        for name, text, by_shard in (
            ("queued_commands", "Commands that wait for a shard's thread.", stats.queued_commands),
            ("last_sequence", "The newest write of a shard.", stats.last_sequences),
        ):
            family = GaugeMetricFamily(_PREFIX + name, text, labels=["shard"])
            for shard, value in by_shard.items():
                family.add_metric([str(shard)], value)
            yield family
        yield from self._collect_calls()

    def _collect_calls(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

        failed = CounterMetricFamily(
            _PREFIX + "failed_calls", "Calls that ended with an error.", labels=["method"]
        )
        seconds = HistogramMetricFamily(
            _PREFIX + "call_seconds", "How long calls took.", labels=["method"]
        )
        for method, counted in sorted(self._counter.calls.items()):
            failed.add_metric([method], counted.failed)
            total = 0
            buckets: list[tuple[str, float]] = []
            for bound, count in zip((*_BOUNDS_S, "+Inf"), counted.buckets, strict=True):
                total += count
                buckets.append((str(bound), total))
            seconds.add_metric([method], buckets, counted.sum_s)
        yield failed
        yield seconds


def serve_metrics(
    port: int, counter: CallCounter, stats: Callable[[], GcsStats], tokens: str | Tokens
) -> MetricsPage:
    """Serves the page on loopback, from a thread of its own.

    Args:
        port: TCP port; 0 takes any free one.
        counter: Of the server's calls.
        stats: Called from the page's threads.
        tokens: Whoever reads the page shows one of them.

    Raises:
        ConfigError: prometheus_client is not installed, or the port is taken.
    """
    # Here: a GCS without the page does not wait for an HTTP server's code.
    from rostral_gcs.services.metrics_page import MetricsPage

    collector = _Collector(counter, stats)
    return MetricsPage("127.0.0.1", port, collector, tokens, extra="rostral-gcs[metrics]")
