"""S19, S27, S28: between two hosts (network namespaces) only who shows a certificate joins."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rostral_gcs.auth import write_token
from rostral_gcs.certs import init_ca, issue
from rostral_gcs.tokens import Scope, add_token

from .services import Service, command

ADDRESSES = ("10.213.77.1", "10.213.77.2")
START_TIMEOUT_S = 60.0


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[str, str]]:
    """Two hosts with a cable between them."""
    names = (f"rostral-a{os.getpid()}", f"rostral-b{os.getpid()}")
    links = (f"va{os.getpid() % 99999}", f"vb{os.getpid() % 99999}")
    with contextlib.ExitStack() as stack:
        try:
            for name in names:
                ip("netns", "add", name)
                stack.callback(ip, "netns", "del", name)
            ip("link", "add", links[0], "type", "veth", "peer", "name", links[1])
            for name, link, address in zip(names, links, ADDRESSES, strict=True):
                ip("link", "set", link, "netns", name)
                ip("-n", name, "addr", "add", f"{address}/24", "dev", link)
                ip("-n", name, "link", "set", link, "up")
                ip("-n", name, "link", "set", "lo", "up")
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"network namespaces cannot be made here: {error}")
        yield names


@pytest.fixture(scope="module")
def secrets(folder: Path) -> Path:
    """The cluster's certificates and token."""
    pki = folder / "pki"
    init_ca(pki)
    for name, address in zip(("head", "node"), ADDRESSES, strict=True):
        issue(pki, name, hosts=[address])
    issue(pki, "late", hosts=[ADDRESSES[1]], days=1e-9)
    issue(pki, "misnamed", hosts=["192.0.2.1"])
    other = folder / "other"
    init_ca(other)
    issue(other, "node", hosts=[ADDRESSES[1]])
    write_token(folder / "token")
    return pki


