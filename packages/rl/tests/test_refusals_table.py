"""The table of refusals names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent
TABLE = TESTS.parent / "docs" / "refusals.md"


def test_every_row_of_the_table_names_a_test_that_exists() -> None:
    rows = [line for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    shown = [re.search(r"(test_\w+\.py)::(test_\w+) \|$", row) for row in rows]
    named = [match for match in shown if match is not None]
    assert len(named) == len(rows) - 2, "two tables, each with a head"
    for match in named:
        code = (TESTS / match[1]).read_text()
        assert re.search(rf"^(async )?def {match[2]}\(", code, re.MULTILINE), match[0]
