"""The public face: what it lists, that it loads, and what importing it does not do."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

import rostral

PUBLIC = [
    "ActorClass",
    "ActorHandle",
    "Context",
    "DynamicObjectRefGenerator",
    "LoggingConfig",
    "ObjectRef",
    "ObjectRefGenerator",
    "RemoteFunction",
    "RuntimeContext",
    "__version__",
    "available_resources",
    "cancel",
    "cluster_resources",
    "exceptions",
    "experimental",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "init",
    "is_cancelled",
    "is_initialized",
    "kill",
    "method",
    "nodes",
    "put",
    "remote",
    "shutdown",
    "util",
    "wait",
]


def test_the_public_names_are_announced() -> None:
    assert sorted(rostral.__all__) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_loads(name: str) -> None:
    assert getattr(rostral, name) is not None


def test_importing_changes_nothing_in_the_process() -> None:
    code = (
        "import json, logging, os, signal, sys, threading\n"
        "def state():\n"
        "    return [sorted(os.environ), len(logging.getLogger().handlers),\n"
        "            os.listdir('/proc/self/fd'), threading.active_count(),\n"
        "            [str(signal.getsignal(number)) for number in (2, 13, 15, 17)]]\n"
        "before = state()\n"
        "import rostral\n"
        "after = state()\n"
        "heavy = {'numpy', 'torch', 'pyarrow', 'grpc', 'sqlite3'} & set(sys.modules)\n"
        "print(json.dumps([before == after, sorted(heavy)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    unchanged, heavy = json.loads(done.stdout)
    assert unchanged
    assert heavy == []


def test_the_types_are_published() -> None:
    spec = importlib.util.find_spec("rostral")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = next(iter(spec.submodule_search_locations))
    with open(f"{folder}/py.typed", encoding="utf-8") as marker:
        assert marker.read() == ""
