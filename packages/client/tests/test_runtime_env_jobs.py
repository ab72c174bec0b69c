"""The runtime environment of a whole job, from `init` to its end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import rostral
from rostral.exceptions import RuntimeEnvSetupError

pytestmark = pytest.mark.slow

STORE_BYTES = 64 << 20


@rostral.remote
def variable(name: str) -> str | None:
    return os.environ.get(name)


def environments() -> list[str]:
    """The stages of the node's environments."""
    known = rostral._context.connected().ask("status", {})["environments"]
    return [environment["stage"] for environment in known]


def test_a_jobs_environment_is_every_tasks_and_a_tasks_own_adds_to_it(leaves_nothing: str) -> None:
    del leaves_nothing
    env = {"env_vars": {"COLOUR": "red", "SIZE": "small"}}
    rostral.init(num_cpus=2, object_store_memory=STORE_BYTES, runtime_env=env)
    mine = variable.options(runtime_env={"env_vars": {"SIZE": "big"}})
    asked = [variable.remote("COLOUR"), mine.remote("COLOUR"), mine.remote("SIZE")]
    assert rostral.get(asked) == ["red", "red", "big"]

    @rostral.remote
    class Keeper:
        def variable(self, name: str) -> str | None:
            return os.environ.get(name)

    keeper: Any = Keeper
    assert rostral.get(keeper.remote().variable.remote("COLOUR")) == "red"


def test_a_jobs_environment_is_made_at_init_unless_told_otherwise(leaves_nothing: str) -> None:
    del leaves_nothing
    env = {"env_vars": {"COLOUR": "red"}}
    for is_eager in (True, False):
        lazy = {**env, "config": {"eager_install": is_eager}}
        with rostral.init(num_cpus=1, object_store_memory=STORE_BYTES, runtime_env=lazy):
            assert bool(environments()) is is_eager


def test_init_with_a_wrong_environment_starts_nothing(leaves_nothing: str) -> None:
    del leaves_nothing
    with pytest.raises(ValueError, match="there is nothing at"):
        rostral.init(num_cpus=1, runtime_env={"working_dir": "/no/such/folder"})
    assert not rostral.is_initialized()


def test_a_jobs_environment_that_cannot_be_made_fails_its_tasks_and_not_init(
    leaves_nothing: str, tmp_path: Path
) -> None:
    del leaves_nothing
    (tmp_path / "broken.zip").write_text("no zip file")
    rostral.init(
        num_cpus=1,
        object_store_memory=STORE_BYTES,
        runtime_env={"working_dir": str(tmp_path / "broken.zip")},
    )
    with pytest.raises(RuntimeEnvSetupError, match="is no zip file"):
        rostral.get(variable.remote("COLOUR"))
