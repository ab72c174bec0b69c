"""What the schedulers say of themselves: pages for Prometheus, and the standard health service."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner

from rostral_gcs import GcsConfig, GcsServer, write_token
from rostral_gcs.health import ask_health
from rostral_gcs.tokens import Tokens
from rostral_scheduler.cli import main
from rostral_scheduler.global_.config import GlobalSchedulerConfig
from rostral_scheduler.global_.daemon import GlobalScheduler
from rostral_scheduler.global_.placement_times import PlacementTimes
from rostral_scheduler.global_.service import SERVICE

from .node import eventually
from .test_cli import ended, start_scheduler, start_store

pytestmark = pytest.mark.slow
READ_S = 10.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def page_of(port: int, token: str) -> str:
    """The text of a page."""
    headers = {"authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers=headers)
    with urllib.request.urlopen(request, timeout=READ_S) as answer:
        text: str = answer.read().decode()
    return text


def start_global(gcs: str, token_file: Path, *more: str) -> subprocess.Popen[str]:
    """A global scheduler as a process of its own."""
    return subprocess.Popen(
        [
            *(sys.executable, "-c", "from rostral_scheduler.cli import main; main()"),
            *("global", "--gcs", gcs, "--token-file", str(token_file), *more),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )


def values_of(text: str, component: str) -> dict[str, float]:
    """By name, with its labels."""
    found = re.findall(rf"^rostral_{component}_(\S+) (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in found}


def test_a_local_scheduler_says_what_its_node_has_and_does(folder: Path) -> None:
    port, token_file = free_port(), folder / "token"
    token = write_token(token_file)
    store = start_store(folder)
    scheduler = start_scheduler(
        folder, "--metrics", f"127.0.0.1:{port}", "--token-file", str(token_file)
    )
    try:

        def read() -> dict[str, float]:
            return values_of(page_of(port, token), "local_scheduler")

        eventually(lambda: read()["workers"] == 2, "two workers")
        values = read()
        assert values['resources_total{resource="CPU"}'] == 2
        assert values['resources_free{resource="CPU"}'] == 2
        for name in ("jobs", "queued_tasks", "running_tasks", "draining"):
            assert values[name] == 0, name
        assert values["start_time_seconds"] > 1e9
        assert 0 <= values["loop_answer_seconds"] < READ_S
        assert 'rostral_local_scheduler_build_info{version="' in page_of(port, token)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            page_of(port, "x" * 32)
    finally:
        ended(scheduler)
        ended(store)


def test_a_global_scheduler_counts_its_answers_and_how_long_they_take(folder: Path) -> None:
    asyncio.run(_global_page(folder))


async def _global_page(folder: Path) -> None:
    port, token_file = free_port(), folder / "token"
    token = write_token(token_file)
    server = GcsServer(GcsConfig(data_dir=folder / "gcs", token=Tokens(token_file)))
    await server.start()
    process = await asyncio.to_thread(
        start_global, server.address, token_file, "--metrics", f"127.0.0.1:{port}"
    )
    try:
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        assert line.startswith("READY"), line
        values = values_of(await asyncio.to_thread(page_of, port, token), "global_scheduler")
        assert (values["synced"], values["nodes"], values["schedulers"]) == (1, 0, 1)
        assert values["placement_seconds_count"] == 0
    finally:
        ended(process)
        await server.stop()


def test_times_fall_into_the_buckets_of_a_histogram() -> None:
    times = PlacementTimes()
    for took_s in (0.00005, 0.0003, 0.02, 5.0):
        times.add(took_s)
    assert dict(times.buckets()) == {
        "0.0001": 1,
        "0.0003": 2,
        "0.001": 2,
        "0.003": 2,
        "0.01": 2,
        "0.03": 3,
        "0.1": 3,
        "0.3": 3,
        "1.0": 3,
        "+Inf": 4,
    }
    assert times.sum_s == pytest.approx(5.02035)


def test_a_global_scheduler_without_its_gcs_says_that_it_does_not_serve(folder: Path) -> None:
    asyncio.run(_health(folder))


async def _health(folder: Path) -> None:
    token_file = folder / "token"
    tokens = Tokens(token_file) if write_token(token_file) else None
    assert tokens is not None
    server = GcsServer(GcsConfig(data_dir=folder / "gcs", token=tokens))
    await server.start()
    scheduler = GlobalScheduler(GlobalSchedulerConfig(gcs_address=server.address, token=tokens))
    try:
        await scheduler.start()
        for service in ("", SERVICE):
            assert await ask_health(scheduler.address, READ_S, service) == "SERVING"
        assert await ask_health(scheduler.address, READ_S, "other") == "SERVICE_UNKNOWN"
        await server.stop()
        for _ in range(200):
            said = await ask_health(scheduler.address, READ_S, SERVICE)
            if said == "NOT_SERVING":
                break
            await asyncio.sleep(0.05)
        assert said == "NOT_SERVING"
    finally:
        await scheduler.stop()
        await server.stop()


@pytest.mark.parametrize("which", ["local", "global"])
def test_a_page_elsewhere_or_for_everybody_is_refused(which: str, folder: Path) -> None:
    given = [which, "--metrics", "0.0.0.0:9109", "--token-file", str(folder / "token")]
    given += ["--gcs", "127.0.0.1:1"]
    if which == "local":
        given += ["--store-socket", "s", "--socket", "t", "--session-dir", str(folder)]
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 78
    assert "metrics are served on this machine alone" in result.output
