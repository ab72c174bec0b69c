"""Which lines of many processes are shown, and when: no process, no clock."""

from __future__ import annotations

from collections.abc import Iterable

from rostral.line_folding import KEPT_MAX, Line, LineFolder


def line(text: str, pid: int = 1, stream: str = "stdout") -> Line:
    return Line(stream, "work", pid, text)


def texts(lines: Iterable[Line]) -> list[str]:
    return [f"{found.pid} {found.text}" for found in lines]


def test_what_others_printed_a_moment_before_is_counted_and_shown_once() -> None:
    folder = LineFolder(5.0)
    assert texts(folder.take(line("ready", 1), 0.0)) == ["1 ready"]
    for pid in (2, 3, 4, 2, 5):
        assert texts(folder.take(line("ready", pid), 1.0)) == []
    assert [folder.next_due_s] == [5.0]
    assert texts(folder.due(4.9)) == []
    assert texts(folder.due(5.0)) == ["5 ready [repeated 5x across processes]"]
    assert [folder.next_due_s] == [None]
    assert texts(folder.take(line("ready", 3), 5.1)) == ["3 ready"]


def test_a_process_that_repeats_itself_is_shown_as_it_is() -> None:
    folder = LineFolder(5.0)
    shown = [texts(folder.take(line("tick", 1), now)) for now in (0.0, 0.1, 0.2)]
    assert shown == [["1 tick"]] * 3


def test_one_repetition_is_shown_without_a_count() -> None:
    folder = LineFolder(5.0)
    list(folder.take(line("ready", 1), 0.0))
    list(folder.take(line("ready", 2), 0.0))
    assert texts(folder.flush()) == ["2 ready"]
    assert texts(folder.flush()) == []


def test_streams_and_different_lines_are_apart_and_in_order() -> None:
    folder = LineFolder(5.0)
    lines = [line("a", 1), line("b", 2), line("a", 2, "stderr"), line("c", 3), line("", 1)]
    lines.append(line("", 2))
    shown = [text for each in lines for text in texts(folder.take(each, 0.0))]
    assert shown == ["1 a", "2 b", "2 a", "3 c", "1 ", "2 "]


def test_without_a_window_everything_is_shown() -> None:
    folder = LineFolder(0.0)
    shown = [texts(folder.take(line("ready", pid), 0.0)) for pid in (1, 2)]
    assert shown == [["1 ready"], ["2 ready"]]


def test_what_is_remembered_is_bounded_and_nothing_of_it_is_lost() -> None:
    folder = LineFolder(5.0)
    list(folder.take(line("first", 1), 0.0))
    list(folder.take(line("first", 2), 0.0))
    shown = []
    for number in range(KEPT_MAX):
        shown += texts(folder.take(line(f"line {number}", 1), 0.0))
    assert shown.count("2 first") == 1
    assert len(shown) == KEPT_MAX + 1
