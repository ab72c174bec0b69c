"""The `rostral` command: what it prints, its exit statuses, and that it cleans up."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time

import pytest

import rostral
from rostral.launcher import STOP_TIMEOUT_S

from .command_line import CommandLine, program
from .waiting import files_of, processes_of

pytestmark = pytest.mark.slow


def test_start_status_stop(command_line: CommandLine) -> None:
    address = command_line.start_head("--resources", '{"arm": 2}', "--labels", '{"zone": "a"}')
    assert re.fullmatch(r"127\.0\.0\.1:\d+", address)
    status = command_line.run("status")
    assert status.returncode == 0
    assert address in status.stdout
    assert "2 of 2 arm free" in status.stdout
    assert "MB used" in status.stdout
    [node] = command_line.nodes()
    assert node["address"] == address
    assert node["head"] is True
    assert node["resources"] == {"CPU": 2.0, "arm": 2.0}
    with rostral.init(address):
        assert rostral.nodes()[0]["Labels"] == {"zone": "a"}
    stopped = command_line.run("stop")
    assert (stopped.returncode, stopped.stdout) == (0, "stopped 1 node\n")
    assert not processes_of(command_line.runtime_dir)
    assert files_of(command_line.runtime_dir) == []


def test_status_shows_jobs_and_actors_in_words(command_line: CommandLine) -> None:
    address = command_line.start_head()
    driver = program(
        """
import sys, rostral
rostral.init(sys.argv[1], namespace="space")

@rostral.remote
class Holder:
    def value(self):
        return 5

holder = Holder.options(name="keeper").remote()
print(rostral.get(holder.value.remote()), flush=True)
sys.stdin.readline()
""",
        address,
    )
    with driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "5\n"
        shown = command_line.run("status").stdout
        driver.communicate("\n", timeout=20)
    assert re.search(r"^  job        [0-9a-f]{32}  ", shown, re.M)
    assert re.search(r"^  actor      [0-9a-f]{32}  Holder  ALIVE  pid \d+  'keeper'$", shown, re.M)


def test_status_json_is_one_object_with_a_schema(command_line: CommandLine) -> None:
    command_line.start_head()
    with rostral.init("auto"):
        rostral.get(rostral.remote(len).remote([]), timeout=20)
        printed = json.loads(command_line.run("status", "--json").stdout)
    assert printed["schema"] == 1
    [node] = printed["nodes"]
    assert len(node["jobs"]) == 1
    assert len(node["workers"]) >= 1


def test_another_node_joins_by_address(command_line: CommandLine) -> None:
    address = command_line.start_head()
    joined = command_line.run("start", "--address", address, "--num-cpus", "1")
    assert joined.returncode == 0, joined.stderr
    assert [node["head"] for node in command_line.nodes()] == [True, False]
    with rostral.init(address):
        assert len(rostral.nodes()) == 2
        assert rostral.cluster_resources()["CPU"] == 3.0
    assert command_line.run("stop").stdout == "stopped 2 nodes\n"


def test_stop_force_kills_and_cleans_up(command_line: CommandLine) -> None:
    for option in ("--force", "-f"):
        command_line.start_head()
        assert command_line.run("stop", option).returncode == 0
        assert files_of(command_line.runtime_dir) == []


def test_stop_kills_what_has_not_ended_within_its_grace(command_line: CommandLine) -> None:
    command_line.start_head()
    [node] = command_line.nodes()
    os.kill(node["pid"], signal.SIGSTOP)
    began_s = time.monotonic()
    assert command_line.run("stop", "-g", "0.5").returncode == 0
    assert 0.5 <= time.monotonic() - began_s < STOP_TIMEOUT_S
    assert files_of(command_line.runtime_dir) == []


def test_stop_leaves_the_nodes_of_drivers_alone(command_line: CommandLine) -> None:
    with rostral.init("local", num_cpus=1, object_store_memory=64 << 20):
        assert command_line.run("stop").stdout == "stopped 0 nodes\n"
        assert rostral.get(rostral.remote(len).remote([]), timeout=20) == 0


def test_status_of_nothing_exits_with_3(command_line: CommandLine) -> None:
    status = command_line.run("status")
    assert status.returncode == 3
    assert "rostral start --head" in status.stderr
    as_json = command_line.run("status", "--json")
    assert as_json.returncode == 3
    assert json.loads(as_json.stdout) == {"schema": 1, "nodes": []}


@pytest.mark.parametrize(
    "arguments",
    [
        ("start",),
        ("start", "--head", "--address", "127.0.0.1:1"),
        ("start", "--head", "--no-such-option"),
        ("start", "--head", "--port", "99999"),
        ("start", "--head", "--num-cpus", "-1"),
        ("start", "--head", "--num-cpus", "two"),
        ("start", "--head", "--resources", "arm=2"),
        ("start", "--head", "--resources", '["arm"]'),
        ("start", "--head", "--resources", '{"arm": true}'),
        ("start", "--head", "--labels", "zone=a"),
        ("start", "--head", "--labels", '{"zone": 1}'),
        ("start", "--head", "--object-store-memory", "0"),
        ("start", "--address", "127.0.0.1:1"),
        ("start", "--head", "--token-file", "no-such-file"),
        ("no-such-command",),
        ("status", "--no-such-option"),
        ("stop", "-g", "-1"),
        ("microbenchmark",),
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2_and_starts_nothing(
    arguments: tuple[str, ...], command_line: CommandLine
) -> None:
    result = command_line.run(*arguments)
    assert result.returncode == 2
    assert "Error" in result.stderr
    assert files_of(command_line.runtime_dir) == []


def test_a_port_in_use_is_told_and_nothing_is_left(command_line: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = command_line.run("start", "--head", "--port", port)
    assert result.returncode == 1
    assert "PORT_IN_USE" in result.stderr
    assert port in result.stderr
    assert "Traceback" not in result.stderr
    assert files_of(command_line.runtime_dir) == []


def test_an_open_bind_without_tls_is_refused(command_line: CommandLine) -> None:
    result = command_line.run("start", "--head", "--port", "0", "--bind", "0.0.0.0")
    assert result.returncode in (1, 78)
    assert "INSECURE_BIND" in result.stderr
    assert files_of(command_line.runtime_dir) == []


def test_resources_that_are_wrong_in_themselves_are_told(command_line: CommandLine) -> None:
    result = command_line.run("start", "--head", "--port", "0", "--resources", '{"CPU": 1}')
    assert result.returncode in (1, 2, 78)
    assert "CPU" in result.stderr
    assert "Traceback" not in result.stderr
    assert files_of(command_line.runtime_dir) == []


def test_version_and_help() -> None:
    line = CommandLine("")
    assert rostral.__version__ in line.run("--version").stdout
    printed = line.run("-h").stdout
    assert all(command in printed for command in ("start", "stop", "status"))
