"""Which tasks share a worker's process: those of one job and one environment, and no others."""

from __future__ import annotations

import os
import sys

import cloudpickle  # type: ignore[import-untyped]
import pytest

import rostral

from .command_line import CommandLine, run_program

# Workers cannot import this module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = pytest.mark.slow

GET_TIMEOUT_S = 20.0
PROGRAM = """
import os, sys, rostral
with rostral.init(sys.argv[1]):
    pid = rostral.remote(os.getpid)
    print(*{*rostral.get([pid.remote() for _ in range(50)])})
"""


def environment() -> str:
    return rostral.get_runtime_context().get_runtime_env_string()


def test_one_tasks_worker_is_the_next_ones(cluster: rostral.Context) -> None:
    del cluster
    pid = rostral.remote(os.getpid)
    pids = {rostral.get(pid.remote(), timeout=GET_TIMEOUT_S) for _ in range(20)}
    assert 1 <= len(pids) <= 2
    assert os.getpid() not in pids


def test_environments_have_workers_of_their_own(cluster: rostral.Context) -> None:
    del cluster
    pid, text = rostral.remote(os.getpid), rostral.remote(environment)
    alone = pid.options(runtime_env={"env_vars": {"ROSTRAL_TEST_REUSE": "1"}})
    others = {rostral.get(alone.remote(), timeout=GET_TIMEOUT_S) for _ in range(5)}
    assert not others & {rostral.get(pid.remote(), timeout=GET_TIMEOUT_S) for _ in range(5)}
    assert rostral.get(text.remote(), timeout=GET_TIMEOUT_S) == "{}"
    with_variable = text.options(runtime_env={"env_vars": {"ROSTRAL_TEST_REUSE": "1"}})
    expected = '{"env_vars":{"ROSTRAL_TEST_REUSE":"1"}}'
    assert rostral.get(with_variable.remote(), timeout=GET_TIMEOUT_S) == expected


def test_jobs_have_workers_of_their_own(command_line: CommandLine) -> None:
    rostral.shutdown()
    address = command_line.start_head()
    first = {*run_program(PROGRAM, address).split()}
    second = {*run_program(PROGRAM, address).split()}
    assert first
    assert second
    assert not first & second
