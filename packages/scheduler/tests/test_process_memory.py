"""What is read of memory from this very machine."""

from __future__ import annotations

import os
import subprocess
import sys

from rostral_scheduler.local.process_memory import (
    OomKills,
    memory_limits,
    own_bytes,
    process_table,
)

MIB = 1 << 20


def test_the_machines_memory_is_a_limit_that_is_partly_used() -> None:
    machine = memory_limits()[0]
    assert 0 < machine.used_bytes < machine.limit_bytes


def test_what_a_process_has_of_its_own_grows_with_what_it_touches() -> None:
    for exactly in (True, False):
        before = own_bytes(os.getpid(), exactly=exactly)
        block = bytearray(os.urandom(1)) * (64 * MIB)
        grown = own_bytes(os.getpid(), exactly=exactly) - before
        assert 60 * MIB < grown < 80 * MIB
        del block


def test_a_process_that_is_gone_has_nothing() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert own_bytes(gone.pid, exactly=True) == own_bytes(gone.pid, exactly=False) == 0


def test_the_table_names_the_largest_processes_first() -> None:
    program = f"block = bytearray(b'x') * {200 * MIB}; print(flush=True); input()"
    large = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with large:
        assert large.stdout is not None
        large.stdout.readline()
        table = process_table({large.pid: "the large one"}, 10_000)
        large.kill()
    lines = table.splitlines()
    assert lines[0].split() == ["PID", "MiB", "PROCESS"]
    sizes = [int(line.split()[1]) for line in lines[1:]]
    assert sizes == sorted(sizes, reverse=True)
    assert any(line.endswith("the large one") for line in lines)


def test_no_kill_is_seen_where_there_was_none() -> None:
    assert not OomKills().look()
