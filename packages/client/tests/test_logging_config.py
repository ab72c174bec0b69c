"""`LoggingConfig`: what it takes, and how records are written."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from rostral.logging_config import LoggingConfig, apply, decode

from .command_line import run_program

PROGRAM = """
import logging, sys, rostral
sys.stderr = sys.stdout
rostral.init(
    num_cpus=1,
    object_store_memory=64 << 20,
    logging_config=rostral.LoggingConfig(encoding="JSON", log_level="warning"),
)

@rostral.remote
def speak():
    logging.getLogger("mine").warning("from a task")
    logging.getLogger("mine").info("not this")

rostral.get(speak.remote())
rostral.shutdown()
print("handlers:", len(logging.getLogger().handlers))
"""


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"encoding": "XML"}, ValueError, "'TEXT' or 'JSON'"),
        ({"log_level": "LOUD"}, ValueError, "no such level"),
        ({"log_level": None}, TypeError, "a name or a number"),
        ({"additional_log_standard_attrs": "name"}, TypeError, "list of strings"),
        ({"additional_log_standard_attrs": ["nom"]}, ValueError, "'nom' is no attribute"),
    ],
)
def test_what_is_wrong_is_said_at_once(options: Any, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        LoggingConfig(**options)


def test_a_configuration_survives_its_way_to_a_worker() -> None:
    config = LoggingConfig("JSON", "debug", ["name", "process"])
    assert decode(config.encode()) == config
    assert config.log_level == "DEBUG"


@pytest.mark.parametrize("encoding", ["TEXT", "JSON"])
def test_records_have_their_facts_and_logging_is_as_before_afterwards(
    encoding: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    before = list(logging.getLogger().handlers), logging.getLogger().level
    config = LoggingConfig(encoding, "INFO", ["name"])
    undo = apply(config, {"job_id": "0a"})
    logging.getLogger("mine").info("hello %s", "you")
    logging.getLogger("mine").debug("not this")
    undo()
    assert (list(logging.getLogger().handlers), logging.getLogger().level) == before
    (line,) = capsys.readouterr().err.splitlines()
    if encoding == "TEXT":
        assert line.endswith("-- hello you job_id=0a name=mine")
        assert "\tINFO test_logging_config.py:" in line
    else:
        record = json.loads(line)
        assert (record["message"], record["levelname"]) == ("hello you", "INFO")
        assert (record["job_id"], record["name"]) == ("0a", "mine")


@pytest.mark.slow
def test_workers_log_as_the_job_says(leaves_nothing: str) -> None:
    del leaves_nothing
    lines = run_program(PROGRAM).splitlines()
    assert lines[-1] == "handlers: 0"
    (logged,) = [line for line in lines if line.startswith("(speak pid=")]
    record = json.loads(logged.partition(") ")[2])
    assert record["message"] == "from a task"
    assert record["task_name"] == "speak"
    assert {"job_id", "worker_id", "node_id", "task_id"} <= set(record)
