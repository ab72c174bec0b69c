"""What the schedulers say of themselves, for Prometheus.

Owns the names of the metrics; the page that shows them is ``rostral_gcs.services.metrics_page``. A
scrape reads what the scheduler knows at that moment, on its own event loop, so that one which does
not come round any more shows as a scrape that fails.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rostral_gcs.tokens import Tokens

if TYPE_CHECKING:
    from rostral_gcs.services.metrics_page import MetricsPage
    from rostral_scheduler.global_.daemon import GlobalScheduler
    from rostral_scheduler.global_.placement_times import PlacementTimes
    from rostral_scheduler.local.daemon import LocalScheduler

__all__ = ["Figure", "global_figures", "local_figures", "serve"]

_ANSWER_S: Final = 5.0


class Figure(NamedTuple):
    """One metric at one moment.

    Attributes:
        name: Without the component; ends in _total if it counts since the start.
        about: What it is.
        value: Of it; or, by the label's values, its values.
        label: What tells those apart; empty: there is one value.
    """

    name: str
    about: str
    value: float | dict[str, float]
    label: str = ""


def local_figures(scheduler: LocalScheduler) -> list[Figure]:
    """Of a local scheduler, on its event loop."""
    policy, pool, gcs = scheduler.policy, scheduler.pool, scheduler.gcs
    actors = Counter(actor.stage.name.lower() for actor in scheduler.actors.by_id.values())
    queued = sum(queue.length for queue in policy.queues.values())
    running = sum(1 for worker in policy.active.values() if worker.running)
    crossing = {} if scheduler.crossing is None else scheduler.crossing.facts()
    figures = [
        Figure("jobs", "Jobs that run.", len(scheduler.jobs.by_id)),
        Figure("queued_tasks", "Tasks that wait for resources.", queued),
        Figure("running_tasks", "Tasks that run.", running),
        Figure("workers", "Processes of workers.", len(pool.by_number)),
        Figure("actors", "Actors, by their state.", dict(actors), "state"),
        Figure(
            "resources_total",
            "What the node has, by resource.",
            policy.resources.total.as_floats(),
            "resource",
        ),
        Figure("resources_free", "What of it is free.", policy.available_floats(), "resource"),
        Figure("draining", "1 while the node takes nothing new.", scheduler.draining.is_draining),
        *(Figure(name, about, crossing[name]) for name, about in _CROSSING.items() if crossing),
    ]
    if gcs is not None:
        figures += [
            Figure("gcs_writes_queued", "Writes that wait for the GCS.", gcs.writes_queued),
            Figure("gcs_writes_dropped_total", "Writes that it never got.", gcs.writes_dropped),
        ]
    return figures


_CROSSING: Final = {
    "forwarded": "Tasks and calls that are on other nodes.",
    "hosted": "Tasks and calls of other nodes that are here.",
    "remote_actors": "Actors of other nodes that somebody here refers to.",
    "elsewhere": "Objects that are known here, and lie on other nodes.",
    "remembered": "Tasks that can be run again if what they made is lost.",
    "run_again": "Tasks that run again, since what they made was lost.",
    "second_runs": "Second copies of late tasks that are under way.",
}


def global_figures(scheduler: GlobalScheduler) -> list[Figure]:
    """Of a global scheduler, on its event loop."""
    placer = scheduler.placer
    return [
        Figure("nodes", "Nodes that live.", len(placer.policy.nodes)),
        Figure(
            "schedulers", "Global schedulers, this one included.", placer.policy.scheduler_count
        ),
        Figure("synced", "1 once the node table has been read.", placer.synced.is_set()),
        Figure("answers_total", "Answers to placements, by kind.", dict(placer.answers), "answer"),
    ]


class _Collector:
    """Asks on the event loop at each scrape, from the page's threads."""

    def __init__(
        self,
        component: str,
        figures: Callable[[], list[Figure]],
        times: PlacementTimes | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._prefix = f"rostral_{component}_"
        self._figures, self._times, self._loop = figures, times, loop
        self._started = time.time()

    def describe(self) -> Iterable[Any]:
        """Nothing: who registers this must not wait for the loop, on which that happens."""
        return ()

    def collect(self) -> Iterator[Any]:
        """The metrics of this moment. Raises TimeoutError when the loop does not come round."""
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
            InfoMetricFamily,
        )

        asked_s = time.monotonic()
        figures = asyncio.run_coroutine_threadsafe(self._read(), self._loop).result(_ANSWER_S)
        lag = Figure(
            "loop_answer_seconds", "Until the event loop answered.", time.monotonic() - asked_s
        )
        started = Figure("start_time_seconds", "When it started, since 1970.", self._started)
        version = {"version": metadata.version("rostral-scheduler")}
        yield InfoMetricFamily(self._prefix + "build", "What is running.", version)
        for figure in (started, lag, *figures):
            name = self._prefix + figure.name
            family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            if isinstance(figure.value, dict):
                shown = family(name, figure.about, labels=[figure.label])
                for label, value in sorted(figure.value.items()):
                    shown.add_metric([label], value)
                yield shown
            else:
                yield family(name, figure.about, value=figure.value)
        if self._times is not None:
            name = self._prefix + "placement_seconds"
            yield HistogramMetricFamily(
                name,
                "How long batches of placements took.",
                buckets=self._times.buckets(),
                sum_value=self._times.sum_s,
            )

    async def _read(self) -> list[Figure]:
        return self._figures()


def serve(
    component: str,
    address: tuple[str, int],
    token_file: str,
    figures: Callable[[], list[Figure]],
    times: PlacementTimes | None = None,
) -> MetricsPage:
    """Serves the page from a thread of its own. Called on the scheduler's event loop.

    Args:
        component: ``local_scheduler`` or ``global_scheduler``.
        address: Host and port, on this machine.
        token_file: Whoever reads the page shows a token that is in it.
        figures: Called on the event loop at each scrape.
        times: Of placements.

    Raises:
        ConfigError: prometheus_client is not installed, or the address cannot be bound.
        TokenFileError: The file cannot be used.
    """
    # Here: a scheduler without the page does not wait for an HTTP server's code.
    from rostral_gcs.services.metrics_page import MetricsPage

    host, port = address
    collector = _Collector(component, figures, times, asyncio.get_running_loop())
    return MetricsPage(
        host, port, collector, Tokens(token_file), extra="rostral-scheduler[metrics]"
    )
