"""What the README and the page for users of Plasma show runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .store import Store

PACKAGE = Path(__file__).resolve().parent.parent
README = PACKAGE / "README.md"
PLASMA = PACKAGE / "docs" / "coming-from-plasma.md"


def blocks(page: Path) -> list[str]:
    """The Python examples of a page, in order."""
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def run(program: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture
def default_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store that programs find which name none."""
    monkeypatch.setenv("ROSTRAL_STORE", store.socket)
    return store


def test_the_first_example_is_three_lines_and_runs(default_store: Store) -> None:
    program = blocks(README)[0]
    importing, *lines = filter(None, program.splitlines())
    assert len(lines) == 2
    run(f"{importing}\n{lines[0]}")
    assert run(f"{importing}\n{lines[1]}") == "{'layer': [1.5, 2.5]}\n"
    default_store.connect().delete("weights")


def test_the_programs_of_the_readme_run_one_after_the_other(default_store: Store) -> None:
    writer, reader = blocks(README)[1:]
    assert run(writer) == ""
    assert run(reader) == "312499987500000 False\n"
    assert default_store.connect().list_objects() == []


def test_every_line_of_the_page_for_plasma_runs(default_store: Store) -> None:
    (setup,) = blocks(PLASMA)
    table = PLASMA.read_text().partition("|---|---|")[2].partition("\n\n")[0]
    ours = re.findall(r"\| `([^`]+)` \|$", table, re.MULTILINE)
    assert len(ours) == len(table.strip().splitlines()) > 20
    names: dict[str, Any] = {}
    exec(setup, names)
    for line in ours:
        if line.startswith("client.wait"):
            assert eval(line, names), line
        else:
            exec(line, names)
    assert names["metadata"] == b"m"
    assert default_store.connect().list_objects() == []
