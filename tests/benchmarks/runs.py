"""Runs a script of workloads in a fresh interpreter and reads the rows that it prints.

Owns the process and all that it leaves behind; knows no workload and no figure. Every process of a
run inherits the run's id in its environment, so that daemons which left the family are found and
killed too: the next run shall find the machine empty.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import uuid
from collections.abc import Iterable
from typing import Any

import psutil

import peers

# workloads.py, which must not import this module, counts processes by it too.
RUN_ID_VARIABLE = "BENCH_CORE_RUN_ID"

Row = dict[str, Any]


def run_script(
    engine: peers.Engine, arguments: list[str], timeout_s: float
) -> tuple[list[Row], str]:
    """Runs a script with the engine's interpreter, once.

    Returns:
        The rows it printed, and why it ended early ("" if it did not).
    """
    run_id = uuid.uuid4().hex
    process = subprocess.Popen(
        [str(engine.python), *arguments],
        env={**os.environ, **engine.environment, RUN_ID_VARIABLE: run_id},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    failure = ""
    try:
        output, errors = process.communicate(timeout=timeout_s)
        if process.returncode != 0:
            last_words = errors.strip().splitlines() or ["no message"]
            failure = f"exit status {process.returncode}: {last_words[-1]}"
    except subprocess.TimeoutExpired:
        kill_run(run_id)
        output, errors = process.communicate()
        failure = f"no end after {timeout_s:.0f} s"
    finally:
        kill_run(run_id)
    return list(parse_rows(output)), failure


def parse_rows(output: str) -> Iterable[Row]:
    """The rows among whatever else the engine's processes printed."""
    for line in output.splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            row = json.loads(line)
            if isinstance(row, dict) and "name" in row and "value" in row:
                yield row


def kill_run(run_id: str) -> None:
    """Kills every process that inherited the run's id, whoever its parent is now."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(RUN_ID_VARIABLE) == run_id:
                process.send_signal(signal.SIGKILL)
