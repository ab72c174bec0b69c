"""The workloads of `bench-core`, written once against the API that Ray and Rostral share.

Runs in a fresh interpreter per group and prints one JSON object a line: a row's name and value, or
null and the reason why there is none. Owns what is measured; which engine, how often and what it
is compared with is the business of `bench_core.py`. The names and shapes are those of Ray's
microbenchmark, so that its published figures can be set beside ours; batches are smaller where
Ray on two cores would need longer than a run may take.

    python workloads.py --engine ray --group tasks --seconds 2
"""

# Imports of the standard library only, at the top: `import` and `init` are measured from here.
import argparse
import contextlib
import importlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from backed_memory import BackedMemory

# A module with Ray's core API; its members have no common static type.
Engine: TypeAlias = Any

CPU_COUNT = 2
BATCH_SIZE = 1_000
LARGE_BYTES = 128 * 1024 * 1024
# What an engine needs to start, and a large put.
COLD_BACKED_BYTES = 2 << 30
STORE_BYTES = 4 * 1024**3
# The driver sets this; every process of the run inherits it and can be counted by it.
RUN_ID_VARIABLE = "BENCH_CORE_RUN_ID"
SETTLE_S = 1.0
RECOVERY_TIMEOUT_S = 30.0

INIT_OPTIONS: dict[str, dict[str, Any]] = {
    "ray": {
        "include_dashboard": False,
        "log_to_driver": False,
        "logging_level": "ERROR",
        "object_store_memory": STORE_BYTES,
    },
    "rostral": {"object_store_memory": STORE_BYTES},
}


class NotAvailableError(Exception):
    """The engine does not offer what the workload needs; the row says so."""


class Bench:
    """One engine, started or not, and the clock that measures it.

    Invariant: every row is printed at once, so that a crash loses only what was not yet measured.
    """

    def __init__(self, engine: str, seconds: float) -> None:
        self.engine = engine
        self.seconds = seconds
        self.api: Engine = None

    def start(self) -> Engine:
        """Imports the engine and starts a node of two CPUs."""
        self.api = importlib.import_module(self.engine)
        self.api.init(num_cpus=CPU_COUNT, **INIT_OPTIONS[self.engine])
        return self.api

    def remote(self, target: Callable[..., object], **options: object) -> Any:
        """The engine's decorator, for functions and classes, with or without options."""
        return self.api.remote(**options)(target) if options else self.api.remote(target)

    def row(self, name: str, value: float | None, reason: str | None = None) -> None:
        """Prints one result."""
        print(json.dumps({"name": name, "value": value, "reason": reason}), flush=True)

    @contextlib.contextmanager
    def reported(self, *names: str) -> Iterator[None]:
        """Turns a failure of the workload into a row that gives the reason."""
        try:
            yield
        except Exception as error:
            text = str(error).strip().splitlines() or [""]
            for name in names:
                self.row(name, None, f"{type(error).__name__}: {text[0]}"[:300])

    def calls_per_second(self, call: Callable[[], object]) -> float:
        """Warms up, then repeats the call for the time budget."""
        warm_until = time.perf_counter() + self.seconds / 4
        call()
        while time.perf_counter() < warm_until:
            call()
        count, start = 0, time.perf_counter()
        # Short calls are timed in blocks, so that reading the clock is not what is measured.
        block = 1
        while (elapsed := time.perf_counter() - start) < self.seconds:
            for _ in range(block):
                call()
            count += block
            if elapsed < self.seconds / 50:
                block = min(2 * block, 128)
        return count / (time.perf_counter() - start)

    def rate(self, name: str, call: Callable[[], object], units_per_call: float = 1) -> None:
        """Measures and prints a rate."""
        with self.reported(name):
            self.row(name, self.calls_per_second(call) * units_per_call)

    def latency(self, name: str, call: Callable[[], object], units_per_second: float) -> None:
        """Measures and prints the mean time of a call, in the row's unit."""
        with self.reported(name):
            self.row(name, units_per_second / self.calls_per_second(call))


