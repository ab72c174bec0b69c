"""What every unit must pass, whatever it serves.

Each function takes a machine and a unit that is installed, drives it, and asserts. What only one
service can do, such as losing nothing that it has acknowledged, is in that service's own tests.
"""

from __future__ import annotations

import time
from typing import Final

from .machine import Machine

START_MAX_US: Final = 2_000_000
# Instead of the unit's own, so that a test need not wait for half a minute.
WATCHDOG_S: Final = 2


def start(machine: Machine, *units: str) -> None:
    """Starts units, which returns when they say that they serve."""
    machine.systemctl("start", *units)
    for unit in units:
        assert machine.state(unit) == "active", machine.outputs()


def check_start(machine: Machine, unit: str) -> None:
    """It serves within two seconds of its process's start, as its manager has timed it."""
    machine.systemctl("stop", unit)
    machine.systemctl("reset-failed", unit, check=False)
    start(machine, unit)
    began_us, ready_us = (
        int(machine.state(unit, f"{moment}TimestampMonotonic"))
        for moment in ("ExecMainStart", "ActiveEnter")
    )
    assert 0 < ready_us - began_us < START_MAX_US, ready_us - began_us


def restarted_after(machine: Machine, unit: str, pid: int) -> int:
    """Waits until the unit runs in another process; its pid."""

    def runs_again() -> bool:
        return (
            machine.main_pid(unit) not in (0, pid) and machine.state(unit, "SubState") == "running"
        )

    machine.eventually(runs_again, f"the restart of {unit}")
    return machine.main_pid(unit)


def check_reload(machine: Machine, unit: str, configuration: str) -> None:
    """A reload applies what it can; a faulty file changes nothing and is named in the status."""
    pid = machine.main_pid(unit)
    before = machine.read(configuration)
    try:
        machine.write(configuration, f'{before}\nlog_level = "info"\n')
        machine.systemctl("reload", unit)
        machine.eventually(
            lambda: "log_level is info" in machine.state(unit, "StatusText"), "the reload"
        )
        machine.write(configuration, f"{before}\nlog_levle = 3\n")
        machine.systemctl("reload", unit)
        machine.eventually(
            lambda: "did you mean 'log_level'" in machine.state(unit, "StatusText"), "the refusal"
        )
        assert machine.state(unit) == "active"
        assert machine.main_pid(unit) == pid
    finally:
        machine.write(configuration, before)


def hang(machine: Machine, unit: str) -> None:
    """Stops the main process, as a hang does; the watchdog ends it and it is started again."""
    pid = machine.main_pid(unit)
    machine.run("kill", "-STOP", str(pid))
    restarted_after(machine, unit, pid)
    assert "watchdog" in machine.console_since_boot()


def kill(machine: Machine, unit: str) -> None:
    """Kills the main process; it is started again."""
    pid = machine.main_pid(unit)
    machine.run("kill", "-KILL", str(pid))
    restarted_after(machine, unit, pid)


def check_crash_loop(machine: Machine, unit: str) -> None:
    """Six ends within a minute, and it is failed; then ``reset-failed`` lets it start again."""
    machine.systemctl("reset-failed", unit, check=False)
    machine.systemctl("restart", unit)
    ends = 0
    while machine.state(unit) != "failed":
        pid = machine.main_pid(unit)
        if pid and machine.state(unit, "SubState") == "running":
            machine.run("kill", "-KILL", str(pid), check=False)
            ends += 1
            machine.eventually(
                lambda pid=pid: machine.main_pid(unit) != pid,  # type: ignore[misc]
                "the end of the process",
            )
        assert ends <= 6, f"{unit} was started again after {ends} ends"
        time.sleep(0.05)
    assert ends == 6
    assert machine.state(unit, "Result") in ("start-limit-hit", "signal")
    machine.systemctl("reset-failed", unit)
    start(machine, unit)


def tcp_sockets(machine: Machine) -> set[tuple[str, str, int]]:
    """Who listens where: command, address, port."""
    found = set()
    for line in machine.run("ss", "-ltnpH").stdout.splitlines():
        address, _, port = line.split()[3].rpartition(":")
        command = line.partition('(("')[2].partition('"')[0]
        found.add((command, address.strip("[]").removeprefix("::ffff:"), int(port)))
    return found


def unix_sockets(machine: Machine) -> set[str]:
    """Paths of ours that somebody listens at."""
    paths = [line.split()[4] for line in machine.run("ss", "-lxH").stdout.splitlines()]
    return {path for path in paths if "rostral" in path}


def check_nothing_is_left(machine: Machine, units: list[str], user: str) -> None:
    """Stops the units: no process, socket, shared memory or control group of theirs is left."""
    groups = [machine.state(unit, "ControlGroup") for unit in units]
    machine.systemctl("stop", *units)
    for unit in units:
        assert machine.state(unit) == "inactive", machine.outputs()
        assert machine.state(unit, "Result") == "success", machine.outputs()
    listed = machine.run("ps", "-o", "pid,args", "-u", user, "--no-headers", check=False).stdout
    assert listed == ""
    assert tcp_sockets(machine) == set()
    assert unix_sockets(machine) == set()
    assert machine.run("find", "/dev/shm", "-user", user, check=False).stdout == ""
    left = machine.run("find", "/run/rostral", "-type", "s", check=False).stdout
    assert left == ""
    for group in filter(None, groups):
        found = machine.run("find", "/sys/fs/cgroup", "-path", f"*{group}*", check=False).stdout
        assert found == ""
