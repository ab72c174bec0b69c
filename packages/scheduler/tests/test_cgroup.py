"""The service's control group: divided, limited, or left alone with a warning."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rostral_scheduler.local.cgroup import divide_cgroup

SERVICE = "rostral.slice/a.service"


class Hierarchy:
    """What a unified hierarchy looks like, in a folder: files that a test may write and read."""

    def __init__(self, folder: Path, controllers: str) -> None:
        self.mount = folder / "cgroup"
        self.given = self.mount / SERVICE
        self.membership = folder / "self"
        for path in (self.given / "daemon", self.given / "workers"):
            path.mkdir(parents=True)
            for name in ("cgroup.procs", "memory.max", "memory.oom.group"):
                (path / name).write_text("")
        (self.mount / "cgroup.controllers").write_text(controllers)
        (self.given / "cgroup.controllers").write_text(controllers)
        (self.given / "cgroup.subtree_control").write_text("")
        self.membership.write_text(f"4:memory:/\n0::/{SERVICE}\n")

    def divide(self, memory_max_bytes: int | None = None) -> Path | None:
        return divide_cgroup(memory_max_bytes, mounts=(self.mount,), membership=self.membership)


def test_workers_get_a_group_with_a_limit_and_we_one_without(tmp_path: Path) -> None:
    hierarchy = Hierarchy(tmp_path, "cpuset cpu io memory pids")
    assert hierarchy.divide(1 << 30) == hierarchy.given / "workers"
    assert (hierarchy.given / "daemon/cgroup.procs").read_text() == str(os.getpid())
    assert (hierarchy.given / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    assert (hierarchy.given / "workers/memory.max").read_text() == str(1 << 30)
    assert (hierarchy.given / "workers/memory.oom.group").read_text() == "0"
    assert (hierarchy.given / "daemon/memory.max").read_text() == ""


def test_who_is_in_its_own_group_already_divides_the_same_one(tmp_path: Path) -> None:
    hierarchy = Hierarchy(tmp_path, "memory")
    hierarchy.membership.write_text(f"0::/{SERVICE}/daemon\n")
    assert hierarchy.divide() == hierarchy.given / "workers"


def test_without_a_controller_for_memory_workers_have_a_group_and_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hierarchy = Hierarchy(tmp_path, "hugetlb")
    (hierarchy.given / "workers/memory.max").unlink()
    assert hierarchy.divide(1 << 30) == hierarchy.given / "workers"
    assert "the memory of workers is not limited" in caplog.text


def test_without_a_hierarchy_that_is_ours_there_is_no_group_and_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert divide_cgroup(None, mounts=(tmp_path,)) is None
    assert "no unified hierarchy" in caplog.text
    hierarchy = Hierarchy(tmp_path, "memory")
    hierarchy.membership.write_text("0::/elsewhere\n")
    assert hierarchy.divide() is None
    assert "cannot be divided" in caplog.text
