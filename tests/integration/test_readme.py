"""The programs that the READMEs show run as they stand and print what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def python_blocks(readme: Path) -> list[str]:
    """The Python examples of a README, in order."""
    return re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)


@pytest.mark.parametrize("readme", ["README.md", "packages/client/README.md"])
def test_the_first_program_of_a_readme_runs(readme: str, tmp_path: Path) -> None:
    program = python_blocks(ROOT / readme)[0]
    path = tmp_path / "program.py"
    path.write_text(program)
    ran = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    shown = re.findall(r"print\(.*?\)\s*# (\[.*\])$", program, re.MULTILINE)
    if shown:
        assert ran.stdout.split("\n")[:-1] == shown
