"""Runtime environments of real workers: variables, files, modules, hooks, and how they fail."""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rostral
from rostral.exceptions import RuntimeEnvSetupError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where this module's nodes keep virtual environments."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as at:
        at.setenv("ROSTRAL_CACHE_DIR", str(folder))
        yield folder


@rostral.remote
def variable(name: str) -> str | None:
    return os.environ.get(name)


@rostral.remote
def facts() -> dict[str, Any]:
    """Where a task finds itself."""
    return {
        "cwd": os.getcwd(),
        "files": sorted(os.listdir()),
        "path": list(sys.path),
        "python": sys.executable,
        "pid": os.getpid(),
    }


@rostral.remote
def import_value(module: str) -> Any:
    return __import__(module).VALUE


def keeper_class() -> Any:
    @rostral.remote
    class Keeper:
        """Says what an actor's process has."""

        def variable(self, name: str) -> str | None:
            return os.environ.get(name)

        def import_value(self, module: str) -> Any:
            return __import__(module).VALUE

    return Keeper


def wheel(folder: Path, name: str = "tinypkg", value: int = 7) -> Path:
    """A wheel made by hand, of one module."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": f"VALUE = {value}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as package:
        for file, text in files.items():
            package.writestr(file, text)
    return path


def pip_env(folder: Path, *packages: str) -> dict[str, Any]:
    options = ["--no-index", "--find-links", str(folder)]
    return {"pip": {"packages": list(packages), "pip_install_options": options}}


# ---- variables


def test_a_task_has_the_variables_of_its_environment_and_no_other_task_does(
    cluster: rostral.Context,
) -> None:
    del cluster
    colourful = variable.options(runtime_env={"env_vars": {"COLOUR": "red"}})
    assert rostral.get([colourful.remote("COLOUR"), variable.remote("COLOUR")]) == ["red", None]


def test_an_actor_has_the_variables_of_its_environment(cluster: rostral.Context) -> None:
    del cluster
    keeper = keeper_class().options(runtime_env={"env_vars": {"COLOUR": "blue"}}).remote()
    assert rostral.get(keeper.variable.remote("COLOUR")) == "blue"


def test_a_value_may_build_on_the_nodes_own(cluster: rostral.Context) -> None:
    del cluster
    env = {"env_vars": {"PATH": "/opt/extra:${PATH}"}}
    path = rostral.get(variable.options(runtime_env=env).remote("PATH"))
    assert path == f"/opt/extra:{os.environ['PATH']}"


def test_what_the_interpreter_reads_at_its_start_is_there_at_its_start(
    cluster: rostral.Context,
) -> None:
    del cluster

    @rostral.remote(runtime_env={"env_vars": {"PYTHONHASHSEED": "7"}})
    def hashed() -> tuple[int, bool]:
        return hash("text"), sys.flags.hash_randomization == 1

    seeds = {rostral.get(hashed.remote()) for _ in range(3)}
    assert len(seeds) == 1


def test_children_of_a_task_share_its_environment_and_add_to_it(cluster: rostral.Context) -> None:
    del cluster

    @rostral.remote
    def parent() -> list[Any]:
        also = variable.options(runtime_env={"env_vars": {"SIZE": "big"}})
        return rostral.get([variable.remote("COLOUR"), also.remote("COLOUR"), also.remote("SIZE")])

    env = {"env_vars": {"COLOUR": "green", "SIZE": "small"}}
    assert rostral.get(parent.options(runtime_env=env).remote()) == ["green", "green", "big"]


# ---- files


def test_a_working_directory_is_where_tasks_are_and_what_they_import(
    cluster: rostral.Context, tmp_path: Path
) -> None:
    del cluster
    (tmp_path / "told.py").write_text("VALUE = 'from the working directory'\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "numbers.txt").write_text("1 2 3")
    env = {"working_dir": str(tmp_path)}
    found = rostral.get(facts.options(runtime_env=env).remote())
    assert found["files"] == ["data", "told.py"]
    assert found["path"][0] == found["cwd"]
    assert not found["cwd"].startswith(str(tmp_path)), "a copy, made when it was asked for"
    value = import_value.options(runtime_env=env).remote("told")
    assert rostral.get(value) == "from the working directory"


def test_what_is_ignored_or_excluded_stays_at_home(
    cluster: rostral.Context, tmp_path: Path
) -> None:
    del cluster
    for name in ("kept.txt", "secret.key", "large.bin", ".git/config", "venv/x", "sub/a.log"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / ".gitignore").write_text("*.key\n")
    (tmp_path / "sub" / ".gitignore").write_text("*.log\n")
    env = {"working_dir": str(tmp_path), "excludes": ["large.*"]}
    found = rostral.get(facts.options(runtime_env=env).remote())
    assert found["files"] == [".gitignore", "kept.txt", "sub"]


def test_the_same_files_are_unpacked_once(cluster: rostral.Context, tmp_path: Path) -> None:
    del cluster
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same.txt").write_text("the same")
    where = [
        rostral.get(facts.options(runtime_env={"working_dir": str(tmp_path / name)}).remote())
        for name in ("one", "two")
    ]
    assert where[0]["cwd"] == where[1]["cwd"]


def test_a_zip_file_can_be_the_working_directory(cluster: rostral.Context, tmp_path: Path) -> None:
    del cluster
    with zipfile.ZipFile(tmp_path / "work.zip", "w") as package:
        package.writestr("project/zipped.py", "VALUE = 'zipped'\n")
    env = {"working_dir": f"file://{tmp_path}/work.zip"}
    assert rostral.get(import_value.options(runtime_env=env).remote("zipped")) == "zipped"


def test_modules_of_py_modules_can_be_imported(cluster: rostral.Context, tmp_path: Path) -> None:
    del cluster
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "__init__.py").write_text("VALUE = 'a package'\n")
    (tmp_path / "lone.py").write_text("VALUE = 'a module'\n")
    env = {
        "py_modules": [
            str(tmp_path / "folder"),
            str(tmp_path / "lone.py"),
            str(wheel(tmp_path, "wheeled", 3)),
        ]
    }
    keeper = keeper_class().options(runtime_env=env).remote()
    names = ["folder", "lone", "wheeled"]
    values = rostral.get([keeper.import_value.remote(name) for name in names])
    assert values == ["a package", "a module", 3]


def test_a_broken_zip_file_fails_each_task_with_a_typed_error(
    cluster: rostral.Context, tmp_path: Path
) -> None:
    del cluster
    (tmp_path / "broken.zip").write_text("no zip file")
    broken = facts.options(runtime_env={"working_dir": str(tmp_path / "broken.zip")})
    for ref in [broken.remote(), broken.remote()]:
        with pytest.raises(RuntimeEnvSetupError, match="is no zip file"):
            rostral.get(ref)


# ---- hooks


def test_the_hook_runs_before_the_first_task(cluster: rostral.Context) -> None:
    del cluster

    def prepare() -> None:
        os.environ["PREPARED"] = "yes"

    env = {"worker_process_setup_hook": prepare}
    assert rostral.get(variable.options(runtime_env=env).remote("PREPARED")) == "yes"
    keeper = keeper_class().options(runtime_env=env).remote()
    assert rostral.get(keeper.variable.remote("PREPARED")) == "yes"


def test_a_hook_that_raises_is_the_error_of_every_task_and_actor(cluster: rostral.Context) -> None:
    del cluster

    def refuse() -> None:
        raise OSError("no such device")

    env = {"worker_process_setup_hook": refuse}
    task = facts.options(runtime_env=env)
    for ref in [
        task.remote(),
        task.remote(),
        keeper_class().options(runtime_env=env).remote().variable.remote("X"),
    ]:
        with pytest.raises(RuntimeEnvSetupError, match="no such device"):
            rostral.get(ref)


# ---- packages


def test_pip_installs_what_is_asked_for_once(
    cluster: rostral.Context, cache_dir: Path, tmp_path: Path
) -> None:
    del cluster
    wheel(tmp_path)
    env = pip_env(tmp_path, "tinypkg")
    value = import_value.options(runtime_env=env)
    keeper = keeper_class().options(runtime_env={**env, "env_vars": {"COLOUR": "red"}}).remote()
    asked = [
        value.remote("tinypkg"),
        value.remote("tinypkg"),
        keeper.import_value.remote("tinypkg"),
    ]
    assert rostral.get(asked) == [7, 7, 7]
    venvs = [path for path in (cache_dir / "venvs").iterdir() if path.is_dir()]
    assert len(venvs) == 1
    found = rostral.get(facts.options(runtime_env=env).remote())
    assert found["python"].startswith(str(venvs[0]))
    with pytest.raises(ModuleNotFoundError):
        rostral.get(import_value.remote("tinypkg"))


def test_what_pip_says_of_a_failure_is_in_the_error_of_each_task_and_actor(
    cluster: rostral.Context, tmp_path: Path
) -> None:
    del cluster
    env = pip_env(tmp_path, "there-is-no-such-package")
    refs = [facts.options(runtime_env=env).remote() for _ in range(3)]
    refs.append(keeper_class().options(runtime_env=env).remote().variable.remote("X"))
    for ref in refs:
        with pytest.raises(RuntimeEnvSetupError, match="No matching distribution") as caught:
            rostral.get(ref)
        assert "there-is-no-such-package" in caught.value.error_message


def test_a_setup_that_takes_too_long_fails_and_leaves_nothing(
    cluster: rostral.Context, cache_dir: Path, tmp_path: Path
) -> None:
    del cluster
    env = {**pip_env(tmp_path, "slow"), "config": {"setup_timeout_seconds": 0.01}}
    with pytest.raises(RuntimeEnvSetupError, match="setup_timeout_seconds"):
        rostral.get(facts.options(runtime_env=env).remote())
    unfinished = [
        path
        for path in (cache_dir / "venvs").iterdir()
        if path.is_dir() and not (path / ".complete").exists()
    ]
    assert unfinished == []


def test_other_work_goes_on_while_an_environment_is_made(
    cluster: rostral.Context, tmp_path: Path
) -> None:
    del cluster
    wheel(tmp_path, "other", 8)
    slow = [
        import_value.options(runtime_env=pip_env(tmp_path, "other")).remote("other")
        for _ in range(4)
    ]
    assert rostral.get(variable.remote("NO_SUCH_VARIABLE"), timeout=5) is None
    assert rostral.wait(slow, num_returns=4, timeout=0)[0] == [], "it was too quick to tell"
    assert rostral.get(slow) == [8] * 4


def test_an_interpreter_that_is_not_there_is_a_typed_error(cluster: rostral.Context) -> None:
    del cluster
    env = {"py_executable": "/no/such/python"}
    with pytest.raises(RuntimeEnvSetupError, match="/no/such/python"):
        rostral.get(facts.options(runtime_env=env).remote())


def test_an_interpreter_of_ones_own_runs_the_task(cluster: rostral.Context, tmp_path: Path) -> None:
    del cluster
    command = tmp_path / "python"
    command.write_text(f'#!/bin/sh\nWRAPPED=yes exec {sys.executable} "$@"\n')
    command.chmod(0o755)
    env = {"py_executable": str(command)}
    assert rostral.get(variable.options(runtime_env=env).remote("WRAPPED")) == "yes"


def test_a_worker_that_crashes_in_an_environment_comes_again_in_it(
    cluster: rostral.Context, marks: Path
) -> None:
    del cluster

    @rostral.remote(runtime_env={"env_vars": {"COLOUR": "red"}}, max_retries=1)
    def crash_once() -> str | None:
        if not marks.read_text():
            marks.write_text("crashed")
            os._exit(1)
        return os.environ.get("COLOUR")

    assert rostral.get(crash_once.remote()) == "red"
