"""The configuration says everything that is wrong at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from rostral_gcs.errors import ConfigError
from rostral_scheduler import LocalSchedulerConfig


def config(folder: Path, **settings: object) -> LocalSchedulerConfig:
    return LocalSchedulerConfig(
        store_socket="store.sock",
        socket_path=str(folder / "s.sock"),
        session_dir=folder,
        **settings,  # type: ignore[arg-type]
    )


def test_defaults_are_valid(tmp_path: Path) -> None:
    config(tmp_path).validate()


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    wrong = config(
        tmp_path / "absent",
        num_cpus=-1.0,
        tick_interval_s=0.0,
        ready_queue_capacity=1000,
        workers_max=5000,
        worker_module="no_function",
        resources={"CPU": 1.0},
        gcs_address="localhost:1",
    )
    with pytest.raises(ConfigError) as caught:
        wrong.validate()
    named = ("CPU", "tick_interval_s", "ready_queue_capacity", "workers_max", "worker_module")
    for part in (*named, "resources", "gcs_address", "socket_path"):
        assert any(part in problem for problem in caught.value.problems), part


def test_token_is_not_in_the_repr(tmp_path: Path) -> None:
    assert "secret" not in repr(config(tmp_path, gcs_token="secret"))
