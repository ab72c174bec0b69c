"""A policy server as a service: the acceptance list, and requests that are answered throughout."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

import pytest

from . import acceptance
from .installation import Installation

pytestmark = pytest.mark.slow

UNIT: Final = "rostral-policy-server@cart.service"
CONFIGURATION: Final = "/etc/rostral/policy-server-cart.toml"
POLICIES: Final = "/var/lib/rostral/policies"
FOLDER: Final = f"{POLICIES}/cart"
PKI: Final = "/etc/rostral/pki"
PORT: Final = 8081

# Asks without a pause, and again after a refused or broken connection, as clients of a service do;
# what else goes wrong is told.
ASKER: Final = """
import http.client, json, sys, threading, time
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
token = open("/etc/rostral/policy-token").read().strip()
headers = {"Content-Type": "application/json", "Authorization": "Bearer " + token}
body = json.dumps({"obs": [0.0, 0.1, 0.0, -0.1]})
answered = again = 0
wrong = []
said = False
while not stop.is_set():
    connection = http.client.HTTPConnection("127.0.0.1", 8081, timeout=10)
    try:
        connection.request("POST", "/v1/act", body, headers)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status == 200 and json.loads(content)["action"] in (0, 1):
            answered += 1
        else:
            wrong.append([answer.status, content.decode()])
    except (OSError, http.client.HTTPException):
        again += 1
        time.sleep(0.02)
    finally:
        connection.close()
    if answered and not said:
        print("ready", flush=True)
        said = True
