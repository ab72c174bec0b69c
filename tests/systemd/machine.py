"""A machine for tests: the system's own systemd, booted in namespaces beside everything else.

Owns the boot, the way in, and that nothing is left of it. It needs root, Linux namespaces and
control groups; ``why_not`` says what is missing. Nothing that happens in it is seen outside: it has
its own processes, network, mounts and control groups, and writes to memory.
"""

from __future__ import annotations

import contextlib
import os
import pty
import secrets
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

BOOT_TIMEOUT_S: Final = 20.0
CGROUPS: Final = Path("/sys/fs/cgroup")
SYSTEMD: Final = Path("/lib/systemd/systemd")
COMMANDS: Final = ("unshare", "nsenter", "mount", "setpriv", "systemd-analyze", "ss", "ps", "curl")
NAMESPACES: Final = ("-m", "-p", "-C", "-u", "-i", "-n")


def why_not() -> str | None:
    """Why no machine can be booted here; None if one can, as far as can be seen."""
    if os.geteuid() != 0:
        return "a systemd of our own needs root"
    if not SYSTEMD.exists():
        return f"there is no {SYSTEMD}: apt-get install systemd"
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if missing:
        return f"commands are missing: {', '.join(missing)}"
    tried = subprocess.run(
        ["unshare", "-mpCuin", "--fork", "--mount-proc", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode:
        return f"namespaces are not allowed here: {tried.stderr.strip()}"
    try:
        with _own_cgroups(f"rostral-try-{os.getpid()}"):
            pass
    except OSError as error:
        return f"control groups cannot be made here: {error}"
    return None


@contextlib.contextmanager
def _own_cgroups(name: str) -> Iterator[list[Path]]:
    """Control groups of our own, in every hierarchy that systemd uses."""
    if (CGROUPS / "cgroup.controllers").exists():
        roots = [CGROUPS]
    else:
        names = ("unified", "systemd", "memory", "pids")
        roots = [CGROUPS / name for name in names if (CGROUPS / name).is_dir()]
    made: list[Path] = []
    try:
        for root in roots:
            (root / name).mkdir()
            made.append(root / name)
        yield made
    finally:
        for folder in made:
            _remove_cgroup(folder)


def _remove_cgroup(folder: Path) -> None:
    # Depth first; a group whose last process is only just dying is busy for a moment.
    deadline = time.monotonic() + 10.0
    for inner in [*sorted(folder.rglob("*/"), key=lambda path: -len(path.parts)), folder]:
        while inner.is_dir():
            try:
                inner.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)


class Machine:
    """One booted machine; ``booted`` makes it.

    Attributes:
        pid: Of its first process, as the host counts.
        console: What its systemd has said.
    """

    def __init__(self, pid: int, cgroups: Sequence[Path]) -> None:
        self.pid = pid
        self.cgroups = list(cgroups)
        self.console = bytearray()

    def run(
        self,
        *command: str,
        user: str | None = None,
        check: bool = True,
        timeout_s: float = 60.0,
        environ: dict[str, str] | None = None,
        text: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command in the machine to its end."""
        result = subprocess.run(
            self.command(*command, user=user, environ=environ),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            input=text,
        )
        if check and result.returncode:
            raise AssertionError(
                f"{' '.join(command)} ended with {result.returncode}\n{result.stdout}\n"
                f"{result.stderr}\n{self.outputs()}"
            )
        return result

    def command(
        self, *command: str, user: str | None = None, environ: dict[str, str] | None = None
    ) -> list[str]:
        """What to run on the host for a command in the machine."""
        variables = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": "/tmp",
            **(environ or {}),
        }
        as_user: list[str] = []
        if user is not None:
            group = self.run("id", "-g", user).stdout.strip()
            as_user = ["setpriv", f"--reuid={user}", f"--regid={group}", "--init-groups"]
        return [
            *("nsenter", "-t", str(self.pid), *NAMESPACES, "--"),
            *as_user,
            *("env", "-i", *(f"{name}={value}" for name, value in variables.items())),
            *command,
        ]

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        """Asks the machine's service manager."""
        return self.run("systemctl", *arguments, check=check).stdout.strip()

    def state(self, unit: str, name: str = "ActiveState") -> str:
        """One property of a unit."""
        return self.systemctl("show", "--value", "--property", name, unit)

    def main_pid(self, unit: str) -> int:
        """Its main process, as the machine counts."""
        return int(self.state(unit, "MainPID"))

    def read(self, path: str) -> str:
        """A file of the machine."""
        return self.run("cat", path).stdout

    def write(self, path: str, text: str) -> None:
        """Makes a file in the machine."""
        self.run("mkdir", "-p", str(Path(path).parent))
        self.run("tee", path, text=text)

    def drop_in(self, unit: str, text: str) -> None:
        """Changes a unit, as ``systemctl edit`` does."""
        self.write(f"/etc/systemd/system/{unit}.d/test.conf", text)
        self.systemctl("daemon-reload")

    def eventually(self, what: Callable[[], object], said: str, timeout_s: float = 15.0) -> None:
        """Waits until something holds."""
        deadline = time.monotonic() + timeout_s
        while not what():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {timeout_s:g} s: {said}\n{self.outputs()}")
            time.sleep(0.02)

    def console_since_boot(self) -> str:
        """What the service manager has said."""
        return bytes(self.console).decode(errors="replace")

    def outputs(self) -> str:
        """What services and the manager have written, for a failure's message."""
        listed = subprocess.run(
            self.command("sh", "-c", "tail -n 60 /run/output-* 2>/dev/null"),
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        return f"{listed}\n--- console ---\n{bytes(self.console[-6000:]).decode(errors='replace')}"


@contextlib.contextmanager
def booted(exposed: Sequence[Path]) -> Iterator[Machine]:
    """Boots a machine, and ends it with everything in it.

    Args:
        exposed: Folders of the host that it sees below ``/srv/exposed/1``, ``2``, ...
    """
    name = f"rostral-test-{os.getpid()}-{secrets.token_hex(2)}"
    with _own_cgroups(name) as cgroups:
        master, slave = pty.openpty()
        join = "; ".join(f"echo $$ > {folder}/cgroup.procs" for folder in cgroups)
        boot = Path(__file__).with_name("boot.sh")
        start = f'{join}; exec unshare -mpCuin --fork --mount-proc --kill-child bash "$@"'
        process = subprocess.Popen(
            ["bash", "-c", start, "bash", str(boot), name, *map(str, exposed)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        try:
            machine = Machine(0, cgroups)
            reader = threading.Thread(target=_read_console, args=(master, machine), daemon=True)
            reader.start()
            machine.pid = _first_child(process, machine)
            _wait_booted(machine, process)
            yield machine
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            process.wait()
            os.close(master)


def _read_console(master: int, machine: Machine) -> None:
    with contextlib.suppress(OSError):
        while data := os.read(master, 65536):
            machine.console += data


def _first_child(process: subprocess.Popen[bytes], machine: Machine) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        found = children.read_text().split()
        if found:
            return int(found[0])
        time.sleep(0.01)
    raise AssertionError(f"the machine did not begin to boot: {bytes(machine.console).decode()}")


def _wait_booted(machine: Machine, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        if Path(f"/proc/{machine.pid}/comm").read_text() == "systemd\n":
            result = machine.run("systemctl", "is-active", "machine.target", check=False)
            if result.stdout.strip() == "active":
                return
        time.sleep(0.05)
    raise AssertionError(f"the machine did not boot: {bytes(machine.console).decode()}")
