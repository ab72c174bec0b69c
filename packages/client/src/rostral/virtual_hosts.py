"""Hosts that are not there: network namespaces of this machine, each with a cable to one switch.

This file owns the commands `ip` and `tc` that make them, cut them off and slow them down. Needs
root. What a process that was killed has left is removed by the next that makes any.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rostral.exceptions import ClusterUnavailableError

__all__ = ["Host", "Switch"]

_NETWORK = "10.213"
_HOSTS_MAX = 250
_BURST_BYTES = 64 << 10
_QUEUE_S = 1
"""How much of a slow cable's traffic waits at most; what comes beyond is lost, and sent again."""


@dataclass(frozen=True, slots=True)
class Host:
    """One host, or (without a name) this machine itself.

    Attributes:
        name: Of its namespace.
        cable: The switch's end of its cable.
        address: Its IPv4 address.
    """

    name: str
    cable: str
    address: str

    @property
    def entering(self) -> tuple[str, ...]:
        """The command line that runs what follows it there."""
        return ("nsenter", f"--net=/run/netns/{self.name}", "--") if self.name else ()

    @property
    def _of(self) -> tuple[str, ...]:
        return ("-n", self.name) if self.name else ()

    def ip(self, *words: str) -> None:
        """Runs `ip` there."""
        _run("ip", *self._of, *words)

    def tc(self, *words: str) -> None:
        """Runs `tc` there."""
        _run("tc", *self._of, *words)


class Switch:
    """What the hosts' cables lead to; this machine has one, too, and the first address.

    Raises ClusterUnavailableError where none can be made: it needs root, and `ip` of iproute2.
    """

    def __init__(self) -> None:
        self._hosts: list[Host] = []
        self._cuts: set[tuple[Host, Host]] = set()
        self._name = f"rsw{os.getpid()}"
        _remove_left_over()
        network = self._add()
        self.here = Host("", self._name, f"{network}.1")

    def _add(self) -> str:
        """The switch, and a network that nobody here uses; its first three bytes."""
        taken = {
            known["local"]
            for link in json.loads(_run("ip", "-json", "-4", "addr") or "[]")
            for known in link["addr_info"]
        }
        number = next(one for one in range(256) if f"{_NETWORK}.{one}.1" not in taken)
        network = f"{_NETWORK}.{number}"
        _run("ip", "link", "add", self._name, "type", "bridge")
        _run("ip", "addr", "add", f"{network}.1/24", "dev", self._name)
        _run("ip", "link", "set", self._name, "up")
        return network

    def add_host(self) -> Host:
        """Another host, with its cable plugged in. Raises ClusterUnavailableError."""
        number = len(self._hosts) + 2
        if number > _HOSTS_MAX:
            raise ClusterUnavailableError(f"a switch has {_HOSTS_MAX} hosts at most")
        network = self.here.address.rpartition(".")[0]
        name = f"{self._name}-{number}"
        host = Host(name, f"rc{os.getpid()}-{number}", f"{network}.{number}")
        _run("ip", "netns", "add", name)
        self._hosts.append(host)
        peer = ("peer", "name", "eth0", "netns", name)
        _run("ip", "link", "add", host.cable, "type", "veth", *peer)
        _run("ip", "link", "set", host.cable, "master", self._name, "up")
        host.ip("addr", "add", f"{host.address}/24", "dev", "eth0")
        host.ip("link", "set", "eth0", "up")
        host.ip("link", "set", "lo", "up")
        return host

    def unplug(self, host: Host) -> None:
        """Nothing passes between the host and any other."""
        _run("ip", "link", "set", host.cable, "down")

    def cut(self, source: Host, target: Host) -> None:
        """Nothing passes from the one to the other. What passes back does so still."""
        if (source, target) not in self._cuts:
            source.ip("route", "add", "blackhole", target.address)
            self._cuts.add((source, target))

    def heal(self) -> None:
        """Everything passes again, as fast as it can."""
        for source, target in self._cuts:
            source.ip("route", "del", "blackhole", target.address)
        self._cuts.clear()
        for host in self._hosts:
            _run("ip", "link", "set", host.cable, "up")
            for end, device in ((self.here, host.cable), (host, "eth0")):
                with contextlib.suppress(ClusterUnavailableError):  # It was not slow.
                    end.tc("qdisc", "del", "dev", device, "root")

    def slow(self, host: Host, bytes_per_s: int) -> None:
        """No more than so much passes to the host, and as much from it."""
        limits = ("rate", f"{8 * bytes_per_s}bit", "burst", str(_BURST_BYTES))
        for end, device in ((self.here, host.cable), (host, "eth0")):
            limit = str(max(_BURST_BYTES, _QUEUE_S * bytes_per_s))
            end.tc("qdisc", "replace", "dev", device, "root", "tbf", *limits, "limit", limit)

    def close(self) -> None:
        """The hosts and the switch go; nothing may run there any more. May be called twice."""
        for source, target in self._cuts:
            if not source.name:
                source.ip("route", "del", "blackhole", target.address)
        self._cuts.clear()
        while self._hosts:
            host = self._hosts.pop()
            # A namespace goes some time after its last process, and its cable with it.
            if Path("/sys/class/net", host.cable).exists():
                _run("ip", "link", "del", host.cable)
            _run("ip", "netns", "del", host.name)
        if Path("/sys/class/net", self._name).exists():
            _run("ip", "link", "del", self._name)


def _remove_left_over() -> None:
    """Of processes that are gone."""
    for name in _left_over(Path("/run/netns")):
        _run("ip", "netns", "del", name)
    for name in _left_over(Path("/sys/class/net")):
        _run("ip", "link", "del", name)


def _left_over(folder: Path) -> Iterator[str]:
    for path in folder.glob("rsw*"):
        pid = path.name.removeprefix("rsw").partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            yield path.name


def _run(*command: str) -> str:
    """What the command printed. Raises ClusterUnavailableError with what it says is wrong."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or error
        raise ClusterUnavailableError(
            f"hosts of their own cannot be had here: `{' '.join(command)}`: {str(said).strip()}",
            hint="it needs root, network namespaces, and the commands of iproute2",
        ) from error
