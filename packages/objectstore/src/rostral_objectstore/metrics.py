"""What a store says of itself, for Prometheus.

Owns the names of the metrics; the page that shows them is ``rostral_gcs.services.metrics_page``. A
scrape reads what the daemon knows at that moment; nothing is counted on the path of a put or a get.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import TYPE_CHECKING, Any

from rostral_gcs.tokens import Tokens

if TYPE_CHECKING:
    from rostral_gcs.services.metrics_page import MetricsPage

# Name in the daemon's message, name and help of the metric. Counts since the start end in _total.
METRICS = {
    "capacity_bytes": ("capacity_bytes", "Room for objects, the store's bookkeeping included."),
    "used_bytes": ("used_bytes", "Bytes taken, counted in chunks of 64 KiB."),
    "free_bytes": ("free_bytes", "Bytes not taken."),
    "largest_free_bytes": ("largest_free_bytes", "The most of them in one piece."),
    "fragmentation": ("fragmentation_ratio", "The share of the free bytes outside of that piece."),
    "pinned_bytes": ("pinned_bytes", "Bytes of objects that the store itself keeps."),
    "spilled_bytes": ("spilled_bytes", "Bytes of objects that have a copy on disk."),
    "spill_file_bytes": ("spill_file_bytes", "Bytes that spill files take on disk."),
    "objects": ("objects", "Objects in any state."),
    "pinned": ("pinned_objects", "Objects that the store itself keeps."),
    "spilled_objects": ("spilled_objects", "Objects that have a copy on disk."),
    "clients": ("clients", "Attached processes."),
    "spill_writes": ("spill_writes_total", "Objects written to disk."),
    "evicted": ("evictions_total", "Objects that left memory for the disk."),
    "restored": ("restores_total", "Objects that came back from disk."),
    "moved_bytes": ("moved_bytes_total", "Bytes moved to bring free room together."),
    "lost": ("lost_objects_total", "Spilled objects that the disk lost."),
}
PREFIX = "rostral_objectstore_"


class Collector:
    """Asks the daemon at each scrape, on the server's thread."""

    def __init__(self, stats: Callable[[], dict[str, Any]]) -> None:
        self._stats = stats
        self._started = time.time()

    def collect(self) -> Iterator[Any]:
        """The metrics of this moment."""
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            InfoMetricFamily,
        )

        version = metadata.version("rostral-objectstore")
        yield InfoMetricFamily(PREFIX + "build", "What is running.", {"version": version})
        started = PREFIX + "start_time_seconds"
        yield GaugeMetricFamily(started, "When the store started, since 1970.", self._started)
        values = self._stats()
        for key, (name, text) in METRICS.items():
            if key in values:
                family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
                yield family(PREFIX + name, text, value=values[key])


def serve(
    address: tuple[str, int], stats: Callable[[], dict[str, Any]], token_file: str
) -> MetricsPage:
    """Serves the page at the address from a thread of its own.

    Args:
        address: On this machine.
        stats: Called from the page's threads.
        token_file: Whoever reads the page shows a token that is in it.

    Raises:
        ConfigError: prometheus_client is not installed, or the address cannot be bound.
        TokenFileError: The file cannot be used.
    """
    # Here: a store without the page does not wait for an HTTP server's code.
    from rostral_gcs.services.metrics_page import MetricsPage

    host, port = address
    collector = Collector(stats)
    tokens = Tokens(token_file)
    return MetricsPage(host, port, collector, tokens, extra="rostral-objectstore[metrics]")
