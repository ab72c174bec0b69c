"""The examples, the benchmark and the README's program run, and leave nothing."""

from __future__ import annotations

import http.server
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from .command_line import run_program

pytestmark = pytest.mark.slow

PACKAGE = Path(__file__).resolve().parent.parent


def run(path: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(path), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("parameter_server", r"largest error of a weight after 200 steps: 0\.0"),
        ("tree_aggregation", r"64000 words in 64 texts"),
        ("streaming_generator", r"100000 lines in 50 pieces"),
        ("actor_pool", r"40 rollouts of \d+ steps by 4 actors"),
        ("map_reduce", r"80000 words in 40 texts"),
        ("monte_carlo_pi", r"error after 8000000 samples: 0\.00[0-4]"),
    ],
)
def test_an_example_runs(name: str, expected: str, leaves_nothing: str) -> None:
    del leaves_nothing
    assert re.search(expected, run(PACKAGE / "examples" / f"{name}.py"))


class Site(http.server.BaseHTTPRequestHandler):
    """A tree of 63 pages, each of which links to its two children, and to a page elsewhere."""

    def do_GET(self) -> None:
        number = int(self.path.strip("/") or 1)
        children = [f"/{child}" for child in (2 * number, 2 * number + 1) if child < 64]
        self.send_response(200)
        self.end_headers()
        links = [*children, "http://localhost:1/elsewhere"]
        self.wfile.write("".join(f'<a href="{link}">' for link in links).encode())

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def test_the_crawler_finds_every_page_of_a_site(leaves_nothing: str) -> None:
    del leaves_nothing
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        start = f"http://127.0.0.1:{server.server_port}/"
        printed = run(PACKAGE / "examples" / "web_crawler.py", start)
        server.shutdown()
        serving.join()
    assert printed.strip() == f"63 pages found from {start}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "examples").glob("*.py")), ids=lambda p: p.stem)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 60


def test_the_benchmark_runs(leaves_nothing: str) -> None:
    del leaves_nothing
    table = run(PACKAGE / "benchmarks" / "bench_calls.py", "--runs", "1", "--cpus", "2")
    assert len(table.splitlines()) == 14


def test_the_readmes_programs_run(leaves_nothing: str) -> None:
    del leaves_nothing
    programs = re.findall(r"```python\n(.*?)```", (PACKAGE / "README.md").read_text(), re.DOTALL)
    assert programs
    for source in programs:
        run_program(source)
