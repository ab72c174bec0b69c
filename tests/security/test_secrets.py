"""S24, S29: the token is in its file and nowhere else; a job's environment stays the job's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from rostral_gcs.auth import load_token, write_token
from rostral_gcs.config import GcsConfig
from rostral_gcs.credentials import Credentials
from rostral_scheduler import LocalSchedulerConfig
from rostral_scheduler.global_.config import GlobalSchedulerConfig

from .services import Service, command, family_of, gcs, nodes, refused_start

CANARY = "canary-" + "c" * 32


def told_by_process(pid: int) -> bytes:
    """What `ps` and `/proc` tell of it and all that it started."""
    found = b""
    for member in family_of(pid):
        for name in ("cmdline", "environ", "comm"):
            try:
                found += Path(f"/proc/{member}/{name}").read_bytes()
            except OSError:
                continue
    return found


def test_the_token_is_in_no_command_line_environment_or_log(folder: Path) -> None:
    (folder / "token").touch(mode=0o600)
    (folder / "token").write_text(CANARY)
    with (
        gcs(folder, "--log-level", "debug") as (running, token_file),
        nodes(folder) as line,
    ):
        assert load_token(token_file) == CANARY
        line.start("--address", running.address, "--token-file", str(token_file))
        (record,) = line.records()
        source = (
            "import sys, rostral\nrostral.init(sys.argv[1])\n"
            "@rostral.remote\ndef f():\n"
            "    import os\n"
            "    return sorted(os.environ.items()), open('/proc/self/cmdline').read()\n"
            "print(rostral.get(f.remote()), rostral.nodes(), rostral.cluster_resources())\n"
        )
        ran = line.program(source, running.address)
        assert ran.returncode == 0, ran.stderr
        seen = ran.stdout + ran.stderr + running.said() + line.run("status", "--json").stdout
        seen += "".join(
            file.read_text(errors="replace") for file in Path(record["session_dir"]).rglob("*.log")
        )
        assert "rostral" in seen
        assert CANARY not in seen
        assert CANARY.encode() not in told_by_process(record["pid"])
        assert CANARY.encode() not in told_by_process(running.process.pid)


def test_no_configuration_or_credential_shows_the_token(tmp_path: Path) -> None:
    file = tmp_path / "token"
    token = write_token(file)
    shown = [
        GcsConfig(data_dir=tmp_path, token=token),
        GlobalSchedulerConfig(gcs_address="h:1", token=token),
        LocalSchedulerConfig(
            store_socket="s", socket_path="p", session_dir=tmp_path, num_cpus=1, gcs_token=token
        ),
        Credentials(token_file=str(file)).load(),
    ]
    assert not [one for one in shown if token in f"{one!r} {one!s}"]


def test_a_failing_command_does_not_print_the_token(
    tmp_path: Path, gcs_with_token: tuple[Service, Path]
) -> None:
    file = tmp_path / "token"
    token = write_token(file)
    running, _ = gcs_with_token
    ended = refused_start(
        *("rostral", "start", "--address", running.address, "--token-file", str(file))
    )
    assert ended.returncode == 4, ended
    assert "UNAUTHENTICATED" in ended.stderr
    assert token not in ended.stderr + ended.stdout


def test_what_a_job_sets_reaches_no_daemon_and_no_other_job(folder: Path) -> None:
    setting = """
import sys, rostral
rostral.init(sys.argv[1])
@rostral.remote(runtime_env={"env_vars": {"LD_DEBUG_OUTPUT": "CANARY", "ROSTRAL_X": "CANARY",
                                          "PYTHONSTARTUP": "CANARY"}})
def f():
    import os
    return os.environ["ROSTRAL_X"]
print(rostral.get(f.remote()))
"""
    looking = """
import sys, rostral
rostral.init(sys.argv[1])
@rostral.remote
def f():
    import os
    return [name for name in os.environ if "CANARY" in os.environ[name]]
print(rostral.get([f.remote() for _ in range(20)]) == [[]] * 20)
"""
    with nodes(folder) as line:
        address = line.start("--head", "--port", "0")
        (record,) = line.records()
        ran = line.program(setting, address, ROSTRAL_Y="CANARY", MY_SECRET="CANARY")
        assert ran.stdout == "CANARY\n", ran.stderr
        looked = line.program(looking, address)
        assert looked.stdout == "True\n", looked.stderr
        environ = Path(f"/proc/{record['pid']}/environ").read_bytes()
        assert b"CANARY" not in environ


def test_a_token_made_by_the_command_is_not_printed(tmp_path: Path) -> None:
    file = tmp_path / "token"
    made = subprocess.run(
        [command("rostral-gcs"), "token", str(file)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ},
    )
    assert load_token(file) not in made.stdout + made.stderr
