"""A service's talk with systemd: readiness, watchdog, reload, descriptors, credentials."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rostral_gcs import load_token, write_token
from rostral_gcs.errors import ConfigError, StorageError, TokenFileError
from rostral_gcs.services import systemd
from rostral_gcs.services.life import ServiceLife


class Manager:
    """The listening end of $NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(10)

    def heard(self) -> list[str]:
        """The lines of the next message."""
        return self.socket.recv(4096).decode().split("\n")


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    yield manager
    manager.socket.close()


def test_without_a_manager_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not systemd.notify("READY=1")


def test_a_manager_that_is_gone_stops_no_service(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert not systemd.notify("READY=1")


def test_who_serves_under_a_manager_hides_its_memory(manager: Manager) -> None:
    program = (
        "import asyncio, ctypes; from rostral_gcs.services.life import ServiceLife\n"
        "async def serve():\n"
        "    async with ServiceLife(): return ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)\n"
        "print(asyncio.run(serve()))\n"
    )
    for managed, dumpable in ((True, "0\n"), (False, "1\n")):
        environ = {k: v for k, v in os.environ.items() if managed or k != "NOTIFY_SOCKET"}
        command = [sys.executable, "-c", program]
        result = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        assert (result.stdout, result.stderr) == (dumpable, "")


def test_descriptors_reach_the_manager(manager: Manager) -> None:
    ours, theirs = os.pipe()
    assert systemd.notify("FDSTORE=1", fds=[theirs])
    os.close(theirs)
    message, fds, _, _ = socket.recv_fds(manager.socket, 100, 4)
    assert message == b"FDSTORE=1"
    os.write(fds[0], b"here")
    assert os.read(ours, 10) == b"here"
    for fd in (ours, *fds):
        os.close(fd)


def test_the_watchdog_is_fed_twice_as_often_as_it_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    assert systemd.watchdog_interval_s() == 1.5
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert systemd.watchdog_interval_s() is None


def test_inherited_descriptors_are_given_by_name_once() -> None:
    program = (
        "import os; from rostral_gcs.services.systemd import inherited_fds\n"
        "os.environ['LISTEN_PID'] = str(os.getpid())\n"
        "fds = inherited_fds('ours')\n"
        "assert fds == [4], fds\n"
        "assert not os.get_inheritable(4)\n"
        "assert inherited_fds('ours') == []\n"
        "try: os.fstat(3)\n"
        "except OSError: print('closed')\n"
    )
    read, write = os.pipe()
    command = f'exec 3<&{read} 4>&{write}; exec {sys.executable} -c "$0"'
    result = subprocess.run(
        ["bash", "-c", command, program],
        pass_fds=[read, write],
        env={**os.environ, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "others:ours"},
        capture_output=True,
        text=True,
        check=False,
    )
    os.close(read)
    os.close(write)
    assert (result.stdout, result.stderr) == ("closed\n", "")


@pytest.mark.parametrize(
    ("names", "said"), [("ours:others", "127.0.0.1"), ("ours:ours", "listens at 2 addresses")]
)
def test_a_socket_that_the_manager_holds_is_taken_over(names: str, said: str) -> None:
    program = (
        "import os; from rostral_gcs.errors import ConfigError\n"
        "from rostral_gcs.services.systemd import inherited_socket\n"
        "os.environ['LISTEN_PID'] = str(os.getpid())\n"
        "try: print(inherited_socket('ours').getsockname()[0])\n"
        "except ConfigError as error: print(error)\n"
        "assert inherited_socket('ours') is None\n"
    )
    local = ("127.0.0.1", 0)
    with socket.create_server(local) as one, socket.create_server(local) as other:
        fds = (one.fileno(), other.fileno())
        command = f'exec 3<&{fds[0]} 4<&{fds[1]}; exec {sys.executable} -c "$0"'
        result = subprocess.run(
            ["bash", "-c", command, program],
            pass_fds=fds,
            env={**os.environ, "LISTEN_FDS": "2", "LISTEN_FDNAMES": names},
            capture_output=True,
            text=True,
            check=False,
        )
    assert result.stderr == ""
    assert said in result.stdout


def test_a_credential_may_be_roots_with_an_access_list(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token = write_token(tmp_path / "token")
    (tmp_path / "token").chmod(0o440)
    with pytest.raises(TokenFileError, match="open to group or others"):
        load_token(tmp_path / "token")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    if os.geteuid() == 0:
        assert load_token(tmp_path / "token") == token
    assert systemd.credential("token") == tmp_path / "token"
    assert systemd.credential("another") is None
    (tmp_path / "token").chmod(0o444)
    with pytest.raises(TokenFileError, match="open to group or others"):
        load_token(tmp_path / "token")


def test_directories_are_those_of_the_unit() -> None:
    environ = {"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}
    assert systemd.directory("STATE", environ) == Path("/var/lib/a")
    assert systemd.directory("CACHE", environ) is None


def test_the_journal_is_given_priorities(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    status = os.fstat(2)
    program = (
        "import logging; from rostral_gcs.services.systemd import configure_logging\n"
        "configure_logging('info')\n"
        "logging.getLogger('a').error('two\\nlines')\n"
        "logging.getLogger('a').debug('not this')\n"
    )
    environ = {**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
    subprocess.run([sys.executable, "-c", program], env=environ, check=True)
    assert capfd.readouterr().err == "<3>a: two\n<3>lines\n"


def test_a_life_is_told_to_the_manager_from_ready_to_stopping(manager: Manager) -> None:
    async def live() -> None:
        async with ServiceLife() as life:
            life.ready("serving")
            os.kill(os.getpid(), signal.SIGTERM)
            await life.wait()

    asyncio.run(live())
    assert manager.heard() == ["READY=1", "STATUS=serving"]
    assert manager.heard()[0] == "STOPPING=1"


def test_the_watchdog_is_fed_after_work_and_not_without(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    probes = 0

    async def live() -> None:
        hangs = asyncio.Event()

        async def probe() -> None:
            nonlocal probes
            probes += 1
            if probes == 1:
                raise StorageError("the disk is full")
            if probes == 3:
                hangs.set()
                await asyncio.sleep(60)

        async with ServiceLife(probe=probe) as life:
            life.ready("serving")
            await hangs.wait()

    asyncio.run(live())
    manager.heard()
    manager.socket.setblocking(False)
    assert [manager.heard(), manager.heard()] == [["WATCHDOG=1"], ["WATCHDOG=1"]]
    with pytest.raises(BlockingIOError):
        manager.heard()


@pytest.mark.parametrize("is_good", [True, False])
def test_a_reload_is_told_and_a_refused_one_changes_nothing(
    manager: Manager, caplog: pytest.LogCaptureFixture, *, is_good: bool
) -> None:
    done = asyncio.Event()

    def reload() -> str:
        done.set()
        if not is_good:
            raise ConfigError("port is many")
        return "log_level is debug"

    async def live() -> None:
        async with ServiceLife(reload=reload) as life:
            life.ready("serving")
            os.kill(os.getpid(), signal.SIGHUP)
            await done.wait()

    with caplog.at_level(logging.INFO, "rostral.service"):
        asyncio.run(live())
    manager.heard()
    begun, monotonic = manager.heard()
    assert begun == "RELOADING=1"
    assert monotonic.startswith("MONOTONIC_USEC=")
    ready, status = manager.heard()
    assert ready == "READY=1"
    expected = "log_level is debug" if is_good else "not reloaded: CONFIG: port is many"
    assert status == f"STATUS=serving; {expected}"
    assert expected in caplog.text


def test_a_second_signal_ends_the_process_at_once() -> None:
    program = (
        "import asyncio\n"
        "from rostral_gcs.services.life import ServiceLife\n"
        "async def live():\n"
        "    async with ServiceLife() as life:\n"
        "        print('ready', flush=True)\n"
        "        await life.wait()\n"
        "        print('stopping', flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(live())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.terminate()
        assert process.stdout.readline() == b"stopping\n"
        process.terminate()
        assert process.wait(10) == 143
