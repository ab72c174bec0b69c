"""The engine's counts as Prometheus reads them. Needs the `metrics` extra.

Nothing is counted here: what a request costs does not change with whether somebody scrapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from rostral_rl.serve.access import Access
from rostral_rl.serve.engine import Engine
from rostral_rl.serve.tally import LATENCY_BOUNDS_S, Tally

if TYPE_CHECKING:
    from prometheus_client import Metric

COUNTERS = (
    ("requests", "Requests answered with actions."),
    ("rows", "Observations among them."),
    ("passes", "Forward passes."),
    ("refused", "Requests turned away because the queue was full."),
    ("late", "Requests dropped because their deadline had passed."),
    ("failed", "Requests of passes that raised."),
)
GAUGES = (
    ("queue_rows", "Observations that wait."),
    ("batch_limit_rows", "Rows that the next batch may have."),
    ("sessions", "Sessions of recurrent policies."),
    ("version", "Version of the weights that answer."),
)
PREFIX = "rostral_serve_"


def exposition(engine: Engine, access: Access) -> Callable[[], bytes] | None:
    """Makes the text of /metrics when called; None where prometheus_client is not installed."""
    try:
        from prometheus_client import CollectorRegistry, generate_latest
    except ImportError:
        return None
    registry = CollectorRegistry()
    registry.register(_Collector(engine, access))
    return lambda: bytes(generate_latest(registry))


class _Collector:
    """What a registry asks at each scrape."""

    def __init__(self, engine: Engine, access: Access) -> None:
        self._engine = engine
        self._access = access

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        unknown = "Requests without a token, or with one that is not good for them."
        yield CounterMetricFamily(
            PREFIX + "unauthorised", unknown, value=float(self._access.refused)
        )
        counters = {
            name: CounterMetricFamily(PREFIX + name, text, labels=["model"])
            for name, text in COUNTERS
        }
        gauges = {
            name: GaugeMetricFamily(PREFIX + name, text, labels=["model"]) for name, text in GAUGES
        }
        latency = HistogramMetricFamily(
            f"{PREFIX}latency_seconds", "From a request's arrival to its answer.", labels=["model"]
        )
        for model, (batcher, tally, sessions, version) in self._engine.tallies().items():
            for name, counter in counters.items():
                counter.add_metric([model], getattr(tally, name))
            values = (batcher.rows_waiting, batcher.limit_rows, sessions, version)
            for (name, _), value in zip(GAUGES, values, strict=True):
                gauges[name].add_metric([model], value)
            latency.add_metric([model], _buckets(tally), tally.latency_s)
        yield from counters.values()
        yield from gauges.values()
        yield latency


def _buckets(tally: Tally) -> list[tuple[str, float]]:
    """Upper bound and how many took no longer, as Prometheus counts."""
    bounds = [*map(str, LATENCY_BOUNDS_S), "+Inf"]
    return list(zip(bounds, map(float, accumulate(tally.latency_counts)), strict=True))