@pytest.fixture(scope="module")
def head(folder: Path, hosts: tuple[str, str], secrets: Path) -> Iterator[Service]:
    """A GCS on the first host, open to the second."""
    log = folder / "gcs.log"
    words = [
        *(command("rostral-gcs"), "serve", "--data-dir", str(folder / "gcs"), "--port", "0"),
        *("--bind", ADDRESSES[0], "--token-file", str(folder / "token"), *tls(secrets, "head")),
    ]
    with log.open("w") as errors:
        process = subprocess.Popen(
            ["ip", "netns", "exec", hosts[0], *words],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline().strip()
        assert line, log.read_text()
        yield Service(process, line, log)
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


def tls(pki: Path, name: str, *, ca: Path | None = None) -> list[str]:
    """The flags of a process with that certificate."""
    certificate = ["--tls-certificate", str(pki / f"{name}.crt"), "--tls-key"]
    return [*certificate, str(pki / f"{name}.key"), "--tls-ca", str(ca or pki / "ca.crt")]


def on(
    host: str, folder: Path, *words: str, timeout_s: float = START_TIMEOUT_S
) -> subprocess.CompletedProcess[str]:
    """Runs the `rostral` command on a host, with a runtime directory of its own."""
    place = folder / "run"
    place.mkdir(mode=0o700, exist_ok=True)
    return subprocess.run(
        ["ip", "netns", "exec", host, command("rostral"), *words],
        env={**os.environ, "ROSTRAL_RUNTIME_DIR": str(place)},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )


def join(
    hosts: tuple[str, str], folder: Path, head: Service, *credentials: str, token: str = "token"
) -> subprocess.CompletedProcess[str]:
    """Tries to start a node on the second host."""
    small = ["--num-cpus", "1", "--object-store-memory", str(64 << 20)]
    known = ["--address", head.address, "--token-file", str(folder / token)]
    return on(hosts[1], folder, "start", *small, *known, *credentials)


def test_a_node_of_another_host_joins_and_is_counted(
    hosts: tuple[str, str], folder: Path, head: Service, secrets: Path
) -> None:
    ours = tls(secrets, "node")
    try:
        joined = join(hosts, folder, head, *ours)
        assert joined.returncode == 0, joined.stderr
        known = ["--address", head.address, "--token-file", str(folder / "token")]
        listed = on(hosts[0], folder, "nodes", "--json", *known, *ours)
        assert listed.returncode == 0, listed.stderr
        (node,) = json.loads(listed.stdout)["nodes"]
        assert node["state"] == "ALIVE"
        assert node["resources"]["CPU"] == 1.0
    finally:
        assert on(hosts[1], folder, "stop").returncode == 0


@pytest.mark.parametrize(
    "wrong", ["no TLS", "no certificate", "another authority", "itself", "expired", "bad server"]
)
def test_a_node_with_a_wrong_certificate_does_not_join(
    hosts: tuple[str, str], folder: Path, head: Service, secrets: Path, wrong: str
) -> None:
    other, ca = folder / "other", secrets / "ca.crt"
    flags = {
        "no TLS": [],
        "no certificate": ["--tls-ca", str(ca)],
        "another authority": tls(other, "node", ca=ca),
        "itself": tls(other, "ca", ca=ca),
        "expired": tls(secrets, "late"),
        "bad server": tls(secrets, "node", ca=other / "ca.crt"),
    }[wrong]
    refused = join(hosts, folder, head, *flags)
    assert refused.returncode == 3, refused
    assert "Traceback" not in refused.stderr
    assert node_count(hosts, folder, head, secrets) == 0


def node_count(hosts: tuple[str, str], folder: Path, head: Service, secrets: Path) -> int:
    known = ["--address", head.address, "--token-file", str(folder / "token")]
    listed = on(hosts[0], folder, "nodes", "--json", *known, *tls(secrets, "node"))
    nodes = json.loads(listed.stdout)["nodes"]
    return sum(node["state"] == "ALIVE" for node in nodes)


def test_a_driver_s_token_makes_no_node(
    hosts: tuple[str, str], folder: Path, head: Service, secrets: Path
) -> None:
    grant = add_token(folder / "token", scope=Scope.DRIVER, name="alice")
    alice = folder / "alice.token"
    alice.touch(mode=0o600)
    alice.write_text(grant.token)
    refused = join(hosts, folder, head, *tls(secrets, "node"), token="alice.token")
    assert refused.returncode == 4, refused
    assert "PERMISSION_DENIED" in refused.stderr or "UNAUTHENTICATED" in refused.stderr
    assert node_count(hosts, folder, head, secrets) == 0


JOB = """
import sys, numpy, rostral
rostral.init(sys.argv[1])

@rostral.remote(resources={"far": 0.01})
def there(value):
    return rostral.get_runtime_context().get_node_id(), value.sum()

large = numpy.ones(1 << 20)
refs = [there.remote(numpy.full(3, i)) for i in range(50)] + [there.remote(large)]
found = rostral.get(refs, timeout=60)
(far,) = {node for node, _ in found}
assert far == sys.argv[2], far
assert [int(total) for _, total in found] == [3 * i for i in range(50)] + [1 << 20]
print("done")
"""

PARTED = """
import sys, time, rostral
from rostral.exceptions import NodeDiedError
rostral.init(sys.argv[1])

def alive():
    return {node["NodeID"] for node in rostral.nodes() if node["Alive"]}

@rostral.remote(resources={"far": 0.01}, max_retries=0)
def there(seconds):
    time.sleep(seconds)
    return rostral.get_runtime_context().get_node_id()

assert rostral.get(there.remote(0), timeout=60) == sys.argv[2]
hanging = there.remote(600)
rostral.wait([hanging], timeout=1)
print("cut", flush=True)
sys.stdin.readline()
begin_s = time.monotonic()
try:
    rostral.get(hanging, timeout=60)
except NodeDiedError:
    print(f"dead {time.monotonic() - begin_s}", flush=True)
sys.stdin.readline()
deadline_s = time.monotonic() + 60
while len(alive()) != 2:
    assert time.monotonic() < deadline_s, alive()
    time.sleep(0.05)
assert sys.argv[2] not in alive()
assert rostral.get(there.remote(0), timeout=60) in alive()
print("joined", flush=True)
"""


@dataclass
class TwoNodes:
    """A head on the first host, and on the second a node with the resource `far`."""

    address: str
    far: str
    place: Path


@pytest.fixture
def two_nodes(hosts: tuple[str, str], folder: Path, secrets: Path) -> Iterator[TwoNodes]:
    """Nodes that know each other by their certificates."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        places = [Path(name, "a"), Path(name, "b")]
        for place in places:
            place.mkdir()
        small = ["--num-cpus", "1", "--object-store-memory", str(128 << 20)]
        with contextlib.ExitStack() as stack:
            flags = ["--head", "--port", "0", "--bind", ADDRESSES[0], *tls(secrets, "head")]
            begun = on(hosts[0], places[0], "start", *small, *flags)
            assert begun.returncode == 0, begun.stderr
            stack.callback(on, hosts[0], places[0], "stop")
            address = begun.stdout.split("cluster at ")[1].split()[0]
            (token,) = (places[0] / "run").rglob("token")
            flags = ["--address", address, "--token-file", str(token), *tls(secrets, "node")]
            joined = on(hosts[1], places[1], "start", *small, "--resources", '{"far": 1}', *flags)
            assert joined.returncode == 0, joined.stderr
            stack.callback(on, hosts[1], places[1], "stop")
            yield TwoNodes(address, joined.stdout.split()[1], places[0])


def driver(host: str, nodes: TwoNodes, source: str) -> subprocess.Popen[str]:
    """A program on the first host."""
    return subprocess.Popen(
        ["ip", "netns", "exec", host, sys.executable, "-c", source, nodes.address, nodes.far],
        env={**os.environ, "ROSTRAL_RUNTIME_DIR": str(nodes.place / "run")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_job_runs_across_two_hosts_under_mutual_tls(
    hosts: tuple[str, str], two_nodes: TwoNodes
) -> None:
    """Tasks, small and large arguments and results between hosts that know each other by TLS."""
    with driver(hosts[0], two_nodes, JOB) as program:
        said, errors = program.communicate(timeout=START_TIMEOUT_S)
    assert said == "done\n", errors


@pytest.mark.parametrize("cut", ["cable", "one way"])
def test_a_host_that_was_cut_off_is_dead_and_joins_again_as_another(
    hosts: tuple[str, str], two_nodes: TwoNodes, cut: str
) -> None:
    """1. A task runs on the second host. 2. Its cable is pulled, or it hears and is not heard.

    The task is lost within seconds. 3. The cable is put back: the old node is refused, and a new
    one joins and runs tasks.
    """
    part, heal = {
        "cable": (["link", "set", cable(hosts[1]), "down"], ["link", "set", cable(hosts[1]), "up"]),
        "one way": (
            ["route", "add", "blackhole", ADDRESSES[0]],
            ["route", "del", "blackhole", ADDRESSES[0]],
        ),
    }[cut]
    with driver(hosts[0], two_nodes, PARTED) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        try:
            assert program.stdout.readline() == "cut\n"
            ip("-n", hosts[1], *part)
            print(file=program.stdin, flush=True)
            died, after_s = program.stdout.readline().split()
            assert died == "dead"
            assert float(after_s) < 6.0
            ip("-n", hosts[1], *heal)
            said, errors = program.communicate("\n", timeout=START_TIMEOUT_S)
            assert said == "joined\n", errors
        finally:
            program.kill()


def test_a_slow_host_is_not_taken_for_dead(hosts: tuple[str, str], two_nodes: TwoNodes) -> None:
    """Its 20 Mbit/s are full for seconds, and what it says comes late: it works all the same."""
    limit = ["rate", "20mbit", "burst", "64kb", "latency", "1s"]
    ends = [(host, cable(host)) for host in hosts]
    try:
        for host, link in ends:
            subprocess.run(
                ["tc", "-n", host, "qdisc", "add", "dev", link, "root", "tbf", *limit],
                check=True,
                capture_output=True,
            )
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"the speed of a link cannot be limited here: {error}")
    try:
        with driver(hosts[0], two_nodes, JOB) as program:
            said, errors = program.communicate(timeout=START_TIMEOUT_S)
        assert said == "done\n", errors
    finally:
        for host, link in ends:
            subprocess.run(["tc", "-n", host, "qdisc", "del", "dev", link, "root"], check=True)


def cable(host: str) -> str:
    """The name of the host's end of it."""
    listed = subprocess.run(
        ["ip", "-n", host, "-json", "link"], check=True, capture_output=True, text=True
    )
    (name,) = (link["ifname"] for link in json.loads(listed.stdout) if link["ifname"] != "lo")
    return str(name)
