"""Making what an environment needs on disk: unpacked packages, and virtual environments.

This file owns the commands that are run and the errors that they end with. Where the results are
kept, and that each is made once, is the affair of ``environment_cache.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import lzma
import os
import shutil
import signal
import struct
import sys
import sysconfig
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rostral_scheduler.environment import EnvironmentSpec
from rostral_scheduler.errors import RuntimeEnvSetupError
from rostral_scheduler.local.environment_cache import Cache, Lease

__all__ = ["PreparedFiles", "prepare_files"]

UNPACKED_SIZE_MAX: Final = 8 << 30
"""Bytes that a package may have when unpacked: a small file can claim any size."""
_SAID_LINES: Final = 20
# What `zipfile` lets through of a file that is damaged, encrypted, or packed in an unknown way.
_BROKEN_ZIP: Final = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, RuntimeError, ValueError, LookupError, OverflowError),
)


@dataclass(slots=True)
class PreparedFiles:
    """What lies ready for an environment's workers.

    Attributes:
        python_path: To go at the head of their import path.
        working_dir: Their directory; empty: their job's.
        interpreter: The command that is their interpreter; empty: the node's own.
        site_packages: Where the requirements lie, to go behind the packages; empty: none.
        leases: What must not be removed while the environment is in use.
    """

    python_path: list[str] = field(default_factory=list)
    working_dir: str = ""
    interpreter: str = ""
    site_packages: str = ""
    leases: list[Lease] = field(default_factory=list)

    def release(self) -> None:
        """Nobody uses them any more. May be called twice."""
        while self.leases:
            self.leases.pop().end()


async def prepare_files(
    spec: EnvironmentSpec, files: Path, packages: Cache, venvs: Cache, *, uid: int | None = None
) -> PreparedFiles:
    """Unpacks and installs what the environment needs; what is there already is taken as it is.

    Args:
        spec: The environment.
        files: Where drivers have put packages, by name.
        packages: Unpacked ones.
        venvs: Virtual environments.
        uid: Of who installs: what is installed may run code of its own. None: we do.

    Raises: RuntimeEnvSetupError, with what went wrong.
    """
    prepared = PreparedFiles()
    try:
        if spec.working_dir:
            lease = await _unpacked(spec.working_dir, files, packages)
            prepared.leases.append(lease)
            prepared.working_dir = str(_root_of(lease.path / "content", spec.working_dir))
            prepared.python_path.append(prepared.working_dir)
        for module in spec.py_modules:
            lease = await _unpacked(module, files, packages)
            prepared.leases.append(lease)
            prepared.python_path.append(str(lease.path / "content"))
        if spec.installer:
            lease = await venvs.lease(_venv_name(spec), lambda path: _make_venv(path, spec, uid))
            prepared.leases.append(lease)
            prepared.interpreter = str(lease.path / "bin" / "python")
            prepared.site_packages = _site_packages(lease.path)
        prepared.interpreter = spec.py_executable or prepared.interpreter
    except OSError as error:
        prepared.release()
        raise _failed(f"{error.filename or 'a file'}: {error.strerror or error}") from error
    except BaseException:
        prepared.release()
        raise
    return prepared


def _failed(what: str, said: Sequence[str] = ()) -> RuntimeEnvSetupError:
    lines = "".join(f"\n  {line}" for line in said)
    return RuntimeEnvSetupError(f"the runtime environment cannot be made: {what}{lines}")


# ---- packages


async def _unpacked(name: str, files: Path, packages: Cache) -> Lease:
    archive = Path(name) if os.path.isabs(name) else files / Path(name).name
    if not archive.is_file():
        raise _failed(f"the package {archive} is not on this node")
    # A driver's package is named by its content; any other file can change under its name.
    key = archive.stem
    if os.path.isabs(name):
        key = await asyncio.to_thread(_digest, archive)

    async def make(path: Path) -> None:
        await asyncio.to_thread(_unpack, archive, path / "content")

    return await packages.lease(key, make)


def _root_of(content: Path, name: str) -> Path:
    """The directory itself, which zip files that people make mostly have at their top."""
    found = list(content.iterdir()) if os.path.isabs(name) else []
    return found[0] if len(found) == 1 and found[0].is_dir() else content


def _digest(archive: Path) -> str:
    with archive.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _unpack(archive: Path, target: Path) -> None:
    target.mkdir()
    try:
        with zipfile.ZipFile(archive) as package:
            size = sum(info.file_size for info in package.infolist())
            if size > UNPACKED_SIZE_MAX:
                raise _failed(f"{archive} unpacks to {size} bytes, over {UNPACKED_SIZE_MAX}")
            for info in package.infolist():
                # `extract` keeps every name below the target, whatever the archive says.
                path = Path(package.extract(info, target))
                mode = info.external_attr >> 16 & 0o777
                if mode and not info.is_dir():
                    path.chmod(mode | 0o640)
    except _BROKEN_ZIP as error:
        raise _failed(f"{archive} is no zip file: {error}") from error


# ---- virtual environments


def _venv_name(spec: EnvironmentSpec) -> str:
    """Named by what is installed, in whatever order it was written, and for which Python."""
    parts = (sys.version, sys.prefix, spec.installer, *sorted(spec.requirements), "--")
    text = "\0".join((*parts, *spec.install_options))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _site_packages(venv: Path) -> str:
    scheme = {"base": str(venv), "platbase": str(venv)}
    return sysconfig.get_path("purelib", "venv", scheme)


async def _make_venv(path: Path, spec: EnvironmentSpec, uid: int | None) -> None:
    """A virtual environment that also sees what the node's own Python has."""
    limit_s = spec.setup_timeout_s or None
    try:
        async with asyncio.timeout(limit_s):
            await _run([sys.executable, "-m", "venv", "--without-pip", str(path)], path, uid)
            await asyncio.to_thread(_see_node_packages, path)
            requirements = path / "requirements.txt"
            requirements.write_text("".join(f"{line}\n" for line in spec.requirements))
            command = _installer(spec.installer, path / "bin" / "python")
            await _run([*command, *spec.install_options, "-r", str(requirements)], path, uid)
    except TimeoutError as error:
        raise _failed(
            f"{spec.installer} was not done after {spec.setup_timeout_s:g} s "
            "(setup_timeout_seconds)"
        ) from error