print(json.dumps({"answered": answered, "again": again, "wrong": wrong[:3]}), flush=True)
"""


@pytest.fixture(scope="module")
def server(installed: Installation) -> Iterator[Installation]:
    """An installed policy server with a policy, and a short watchdog."""
    machine = installed.machine
    installed.install("rostral-rl")
    train = ["train", "ppo", "CartPole-v1", "--total-steps", "256", "--no-progress"]
    machine.run(installed.command("rostral-rl"), *train, "--out", FOLDER, timeout_s=120.0)
    machine.run("chmod", "-R", "a+rX", FOLDER)
    machine.write(CONFIGURATION, f"port = {PORT}\n")
    machine.drop_in(UNIT, f"[Service]\nWatchdogSec={acceptance.WATCHDOG_S}\n")
    machine.systemctl("start", UNIT)
    yield installed
    machine.systemctl("stop", UNIT, check=False)


@pytest.fixture(autouse=True)
def _serving(server: Installation) -> None:
    """Whatever the test before has done, it serves."""
    server.machine.systemctl("reset-failed", check=False)
    server.machine.systemctl("start", UNIT)


def ask(server: Installation, *arguments: str) -> str:
    """The status of one request for an action."""
    url = f"http://127.0.0.1:{PORT}/v1/act"
    kind = "Content-Type: application/json"
    command = ("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", kind, *arguments)
    body = '{"obs": [0.0, 0.0, 0.0, 0.0]}'
    return server.machine.run(*command, "-d", body, url, check=False).stdout


def test_it_serves_within_two_seconds(server: Installation) -> None:
    acceptance.check_start(server.machine, UNIT)
    status = server.machine.state(UNIT, "StatusText")
    assert status == f"serving {FOLDER} at http://127.0.0.1:{PORT}"


def test_its_file_is_good_and_says_where_values_are_from(server: Installation) -> None:
    checked = server.machine.run(server.command("rostral"), "config", "check", "policy-server")
    assert f"{CONFIGURATION} is good\n" in checked.stdout
    command = (server.command("rostral-rl"), "config", "show", "--config", CONFIGURATION)
    shown = server.machine.run(*command, "--origin").stdout
    assert f"port = {PORT}  # {CONFIGURATION}:1\n" in shown
    assert 'host = "127.0.0.1"  # default\n' in shown


def test_who_shows_no_token_is_refused(server: Installation) -> None:
    assert ask(server) == "401"
    token = server.machine.read("/etc/rostral/policy-token").strip()
    assert ask(server, "-H", f"Authorization: Bearer {token}") == "200"


def test_a_reload_keeps_the_process_and_a_faulty_file_changes_nothing(
    server: Installation,
) -> None:
    acceptance.check_reload(server.machine, UNIT, CONFIGURATION)


@pytest.mark.parametrize("fault", [acceptance.hang, acceptance.kill])
def test_clients_that_ask_again_are_answered_through_a_fault(
    server: Installation, fault: object
) -> None:
    asker = server.conversation(ASKER)
    assert callable(fault)
    fault(server.machine, UNIT)
    time.sleep(0.5)
    result = asker.finish()
    assert result["wrong"] == []
    assert result["answered"] > 10


def test_an_end_under_load_is_in_order(server: Installation) -> None:
    machine = server.machine
    asker = server.conversation(ASKER)
    began_s = time.monotonic()
    machine.systemctl("stop", UNIT)
    assert time.monotonic() - began_s < 30
    assert machine.state(UNIT, "Result") == "success"
    assert machine.state(UNIT, "ExecMainStatus") == "0"
    assert asker.finish()["wrong"] == []


def test_six_ends_in_a_minute_are_a_failure(server: Installation) -> None:
    acceptance.check_crash_loop(server.machine, UNIT)


def test_exactly_its_socket_is_open_and_on_loopback(server: Installation) -> None:
    assert acceptance.tcp_sockets(server.machine) == {("rostral-rl", "127.0.0.1", PORT)}


def test_nobody_is_refused_while_a_held_port_changes_hands(server: Installation) -> None:
    machine, name, port = server.machine, "rostral-policy-server@held", PORT + 1
    machine.run("ln", "-sfn", FOLDER, f"{POLICIES}/held")
    machine.write("/etc/rostral/policy-server-held.toml", f"port = {port}\n")
    machine.drop_in(f"{name}.socket", f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{port}\n")
    try:
        machine.systemctl("start", f"{name}.socket")
        assert machine.state(f"{name}.service") == "inactive"
        # The first who connects starts the server.
        asker = server.conversation(ASKER.replace(f"{PORT}", f"{port}"))
        machine.systemctl("restart", f"{name}.service")
        time.sleep(0.5)
        result = asker.finish()
        assert result["wrong"] == []
        assert result["again"] == 0
        assert result["answered"] > 10
        found = {(address, at) for _, address, at in acceptance.tcp_sockets(machine)}
        assert ("127.0.0.1", port) in found
    finally:
        machine.systemctl("stop", f"{name}.socket", f"{name}.service")


def test_a_service_without_a_user_is_given_its_certificates(server: Installation) -> None:
    machine, unit, port = server.machine, "rostral-policy-server@tls.service", PORT + 2
    rostral = server.command("rostral")
    machine.run(rostral, "certs", "init", PKI)
    machine.run(rostral, "certs", "issue", PKI, "policy", "--host", "127.0.0.1")
    assert machine.run("stat", "-c", "%a %U", f"{PKI}/policy.key").stdout == "600 root\n"
    machine.run("ln", "-sfn", FOLDER, f"{POLICIES}/tls")
    machine.write("/etc/rostral/policy-server-tls.toml", f"port = {port}\n")
    files = {"certificate": "policy.crt", "key": "policy.key", "ca": "ca.crt"}
    lines = [f"LoadCredential=tls-{kind}:{PKI}/{name}" for kind, name in files.items()]
    machine.drop_in(unit, "\n".join(["[Service]", *lines, ""]))
    try:
        machine.systemctl("start", unit)
        status = machine.state(unit, "StatusText")
        assert status == f"serving {POLICIES}/tls at https://127.0.0.1:{port}"
        ask = ("curl", "-s", "--cacert", f"{PKI}/ca.crt", f"https://127.0.0.1:{port}/livez")
        ours = ("--cert", f"{PKI}/policy.crt", "--key", f"{PKI}/policy.key")
        assert machine.run(*ask, *ours).stdout == "ok\n"
        assert machine.run(*ask, check=False).returncode != 0
    finally:
        machine.systemctl("stop", unit)


@pytest.mark.parametrize("kind", ["service", "socket"])
def test_systemd_has_nothing_to_say_of_a_unit(server: Installation, kind: str) -> None:
    path = f"/etc/systemd/system/rostral-policy-server@.{kind}"
    assert server.machine.run("systemd-analyze", "verify", "--man=no", path).stderr == ""


def test_systemd_scores_the_unit_closed(server: Installation) -> None:
    path = "/etc/systemd/system/rostral-policy-server@.service"
    server.machine.run("systemd-analyze", "security", "--offline=true", "--threshold=15", path)


def test_nothing_is_left_when_it_is_stopped(server: Installation) -> None:
    acceptance.check_nothing_is_left(server.machine, [UNIT], "rostral-policy-server")
