"""The examples, the benchmark and the README's program run, and leave nothing."""

from __future__ import annotations

import re
import subprocess
import sys
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
    ],
)
def test_an_example_runs(name: str, expected: str, leaves_nothing: str) -> None:
    del leaves_nothing
    assert re.search(expected, run(PACKAGE / "examples" / f"{name}.py"))


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