def startup(bench: Bench) -> None:
    """From import to shutdown of an idle node."""
    start = time.perf_counter()
    with bench.reported("import"):
        importlib.import_module(bench.engine)
        bench.row("import", time.perf_counter() - start)

    start = time.perf_counter()
    api = bench.start()

    @bench.remote
    def worker_pid(hold_s: float) -> int:
        time.sleep(hold_s)
        return os.getpid()

    api.get(worker_pid.remote(0))
    bench.row("init to first result", time.perf_counter() - start)

    with bench.reported("idle processes", "idle memory", "worker memory"):
        # Two tasks that overlap: both workers exist when the memory is read.
        pids = set(api.get([worker_pid.remote(0.3) for _ in range(CPU_COUNT)]))
        time.sleep(SETTLE_S)
        memory = {pid: uss_bytes(pid) for pid in processes_of_this_run()}
        bench.row("idle processes", len(memory))
        bench.row("idle memory", sum(memory.values()) / 1e6)
        workers = [memory[pid] for pid in pids if pid in memory]
        bench.row("worker memory", sum(workers) / len(workers) / 1e6)

    start = time.perf_counter()
    with bench.reported("shutdown"):
        api.shutdown()
        bench.row("shutdown", time.perf_counter() - start)


def processes_of_this_run() -> list[int]:
    """Every live process that carries this run's id, daemons that left the family included."""
    import psutil

    run_id = os.environ[RUN_ID_VARIABLE]
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            alive = process.status() != psutil.STATUS_ZOMBIE
            if alive and process.environ().get(RUN_ID_VARIABLE) == run_id:
                found.append(process.pid)
    return found


def uss_bytes(pid: int) -> int:
    """Memory that only this process has."""
    import psutil

    return int(psutil.Process(pid).memory_full_info().uss)


