"""The Global Control Store as a service: the acceptance list, and that no written row is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

import pytest

from . import acceptance
from .installation import Conversation, Installation

pytestmark = pytest.mark.slow

UNIT: Final = "rostral-gcs.service"
CONFIGURATION: Final = "/etc/rostral/gcs.toml"
STATE: Final = "/var/lib/rostral/gcs"

# Writes rows until it is told to stop, and says which of them were acknowledged; it is never told
# of an error that it need not see.
WRITER: Final = """
import json, sys, threading
from rostral_gcs import ClientOptions, GcsClient, load_token
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
written = []
options = ClientOptions(call_timeout_s=30.0)
with GcsClient("127.0.0.1:6380", load_token("/etc/rostral/token"), options=options) as client:
    print("ready", flush=True)
    while not stop.is_set():
        client.kv_put(b"%d" % len(written), b"x" * 100)
        written.append(len(written))
    keys = client.kv_keys()
lost = [key for key in written if b"%d" % key not in set(keys)]
print(json.dumps({"written": len(written), "lost": lost}), flush=True)
"""

# The rows that it has written, one after the other from 0.
KEYS: Final = """
from rostral_gcs import GcsClient, load_token
with GcsClient("127.0.0.1:6380", load_token("/etc/rostral/token")) as client:
    print(*(key.decode() for key in client.kv_keys()))
"""


@pytest.fixture(scope="module")
def gcs(installed: Installation) -> Iterator[Installation]:
    """An installed and running store with a short watchdog."""
    machine = installed.machine
    installed.install("rostral-gcs")
    machine.drop_in(UNIT, f"[Service]\nWatchdogSec={acceptance.WATCHDOG_S}\n")
    machine.systemctl("start", UNIT)
    yield installed
    machine.systemctl("stop", UNIT, check=False)


def written_and_kept(writer: Conversation) -> int:
    """Stops it. How many rows it has written, all of which are there."""
    result = writer.finish()
    assert result["lost"] == []
    return int(result["written"])


def test_it_serves_within_two_seconds(gcs: Installation) -> None:
    acceptance.check_start(gcs.machine, UNIT)
    assert gcs.machine.state(UNIT, "StatusText") == "serving at 127.0.0.1:6380"


def test_a_reload_keeps_the_process_and_a_faulty_file_changes_nothing(gcs: Installation) -> None:
    acceptance.check_reload(gcs.machine, UNIT, CONFIGURATION)


@pytest.mark.parametrize("fault", [acceptance.hang, acceptance.kill])
def test_clients_ride_through_a_fault_and_lose_nothing(gcs: Installation, fault: object) -> None:
    machine = gcs.machine
    machine.systemctl("reset-failed", UNIT, check=False)
    writer = gcs.conversation(WRITER)
    assert callable(fault)
    fault(machine, UNIT)
    time.sleep(0.5)
    assert written_and_kept(writer) > 10


def test_an_end_under_load_is_in_order_and_loses_nothing(gcs: Installation) -> None:
    machine = gcs.machine
    writer = gcs.conversation(WRITER)
    began_s = time.monotonic()
    machine.systemctl("stop", UNIT)
    assert time.monotonic() - began_s < 10
    assert machine.state(UNIT, "Result") == "success"
    assert machine.state(UNIT, "ExecMainStatus") == "0"
    machine.systemctl("start", UNIT)
    assert written_and_kept(writer) > 0


def test_six_ends_in_a_minute_are_a_failure(gcs: Installation) -> None:
    acceptance.check_crash_loop(gcs.machine, UNIT)


def test_wrong_configuration_is_not_tried_again(gcs: Installation) -> None:
    machine = gcs.machine
    before = machine.read(CONFIGURATION)
    machine.systemctl("stop", UNIT)
    machine.write(CONFIGURATION, "prot = 1\n")
    try:
        machine.systemctl("start", UNIT, check=False)
        assert machine.state(UNIT) == "failed"
        assert machine.state(UNIT, "ExecMainStatus") == "78"
        assert machine.state(UNIT, "NRestarts") == "0"
        assert "gcs.toml:1: key 'prot' unknown, did you mean 'port'?" in machine.outputs()
    finally:
        machine.write(CONFIGURATION, before)
        machine.systemctl("reset-failed", UNIT)
        machine.systemctl("start", UNIT)


def test_another_user_cannot_read_its_data_or_token(gcs: Installation) -> None:
    machine = gcs.machine
    for path in ("/etc/rostral/token", "/var/lib/rostral/gcs", f"/run/credentials/{UNIT}"):
        result = machine.run("ls" if path[1] == "v" else "cat", path, user="nobody", check=False)
        assert result.returncode != 0
        assert "Permission denied" in result.stderr


def test_the_token_is_in_no_environment_command_line_or_log(gcs: Installation) -> None:
    machine = gcs.machine
    token = machine.read("/etc/rostral/token").strip()
    pid = machine.main_pid(UNIT)
    for path in (f"/proc/{pid}/environ", f"/proc/{pid}/cmdline"):
        assert token not in machine.read(path)
    assert token not in machine.outputs()
    assert token not in machine.systemctl("show", UNIT)


def test_a_copy_of_its_state_as_of_a_power_cut_starts(gcs: Installation) -> None:
    machine = gcs.machine
    machine.systemctl("reset-failed", UNIT, check=False)
    machine.systemctl("restart", UNIT)
    writer = gcs.conversation(WRITER)
    pid = str(machine.main_pid(UNIT))
    # Not for long: its watchdog would take that for a hang.
    copy = f"kill -STOP {pid} && cp -a {STATE} {STATE}-copy; kill -CONT {pid}"
    machine.run("sh", "-c", copy)
    assert written_and_kept(writer) > 0
    machine.systemctl("stop", UNIT)
    machine.run("sh", "-c", f"rm -r {STATE} && mv {STATE}-copy {STATE}")
    acceptance.check_start(machine, UNIT)
    numbers = sorted(map(int, gcs.python(KEYS).stdout.split()))
    assert numbers == list(range(len(numbers)))


def test_exactly_its_sockets_are_open_and_on_loopback(gcs: Installation) -> None:
    found = acceptance.tcp_sockets(gcs.machine)
    assert ("rostral-gcs", "127.0.0.1", 6380) in found
    # The other is for frames.
    assert len(found) == 2
    assert {(command, address) for command, address, _ in found} == {("rostral-gcs", "127.0.0.1")}
    assert acceptance.unix_sockets(gcs.machine) == set()


def test_systemd_has_nothing_to_say_and_scores_the_unit_closed(gcs: Installation) -> None:
    path = f"/etc/systemd/system/{UNIT}"
    assert gcs.machine.run("systemd-analyze", "verify", "--man=no", path).stderr == ""
    gcs.machine.run("systemd-analyze", "security", "--offline=true", "--threshold=15", path)


def test_nothing_is_left_when_it_is_stopped(gcs: Installation) -> None:
    acceptance.check_nothing_is_left(gcs.machine, [UNIT], "rostral-gcs")
