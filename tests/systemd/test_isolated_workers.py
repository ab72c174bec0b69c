"""Workers as a user of their own: jobs run as before, and reach nothing that is the daemons'."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

import pytest

from . import acceptance
from .installation import Installation

pytestmark = pytest.mark.slow

STORE: Final = "rostral-objectstore.service"
LOCAL: Final = "rostral-local-scheduler.service"
GCS: Final = "rostral-gcs.service"
USER: Final = "rostral"

# Tasks, an actor, large objects and a death: each takes another way through the node.
JOB: Final = """
import os, pwd
import numpy as np
import rostral

rostral.init()

@rostral.remote
def who(number):
    return number, pwd.getpwuid(os.getuid()).pw_name, pwd.getpwuid(os.geteuid()).pw_name

@rostral.remote
def total(array):
    return int(array.sum())

@rostral.remote
class Counter:
    def __init__(self):
        self.count = 0
    def add(self):
        self.count += 1
        return self.count

@rostral.remote(max_retries=0)
def dies():
    os._exit(3)

names = {name for found in rostral.get([who.remote(n) for n in range(50)]) for name in found[1:]}
assert names == {"rostral-worker"}
assert rostral.get(total.remote(rostral.put(np.ones(1_000_000, np.int64)))) == 1_000_000
counter = Counter.remote()
assert rostral.get([counter.add.remote() for _ in range(10)])[-1] == 10
rostral.kill(counter)
try:
    rostral.get(dies.remote())
except rostral.exceptions.RostralError as error:
    print(type(error).__name__)
"""

PACKAGED: Final = """
import os, rostral
os.makedirs("/tmp/job/package_of_job", exist_ok=True)
open("/tmp/job/package_of_job/__init__.py", "w").write("VALUE = 17")
rostral.init(runtime_env={"working_dir": "/tmp/job"})

@rostral.remote
def value():
    import package_of_job
    return package_of_job.VALUE

print(rostral.get(value.remote()))
"""

# What a task tries on the daemons of its node; it tells which attempts were refused.
ATTACKS: Final = """
import json, os, sys
import rostral

rostral.init()

@rostral.remote
def attack(pids, uid):
    import ctypes, os, signal
    libc = ctypes.CDLL(None, use_errno=True)
    held, tried = [], []
    def attempt(name, what):
        tried.append(name)
        try:
            what()
        except OSError:
            held.append(name)
    places = ["/etc/rostral/token", "/var/lib/rostral/gcs", "/var/cache/rostral/objectstore"]
    for place in places:
        attempt(place, lambda: os.listdir(place) if os.path.isdir(place) else open(place).read())
    for unit in ("gcs", "objectstore", "local-scheduler"):
        place = f"/run/credentials/rostral-{unit}.service/token"
        attempt(place, lambda: open(place).read())
    for pid in pids:
        for name in ("mem", "environ", "maps", "fd/0"):
            attempt(f"{pid} {name}", lambda: open(f"/proc/{pid}/{name}", "rb").read(1))
        attempt(f"{pid} kill", lambda: os.kill(pid, signal.SIGKILL))
        attempt(f"{pid} stop", lambda: os.kill(pid, signal.SIGSTOP))
        def trace():
            # In a process of its own: the unit's filter of system calls ends who tries.
            child = os.fork()
            if child == 0:
                os._exit(libc.ptrace(16, pid, 0, 0) != 0)
            if os.waitpid(child, 0)[1] != 0:
                raise OSError("refused")
        attempt(f"{pid} ptrace", trace)
    group = next(line for line in open("/proc/self/cgroup") if line.startswith("0::")).strip()[3:]
    for mount in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
        if not os.path.exists(f"{mount}/cgroup.controllers"):
            continue
        for name in ("cgroup.procs", "cgroup.max.depth", "cgroup.subtree_control"):
            for place in (group, os.path.dirname(group), os.path.dirname(group) + "/daemon"):
                attempt(f"{place} {name}", lambda: open(f"{mount}{place}/{name}", "w").write("0"))
    attempt("become the daemon", lambda: os.setuid(uid))
    attempt("become root", lambda: os.setuid(0))
    # Not the inheritable ones: without files that have some, which NoNewPrivileges= bars, they
    # give a program nothing.
    sets = ("CapEff", "CapPrm", "CapAmb")
    caps = [line.split()[1] for line in open("/proc/self/status") if line.startswith(sets)]
    return held, tried, caps

