"""The paper's Table 3: a policy that simulations ask, embedded in the cluster or over REST.

OSDI'18 section 5.2.2: client and server on one machine, batches of 64 states; states of 4 KB for a
residual net of 10 ms, and of 100 KB for a small net of 5 ms. The nets stand on a device there; here
a stand-in takes the same time without a core, so that what is left is the way there and back.
"""

from __future__ import annotations

from paper_figures import Point
from serve_models import STATES, STUBS
from serve_workloads import embedded_passes_per_s, rest_passes_per_s


def run(seconds: float) -> list[Point]:
    """States a second, of both models by both ways; and the most that each model can do."""
    points = []
    for size in ("small", "large"):
        stub = STUBS[size]
        rates = {
            "embedded": embedded_passes_per_s(stub, seconds),
            # Megabytes through a crowded loopback: half a second might see no answer.
            "REST": rest_passes_per_s(size, max(seconds, 2.0)),
            "the model alone": 1.0 / stub.base_s,
        }
        points += [
            Point(
                experiment="serving",
                series=name,
                x=stub.state_bytes,
                x_is="bytes of a state",
                value=STATES * rate,
                unit="states/s",
            )
            for name, rate in rates.items()
        ]
    return points
