"""Nodes that run as services are found by their user, and named to others."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rostral import service_nodes
from rostral.session import live_records
from rostral_objectstore.takeover import process_start_time


@pytest.fixture
def node_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a node of this test's own user announces itself; it has done so."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("ROSTRAL_RUNTIME_DIR", str(tmp_path / "rostral"))
    monkeypatch.setattr(service_nodes, "SYSTEM_FILE", tmp_path / "none")
    path = tmp_path / service_nodes.USER_FILE
    path.parent.mkdir(parents=True)
    announced = {
        "node_id": "00" * 16,
        "pid": os.getpid(),
        "start_time": process_start_time(os.getpid()),
        "address": "127.0.0.1:6380",
        "session_dir": "/session",
        "store_socket": "/store",
        "scheduler_socket": "/scheduler",
    }
    path.write_text(json.dumps(announced))
    return path


def test_a_node_that_runs_as_services_is_one_to_join_and_not_one_to_stop(node_file: Path) -> None:
    (record,) = live_records()
    assert record.detached
    assert record.is_service
    assert (record.address, record.scheduler_socket) == ("127.0.0.1:6380", "/scheduler")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"node_id": "x"}', '{"unknown": 1}'])
def test_a_file_that_says_something_else_is_no_node(node_file: Path, content: str) -> None:
    node_file.write_text(content)
    assert live_records() == []


def test_a_node_that_is_gone_is_no_node(node_file: Path) -> None:
    announced = json.loads(node_file.read_text())
    node_file.write_text(json.dumps({**announced, "start_time": 1}))
    assert live_records() == []


def test_the_owner_of_anothers_node_is_named(
    node_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert service_nodes.owner_of_others() is None
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    assert service_nodes.owner_of_others() == __import__("pwd").getpwuid(owner).pw_name
    assert service_nodes.own_nodes() == []