def _see_node_packages(venv: Path) -> None:
    """Makes rostral, and all else beside it, importable there, behind what is installed there.

    `--system-site-packages` would do so for the interpreter's own packages alone, and a node mostly
    runs in a virtual environment itself.
    """
    own = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    lines = [f"import site; site.addsitedir({path!r})\n" for path in own]
    Path(_site_packages(venv), "_rostral_node.pth").write_text("".join(lines))


def _installer(name: str, python: Path) -> list[str]:
    if name == "uv":
        uv = shutil.which("uv")
        if uv is None and importlib.util.find_spec("uv") is None:
            raise _failed("this node has no uv: install it there, or use pip")
        program = [uv] if uv is not None else [sys.executable, "-m", "uv"]
        return [*program, "pip", "install", "--python", str(python)]
    if importlib.util.find_spec("pip") is None:
        raise _failed("this node's Python has no pip: install it there, or use uv")
    options = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    return [sys.executable, "-m", "pip", "--python", str(python), "install", *options]


async def _run(command: Sequence[str], folder: Path, uid: int | None) -> None:
    """Runs a command to its end; with it ends all that it started."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
        user=uid,
        extra_groups=None if uid is None else [],
        # We remove it one day, by the group that is ours and theirs.
        umask=-1 if uid is None else 0o007,
    )
    try:
        said, _ = await process.communicate()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise
    if process.returncode:
        lines = said.decode(errors="backslashreplace").splitlines()[-_SAID_LINES:]
        what = " ".join(command[1:4]) if command[0] == sys.executable else Path(command[0]).name
        raise _failed(f"{what} ended with status {process.returncode}; its last lines:", lines)
