"""Real processes of every service, each started as an operator would, for the attacks on them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rostral_gcs.auth import write_token

START_TIMEOUT_S = 60.0
# Ours may lie where only we can read.
PUBLIC_PYTHON = shutil.which("python3", path="/usr/bin:/bin") or sys.executable
_ADDRESS = re.compile(r"(?:at |bytes )(?:http://)?(\S+:\d+)$")


def command(name: str) -> str:
    """The path of a command of this environment."""
    return str(Path(sys.executable).with_name(name))


@dataclass
class Service:
    """A process that serves.

    Attributes:
        process: Of it.
        line: What it said when it was ready.
        log: The file that its standard error goes to.
    """

    process: subprocess.Popen[str]
    line: str
    log: Path

    @property
    def address(self) -> str:
        """``host:port``, as the process said it."""
        found = _ADDRESS.search(self.line)
        assert found is not None, self.line
        return found[1]

    @property
    def target(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.address.rpartition(":")
        return host, int(port)

    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def said(self) -> str:
        """All that it has logged so far."""
        return self.log.read_text(errors="replace")


@contextlib.contextmanager
def service(
    folder: Path,
    name: str,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    line_count: int = 1,
) -> Iterator[Service]:
    """Runs a service within the block; it says so many lines when ready, and ends by SIGTERM."""
    log = folder / f"{name}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [command(name), *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **(environment or {})},
        )
    assert process.stdout is not None
    # It cannot hang here for ever: a process that says nothing in time is ended, and says "".
    watchdog = threading.Timer(START_TIMEOUT_S, process.kill)
    watchdog.start()
    try:
        for _ in range(line_count):
            line = process.stdout.readline().strip()
        watchdog.cancel()
        assert line, f"{name} did not start: {log.read_text()}"
        yield Service(process, line, log)
    finally:
        watchdog.cancel()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


@contextlib.contextmanager
def gcs(
    folder: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[Service, Path]]:
    """A GCS at a free port, and the file of its token."""
    token_file = folder / "token"
    if not token_file.exists():
        write_token(token_file)
    flags = ["--data-dir", str(folder / "gcs"), "--port", "0", "--token-file", str(token_file)]
    with service(
        folder, "rostral-gcs", "serve", *flags, *arguments, environment=environment
    ) as running:
        yield running, token_file


def refused_start(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a command that must end by itself, and soon."""
    return subprocess.run(
        [command(name), *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def listening(pids: set[int]) -> set[tuple[str, int]]:
    """The TCP sockets on which the processes listen, and the UDP ones that they have bound."""
    inodes = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    inodes.add(os.readlink(link).removeprefix("socket:[").removesuffix("]"))
    found = set()
    for table, state in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == state and fields[9] in inodes:
                found.add(_address_of(fields[1]))
    return found


def _address_of(text: str) -> tuple[str, int]:
    host, port = text.split(":")
    words = [bytes.fromhex(host[at : at + 8])[::-1] for at in range(0, len(host), 8)]
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    address = socket.inet_ntop(family, b"".join(words))
    # gRPC listens on an IPv4 address by a socket of IPv6.
    return address.removeprefix("::ffff:"), int(port, 16)


def family_of(pid: int) -> set[int]:
    """A process and all that descend from it."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while True:
        more = {child for child, parent in parents.items() if parent in found} - found
        if not more:
            return found
        found |= more


def children_of_another_user(source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python source as nobody, who has no right to anything of ours."""
    return subprocess.run(
        ["/usr/bin/env", "-i", PUBLIC_PYTHON, "-I", "-S", "-c", source, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        user=65534,
        group=65534,
        extra_groups=[],
        cwd="/",
    )


class Nodes:
    """The `rostral` command with a runtime directory of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "ROSTRAL_RUNTIME_DIR": str(folder)}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs one command to its end."""
        return self._run([command("rostral"), *arguments])

    def program(
        self, source: str, *arguments: str, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs a driver program to its end."""
        return self._run([sys.executable, "-c", source, *arguments], **environment)

    def _run(self, words: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )

    def start(self, *arguments: str) -> str:
        """Starts a node; returns its cluster's address."""
        memory = ["--num-cpus", "1", "--object-store-memory", str(64 << 20)]
        result = self.run("start", *memory, *arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout.split("cluster at ")[1].split()[0]

    def records(self) -> list[dict[str, Any]]:
        """What the running nodes say of themselves."""
        files = (self.folder / "nodes").glob("*.json")
        return [json.loads(file.read_text()) for file in files]


@contextlib.contextmanager
def nodes(folder: Path) -> Iterator[Nodes]:
    """A place for nodes, all of which are stopped at the end."""
    place = folder / "run"
    place.mkdir(mode=0o700, exist_ok=True)
    line = Nodes(place)
    try:
        yield line
    finally:
        assert line.run("stop").returncode == 0
