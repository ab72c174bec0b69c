"""Lines of workers in the driver's terminal."""

from __future__ import annotations

import io
import sys

import pytest

from rostral.output import print_line


def test_each_line_is_behind_the_name_of_what_printed_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_line("log", {"stream": "stdout", "name": "train", "pid": 7, "lines": ["a", "b"]})
    print_line("log", {"stream": "stderr", "name": "", "pid": 8, "lines": ["c"]})
    output = capsys.readouterr()
    assert output.out == "(train pid=7) a\n(train pid=7) b\n"
    assert output.err == "(worker pid=8) c\n"


def test_other_messages_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_line("news", {})
    assert capsys.readouterr() == ("", "")


def test_a_terminal_that_is_gone_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = io.StringIO()
    gone.close()
    monkeypatch.setattr(sys, "stdout", gone)
    print_line("log", {"stream": "stdout", "name": "train", "pid": 7, "lines": ["a"]})
