"""`rostral doctor` and `rostral debug-bundle`: what is wrong here, and what helps others to see it.

A check looks and changes nothing. A bundle holds no token, no environment and no object.
"""

from __future__ import annotations

import io
import json
import os
import platform
import re
import resource
import shutil
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal

import click

from rostral.cli.logs import log_files
from rostral.cli.output import EXIT_FAILED, json_option, show, show_json
from rostral.cli.reach import ask, timeout_option
from rostral.session import live_records, runtime_dir
from rostral_gcs.errors import AlreadyExistsError, RostralError

_PACKAGES: Final = (
    "rostral-gcs",
    "rostral-objectstore",
    "rostral-scheduler",
    "rostral",
    "rostral-rl",
)
_FILES_MIN: Final = 4096
_FREE_SHARE_MIN: Final = 0.05
_LOG_BYTES_MAX: Final = 1 << 20
# What a token, key or password looks like in a line of somebody's log.
_SECRET: Final = re.compile(
    r"(?i)((?:token|secret|password|passwd|api[_-]?key|authorization|bearer)\W{1,4}"
    r"(?:bearer\s+)?)[^\s\"',;&]{6,}"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    result: Literal["ok", "warning", "failed"]
    detail: str
    advice: str = ""


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _check_versions(_: float) -> Iterator[Finding]:
    found = _versions()
    told = ", ".join(f"{name} {version}" for name, version in found.items())
    if len(set(found.values())) > 1:
        yield Finding("versions", "failed", told, "install the same version of all")
    else:
        yield Finding("versions", "ok", told)


def _check_runtime_dir(_: float) -> Iterator[Finding]:
    path = runtime_dir()  # which refuses what is not ours alone
    usage = shutil.disk_usage(path)
    if usage.free < usage.total * _FREE_SHARE_MIN:
        advice = "make room, or set ROSTRAL_RUNTIME_DIR"
        yield Finding("runtime directory", "warning", f"{path} is nearly full", advice)
    else:
        yield Finding("runtime directory", "ok", f"{path}, ours alone")


def _check_file_limit(_: float) -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    told = f"{soft} open files, {hard} at most"
    if hard != resource.RLIM_INFINITY and hard < _FILES_MIN:
        yield Finding("open files", "warning", told, f"raise the limit to {_FILES_MIN} or more")
    else:
        yield Finding("open files", "ok", told)


def _check_memory(_: float) -> Iterator[Finding]:
    facts = dict(
        line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line
    )
    total, free = (int(facts[key].split()[0]) for key in ("MemTotal", "MemAvailable"))
    told = f"{free / 1e6:.1f} of {total / 1e6:.1f} GB free"
    if free < total * _FREE_SHARE_MIN:
        yield Finding("memory", "warning", told, "end something, or give the store less")
    else:
        yield Finding("memory", "ok", told)


def _check_nodes(timeout_s: float) -> Iterator[Finding]:
    records = live_records()
    if not records:
        yield Finding("nodes", "warning", "none of this user runs here", "rostral start --head")
    for record in records:
        name = f"node {record.node_id[:8]}"
        for path, method in ((record.store_socket, "stats"), (record.scheduler_socket, "status")):
            try:
                ask(path, method, {}, timeout_s=timeout_s)
            except RostralError as error:
                yield Finding(name, "failed", str(error), "rostral logs node.log")
                break
        else:
            yield Finding(name, "ok", f"store and scheduler answer, pid {record.pid}")


CHECKS: Final[dict[str, Callable[[float], Iterator[Finding]]]] = {
    "versions": _check_versions,
    "runtime directory": _check_runtime_dir,
    "open files": _check_file_limit,
    "memory": _check_memory,
    "nodes": _check_nodes,
}


def examine(timeout_s: float) -> list[Finding]:
    """Makes every check; one that cannot be made has failed."""
    found: list[Finding] = []
    for name, check in CHECKS.items():
        try:
            found += check(timeout_s)
        except (RostralError, OSError, ValueError) as error:
            found.append(Finding(name, "failed", str(error)))
    return found


@click.command()
@timeout_option
@json_option
def doctor(*, timeout_s: float, as_json: bool) -> None:
    r"""Check this machine and this user's nodes on it; exit with 1 if something is wrong.

    \b
    rostral doctor
    rostral doctor --json
    """
    found = examine(timeout_s)
    columns = {"CHECK": "check", "RESULT": "result", "FOUND": "detail", "TRY": "advice"}
    show("checks", [asdict(one) for one in found], columns, as_json=as_json)
    if any(one.result == "failed" for one in found):
        sys.exit(EXIT_FAILED)


def redact(text: str) -> str:
    """The text without what looks like a secret."""
    return _SECRET.sub(r"\1<redacted>", text)


def _states(timeout_s: float) -> Iterator[tuple[str, str]]:
    for record in live_records():
        for method, path in (("status", record.scheduler_socket), ("stats", record.store_socket)):
            try:
                state: Any = ask(path, method, {}, timeout_s=timeout_s)
            except RostralError as error:
                state = {"error": str(error)}
            yield f"nodes/{record.node_id}/{method}.json", json.dumps(state, default=repr, indent=1)


@click.command("debug-bundle")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where. [default: rostral-debug-TIME.tar.gz]",
)
@timeout_option
@json_option
def debug_bundle(*, out: Path | None, timeout_s: float, as_json: bool) -> None:
    r"""Pack logs, states and checks into one file to send along with a report.

    It holds no tokens, no environment variables and no objects; look into it all the same.

    \b
    rostral debug-bundle --out bundle.tar.gz
    """
    path = out or Path(f"rostral-debug-{time.strftime('%Y%m%d-%H%M%S')}.tar.gz")
    parts = {
        "machine.json": json.dumps(
            {
                "versions": _versions(),
                "python": platform.python_version(),
                "kernel": platform.release(),
                "cpus": os.cpu_count(),
            }
        ),
        "doctor.json": json.dumps([asdict(one) for one in examine(timeout_s)], indent=1),
        **dict(_states(timeout_s)),
    }
    try:
        for name, file in log_files().items():
            with file.open("rb") as stream:
                stream.seek(max(0, file.stat().st_size - _LOG_BYTES_MAX))
                parts[f"logs/{name}"] = stream.read(_LOG_BYTES_MAX).decode(errors="replace")
    except ConnectionError:
        click.echo("no node of this user runs here: the bundle has no logs", err=True)
    _pack(path, {name: redact(text) for name, text in parts.items()})
    if as_json:
        show_json({"path": str(path), "files": sorted(parts)})
    else:
        click.echo(f"{path} holds {len(parts)} files")


def _pack(path: Path, parts: dict[str, str]) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise AlreadyExistsError(f"{path} exists already", hint="choose another --out") from error
    with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as bundle:
        for name, text in parts.items():
            data = text.encode(errors="replace")
            info = tarfile.TarInfo(f"rostral-debug/{name}")
            info.size, info.mtime, info.mode = len(data), int(time.time()), 0o600
            bundle.addfile(info, io.BytesIO(data))
