"""The public face: what it lists, that it loads, and that importing it stays cheap."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import sys

import pytest

import rostral_gcs

PUBLIC = [
    "ACTORS",
    "ActorRow",
    "ActorState",
    "AsyncGcsClient",
    "BundleRow",
    "CHECKPOINTS",
    "CheckpointRow",
    "ClientOptions",
    "EVENTS",
    "EventRow",
    "EventSeverity",
    "FunctionRow",
    "GcsClient",
    "GcsConfig",
    "GcsServer",
    "JOBS",
    "JobRow",
    "JobState",
    "KV",
    "KvRow",
    "NODES",
    "NodeReport",
    "NodeRow",
    "NodeState",
    "OBJECTS",
    "ObjectLocation",
    "ObjectRow",
    "PLACEMENT_GROUPS",
    "PlacementGroupRow",
    "PlacementGroupState",
    "QueueReport",
    "TASKS",
    "TaskRow",
    "TaskState",
    "Scope",
    "TlsFiles",
    "TokenInterceptor",
    "Tokens",
    "WatchEvent",
    "WatchKind",
    "WatchPosition",
    "bearer_metadata",
    "errors",
    "generate_token",
    "ids",
    "load_token",
    "write_token",
]


def test_the_public_names_are_announced() -> None:
    assert sorted(rostral_gcs.__all__) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_loads(name: str) -> None:
    assert getattr(rostral_gcs, name) is not None
    assert name in dir(rostral_gcs)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        rostral_gcs.nothing  # noqa: B018


def test_importing_errors_and_ids_brings_no_grpc() -> None:
    code = (
        "import sys, json; before = set(sys.modules); import rostral_gcs, rostral_gcs.errors, "
        "rostral_gcs.ids; print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    brought = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert not brought & {"grpc", "google", "asyncio", "sqlite3", "click", "ssl", "socket"}


def test_the_version_is_that_of_the_distribution() -> None:
    assert rostral_gcs.__version__ == importlib.metadata.version("rostral-gcs")


def test_the_package_declares_no_heavy_dependency() -> None:
    declared = [
        requirement
        for requirement in importlib.metadata.requires("rostral-gcs") or []
        if "extra ==" not in requirement
    ]
    names = {requirement.split(">")[0] for requirement in declared}
    assert names == {"click", "grpcio", "grpcio-health-checking", "protobuf"}


def test_the_types_are_published() -> None:
    spec = importlib.util.find_spec("rostral_gcs")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = next(iter(spec.submodule_search_locations))
    with open(f"{folder}/py.typed", encoding="utf-8") as marker:
        assert marker.read() == ""
