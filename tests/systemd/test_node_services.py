"""A node and its global scheduler as services: the acceptance list, and what clients see of it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Final

import pytest

from . import acceptance
from .installation import Installation
from .machine import Machine

pytestmark = pytest.mark.slow

STORE: Final = "rostral-objectstore.service"
LOCAL: Final = "rostral-local-scheduler.service"
GLOBAL: Final = "rostral-global-scheduler.service"
TARGET: Final = "rostral-node.target"
GCS: Final = "rostral-gcs.service"
UNITS: Final = (STORE, LOCAL, GLOBAL)
# systemd's own scale times ten, which is how its command takes it.
THRESHOLDS: Final = {GCS: 15, STORE: 15, LOCAL: 20, GLOBAL: 15}
USER: Final = "rostral"

JOB: Final = """
import os
import rostral

rostral.init()

@rostral.remote
def where(number):
    group = [line for line in open("/proc/self/cgroup") if line.startswith("0::")]
    return number, os.getuid(), group[0].strip().rpartition("/")[2]

results = rostral.get([where.remote(n) for n in range(100)])
assert [number for number, _, _ in results] == list(range(100))
assert {uid for _, uid, _ in results} == {os.getuid()}
print({group for _, _, group in results})
"""

# Objects that a client holds, and more that it makes all the time, with a checksum of each.
STORER: Final = """
import json, sys, threading, zlib
import numpy as np
from rostral_objectstore import StoreClient
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
store = StoreClient.connect("/run/rostral/objectstore/objectstore.sock")
held = {}
def put(number):
    array = np.random.default_rng(number).integers(0, 256, 200_000, dtype=np.uint8)
    held[number] = (store.put(array), zlib.crc32(array))
for number in range(50):
    put(number)
print("ready", flush=True)
number = 50
while not stop.is_set():
    put(number)
    del held[number - 20]
    number += 1
wrong = [n for n, (handle, crc) in held.items() if zlib.crc32(store.get(handle.id)) != crc]
print(json.dumps({"made": number, "wrong": wrong}), flush=True)
"""

# Places tasks without a pause; a scheduler that is away shows only as a wait.
PLACER: Final = """
import asyncio, json, sys, threading
from rostral_gcs import AsyncGcsClient, load_token
from rostral_scheduler.core.placement_request import Constraints, Placed, TaskRequest
from rostral_scheduler.core.resources import ResourceSet
from rostral_scheduler.global_.client import GlobalSchedulerClient

stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()

async def main():
    constraints = Constraints(ResourceSet.of({"CPU": 1}))
    placed = other = 0
    async with AsyncGcsClient("127.0.0.1:6380", load_token("/etc/rostral/token")) as gcs:
        client = GlobalSchedulerClient(gcs)
        first = True
        while not stop.is_set():
            number = placed + other
            request = TaskRequest(number.to_bytes(16, "big"), 0, constraints, run_time_s=0.001)
            (answer,) = await client.place([request])
            if isinstance(answer, Placed):
                placed += 1
            else:
                other += 1
            if first:
                print("ready", flush=True)
                first = False
            await asyncio.sleep(0.01)
        await client.close()
    print(json.dumps({"placed": placed, "other": other}), flush=True)

asyncio.run(main())
"""

# A driver with tasks that never end before it does.
BUSY_DRIVER: Final = """
import json, sys, time
import rostral

rostral.init()

@rostral.remote
def work(seconds):
    time.sleep(seconds)
    return seconds

done = rostral.get(work.remote(0.01))
waiting = [work.remote(60) for _ in range(10)]
print("ready", flush=True)
try:
    rostral.get(waiting)
    outcome = "results"
except Exception as error:
    outcome = type(error).__name__
