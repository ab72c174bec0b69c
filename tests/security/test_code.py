"""S9, S10, S16: bytes and texts from outside are data: nothing of them is ever run."""

from __future__ import annotations

import ast
import pickle
import shutil
from pathlib import Path
from typing import TypeGuard

import numpy as np
import pytest

from rostral_gcs._proto import gcs_pb2
from rostral_gcs.auth import load_token
from rostral_gcs.errors import RostralError
from rostral_rl.checkpoint import load_policy, save_policy
from rostral_scheduler._proto import scheduler_pb2

from .control import Peer, frame
from .policy import POLICY
from .raw_calls import channel, outcome
from .services import gcs, nodes, service

ROOT = Path(__file__).parents[2]
CONTROL_PLANE = [
    *ROOT.glob("packages/gcs/src/**/*.py"),
    *ROOT.glob("packages/scheduler/src/**/*.py"),
    *(
        ROOT / "packages/objectstore/src/rostral_objectstore" / name
        for name in (
            "control.py",
            "control_server.py",
            "daemon.py",
            "room.py",
            "spill.py",
            "spill_file.py",
            "metrics.py",
        )
    ),
    *ROOT.glob("packages/objectstore/src/rostral_objectstore/transfer/*.py"),
    *ROOT.glob("packages/rl/src/rostral_rl/serve/*.py"),
]
UNPICKLERS = {"pickle", "cloudpickle", "marshal", "shelve", "dill", "joblib", "yaml", "torch"}
# Put first on the path of a service, it notes that anything at all is unpickled there.
HOOK = """
import pickle, sys
def refuse(*_, **__):
    open({marker!r}, "a").write("unpickled")
    raise RuntimeError("unpickled")
pickle.loads = pickle.load = pickle.Unpickler = refuse
"""


class Bomb:
    """What runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.marker), "w")


def readers_in(tree: ast.AST) -> set[str]:
    """What of the modules that can unpickle the source uses, but for writing and safe loading."""
    names = set()
    tensors_only = {id(call.func) for call in ast.walk(tree) if loads_tensors_only(call)}
    for node in ast.walk(tree):
        if id(node) in tensors_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module in UNPICKLERS:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) in UNPICKLERS:
            names.add(ast.unparse(node))
    return names - {"pickle.dumps"}


def loads_tensors_only(call: ast.AST) -> TypeGuard[ast.Call]:
    """Whether it is torch's loader told to refuse all but tensors, whatever else it is told."""
    return (
        isinstance(call, ast.Call)
        and ast.unparse(call.func) == "torch.load"
        and any(
            word.arg == "weights_only" and ast.unparse(word.value) == "True"
            for word in call.keywords
        )
    )


def test_no_file_of_the_control_plane_can_unpickle() -> None:
    assert len(CONTROL_PLANE) > 100
    found = {
        str(file.relative_to(ROOT)): readers
        for file in CONTROL_PLANE
        if (readers := readers_in(ast.parse(file.read_text())))
    }
    assert found == {}


def test_no_file_of_ours_calls_a_shell_or_evaluates_text() -> None:
    found = []
    for file in ROOT.glob("packages/*/src/**/*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            has_shell = any(word.arg == "shell" for word in node.keywords)
            if has_shell or called in ("eval", "exec", "os.system", "os.popen", "__import__"):
                found.append(f"{file.relative_to(ROOT)}:{node.lineno} {called}")
    assert found == []


def test_a_pickled_bomb_lies_still_in_the_gcs_and_the_global_scheduler(tmp_path: Path) -> None:
    marker, hook = tmp_path / "marker", tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(HOOK.format(marker=str(marker)))
    environment = {"PYTHONPATH": str(hook)}
    bomb = pickle.dumps(Bomb(marker))
    with gcs(tmp_path, environment=environment) as (running, token_file):
        token = f"Bearer {load_token(token_file)}"
        flags = ["--gcs", running.address, "--token-file", str(token_file), "--port", "0"]
        with service(
            tmp_path, "rostral-scheduler", "global", *flags, environment=environment
        ) as scheduler:
            for address, file in ((running.address, gcs_pb2), (scheduler.address, scheduler_pb2)):
                for name, described in file.DESCRIPTOR.services_by_name.items():
                    for method in described.methods:
                        send_bombs(
                            address, f"/{file.DESCRIPTOR.package}.{name}/{method.name}", token, bomb
                        )
            assert running.is_alive()
            assert scheduler.is_alive()
    assert not marker.exists()


def send_bombs(address: str, method: str, token: str, bomb: bytes) -> None:
    rows = [gcs_pb2.WriteOp(table=table, key=b"key", value=bomb) for table in TABLES]
    write = gcs_pb2.WriteRequest(request_id=b"r" * 16, ops=rows).SerializeToString()
    with channel(address) as opened:
        for body in (bomb, write, b"\x0a\xff\xff\xff\x7f" + bomb):
            outcome(opened, method, body, token, timeout_s=2.0)


TABLES = ["nodes", "jobs", "actors", "functions", "kv", "objects", "tasks", "events", "checkpoints"]


def test_a_pickled_bomb_lies_still_in_a_nodes_daemons(tmp_path: Path, folder: Path) -> None:
    marker = tmp_path / "marker"
    bomb = pickle.dumps(Bomb(marker))
    with nodes(folder) as line:
        line.start("--head", "--port", "0")
        (record,) = line.records()
        for path in (record["store_socket"], record["scheduler_socket"]):
            with Peer(path) as peer:
                peer.send(frame(bomb))
            with Peer(path) as peer:
                for method in ("attach", "create_actor", "export_function", "register_driver"):
                    peer.call(method, {"blob": bomb, "kind": bomb, "creation": bomb, "pid": bomb})
    assert not marker.exists()


def test_names_with_what_a_shell_would_run_are_names(folder: Path) -> None:
    source = """
import sys, rostral
evil = "x; cd ..; touch marker #`touch marker`$(touch marker)"
rostral.init(sys.argv[1], namespace=evil)
@rostral.remote
class A:
    def f(self): return 1
a = A.options(name=evil).remote()
print(rostral.get(a.f.remote()))
@rostral.remote(runtime_env={"env_vars": {"EVIL": evil}})
def g():
    import os
    return os.environ["EVIL"] == evil
print(rostral.get(g.options(name=evil).remote()))
"""
    with nodes(folder) as line:
        address = line.start("--head", "--port", "0")
        ran = line.program(source, address)
        assert ran.stdout.split() == ["1", "True"], ran.stderr
        places = [Path.cwd(), Path.cwd().parent, Path.home(), folder, *folder.rglob("*")]
        assert not [place for place in places if (place / "marker").exists()]


@pytest.mark.parametrize("what", ["weights", "manifest"])
def test_a_policy_that_is_a_pickle_is_refused_unread(tmp_path: Path, what: str) -> None:
    marker, folder = tmp_path / "marker", tmp_path / "policy"
    save_policy(POLICY, folder)
    pattern = "*.safetensors" if what == "weights" else "policy.json"
    (file,) = folder.glob(pattern)
    file.write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(RostralError):
        load_policy(folder)
    shutil.copy(file, tmp_path / "x.npy")
    np.save(file.with_suffix(".npy"), np.array([Bomb(marker)], object), allow_pickle=True)
    file.with_suffix(".npy").rename(file)
    with pytest.raises(RostralError):
        load_policy(folder)
    assert not marker.exists()
