"""The workloads of `bench-serve`, one group a process: prints one JSON row each.

    python serve_workloads.py --engine rostral --group http --seconds 2

Engines: "rostral"; "rest", which is our HTTP front where Table 3 of the paper compares embedded
serving with REST; "ray", which is Ray Serve, run by an interpreter of its own without Rostral.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serve_models import Stub

HERE = Path(__file__).resolve().parent
# The source and not the installed module: a peer's interpreter runs it too.
LOAD = HERE.parent.parent / "packages/rl/src/rostral_rl/serve/load.py"
TABLE3_IN_FLIGHT = 3
"""Requests that the client of Table 3 keeps under way: one computed, one ready, one on its way."""
OPEN_RATE = 1000.0
"""Requests a second before the load doubles: a third of what `linear` can do within its limit."""
DOUBLED_SHARE = 10.0
"""The doubled load lasts so many times --seconds: 30 s by default."""


def row(name: str, value: float | None, reason: str = "") -> None:
    """Prints one figure."""
    print(json.dumps({"name": name, "value": value, "reason": reason}), flush=True)


def ask(url: str, headers: dict[str, str], **options: object) -> dict[str, Any]:
    """Runs the load in a process of its own."""
    # -P: the modules beside that file are no library of its.
    command = [sys.executable, "-P", str(LOAD), url]
    for name, value in headers.items():
        command += ["--header", f"{name}: {value}"]
    for option, setting in options.items():
        command += [f"--{option.replace('_', '-')}", str(setting)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@contextlib.contextmanager
def server(model: str) -> Iterator[str]:
    """The URL of our server, in a process of its own."""
    command = [sys.executable, str(HERE / "serve_models.py"), model]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def tensor(dtype: str, *shape: int) -> dict[str, str]:
    """Headers of a raw tensor."""
    return {
        "content-type": "application/octet-stream",
        "x-tensor-dtype": dtype,
        "x-tensor-shape": ",".join(map(str, shape)),
    }


def http(url: str, headers: dict[str, str], seconds: float, **body: object) -> None:
    """The rows that every HTTP server has."""
    ask(url, headers, clients=8, seconds=min(1.0, seconds), **body)
    for clients in (1, 64):
        result = ask(url, headers, clients=clients, seconds=seconds, **body)
        plural = "client" if clients == 1 else "clients"
        row(f"HTTP p99, {clients} {plural}", result["p99_ms"])
        if clients == 64:
            row("HTTP requests, 64 clients", result["requests"] / result["seconds"])


def rostral_http(seconds: float) -> None:
    """A net of two layers of 64, raw tensors."""
    with server("net") as url:
        http(f"{url}/v1/act", tensor("float32", 4), seconds, body_bytes=16)


def rostral_swap(seconds: float) -> None:
    """Weights are swapped every 5 ms; each request must be answered."""
    with server("swapping") as url:
        result = ask(
            f"{url}/v1/act", tensor("float32", 4), clients=16, seconds=seconds, body_bytes=16
        )
    row("requests lost while weights are swapped", result["failed"], result["first_failure"])


def rostral_doubling(seconds: float) -> None:
    """An open loop, so that a slow server meets what a slow server meets."""
    from serve_models import SLO_MS

    with server("linear") as url:
        headers = tensor("uint8", 16)
        for rate, lasting in ((OPEN_RATE, seconds), (2 * OPEN_RATE, DOUBLED_SHARE * seconds)):
            result = ask(
                f"{url}/v1/act", headers, clients=64, seconds=lasting, rate=rate, body_bytes=16
            )
    value = None if result["failed"] else result["p99_ms"] / SLO_MS
    row("p99 over its objective, load doubled", value, result["first_failure"])


def rostral_embedded(seconds: float) -> None:
    """One observation a call, one caller."""
    import numpy as np

    import rostral
    import rostral_rl as rl
    from serve_models import net

    with rostral.init("local", num_cpus=2):
        policy = rl.embed(net())
        obs = np.zeros(4, np.float32)
        for _ in range(500):
            policy.act(obs)
        gc.collect()
        gc.freeze()
        latencies_s = []
        until_s = time.perf_counter() + seconds
        while (start_s := time.perf_counter()) < until_s:
            policy.act(obs)
            latencies_s.append(time.perf_counter() - start_s)
    p50, p99 = np.percentile(latencies_s, (50, 99))
    row("embedded p50, batch 1", p50 * 1e6)
    row("embedded p99, batch 1", p99 * 1e6)


def rostral_table3(model: str, seconds: float) -> None:
    """Batches of 64 states from one client, as a share of what the model alone can do."""
    import rostral
    from serve_models import STUBS

    stub = STUBS[model]
    with rostral.init("local", num_cpus=2, object_store_memory=512_000_000):
        passes_per_s = embedded_passes_per_s(stub, seconds)
    row(table3_name(model), passes_per_s * stub.base_s)


def embedded_passes_per_s(stub: Stub, seconds: float) -> float:
    """Batches a second of a policy that an actor of this process's cluster serves."""
    import numpy as np

    import rostral_rl as rl
    from rostral_rl.serve.batcher import BatchConfig
    from rostral_rl.serve.engine import EngineConfig
    from serve_models import STATES

    policy = rl.embed(stub, config=EngineConfig(batch=BatchConfig(slo_ms=100.0, batch_max=STATES)))
    states = np.zeros((STATES, stub.state_bytes), np.uint8)
    for _ in range(5):
        policy.act(states)
    under_way = [policy.submit(states) for _ in range(TABLE3_IN_FLIGHT)]
    # From an answer to an answer: what was under way before does not count.
    under_way.pop(0).reply()
    count, now_s = 0, time.perf_counter()
    start_s = now_s
    while now_s < start_s + seconds:
        under_way.append(policy.submit(states))
        under_way.pop(0).reply()
        now_s = time.perf_counter()
        count += 1
    for pending in under_way:
        pending.reply()
    policy.close()
    return count / (now_s - start_s)


