"""Progress bars in the driver's terminal: what is drawn, what is printed instead, what is left."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator

import pytest

from rostral.output import Terminal
from rostral.progress_display import (
    BARS_MAX,
    PLAIN_INTERVAL_S,
    Bar,
    Key,
    PlainLines,
    ProgressDisplay,
    RichBars,
    choose_painter,
)

PIECES = re.compile(r"\x1b\[([0-9;?]*)([a-zA-Z])|([^\x1b])")


class Recorder:
    """A painter that keeps what it is told."""

    def __init__(self) -> None:
        self.bars: dict[Key, Bar] = {}
        self.ended: list[str] = []
        self.closed = False

    def show(self, key: Key, bar: Bar, now_s: float) -> None:
        self.bars[key] = bar

    def end(self, key: Key, bar: Bar, now_s: float) -> None:
        del self.bars[key]
        self.ended.append(bar.text(now_s))

    def close(self) -> None:
        self.closed = True


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def message(bar: int = 1, pid: int = 7, done: float = 0, **others: object) -> dict[str, object]:
    return {
        "bar": bar,
        "pid": pid,
        "name": "train",
        "desc": "epochs",
        "unit": "it",
        "total": 10.0,
        "done": done,
        "ended": False,
        **others,
    }


def test_a_bar_is_shown_as_it_stands_and_leaves_a_line() -> None:
    recorder, clock = Recorder(), Clock()
    display = ProgressDisplay(lambda: recorder, clock)
    display.show(message())
    assert recorder.bars[7, 1].done == 0
    display.show(message(done=4.0, desc="late epochs"))
    assert (recorder.bars[7, 1].done, recorder.bars[7, 1].desc) == (4, "late epochs")
    clock.now_s += 1.5
    display.show(message(done=10.0, ended=True))
    assert recorder.ended == ["(train pid=7) epochs: 10/10 it (100%) in 1.5 s"]
    assert recorder.bars == {}


def test_a_bar_without_a_total_counts() -> None:
    recorder = Recorder()
    display = ProgressDisplay(lambda: recorder, Clock())
    display.show(message(total=None, done=3.0, name="", desc="", unit="files", ended=True))
    assert recorder.ended == ["3 files in 0.0 s"]


def test_bars_end_with_their_process() -> None:
    recorder = Recorder()
    display = ProgressDisplay(lambda: recorder, Clock())
    for bar, pid in ((1, 7), (2, 7), (1, 8)):
        display.show(message(bar, pid))
    display.show({"bar": None, "pid": 7})
    assert list(recorder.bars) == [(8, 1)]
    display.close()
    assert recorder.bars == {}
    assert recorder.closed


def test_no_more_bars_are_shown_than_anybody_can_read() -> None:
    recorder = Recorder()
    display = ProgressDisplay(lambda: recorder, Clock())
    for bar in range(BARS_MAX + 10):
        display.show(message(bar))
    assert len(recorder.bars) == BARS_MAX


def test_without_a_terminal_there_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    display = ProgressDisplay(PlainLines, clock)
    for done in range(5):
        display.show(message(done=float(done)))
        clock.now_s += PLAIN_INTERVAL_S / 2
    display.show(message(done=10.0, ended=True))
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines() == [
        "(train pid=7) epochs: 2/10 it (20%) in 5.0 s",
        "(train pid=7) epochs: 4/10 it (40%) in 10.0 s",
        "(train pid=7) epochs: 10/10 it (100%) in 12.5 s",
    ]


def test_lines_are_chosen_where_nothing_can_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(choose_painter(), PlainLines)
    gone = io.StringIO()
    gone.close()
    monkeypatch.setattr(sys, "stderr", gone)
    assert isinstance(choose_painter(), PlainLines)
    display = ProgressDisplay()
    display.show(message())
    display.close()


@contextlib.contextmanager
def on_a_terminal() -> Iterator[int]:
    """Both streams are a terminal; what is written there can be read from the descriptor.

    No fixture: pytest puts streams of its own in place between a fixture and its test.
    """
    ours, theirs = os.openpty()
    with (
        pytest.MonkeyPatch.context() as at,
        os.fdopen(theirs, "w", buffering=1) as stream,
    ):
        at.setenv("TERM", "xterm")
        at.setenv("COLUMNS", "100")
        at.setattr(sys, "stderr", stream)
        at.setattr(sys, "stdout", stream)
        yield ours
    os.close(ours)


def written(fd: int) -> str:
    """What was written to the terminal since the last look."""
    os.set_blocking(fd, False)
    found = b""
    with contextlib.suppress(BlockingIOError, OSError):
        while part := os.read(fd, 1 << 16):
            found += part
    return found.decode()


def screen(drawn: str) -> list[str]:
    """The lines that a terminal shows in the end, which scrolls without end."""
    rows, row, column = [""], 0, 0
    for number, code, character in PIECES.findall(drawn):
        if code == "A":
            row -= int(number or 1)
            assert row >= 0
        elif code == "K":
            rows[row] = ""
        elif character == "\r":
            column = 0
        elif character == "\n":
            row += 1
            rows += [""] * (row + 1 - len(rows))
        elif character:
            rows[row] = rows[row][:column].ljust(column) + character + rows[row][column + 1 :]
            column += 1
        else:
            assert code in "mhl", f"a code that this screen does not know: {code}"
    return [line.rstrip() for line in rows]


def test_bars_are_redrawn_below_the_lines_of_tasks() -> None:
    with on_a_terminal() as terminal_fd:
        terminal = Terminal()
        own = sys.stdout
        terminal.show("progress", message(done=4.0, desc="[epochs]"))
        for number in range(50):
            terminal.show(
                "log",
                {"stream": "stdout", "name": "t", "pid": 7, "lines": [f"line {number} [is] whole"]},
            )
        assert sys.stdout is not own
        before = written(terminal_fd)
        told = [f"(t pid=7) line {number} [is] whole" for number in range(50)]
        *lines, bar = filter(None, screen(before))
        assert lines == told
        assert re.match(r"\(train pid=7\) \[epochs\] ━+.* 4/10 it", bar)
        terminal.show("progress", message(done=10.0, desc="[epochs]", ended=True))
        # The last bar is gone, and the streams are what they were.
        assert sys.stdout is own
        lines = [*filter(None, screen(before + written(terminal_fd)))]
        assert lines[:-1] == told
        assert lines[-1].startswith("(train pid=7) [epochs]: 10/10 it (100%)")
        terminal.close()


def test_a_terminal_that_closes_takes_its_bars_away() -> None:
    with on_a_terminal() as terminal_fd:
        terminal = Terminal()
        own = sys.stderr
        for bar in range(3):
            terminal.show("progress", message(bar))
        terminal.close()
        assert sys.stderr is own
        terminal.show("progress", message(9))
        terminal.close()
        drawn = written(terminal_fd)
        # The cursor is there again, and a line is left of each bar.
        assert drawn.rfind("\x1b[?25h") > drawn.rfind("\x1b[?25l")
        shown = [*filter(None, screen(drawn))]
        assert len(shown) == 3
        assert not [line for line in shown if "━" in line]


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    with on_a_terminal():
        assert isinstance(choose_painter(), RichBars)
        monkeypatch.setenv("TERM", "dumb")
        assert isinstance(choose_painter(), PlainLines)
