"""S19, S27, S28: between two hosts (network namespaces) only who shows a certificate joins."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
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


def test_a_job_runs_across_two_hosts_under_mutual_tls(
    hosts: tuple[str, str], folder: Path, secrets: Path
) -> None:
    """Tasks, small and large arguments and results between hosts that know each other by TLS."""
    places = [folder / "job-a", folder / "job-b"]
    for place in places:
        place.mkdir()
    small = ["--num-cpus", "1", "--object-store-memory", str(128 << 20)]
    started = []
    try:
        flags = ["--head", "--port", "0", "--bind", ADDRESSES[0], *tls(secrets, "head")]
        begun = on(hosts[0], places[0], "start", *small, *flags)
        assert begun.returncode == 0, begun.stderr
        started.append(0)
        address = begun.stdout.split("cluster at ")[1].split()[0]
        (token,) = (places[0] / "run").rglob("token")
        flags = ["--address", address, "--token-file", str(token), *tls(secrets, "node")]
        joined = on(hosts[1], places[1], "start", *small, "--resources", '{"far": 1}', *flags)
        assert joined.returncode == 0, joined.stderr
        started.append(1)
        far = joined.stdout.split()[1]
        run = subprocess.run(
            ["ip", "netns", "exec", hosts[0], sys.executable, "-c", JOB, address, far],
            env={**os.environ, "ROSTRAL_RUNTIME_DIR": str(places[0] / "run")},
            capture_output=True,
            text=True,
            check=False,
            timeout=START_TIMEOUT_S,
        )
        assert run.stdout == "done\n", run.stderr
    finally:
        for number in reversed(started):
            assert on(hosts[number], places[number], "stop").returncode == 0
