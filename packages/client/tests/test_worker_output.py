"""Output of real workers: order, repetitions, the last lines, and the files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import rostral

from .command_line import run_program
from .waiting import until

pytestmark = pytest.mark.slow

HEAD = """
import os, rostral
rostral.init(num_cpus=2, object_store_memory=64 << 20)
"""

COUNTS = (
    HEAD
    + """
@rostral.remote
def count(n):
    for number in range(n):
        print("line", number)

rostral.get(count.remote(500))
rostral.shutdown()
"""
)

LAST_WORDS = (
    HEAD
    + """
@rostral.remote
def speak():
    os.write(1, b"the last words, without an end")

rostral.get(speak.remote())
rostral.shutdown()
print("the driver's own end")
"""
)

REPEATS = (
    HEAD
    + """
@rostral.remote
class Worker:
    def speak(self):
        print("all ready")

workers = [Worker.remote() for _ in range(6)]
rostral.get([worker.speak.remote() for worker in workers])
rostral.shutdown()
"""
)


def test_a_workers_lines_keep_their_order_and_none_is_lost(leaves_nothing: str) -> None:
    del leaves_nothing
    lines = run_program(COUNTS).splitlines()
    assert [line.partition(") ")[2] for line in lines] == [f"line {n}" for n in range(500)]
    assert len({line.partition(") ")[0] for line in lines}) == 1


def test_what_was_printed_last_is_shown_before_the_driver_goes_on(leaves_nothing: str) -> None:
    del leaves_nothing
    lines = run_program(LAST_WORDS).splitlines()
    assert len(lines) == 2
    assert re.fullmatch(r"\(\w+ pid=\d+\) the last words, without an end", lines[0])
    assert lines[1] == "the driver's own end"


def test_what_all_workers_print_is_folded(
    leaves_nothing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    del leaves_nothing
    first, last = run_program(REPEATS).splitlines()
    assert first.endswith(") all ready")
    assert last.endswith(") all ready [repeated 5x across processes]")
    monkeypatch.setenv("ROSTRAL_DEDUP_LOGS", "0")
    assert len(run_program(REPEATS).splitlines()) == 6


def test_a_dead_workers_file_stays_if_it_has_something(cluster: rostral.Context) -> None:
    folder = Path(cluster["session_dir"]) / "logs"

    @rostral.remote(max_retries=0)
    def speak_and_die(text: str) -> None:
        import os
        import sys

        sys.stdout.write(text)
        sys.stdout.flush()
        os._exit(1)

    for text in ("kept", ""):
        with pytest.raises(rostral.exceptions.WorkerCrashedError):
            rostral.get(speak_and_die.remote(text))

    def told() -> list[str]:
        return [path.read_text() for path in folder.glob("worker-*.out") if path.stat().st_size]

    until(lambda: told() == ["kept\n"], "the file")
    live = len(rostral._context.connected().ask("status", {})["workers"])
    assert len(list(folder.glob("worker-*.out"))) <= live + 1