def rest_table3(model: str, seconds: float) -> None:
    """The same through the HTTP front, raw tensors over as many connections."""
    from serve_models import STUBS

    row(table3_name(model), rest_passes_per_s(model, seconds) * STUBS[model].base_s)


def rest_passes_per_s(model: str, seconds: float) -> float:
    """Batches a second of a server in a process of its own."""
    from serve_models import STATES, STUBS

    stub = STUBS[model]
    with server(model) as url:
        headers = tensor("uint8", STATES, stub.state_bytes)
        result = ask(
            f"{url}/v1/act",
            headers,
            clients=TABLE3_IN_FLIGHT,
            seconds=seconds,
            body_bytes=STATES * stub.state_bytes,
        )
    rate: float = result["requests"] / result["seconds"]
    return rate


def table3_name(model: str) -> str:
    """The row's."""
    sizes = {"small": "4 KB, model of 10 ms", "large": "100 KB, model of 5 ms"}
    return f"embedded, 64 states of {sizes[model]}"


def ray_http(seconds: float) -> None:
    """Ray Serve with the same net, batching as its documentation advises; bodies are JSON."""
    import numpy as np

    # Untyped, and not there where types are checked.
    serve: Any = importlib.import_module("ray.serve")

    generator = np.random.default_rng(0)
    widths = (4, 64, 64, 2)
    layers = [
        (generator.normal(0, 0.1, pair).astype(np.float32), np.zeros(pair[1], np.float32))
        for pair in pairwise(widths)
    ]

    async def act(_self: object, observations: list[Any]) -> list[int]:
        x = np.asarray(observations, np.float32)
        for weight, bias in layers[:-1]:
            x = np.tanh(x @ weight + bias)
        weight, bias = layers[-1]
        chosen: list[int] = (x @ weight + bias).argmax(axis=1).tolist()
        return chosen

    class Net:
        batched: Any = serve.batch(max_batch_size=64, batch_wait_timeout_s=0)(act)

        async def __call__(self, request: Any) -> dict[str, int]:
            return {"action": await self.batched((await request.json())["obs"])}

    serve.start(http_options={"port": 18_765}, logging_config={"enable_access_log": False})
    serve.run(serve.deployment(max_ongoing_requests=256)(Net).bind())
    body = '{"obs": [0, 0, 0, 0]}'
    http("http://127.0.0.1:18765/", {"content-type": "application/json"}, seconds, body=body)
    serve.shutdown()


WORKLOADS: dict[tuple[str, str], Callable[[float], None]] = {
    ("rostral", "http"): rostral_http,
    ("rostral", "swap"): rostral_swap,
    ("rostral", "doubling"): rostral_doubling,
    ("rostral", "embedded"): rostral_embedded,
    ("rostral", "table3_small"): lambda seconds: rostral_table3("small", seconds),
    ("rostral", "table3_large"): lambda seconds: rostral_table3("large", seconds),
    ("rest", "table3_small"): lambda seconds: rest_table3("small", seconds),
    ("rest", "table3_large"): lambda seconds: rest_table3("large", seconds),
    ("ray", "http"): ray_http,
}


def main() -> None:
    """Runs one group."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", required=True, choices=("rostral", "rest", "ray"))
    parser.add_argument("--group", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    WORKLOADS[arguments.engine, arguments.group](arguments.seconds)


if __name__ == "__main__":
    main()
