"""What a type checker sees of a user's program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
from collections.abc import AsyncIterator, Iterator
from typing import Any, assert_type

import numpy as np

import rostral
from rostral import (
    ActorHandle,
    DynamicObjectRefGenerator,
    ObjectRef,
    ObjectRefGenerator,
    RemoteFunction,
)
from rostral.util import as_completed, map_unordered


@rostral.remote
def f(x: int, *, scale: float = 1.0) -> str:
    return str(x * scale)


@rostral.remote(num_cpus=2, max_retries=0, retry_exceptions=[OSError])
def g(text: str) -> list[int]:
    return [len(text)]


@rostral.remote(num_returns=2)
def pair() -> tuple[int, str]:
    return 1, "a"


@rostral.remote
def count(n: int) -> Iterator[int]:
    yield from range(n)


@rostral.remote(num_cpus=0)
async def letters(word: str) -> AsyncIterator[str]:
    for letter in word:
        yield letter


@rostral.remote(num_returns="dynamic")
def parts() -> Iterator[bytes]:
    yield b""


@rostral.remote
async def fetch(url: str) -> bytes:
    return url.encode()


@rostral.remote(num_cpus=0, max_calls=3)
async def size(data: bytes) -> int:
    return len(data)


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


assert_type(count.remote(3), ObjectRefGenerator[int])
assert_type(count.remote(rostral.put(3)), ObjectRefGenerator[int])
assert_type(next(count.remote(3)), ObjectRef[int])
assert_type(rostral.get(next(letters.remote("word"))), str)
assert_type(count.options(num_cpus=2).remote(3), ObjectRefGenerator[int])
assert_type(count.options(num_returns=3).remote(3), Any)
assert_type(f.options(num_returns="streaming").remote(1), ObjectRefGenerator[Any])
assert_type(fetch.remote("url"), ObjectRef[bytes])
assert_type(size.remote(fetch.remote("url")), ObjectRef[int])
assert_type(size.options(num_cpus=1).remote(b""), ObjectRef[int])
assert_type(parts.remote(), ObjectRef[DynamicObjectRefGenerator])
assert_type(count.remote(3).completed(), ObjectRef[Any])


async def wait_for(ref: ObjectRef[str]) -> None:
    assert_type(await ref, str)
    assert_type(await ref.as_future(), str)
    async for letter in letters.remote("word"):
        assert_type(letter, ObjectRef[str])


@rostral.remote
def h(count: int, text: str = "x", *rest: float, flag: bool = False) -> dict[str, int]:
    return {text: count}


assert_type(h.remote(1), ObjectRef[dict[str, int]])
assert_type(h.remote(1, "y", 0.5, flag=True), ObjectRef[dict[str, int]])
assert_type(h.remote(count=1, text="y"), ObjectRef[dict[str, int]])
assert_type(h.remote(rostral.put(1), flag=True), ObjectRef[dict[str, int]])
assert_type(rostral.get([rostral.put(1), rostral.put(2)]), list[int])
assert_type(rostral.remote(lambda: 1).remote(), ObjectRef[int])
assert_type(ref.future().result(), str)
assert_type(list(as_completed([ref])), list[str])
assert_type(list(as_completed([ref], yield_obj_refs=True)), list[ObjectRef[str]])
assert_type(list(map_unordered(f, [1, 2])), list[Any])
context = rostral.get_runtime_context()
assert_type(context.get_job_id(), str)
assert_type(context.get_task_id(), str | None)
assert_type(rostral.get_gpu_ids(), list[int])
assert_type(rostral.init(mode="inline", num_cpus=2)["address"], str)
try:
    rostral.get(ref)
except rostral.exceptions.RayTaskError as error:
    assert_type(error.cause, BaseException | None)
"""

WRONG = {
    "f.remote('text')": "arg-type",
    "count.remote('text')": "call-overload",
    "rostral.get(count.remote(3)) + 1": "operator",
    "f.remote()": "call-overload",
    "fetch.remote(1)": "arg-type",
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
    "h.remote(1, 2)": "arg-type",
    "h.remote(1, flag='yes')": "arg-type",
    "h.remote(1, text=2)": "arg-type",
    "h(1).keys().no_such_method()": "attr-defined",
    "f.options(max_retries='3')": "arg-type",
    "rostral.get({ref})": "call-overload",
    "rostral.get(ref, timeout='1')": "call-overload",
    "rostral.get([ref, 5])": "list-item",
    "rostral.wait([ref], num_returns='2')": "arg-type",
    "rostral.init(mode='local')": "arg-type",
    "rostral.init(namespace=5)": "arg-type",
    "ObjectRef(5)": "arg-type",
    "list(as_completed([1]))": "list-item",
    "rostral.put(1).no_such_method()": "attr-defined",
}


def check(folder: Path, source: str, *plugins: str) -> str:
    """What mypy says of a program."""
    program, config = folder / "program.py", folder / "mypy.ini"
    program.write_text(source)
    config.write_text(f"[mypy]\nplugins = {', '.join(plugins)}\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(folder / "cache")]
    command += ["--config-file", str(config)]
    command += ["--follow-imports", "silent"]  # of the packages, only their types
    # Where this test's packages come from is where the checker must look, installed or not.
    paths = {str(Path(name).resolve()) for name in sys.path if name and Path(name).is_dir()}
    sources = [
        name for name in sorted(paths) if "site-packages" not in name and name.endswith("/src")
    ]
    done = subprocess.run(
        [*command, str(program)],
        cwd=folder,
        env={"MYPYPATH": ":".join(sources), "PATH": os.environ["PATH"]},
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