def put_after_start(bench: Bench) -> None:
    """The very first large put, before any page of the store is warm."""
    import numpy as np

    array = np.ones(LARGE_BYTES // 8)
    backed = BackedMemory(COLD_BACKED_BYTES)
    backed.hand_on(1 / 2)
    api = bench.start()
    with bench.reported("put of 128 MB just after start"):
        backed.hand_on(1 / 2)
        start = time.perf_counter()
        ref = api.put(array)
        elapsed = time.perf_counter() - start
        del ref
        bench.row("put of 128 MB just after start", LARGE_BYTES / 1e9 / elapsed)


def objects(bench: Bench) -> None:
    """Puts, gets and waits, small and large."""
    import numpy as np

    api = bench.start()
    small_ref = api.put(0)
    bench.rate("single client get calls", lambda: api.get(small_ref))
    bench.rate("single client put calls", lambda: api.put(0))

    @bench.remote
    def put_small() -> None:
        for _ in range(100):
            api.put(0)

    @bench.remote
    def put_large() -> None:
        for _ in range(10):
            api.put(np.zeros(10 * 1024 * 1024, dtype=np.int64))

    @bench.remote
    def value() -> bytes:
        return b"ok"

    @bench.remote
    def many_refs() -> list[object]:
        return [api.put(1) for _ in range(10_000)]

    def wait_for_each() -> None:
        waiting = [value.remote() for _ in range(BATCH_SIZE)]
        while waiting:
            _, waiting = api.wait(waiting)

    bench.rate(
        "multi client put calls",
        lambda: api.get([put_small.remote() for _ in range(10)]),
        units_per_call=1_000,
    )
    bench.rate("single client wait 1k refs", wait_for_each)
    with bench.reported("single client get object containing 10k refs"):
        holder = many_refs.remote()
        bench.rate("single client get object containing 10k refs", lambda: api.get(holder))

    array = np.zeros(100 * 1024 * 1024, dtype=np.int64)
    bench.rate(
        "single client put gigabytes", lambda: api.put(array), units_per_call=array.nbytes / 1e9
    )
    bench.rate(
        "multi client put gigabytes",
        lambda: api.get([put_large.remote() for _ in range(4)]),
        units_per_call=4 * 10 * 80 * 1024**2 / 1e9,
    )


def large(bench: Bench) -> None:
    """An array of 128 MB: read where it lies, passed by reference, passed by value."""
    import numpy as np

    api = bench.start()

    @bench.remote
    def first_element(array: Any) -> float:
        return float(array[0])

    array = np.ones(LARGE_BYTES // 8)
    ref = api.put(array)
    bench.latency("get of a local 128 MB array", lambda: api.get(ref), units_per_second=1e6)
    bench.latency(
        "task with a 128 MB object argument",
        lambda: api.get(first_element.remote(ref)),
        units_per_second=1e3,
    )
    bench.latency(
        "task with a 128 MB inline argument",
        lambda: api.get(first_element.remote(array)),
        units_per_second=1e3,
    )


def tasks(bench: Bench) -> None:
    """No-op tasks, one by one and in batches."""
    api = bench.start()

    @bench.remote
    def value() -> bytes:
        return b"ok"

    class Submitter:
        def batch(self, count: int) -> None:
            api.get([value.remote() for _ in range(count)])

    remote_submitter = bench.remote(Submitter)

    def batch() -> None:
        api.get([value.remote() for _ in range(BATCH_SIZE)])

    bench.rate("single client tasks sync", lambda: api.get(value.remote()))
    bench.rate("single client tasks async", batch, units_per_call=BATCH_SIZE)
    bench.rate("single client tasks and get batch", batch)
    with bench.reported("multi client tasks async"):
        submitters = [remote_submitter.remote() for _ in range(4)]
        bench.rate(
            "multi client tasks async",
            lambda: api.get([submitter.batch.remote(BATCH_SIZE) for submitter in submitters]),
            units_per_call=4 * BATCH_SIZE,
        )


def actors(bench: Bench) -> None:
    """No-op actor calls: one caller or several, one actor or several."""
    api = bench.start()

    class Server:
        def value(self) -> bytes:
            return b"ok"

        def value_of(self, _argument: object) -> bytes:
            return b"ok"

    remote_server = bench.remote(Server)

    class Caller:
        def __init__(self, servers: list[Any]) -> None:
            self.servers = servers

        def batch(self, count: int) -> None:
            api.get([server.value.remote() for server in self.servers for _ in range(count)])

        def batch_with_argument(self, count: int) -> None:
            ref = api.put(0)
            api.get([server.value_of.remote(ref) for server in self.servers for _ in range(count)])

    remote_caller = bench.remote(Caller)

    @bench.remote
    def call_in_turn(servers: list[Any], count: int) -> None:
        api.get([servers[index % len(servers)].value.remote() for index in range(count)])

    def create_and_ask() -> float:
        start = time.perf_counter()
        created = [remote_server.remote() for _ in range(20)]
        api.get([server.value.remote() for server in created])
        elapsed = time.perf_counter() - start
        for server in created:
            api.kill(server)
        return elapsed

    with bench.reported("1:1 actor calls sync", "1:1 actor calls async"):
        server = remote_server.remote()
        bench.rate("1:1 actor calls sync", lambda: api.get(server.value.remote()))
        bench.rate(
            "1:1 actor calls async",
            lambda: api.get([server.value.remote() for _ in range(BATCH_SIZE)]),
            units_per_call=BATCH_SIZE,
        )
    with bench.reported("1:1 actor calls concurrent"):
        concurrent = remote_server.options(max_concurrency=16).remote()
        bench.rate(
            "1:1 actor calls concurrent",
            lambda: api.get([concurrent.value.remote() for _ in range(BATCH_SIZE)]),
            units_per_call=BATCH_SIZE,
        )
    with bench.reported("1:n actor calls async"):
        servers = [remote_server.remote() for _ in range(CPU_COUNT)]
        caller = remote_caller.remote(servers)
        bench.rate(
            "1:n actor calls async",
            lambda: api.get(caller.batch.remote(BATCH_SIZE)),
            units_per_call=BATCH_SIZE * CPU_COUNT,
        )
    with bench.reported("n:n actor calls async"):
        servers = [remote_server.remote() for _ in range(CPU_COUNT)]
        bench.rate(
            "n:n actor calls async",
            lambda: api.get([call_in_turn.remote(servers, BATCH_SIZE) for _ in range(4)]),
            units_per_call=4 * BATCH_SIZE,
        )
    with bench.reported("n:n actor calls with arg async"):
        callers = [remote_caller.remote([remote_server.remote()]) for _ in range(CPU_COUNT)]
        bench.rate(
            "n:n actor calls with arg async",
            lambda: api.get([caller.batch_with_argument.remote(BATCH_SIZE) for caller in callers]),
            units_per_call=BATCH_SIZE * CPU_COUNT,
        )
    with bench.reported("20 actors created and answering"):
        bench.row("20 actors created and answering", create_and_ask())


def async_actors(bench: Bench) -> None:
    """Calls to an actor whose methods are coroutines."""
    api = bench.start()

    class AsyncServer:
        async def value(self) -> bytes:
            return b"ok"

    remote_async_server = bench.remote(AsyncServer)

    with bench.reported("1:1 async-actor calls sync", "1:1 async-actor calls async"):
        server = remote_async_server.remote()
        if api.get(server.value.remote()) != b"ok":
            raise NotAvailableError("coroutine methods of actors are not awaited")
        bench.rate("1:1 async-actor calls sync", lambda: api.get(server.value.remote()))
        bench.rate(
            "1:1 async-actor calls async",
            lambda: api.get([server.value.remote() for _ in range(BATCH_SIZE)]),
            units_per_call=BATCH_SIZE,
        )


def placement_groups(bench: Bench) -> None:
    """Groups of one small bundle, made, waited for and removed."""
    api = bench.start()
    with bench.reported("placement group create/removal"):
        try:
            util = importlib.import_module(f"{bench.engine}.util")
            make, remove = util.placement_group, util.remove_placement_group
        except (ModuleNotFoundError, AttributeError) as error:
            raise NotAvailableError(f"no placement groups yet: {error}") from error

        def create_and_remove() -> None:
            groups = [make([{"CPU": 0.001}]) for _ in range(100)]
            api.get([group.ready() for group in groups])
            for group in groups:
                remove(group)

        bench.rate("placement group create/removal", create_and_remove, units_per_call=100)


def wheels(bench: Bench) -> None:
    """What a worker node has to fetch: our own wheels, as `tox` has built them."""
    with bench.reported("wheels of a worker node"):
        folder = os.environ.get("ROSTRAL_WHEELS")
        if folder is None:
            raise NotAvailableError("ROSTRAL_WHEELS names no folder of wheels; tox sets it")
        sizes = [
            path.stat().st_size
            for name in ("rostral_gcs", "rostral_objectstore", "rostral_scheduler", "rostral")
            for path in Path(folder).glob(f"{name}-*.whl")
        ]
        if not sizes:
            raise NotAvailableError(f"there is no wheel in {folder}")
        bench.row("wheels of a worker node", sum(sizes) / 1e6)


def recovery(bench: Bench) -> None:
    """From kill -9 of the process to the answer of its successor."""
    bench.start()
    with bench.reported("task back after its worker was killed"):
        bench.row("task back after its worker was killed", task_recovery_s(bench))
    with bench.reported("actor back after kill -9"):
        bench.row("actor back after kill -9", actor_recovery_s(bench))


def task_recovery_s(bench: Bench) -> float:
    """Kills the worker of a task that then finishes at its second run."""

    def survive(path: str) -> bool:
        if Path(path).exists():
            return True
        # Written aside and renamed: the driver never reads half a number.
        Path(path + ".new").write_text(str(os.getpid()))
        Path(path + ".new").rename(path)
        time.sleep(RECOVERY_TIMEOUT_S)
        return False

    with tempfile.TemporaryDirectory() as folder:
        pid_path = Path(folder) / "pid"
        ref = bench.remote(survive, max_retries=1).remote(str(pid_path))
        wait_until(pid_path.exists)
        start = time.perf_counter()
        os.kill(int(pid_path.read_text()), signal.SIGKILL)
        if not bench.api.get(ref, timeout=RECOVERY_TIMEOUT_S):
            raise NotAvailableError("the task was not run again")
        return time.perf_counter() - start


def actor_recovery_s(bench: Bench) -> float:
    """Kills the process of an actor that may be restarted once."""

    class Phoenix:
        def pid(self) -> int:
            return os.getpid()

    remote_phoenix = bench.remote(Phoenix, max_restarts=1, max_task_retries=-1)

    api = bench.api
    actor = remote_phoenix.remote()
    first = api.get(actor.pid.remote())
    start = time.perf_counter()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: answers_as_another(api, actor, first))
    return time.perf_counter() - start


def answers_as_another(api: Engine, actor: Any, first_pid: int) -> bool:
    """Whether the actor answers from a process other than the one that was killed."""
    # Calls may fail with the engine's own errors while the actor is away.
    with contextlib.suppress(Exception):
        return bool(api.get(actor.pid.remote(), timeout=1.0) != first_pid)
    return False


def wait_until(condition: Callable[[], bool]) -> None:
    """Polls for what another process does."""
    deadline = time.perf_counter() + RECOVERY_TIMEOUT_S
    while not condition():
        if time.perf_counter() > deadline:
            raise TimeoutError(f"waited {RECOVERY_TIMEOUT_S} s in vain")
        time.sleep(0.001)


GROUPS: dict[str, Callable[[Bench], None]] = {
    "startup": startup,
    "put_after_start": put_after_start,
    "objects": objects,
    "large": large,
    "tasks": tasks,
    "actors": actors,
    "async_actors": async_actors,
    "placement_groups": placement_groups,
    "recovery": recovery,
    "wheels": wheels,
}


def main() -> int:
    """Runs one group on one engine; what fails is told in its rows."""
    parser = argparse.ArgumentParser(description="One group of workloads on one engine.")
    parser.add_argument("--engine", choices=sorted(INIT_OPTIONS), required=True)
    parser.add_argument("--group", choices=sorted(GROUPS), required=True)
    parser.add_argument("--seconds", type=float, default=2.0, help="time budget of a workload")
    arguments = parser.parse_args()
    bench = Bench(arguments.engine, arguments.seconds)
    GROUPS[arguments.group](bench)
    if bench.api is not None and bench.api.is_initialized():
        bench.api.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