sys.stdin.readline()
print(json.dumps({"outcome": outcome, "done": done}), flush=True)
"""


@pytest.fixture(scope="module")
def node(installed: Installation) -> Iterator[Installation]:
    """A head that runs everything, each with a short watchdog."""
    machine = installed.machine
    installed.install("rostral-gcs")
    installed.install("rostral-objectstore")
    installed.install("rostral-scheduler", "local")
    installed.install("rostral-scheduler", "global")
    for unit in UNITS:
        machine.drop_in(unit, f"[Service]\nWatchdogSec={acceptance.WATCHDOG_S}\n")
    machine.write("/etc/rostral/objectstore.toml", 'memory_bytes = "256M"\n')
    machine.systemctl("start", GCS, TARGET, GLOBAL)
    yield installed
    machine.systemctl("stop", GCS, STORE, LOCAL, GLOBAL, check=False)


@pytest.fixture(autouse=True)
def _serving(node: Installation) -> None:
    """Whatever the test before has done, everything serves."""
    node.machine.systemctl("reset-failed", check=False)
    node.machine.systemctl("start", GCS, TARGET, GLOBAL, *UNITS)


def configuration_of(unit: str) -> str:
    return f"/etc/rostral/{unit.removeprefix('rostral-').removesuffix('.service')}.toml"


@pytest.mark.parametrize(
    "command",
    [
        ("rostral-gcs", "config"),
        ("rostral-objectstore", "config"),
        ("rostral-scheduler", "config", "local"),
        ("rostral-scheduler", "config", "global"),
    ],
)
def test_the_installed_configuration_is_good_to_who_looks(
    node: Installation, command: tuple[str, ...]
) -> None:
    name, *more = command
    checked = node.machine.run(node.command(name), *more, "check")
    assert checked.stdout.startswith("/etc/rostral/")
    assert checked.stdout.endswith(".toml is good\n")
    shown = node.machine.run(node.command(name), *more, "show", "--origin").stdout
    assert all("  # " in line for line in shown.splitlines() if " = " in line)
    assert "# /etc/rostral/" in shown or name == "rostral-gcs"


def test_one_command_looks_at_all_services(node: Installation) -> None:
    told = node.machine.run(node.command("rostral"), "config", "check").stdout.splitlines()
    names = ("gcs", "global-scheduler", "local-scheduler", "objectstore")
    assert set(told) >= {f"/etc/rostral/{name}.toml is good" for name in names}


def run_job(node: Installation) -> str:
    return node.python(JOB, user=USER).stdout


def test_everything_serves_within_two_seconds(node: Installation) -> None:
    node.machine.systemctl("stop", TARGET, GLOBAL)
    for unit in UNITS:
        acceptance.check_start(node.machine, unit)
        assert node.machine.state(unit, "StatusText").startswith("serving at ")


def test_a_job_runs_in_the_workers_control_group(node: Installation) -> None:
    assert run_job(node) == "{'workers'}\n"


def test_another_users_program_is_told_whose_node_it_is(node: Installation) -> None:
    program = "import rostral; rostral.init('auto')"
    result = node.python(program, user="nobody", check=False)
    assert result.returncode != 0
    assert "user rostral's services run one: run this as that user" in result.stderr


@pytest.mark.parametrize("unit", [STORE, LOCAL])
def test_a_process_of_the_same_user_sees_no_daemons_memory(node: Installation, unit: str) -> None:
    machine = node.machine
    for file in ("mem", "environ", "maps"):
        look = ("head", "-c1", f"/proc/{machine.main_pid(unit)}/{file}")
        assert "Permission denied" in machine.run(*look, user=USER, check=False).stderr


@pytest.mark.parametrize("path", ["objectstore/objectstore.sock", "local-scheduler/scheduler.sock"])
def test_another_user_reaches_no_socket(node: Installation, path: str) -> None:
    program = f"import socket; socket.socket(1).connect('/run/rostral/{path}')"
    result = node.python(program, user="nobody", check=False)
    assert "PermissionError" in result.stderr


def test_the_target_starts_and_stops_the_node(node: Installation) -> None:
    machine = node.machine
    machine.systemctl("stop", TARGET)
    # It returns when the target is stopped, which does not wait for its parts.
    machine.eventually(
        lambda: {machine.state(unit) for unit in (STORE, LOCAL)} == {"inactive"}, "its end"
    )
    assert machine.state(GLOBAL) == "active"
    machine.systemctl("start", TARGET)
    assert machine.state(LOCAL) == machine.state(STORE) == "active"


@pytest.mark.parametrize("unit", UNITS)
def test_a_reload_keeps_the_process_and_a_faulty_file_changes_nothing(
    node: Installation, unit: str
) -> None:
    acceptance.check_reload(node.machine, unit, configuration_of(unit))


def restart(machine: Machine, unit: str) -> None:
    machine.systemctl("restart", unit)


@pytest.mark.parametrize("fault", [restart, acceptance.kill, acceptance.hang])
def test_objects_survive_the_stores_daemon(node: Installation, fault: object) -> None:
    storer = node.conversation(STORER, user=USER)
    assert callable(fault)
    fault(node.machine, STORE)
    time.sleep(0.5)
    result = storer.finish()
    assert result["wrong"] == []
    assert result["made"] > 100


@pytest.mark.parametrize("fault", [restart, acceptance.kill, acceptance.hang])
def test_tasks_are_placed_through_the_global_schedulers_faults(
    node: Installation, fault: object
) -> None:
    placer = node.conversation(PLACER)
    assert callable(fault)
    fault(node.machine, GLOBAL)
    time.sleep(0.5)
    result = placer.finish()
    assert result["other"] == 0
    assert result["placed"] > 20


@pytest.mark.parametrize("fault", [acceptance.kill, acceptance.hang])
def test_a_driver_is_told_that_the_local_scheduler_died_and_the_next_one_works(
    node: Installation, fault: object
) -> None:
    driver = node.conversation(BUSY_DRIVER, user=USER)
    assert callable(fault)
    fault(node.machine, LOCAL)
    result = driver.finish()
    assert result["done"] == 0.01
    assert result["outcome"].endswith("Error")
    assert run_job(node) == "{'workers'}\n"


def test_an_end_under_load_is_in_order_and_hangs_nobody(node: Installation) -> None:
    machine = node.machine
    driver = node.conversation(BUSY_DRIVER, user=USER)
    began_s = time.monotonic()
    machine.systemctl("stop", LOCAL, STORE)
    assert time.monotonic() - began_s < 60
    for unit in (STORE, LOCAL):
        assert machine.state(unit, "Result") == "success"
        assert machine.state(unit, "ExecMainStatus") == "0"
    assert driver.finish()["outcome"].endswith("Error")


@pytest.mark.parametrize("unit", UNITS)
def test_six_ends_in_a_minute_are_a_failure(node: Installation, unit: str) -> None:
    acceptance.check_crash_loop(node.machine, unit)


def test_a_scheduler_waits_for_what_comes_later(node: Installation) -> None:
    machine = node.machine
    machine.systemctl("stop", GCS, LOCAL)
    machine.systemctl("start", "--no-block", LOCAL)
    machine.eventually(
        lambda: machine.state(LOCAL, "StatusText").startswith("waiting: "), "its waiting"
    )
    assert machine.state(LOCAL) == "activating"
    machine.systemctl("start", GCS)
    machine.eventually(lambda: machine.state(LOCAL) == "active", "the scheduler")
    assert machine.state(LOCAL, "NRestarts") == "0"


def test_exactly_the_documented_sockets_are_open_and_all_on_loopback(node: Installation) -> None:
    machine = node.machine
    (placing,) = re.findall(r"127\.0\.0\.1:(\d+)", machine.state(GLOBAL, "StatusText"))
    found = acceptance.tcp_sockets(machine)
    expected = {
        ("rostral-gcs", "127.0.0.1", 6380),
        ("rostral-schedul", "127.0.0.1", int(placing)),
    }
    # The GCS's for frames, and the local scheduler's for tasks from other nodes.
    assert expected < found
    assert sorted((command, address) for command, address, _ in found - expected) == [
        ("rostral-gcs", "127.0.0.1"),
        ("rostral-schedul", "127.0.0.1"),
    ]
    assert acceptance.unix_sockets(machine) == {
        "/run/rostral/objectstore/objectstore.sock",
        "/run/rostral/local-scheduler/scheduler.sock",
    }


@pytest.mark.parametrize("unit", THRESHOLDS)
def test_systemd_has_nothing_to_say_and_scores_the_unit_closed(
    node: Installation, unit: str
) -> None:
    path = f"/etc/systemd/system/{unit}"
    assert node.machine.run("systemd-analyze", "verify", "--man=no", path).stderr == ""
    threshold = f"--threshold={THRESHOLDS[unit]}"
    node.machine.run("systemd-analyze", "security", "--offline=true", threshold, path)


def test_the_token_is_in_no_environment_command_line_or_log(node: Installation) -> None:
    machine = node.machine
    run_job(node)
    token = machine.read("/etc/rostral/token").strip()
    for place in ("/proc/[0-9]*/environ", "/proc/[0-9]*/cmdline", "/run/output-*"):
        found = machine.run("sh", "-c", f"grep -lF {token} {place} | grep -v /self/", check=False)
        # The searching shell's own command line has it.
        own = {"/proc/self", "/proc/thread-self"}
        assert not {line for line in found.stdout.splitlines() if "grep" in line} - own
        assert len(found.stdout.splitlines()) <= (2 if "cmdline" in place else 0)


def test_nothing_is_left_when_everything_is_stopped(node: Installation) -> None:
    run_job(node)
    acceptance.check_nothing_is_left(node.machine, [GLOBAL, LOCAL, STORE, GCS], USER)
