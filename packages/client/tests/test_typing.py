"""What a type checker sees of a user's program."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
from typing import Any, assert_type

import numpy as np

import rostral
from rostral import ActorHandle, ObjectRef, RemoteFunction


@rostral.remote
def f(x: int, *, scale: float = 1.0) -> str:
    return str(x * scale)


@rostral.remote(num_cpus=2, max_retries=0, retry_exceptions=[OSError])
def g(text: str) -> list[int]:
    return [len(text)]


@rostral.remote(num_returns=2)
def pair() -> tuple[int, str]:
    return 1, "a"


class Counter:
    def add(self) -> int:
        return 1


class Grouped:
    @rostral.method(concurrency_group="io", retry_exceptions=[OSError])
    def read(self) -> bytes:
        return b""


Counters = rostral.remote(Counter)
Groups = rostral.remote(concurrency_groups={"io": 2}, max_concurrency=4)(Grouped)
assert_type(Grouped().read(), bytes)
Others = rostral.remote(num_cpus=1, max_restarts=3)(Counter)

ref = f.remote(1, scale=2.0)
assert_type(ref, ObjectRef[str])
assert_type(g.remote(ref), ObjectRef[list[int]])
assert_type(g.options(name="other").remote("a"), ObjectRef[list[int]])
assert_type(f.options(num_returns=1).remote(1), ObjectRef[str])
assert_type(pair.remote(), Any)
assert_type(f.options(num_returns=3).remote(1), Any)
assert_type(rostral.get(ref), str)
assert_type(rostral.get([ref, ref], timeout=1), list[str])
assert_type(rostral.put(5), ObjectRef[int])
assert_type(rostral.get(rostral.put(np.zeros(3))).sum() is None, bool)
ready, rest = rostral.wait([ref])
assert_type(ready, list[ObjectRef[str]])
assert_type(Counters.options(name="one").remote(), ActorHandle[Counter])
assert_type(Others.remote(), ActorHandle[Counter])
assert_type(
    Groups.options(max_pending_calls=9, allow_out_of_order_execution=True).remote(),
    ActorHandle[Grouped],
)


async def wait_for(ref: ObjectRef[str]) -> None:
    assert_type(await ref, str)
"""

WRONG = {
    "f.remote('text')": "arg-type",
    "f.remote()": "call-overload",
    "f.remote(1, speed=2)": "call-overload",
    "f.options(num_cpu=2)": "call-overload",
    "rostral.get(5)": "call-overload",
    "rostral.get((ref,))": "call-overload",
    "rostral.wait(ref)": "arg-type",
    "rostral.init(num_cpus='2')": "arg-type",
    "Counters.options(max_restart=1)": "call-arg",
    "Counters.options(max_pending_calls='9')": "arg-type",
    "Groups.options(concurrency_groups={'io': 3})": "call-arg",
    "rostral.remote(concurrency_groups=['io'])(Grouped)": "call-overload",
    "rostral.get(ref).no_such_method()": "attr-defined",
}


def check(folder: Path, source: str) -> str:
    program = folder / "program.py"
    program.write_text(source)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(folder / "cache")]
    command += ["--follow-imports", "silent"]  # of the packages, only their types
    # Where this test's packages come from is where the checker must look, installed or not.
    paths = {str(Path(name).resolve()) for name in sys.path if name and Path(name).is_dir()}
    sources = [
        name for name in sorted(paths) if "site-packages" not in name and name.endswith("/src")
    ]
    done = subprocess.run(
        [*command, str(program)],
        cwd=folder,
        env={"MYPYPATH": ":".join(sources), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_users_program_is_understood(tmp_path: Path) -> None:
    assert check(tmp_path, PROGRAM).startswith("Success")


@pytest.mark.slow
def test_wrong_programs_are_refused(tmp_path: Path) -> None:
    lines = list(WRONG)
    found = check(tmp_path, PROGRAM + "\n" + "\n".join(lines) + "\n").splitlines()
    first = PROGRAM.count("\n") + 2
    for number, line in enumerate(lines, first):
        assert any(f"program.py:{number}: error:" in message for message in found), line