pids = json.loads(sys.argv[1])
held, tried, caps = rostral.get(attack.remote(pids, os.getuid()))
print(json.dumps({"held": held, "tried": tried, "caps": caps}))
"""


@pytest.fixture(scope="module")
def node(installed: Installation) -> Iterator[Installation]:
    """A head whose workers are set apart."""
    machine = installed.machine
    installed.install("rostral-gcs")
    for words in (("rostral-objectstore", "systemd"), ("rostral-scheduler", "systemd", "local")):
        command = installed.command(words[0])
        machine.run(command, *words[1:], "install", "--isolate-workers")
    machine.write("/etc/rostral/objectstore.toml", 'memory_bytes = "256M"\n')
    machine.systemctl("start", GCS, STORE, LOCAL)
    yield installed
    machine.systemctl("stop", GCS, STORE, LOCAL, check=False)
    for words in (("rostral-objectstore", "systemd"), ("rostral-scheduler", "systemd", "local")):
        machine.run(installed.command(words[0]), *words[1:], "uninstall")


def test_jobs_run_as_the_workers_user(node: Installation) -> None:
    assert node.python(JOB, user=USER).stdout == "WorkerCrashedError\n"


def test_workers_read_what_a_job_brings_along(node: Installation) -> None:
    assert node.python(PACKAGED, user=USER).stdout == "17\n"


def test_a_task_reaches_nothing_of_the_daemons(node: Installation) -> None:
    machine = node.machine
    pids = [machine.main_pid(unit) for unit in (GCS, STORE, LOCAL)]
    command = [node.command("python"), "-c", ATTACKS, json.dumps(pids)]
    told = json.loads(machine.run(*command, user=USER).stdout)
    assert set(told["caps"]) == {"0000000000000000"}
    assert len(told["tried"]) > 3 * 7 + 3 + 3 + 2
    assert told["held"] == told["tried"]
    assert [machine.main_pid(unit) for unit in (GCS, STORE, LOCAL)] == pids
    assert node.python(JOB, user=USER).stdout == "WorkerCrashedError\n"


def test_the_store_may_be_restarted_under_workers_of_another_user(node: Installation) -> None:
    node.machine.systemctl("restart", STORE)
    assert node.python(JOB, user=USER).stdout == "WorkerCrashedError\n"


def test_another_user_still_reaches_no_socket(node: Installation) -> None:
    for path in ("objectstore/objectstore.sock", "local-scheduler/scheduler.sock"):
        program = f"import socket; socket.socket(1).connect('/run/rostral/{path}')"
        assert "PermissionError" in node.python(program, user="nobody", check=False).stderr


@pytest.mark.parametrize(("unit", "threshold"), [(STORE, 16), (LOCAL, 23)])
def test_the_units_are_as_closed_as_that_allows(
    node: Installation, unit: str, threshold: int
) -> None:
    machine = node.machine
    # Its analysis of files leaves drop-ins out.
    whole = machine.run("systemctl", "cat", unit).stdout
    machine.write(f"/tmp/{unit}", whole)
    machine.run(
        "systemd-analyze", "security", "--offline=true", f"--threshold={threshold}", f"/tmp/{unit}"
    )
    path = f"/etc/systemd/system/{unit}"
    assert machine.run("systemd-analyze", "verify", "--man=no", path).stderr == ""


def test_nothing_is_left_when_everything_is_stopped(node: Installation) -> None:
    acceptance.check_nothing_is_left(node.machine, [LOCAL, STORE, GCS], USER)
    listed = node.machine.run(
        "ps", "-o", "pid", "-u", "rostral-worker", "--no-headers", check=False
    )
    assert listed.stdout == ""
