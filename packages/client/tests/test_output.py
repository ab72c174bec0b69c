"""Lines of workers in the driver's terminal."""

from __future__ import annotations

import io
import sys

import pytest

from rostral.output import Terminal, folding_window_s

from .waiting import until

NAMES = ("DEDUP_LOGS", "DEDUP_LOGS_AGG_WINDOW_S")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have set these."""
    for name in NAMES:
        monkeypatch.delenv(f"ROSTRAL_{name}", raising=False)
        monkeypatch.delenv(f"RAY_{name}", raising=False)


def test_each_line_is_behind_the_name_of_what_printed_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    terminal = Terminal()
    terminal.show("log", {"stream": "stdout", "name": "train", "pid": 7, "lines": ["a", "b"]})
    terminal.show("log", {"stream": "stderr", "name": "", "pid": 8, "lines": ["c"]})
    output = capsys.readouterr()
    assert output.out == "(train pid=7) a\n(train pid=7) b\n"
    assert output.err == "(worker pid=8) c\n"


def test_other_messages_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().show("news", {})
    assert capsys.readouterr() == ("", "")


def test_a_terminal_that_is_gone_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = io.StringIO()
    gone.close()
    monkeypatch.setattr(sys, "stdout", gone)
    Terminal().show("log", {"stream": "stdout", "name": "train", "pid": 7, "lines": ["a"]})


def messages(count: int) -> list[dict[str, object]]:
    """The same line of that many processes."""
    return [
        {"stream": "stdout", "name": "train", "pid": pid, "lines": ["ready"]}
        for pid in range(1, count + 1)
    ]


def test_what_many_print_alike_is_folded_and_shown_at_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    terminal = Terminal()
    for message in messages(6):
        terminal.show("log", message)
    assert capsys.readouterr().out == "(train pid=1) ready\n"
    terminal.close()
    terminal.close()
    assert capsys.readouterr().out == "(train pid=6) ready [repeated 5x across processes]\n"


def test_what_is_held_back_comes_when_nothing_else_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROSTRAL_DEDUP_LOGS_AGG_WINDOW_S", "0.02")
    terminal = Terminal()
    for message in messages(3):
        terminal.show("log", message)
    shown: list[str] = []

    def is_shown() -> bool:
        shown.append(capsys.readouterr().out)
        return "repeated 2x" in "".join(shown)

    until(is_shown, "the line that was held back")
    terminal.close()


@pytest.mark.parametrize("owner", ["ROSTRAL", "RAY"])
def test_folding_can_be_turned_off(
    owner: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{owner}_DEDUP_LOGS", "0")
    terminal = Terminal()
    for message in messages(2):
        terminal.show("log", message)
    assert capsys.readouterr().out == "(train pid=1) ready\n(train pid=2) ready\n"


def test_a_window_that_is_no_number_is_the_usual_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_DEDUP_LOGS_AGG_WINDOW_S", "soon")
    assert folding_window_s() == 5.0
