"""What the serving benchmark serves: a small net, and stand-ins that take a known time.

    python serve_models.py net

serves one over HTTP on a free port, from a process of its own; its first line is the URL.
"""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from gymnasium import spaces

import rostral_rl as rl
from rostral_rl.arrays import SpaceArray
from rostral_rl.forward import NetSpec
from rostral_rl.policy import Policy, PolicyInfo
from rostral_rl.serve.batcher import BatchConfig
from rostral_rl.serve.config import ServeConfig
from rostral_rl.serve.engine import EngineConfig
from rostral_rl.serve.http import PolicyServer

HIDDEN = (64, 64)
INPUTS = 4
STATES = 64
"""Of one request, as in the paper's Table 3."""
SLO_MS = 10.0
"""What `linear` is served with."""


@dataclass(frozen=True)
class Stub:
    """Takes `base_s` and `row_s` for each row, without a core: as a model on a device does."""

    state_bytes: int
    base_s: float
    row_s: float = 0.0
    info: PolicyInfo = PolicyInfo()  # noqa: RUF009 - frozen

    @property
    def observation_space(self) -> spaces.Box:
        """Bytes."""
        return spaces.Box(0, 255, (self.state_bytes,), np.uint8)

    @property
    def action_space(self) -> spaces.Discrete:
        """Two."""
        return spaces.Discrete(2)

    def act(self, batch: SpaceArray) -> SpaceArray:
        """Zeros, in time."""
        time.sleep(self.base_s + self.row_s * len(batch))
        return np.zeros(len(batch), np.int64)


STUBS = {
    "small": Stub(4_096, 0.010),
    "large": Stub(102_400, 0.005),
    "linear": Stub(16, 0.002, 0.0002),
}


def net(version: int = 0) -> Policy:
    """An untrained policy for CartPole's spaces."""
    widths = (INPUTS, *HIDDEN, 2)
    generator = np.random.default_rng(version)
    weights = {}
    for i, (before, after) in enumerate(pairwise(widths)):
        weights[f"pi.{i}.weight"] = generator.normal(0, 0.1, (before, after)).astype(np.float32)
        weights[f"pi.{i}.bias"] = np.zeros(after, np.float32)
    return Policy(
        observation_space=spaces.Box(-np.inf, np.inf, (INPUTS,), np.float32),
        action_space=spaces.Discrete(2),
        spec=NetSpec(
            inputs=INPUTS, hidden=HIDDEN, outputs=2, activation="tanh", head="categorical"
        ),
        weights=weights,
        info=PolicyInfo(version=version),
    )


def swap_without_end(server: PolicyServer) -> None:
    """Other weights every 5 ms."""
    version = 0
    while True:
        time.sleep(0.005)
        version += 1
        server.swap(net(version), version=version)


def main() -> None:
    """Serves until killed."""
    name = sys.argv[1]
    if name in STUBS:
        batch = BatchConfig(slo_ms=SLO_MS)
        if name != "linear":  # One request a pass: the ceiling is that of such batches.
            batch = BatchConfig(slo_ms=100.0, batch_max=STATES)
        server = PolicyServer(STUBS[name], ServeConfig(port=0, engine=EngineConfig(batch=batch)))
    else:
        server = rl.serve(net(), http=0)

    def started() -> None:
        print(server.url, flush=True)
        if name == "swapping":
            threading.Thread(target=swap_without_end, args=(server,), daemon=True).start()

    server.run(started=started)


if __name__ == "__main__":
    main()
