"""S13, S15, S21: names in an operator's terminal, addresses in requests, and guessed ids."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rostral_gcs.errors import ConfigError
from rostral_gcs.ids import ObjectID
from rostral_objectstore import StoreClient
from rostral_objectstore.errors import ObjectFetchError

from .services import Service, nodes

# What would retitle a terminal, clear it, go back over a line, or turn the text around.
EVIL = "\x1b]0;owned\x07\x1b[2J\r\u202ename\x9b31m"

NAMING = """
import sys, rostral
_, address, evil = sys.argv
sys.argv[0] = evil
rostral.init(address)

class Holder:
    def value(self):
        return 1

Holder.__name__ = Holder.__qualname__ = evil
kind = rostral.remote(Holder)
try:
    kind.options(name=evil)
except ValueError:
    print("refused", flush=True)
holder = kind.options(name="kept").remote()
rostral.get(holder.value.remote())
print("running", flush=True)
sys.stdin.read()
"""


def test_names_and_arguments_of_jobs_do_not_reach_the_operators_terminal(folder: Path) -> None:
    with nodes(folder) as line:
        address = line.start("--head", "--port", "0")
        with subprocess.Popen(
            [sys.executable, "-c", NAMING, address, EVIL],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=line.environment,
        ) as driver:
            assert driver.stdout is not None
            assert [driver.stdout.readline() for _ in range(2)] == ["refused\n", "running\n"]
            for words in (["actors"], ["status"], ["nodes"], ["tasks"], ["objects"], ["doctor"]):
                told = line.run(*words)
                assert told.returncode == 0, told.stderr
                assert all(char.isprintable() or char == "\n" for char in told.stdout), words
            assert "owned" in line.run("actors").stdout
            assert "owned" in line.run("status").stdout
            driver.communicate()


@pytest.mark.parametrize(
    "holder",
    [
        "169.254.169.254:80",
        "192.0.2.1:6379",
        "metadata.example:80",
        "localhost.evil.example:80",
        "http://127.0.0.1:80",
        "file:///etc/passwd",
        "unix:///run/docker.sock",
        "127.0.0.1@evil.example:80",
        "127.0.0.1:80/../..",
        "",
    ],
)
def test_a_store_asks_nobody_beyond_loopback_without_tls(
    folder: Path, store: Service, holder: str
) -> None:
    with StoreClient.connect(str(folder / "store.sock")) as client:
        began_s = time.monotonic()
        with pytest.raises(ConfigError):
            client.fetch(ObjectID.from_random(), [holder], timeout_s=20.0)
        assert time.monotonic() - began_s < 5.0
    assert store.is_alive()


def test_a_store_tells_what_it_asked_nothing_of_the_answer(folder: Path, store: Service) -> None:
    """A request cannot be used to read what another service on the machine says."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with StoreClient.connect(str(folder / "store.sock")) as client:
            started = subprocess.Popen(
                [sys.executable, "-c", ANSWERING, str(other.fileno())],
                pass_fds=[other.fileno()],
            )
            try:
                with pytest.raises(ObjectFetchError) as caught:
                    client.fetch(ObjectID.from_random(), [f"127.0.0.1:{port}"], timeout_s=3.0)
            finally:
                started.kill()
                started.wait()
    assert "canary-of-another-service" not in str(caught.value)


ANSWERING = """
import socket, sys
listener = socket.socket(fileno=int(sys.argv[1]))
while True:
    connection, _ = listener.accept()
    connection.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\ncanary-of-another-service")
    connection.close()
"""

IDS = """
import sys, rostral
rostral.init(sys.argv[1])

@rostral.remote
def nothing():
    return None

print(rostral.put(0).hex(), nothing.remote().hex())
"""


def test_ids_of_another_job_cannot_be_guessed_from_ones_own(folder: Path) -> None:
    with nodes(folder) as line:
        address = line.start("--head", "--port", "0")
        seen = [bytes.fromhex("".join(line.program(IDS, address).stdout.split())) for _ in range(6)]
    assert {len(both) for both in seen} == {2 * ObjectID.SIZE}
    for at in (0, ObjectID.SIZE):
        # 16 bytes, all but the index, are another in each job at every place: 128 bits.
        for byte in range(at, at + 16):
            assert len({both[byte] for both in seen}) > 1, byte
