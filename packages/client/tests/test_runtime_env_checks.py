"""What `runtime_env` takes and refuses, before any worker hears of it."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import rostral
from rostral import packages
from rostral.exceptions import NotPicklableError, UnsupportedOptionError
from rostral.runtime_env import RuntimeEnv, parse, spec_of
from rostral_scheduler.environment import (
    EnvironmentSpec,
    decode_environment,
    encode_environment,
)


def pack_nothing(source: str, excludes: Sequence[str], *, keep_name: bool) -> str:
    return f"{source}|{','.join(excludes)}|{keep_name}"


@pytest.mark.parametrize(
    ("env", "error", "text"),
    [
        ([], TypeError, "must be a dict, not list"),
        ({1: "x"}, TypeError, "must be a string"),
        ({"env_var": {}}, UnsupportedOptionError, "did you mean 'env_vars'"),
        ({"conda": "base"}, UnsupportedOptionError, "use pip or uv"),
        ({"container": {}}, UnsupportedOptionError, "container"),
        ({"image_uri": "x"}, UnsupportedOptionError, "image_uri"),
        ({"pip": ["x"], "uv": ["y"]}, ValueError, "both pip and uv"),
        ({"env_vars": ["A=1"]}, TypeError, "must be a dict"),
        ({"env_vars": {"A": 1}}, TypeError, "both must be strings"),
        ({"env_vars": {"A=B": "1"}}, ValueError, "cannot be an environment variable"),
        ({"working_dir": 3}, TypeError, "must be a path"),
        ({"working_dir": "/no/such/folder"}, ValueError, "there is nothing at /no/such/folder"),
        ({"working_dir": "s3://bucket/x.zip"}, UnsupportedOptionError, "only file://"),
        ({"working_dir": __file__}, ValueError, "neither a directory nor a zip file"),
        ({"py_modules": "folder"}, TypeError, "must be a list"),
        ({"pip": [1]}, TypeError, "list of strings"),
        ({"pip": {"package": []}}, UnsupportedOptionError, "did you mean 'packages'"),
        ({"pip": "/no/such/requirements.txt"}, ValueError, "there is nothing at"),
        ({"excludes": "*.bin"}, TypeError, "list of strings"),
        ({"py_executable": " "}, ValueError, "is empty"),
        ({"worker_process_setup_hook": 3}, TypeError, "function or its name"),
        ({"worker_process_setup_hook": "setup"}, ValueError, "give module.function"),
        ({"config": {"setup_timeout": 1}}, UnsupportedOptionError, "setup_timeout_seconds"),
        ({"config": {"setup_timeout_seconds": "1"}}, TypeError, "must be a number"),
        ({"config": {"setup_timeout_seconds": 0}}, ValueError, "above 0, or -1"),
        ({"config": {"eager_install": 1}}, TypeError, "must be a bool"),
    ],
)
def test_what_is_wrong_is_said_where_it_is_given(env: Any, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        rostral.remote(runtime_env=env)
    with pytest.raises(error, match=text):
        parse(env)


def test_a_hook_that_cannot_be_sent_is_refused_at_once() -> None:
    lock = threading.Lock()
    with pytest.raises(NotPicklableError, match="worker_process_setup_hook"):
        RuntimeEnv(worker_process_setup_hook=lambda: lock)


def test_a_hook_that_is_too_large_is_refused_at_once() -> None:
    data = bytes(100_000)
    with pytest.raises(ValueError, match="over the limit"):
        RuntimeEnv(worker_process_setup_hook=lambda: data)


def test_an_environment_survives_pickling_and_json(tmp_path: Path) -> None:
    env = RuntimeEnv(env_vars={"A": "1"}, working_dir=tmp_path, pip=["x"])
    assert pickle.loads(pickle.dumps(env)) == env
    assert parse(json.loads(json.dumps(env))) == env


def test_requirements_can_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("# ours\nalpha==1\n\n  beta\n")
    env = RuntimeEnv(uv=str(tmp_path / "requirements.txt"))
    assert env["uv"]["packages"] == ["alpha==1", "beta"]


def test_a_module_object_stands_for_its_files() -> None:
    assert RuntimeEnv(py_modules=[json, pickle])["py_modules"] == [
        str(Path(json.__file__).parent),
        pickle.__file__,
    ]


def test_variables_are_merged_and_all_else_is_replaced(tmp_path: Path) -> None:
    parent = EnvironmentSpec(
        env_vars={"A": "1", "B": "2"}, working_dir="old.zip", installer="pip", requirements=("x",)
    )
    env = RuntimeEnv(env_vars={"B": "3"}, working_dir=tmp_path, excludes=["*.bin"])
    spec = spec_of(env, parent, pack_nothing)
    assert spec.env_vars == {"A": "1", "B": "3"}
    assert spec.working_dir == f"{tmp_path}|*.bin|False"
    assert (spec.installer, spec.requirements) == ("pip", ("x",))
    other = spec_of(RuntimeEnv(uv=["y"]), parent, pack_nothing)
    assert (other.installer, other.requirements) == ("uv", ("y",))


def test_an_environment_is_named_by_what_it_holds() -> None:
    one = encode_environment(EnvironmentSpec(env_vars={"A": "1", "B": "2"}))
    two = encode_environment(EnvironmentSpec(env_vars={"B": "2", "A": "1"}))
    other = encode_environment(EnvironmentSpec(env_vars={"A": "1"}))
    assert decode_environment(one)[0] == decode_environment(two)[0]
    assert decode_environment(one)[0] != decode_environment(other)[0]


def test_a_package_is_named_by_what_is_in_it(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "packages"
    source.mkdir()
    (source / "a.txt").write_text("a")
    first = packages.pack(folder, str(source), [], keep_name=False)
    assert packages.pack(folder, str(source), [], keep_name=False) == first
    (source / "a.txt").write_text("b")
    assert packages.pack(folder, str(source), [], keep_name=False) != first
    (source / "a.txt").write_text("a")
    (source / "a.txt").chmod(0o755)
    assert packages.pack(folder, str(source), [], keep_name=False) != first
    assert sorted(path.suffix for path in folder.iterdir()) == [".zip"] * 3


def test_too_large_a_directory_is_refused_with_its_largest_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "SIZE_MAX", 100)
    (tmp_path / "small.bin").write_bytes(bytes(40))
    (tmp_path / "large.bin").write_bytes(bytes(61))
    with pytest.raises(ValueError, match=r"101 bytes, over the limit of 100.*large.bin with 61"):
        packages.pack(tmp_path / "packages", str(tmp_path), [], keep_name=False)
