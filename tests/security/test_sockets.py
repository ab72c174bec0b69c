"""S2, S3: what listens, and where; more than this machine is refused without TLS."""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rostral_gcs.auth import write_token
from rostral_rl.checkpoint import save_policy

from .policy import POLICY
from .services import Service, family_of, gcs, listening, nodes, refused_start, service


def is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host).is_loopback


def test_the_gcs_listens_at_two_ports_of_loopback(gcs_with_token: tuple[Service, Path]) -> None:
    """One for gRPC, and one for the same calls in frames."""
    running, _ = gcs_with_token
    found = listening(family_of(running.process.pid))
    assert running.target in found
    assert len(found) == 2
    assert all(is_loopback(host) for host, _ in found)


def test_the_gcs_listens_at_one_port_where_it_serves_no_frames(tmp_path: Path) -> None:
    settings = tmp_path / "gcs.toml"
    settings.write_text("framed = false\n")
    with gcs(tmp_path, "--config", str(settings)) as (running, _):
        assert listening(family_of(running.process.pid)) == {running.target}


def test_a_global_scheduler_listens_at_one_port_of_loopback(global_scheduler: Service) -> None:
    assert listening(family_of(global_scheduler.process.pid)) == {global_scheduler.target}
    assert is_loopback(global_scheduler.target[0])


def test_a_store_listens_at_no_port_unless_it_is_told_to(folder: Path) -> None:
    flags = ["--socket", str(folder / "quiet.sock"), "--memory", "16M"]
    with service(folder, "rostral-objectstore", "serve", *flags) as store:
        assert listening(family_of(store.process.pid)) == set()


def test_a_store_with_transfers_listens_at_two_ports_of_loopback(store: Service) -> None:
    found = listening(family_of(store.process.pid))
    assert store.target in found
    assert len(found) == 2
    assert all(is_loopback(host) for host, _ in found)


def check_node(pid: int, address: str, *, is_head: bool, has_transferred: bool = False) -> None:
    """A node has exactly these, all on loopback: see "What listens" in SECURITY.md."""
    found = listening(family_of(pid))
    host, _, port = address.rpartition(":")
    assert ((host, int(port)) in found) == is_head
    # Two of its GCS if it has one, one of its scheduler for tasks of other nodes, two of its store.
    assert len(found) == 2 * is_head + 1 + 2 * has_transferred
    assert {each for each, _ in found} == {"127.0.0.1"}


def test_a_head_and_a_node_that_joins_listen_where_it_is_written(folder: Path) -> None:
    with nodes(folder) as line:
        address = line.start("--head", "--port", "0")
        line.start("--address", address, "--resources", '{"other": 1}')
        records = line.records()
        assert sorted(node["head"] for node in records) == [False, True]
        for node in records:
            check_node(node["pid"], address, is_head=node["head"])
        crossed = line.program(CROSSING, address)
        assert crossed.stdout == "5000000\n", crossed.stderr
        for node in records:
            # An object went from the node to the head, which listens for others as well.
            has = len(listening(family_of(node["pid"]))) > 2 + node["head"]
            assert has or node["head"]
            check_node(node["pid"], address, is_head=node["head"], has_transferred=has)


CROSSING = """
import sys, rostral
rostral.init(sys.argv[1])

@rostral.remote(resources={"other": 1})
def large():
    return bytes(5_000_000)

print(len(rostral.get(large.remote(), timeout=60)))
"""


def test_a_driver_that_starts_its_own_node_listens_where_it_is_written(folder: Path) -> None:
    program = (
        "import sys, rostral\n"
        "context = rostral.init(num_cpus=1, object_store_memory=64 << 20)\n"
        "print(context['address'], flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "ROSTRAL_RUNTIME_DIR": str(folder)},
    ) as driver:
        assert driver.stdout is not None
        address = driver.stdout.readline().strip()
        check_node(driver.pid, address, is_head=True)
        driver.communicate()


def test_a_local_scheduler_without_a_cluster_listens_at_no_port(folder: Path) -> None:
    store = ["--socket", str(folder / "lone.sock"), "--memory", "16M"]
    with service(folder, "rostral-objectstore", "serve", *store):
        flags = ["--store-socket", str(folder / "lone.sock"), "--num-cpus", "1"]
        places = ["--socket", str(folder / "sched.sock"), "--session-dir", str(folder / "lone")]
        with service(folder, "rostral-scheduler", "local", *flags, *places) as scheduler:
            assert listening(family_of(scheduler.process.pid)) == set()


def test_a_policy_server_listens_at_one_port_and_with_grpc_at_two(folder: Path) -> None:
    policy = folder / "listening-policy"
    save_policy(POLICY, policy)
    with service(folder, "rostral-rl", "serve", str(policy), "--http", "0") as server:
        assert listening(family_of(server.process.pid)) == {server.target}
        assert is_loopback(server.target[0])
    more = {"ROSTRAL_POLICY_SERVER_GRPC_PORT": "0"}
    words = ["serve", str(policy), "--http", "0"]
    with service(folder, "rostral-rl", *words, environment=more) as server:
        found = listening(family_of(server.process.pid))
        assert server.target in found
        assert len(found) == 2
        assert {host for host, _ in found} == {"127.0.0.1"}


def test_a_page_of_metrics_is_one_port_more_on_loopback(folder: Path) -> None:
    place = folder / "counted"
    place.mkdir(mode=0o700)
    with gcs(place, "--metrics-port", "0") as (running, _):
        found = listening(family_of(running.process.pid))
        assert running.target in found
        assert len(found) == 3
        assert {host for host, _ in found} == {"127.0.0.1"}


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1"])
def test_no_service_binds_beyond_loopback_without_tls(folder: Path, address: str) -> None:
    token = folder / "bind-token"
    if not token.exists():
        write_token(token)
    authority = f"[{address}]" if ":" in address else address
    commands = {
        "rostral-gcs": ["serve", "--data-dir", str(folder / "g"), "--bind", address],
        "rostral-scheduler": [
            *("global", "--gcs", "127.0.0.1:1", "--token-file", str(token)),
            *("--bind", address, "--advertise", "host"),
        ],
        "rostral-objectstore": [
            *("serve", "--socket", str(folder / "b.sock"), "--memory", "16M"),
            *("--transfer", f"{authority}:0", "--token-file", str(token)),
        ],
        "rostral": ["start", "--head", "--port", "0", "--bind", address],
        "rostral-rl": [
            *("serve", str(folder / "none"), "--http", "0", "--host", address),
            *("--token-file", str(token)),
        ],
    }
    for name, arguments in commands.items():
        ended = refused_start(name, *arguments)
        assert ended.returncode == 78, (name, ended)
        assert "TLS" in ended.stderr, (name, ended)
        assert "Traceback" not in ended.stderr


def test_metrics_are_served_to_this_machine_alone(folder: Path) -> None:
    ended = refused_start(
        *("rostral-objectstore", "serve", "--socket", str(folder / "m.sock"), "--memory", "16M"),
        *("--metrics", "0.0.0.0:0"),
    )
    assert ended.returncode == 78, ended
    assert "127.0.0.1" in ended.stderr


def test_an_open_bind_that_is_asked_for_outright_is_warned_of(folder: Path) -> None:
    place = folder / "open"
    place.mkdir(mode=0o700)
    with gcs(place, "--bind", "0.0.0.0", "--insecure") as (running, _):
        assert "without TLS" in running.said()
