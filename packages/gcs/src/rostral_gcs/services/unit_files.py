"""The systemd units of a package: written where systemd looks for them, and taken away again.

Owns where each kind of file goes and what is filled in. The files themselves are data of the
package that has the service, in its folder ``units``; the command is in ``commands.py``.

What a line of a unit may say besides what systemd knows:

    @bindir@                           the directory of the commands of this installation
    #@system ... #@end                 only for the system's manager
    #@user ... #@end                   only for a user's
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from rostral_gcs.errors import ConfigError, StorageError

__all__ = ["PlannedFile", "UnitFiles"]

_UNIT_SUFFIXES: Final = (".service", ".socket", ".target", ".slice")
_MAKE: Final = ("systemd-tmpfiles", "--create")
_COMMAND_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedFile:
    """One file that an installation writes.

    Attributes:
        path: Where.
        text: What.
        mode: Its permissions.
        kept: One that is there already stays as it is, also when the units are removed: somebody
            may have written to it.
    """

    path: Path
    text: str
    mode: int = 0o644
    kept: bool = False


class UnitFiles:
    """The files of one service.

    Args:
        package: The import package in whose folder ``units`` they lie.
        component: The service, as in ``rostral-<component>``; other units of the package, if they
            are listed, come with it.
        names: The units, without their folder.
        isolation: Further files, which have workers run as a user of their own; written when they
            are asked for.
        configuration: Makes the text of the service's first configuration file.
        token: The file of a token that the installation makes if there is none; None: it needs
            none, or one that others make.
    """

    def __init__(
        self,
        package: str,
        component: str,
        *,
        names: Sequence[str],
        configuration: Callable[[], str],
        token: str | None = None,
        isolation: Sequence[str] = (),
    ) -> None:
        self.component = component
        self.names = tuple(names)
        self.isolation = tuple(isolation)
        self._folder = resources.files(package) / "units"
        self._configuration = configuration
        self._token = token

    def plan(
        self, *, user: bool, root: Path = Path("/"), isolated: bool = False
    ) -> list[PlannedFile]:
        """Every file of an installation, in the order in which they are written.

        Args:
            user: For this user's service manager instead of the system's.
            root: Of the system that is installed to.
            isolated: With the files by which workers are another user's.

        Raises:
            ConfigError: Both ``user`` and ``isolated``.
        """
        if user and isolated:
            raise ConfigError(
                "--user and --isolate-workers are given together",
                hint="only the system's manager can start processes of another user",
            )
        units, configuration = _places(user=user, root=root)
        names = (*self.names, *(self.isolation if isolated else ()))
        planned = [
            PlannedFile(path=units / name, text=self._render(name, user=user)) for name in names
        ]
        if not user:
            planned += self._plan_users_and_directories(root)
        planned.append(
            PlannedFile(
                path=configuration / f"{self.component}.toml",
                text=self._configuration(),
                kept=True,
            )
        )
        return planned

    def token_path(self, *, user: bool, root: Path = Path("/")) -> Path | None:
        """Where the token is to lie, if this installation makes it."""
        return None if self._token is None else _places(user=user, root=root)[1] / self._token

    def _plan_users_and_directories(self, root: Path) -> list[PlannedFile]:
        planned = []
        for kind in ("sysusers", "tmpfiles"):
            source = self._folder / f"{self.component}.{kind}"
            if source.is_file():
                path = root / "etc" / f"{kind}.d" / f"rostral-{self.component}.conf"
                planned.append(PlannedFile(path=path, text=source.read_text("utf-8")))
        return planned

    def _render(self, name: str, *, user: bool) -> str:
        lines, kept = [], True
        for line in (self._folder / name).read_text("utf-8").splitlines():
            match line.strip():
                case "#@system":
                    kept = not user
                case "#@user":
                    kept = user
                case "#@end":
                    kept = True
                case _ if kept:
                    lines.append(line.replace("@bindir@", sysconfig.get_path("scripts")))
        return "\n".join(lines) + "\n"

    def install(self, *, user: bool, root: Path = Path("/"), isolated: bool = False) -> list[str]:
        """Writes the files and has the service manager read them. Returns what was done, in lines.

        Into another ``root`` files are written and nothing else happens.

        Raises:
            StorageError: A file cannot be written.
        """
        done = []
        for file in self.plan(user=user, root=root, isolated=isolated):
            if file.kept and file.path.exists():
                done.append(f"kept {file.path}")
                continue
            _write(file)
            done.append(f"wrote {file.path}")
        if root != Path("/"):
            return done
        done += self._make_token(user=user)
        for command, kind in ((("systemd-sysusers",), "sysusers"), (_MAKE, "tmpfiles")):
            if not user and (self._folder / f"{self.component}.{kind}").is_file():
                done += _run_if_there(*command, f"rostral-{self.component}.conf")
        return done + _reload(user=user)

    def _make_token(self, *, user: bool) -> list[str]:
        path = self.token_path(user=user)
        if path is None or path.exists():
            return []
        from rostral_gcs.auth import write_token

        write_token(path)
        return [f"wrote {path}, of mode 0600: whoever calls the service must show it"]

    def uninstall(self, *, user: bool, root: Path = Path("/")) -> list[str]:
        """Stops the services and removes what ``install`` wrote, but for configuration and data.

        Raises:
            StorageError: A file cannot be removed.
        """
        done = []
        if root == Path("/"):
            manager = ("--user",) if user else ()
            units = [name for name in self.names if "@." not in name]
            done += _run_if_there("systemctl", *manager, "disable", "--now", *units)
        for file in self.plan(user=user, root=root, isolated=not user):
            if not file.kept and file.path.exists():
                with _storage_errors(file.path, "removed"):
                    file.path.unlink()
                done.append(f"removed {file.path}")
        return done + (_reload(user=user) if root == Path("/") else [])


def _places(*, user: bool, root: Path) -> tuple[Path, Path]:
    """Where units lie, and where configuration does."""
    if not user:
        return root / "etc/systemd/system", root / "etc/rostral"
    if root != Path("/"):
        raise ConfigError(
            "--root and --user are given together", hint="a user's units lie in the home"
        )
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return home / "systemd/user", home / "rostral"


def _write(file: PlannedFile) -> None:
    with _storage_errors(file.path, "written"):
        file.path.parent.mkdir(parents=True, exist_ok=True)
        # Renamed into place: a manager that reads meanwhile sees the old file or the new one.
        scratch = file.path.with_name(f".{file.path.name}.{os.getpid()}")
        scratch.write_text(file.text, encoding="utf-8")
        scratch.chmod(file.mode)
        scratch.rename(file.path)


@contextlib.contextmanager
def _storage_errors(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path} cannot be {what}: {error.strerror}",
            hint="run it as root, or with --user for services of your own",
        ) from error


def _reload(*, user: bool) -> list[str]:
    return _run_if_there("systemctl", *(("--user",) if user else ()), "daemon-reload")


def _run_if_there(command: str, *arguments: str) -> list[str]:
    """Runs a command of systemd's. What it says against it is told, and ends nothing."""
    if shutil.which(command) is None:
        return [f"not run, since it is not there: {command} {' '.join(arguments)}"]
    line = f"{command} {' '.join(arguments)}"
    try:
        result = subprocess.run(
            [command, *arguments],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=_COMMAND_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return [f"ran {line}: no answer within {_COMMAND_TIMEOUT_S:.0f} s"]
    if result.returncode:
        return [f"ran {line}: failed, {result.stderr.strip() or result.returncode}"]
    return [f"ran {line}"]
