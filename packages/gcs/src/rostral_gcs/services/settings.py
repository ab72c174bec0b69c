"""A service's configuration: one TOML file, environment and flags above it, every fault at once.

Owns what a setting is (``Setting``, made from the fields of a configuration's dataclass, which are
the one place where unit, default and reason stand), the layers and their order, and the words of
the errors. Which settings a service has is said beside its command line; the commands ``config
check`` and ``config show`` are in ``commands.py``.

The order, later ones above: default, file, environment (``ROSTRAL_<COMPONENT>_<KEY>``), flag. No
setting is a secret: secrets lie in files of their own, and settings name those.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import textwrap
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from rostral_gcs.errors import ConfigError, InsecureBindError
from rostral_gcs.services.docs import documented_fields
from rostral_gcs.services.kinds import Kind, kind_of

__all__ = ["DEFAULT", "Configured", "Flag", "Setting", "Settings", "settings_of"]

T = TypeVar("T")

DEFAULT: Final = "default"
_HINT: Final = "nothing was started; correct all of these"
# A setting is shown, and may be in the environment: a secret must be none.
_SECRETS: Final = ("token", "password", "secret")
_FILE_SIZE_MAX: Final = 1 << 20
_WIDTH: Final = 96
_KEY: Final = re.compile(r"\s*([A-Za-z0-9_-]+)\s*=")
_NAMED_FIRST: Final = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One key.

    Attributes:
        name: The key in the file; the flag is ``--name`` with dashes.
        kind: What values it takes.
        default: Its value when nobody says anything; called, if it can be, each time it is needed.
        about: What it is for, with its unit.
        default_text: How the default is described where its value depends on the machine.
    """

    name: str
    kind: Kind
    default: object
    about: str
    default_text: str | None = None

    def present_default(self) -> object:
        """What the default is here and now."""
        return self.default() if callable(self.default) else self.default

    def describe_default(self) -> str | None:
        """The default for people; None: there is none."""
        if self.default_text is not None:
            return self.default_text
        return None if self.default is None else self.kind.show(self.default)


@dataclass(frozen=True, slots=True)
class Flag:
    """What the command line says of a setting.

    Attributes:
        name: Of the flag, ``--port``.
        value: Of the setting.
    """

    name: str
    value: object


def settings_of(
    config_class: type,
    *,
    leave_out: Sequence[str] = (),
    defaults: Mapping[str, tuple[object, str | None]] | None = None,
) -> tuple[Setting, ...]:
    """The settings that a dataclass's fields stand for, in their order.

    Args:
        config_class: Documents each field, below it or under ``Attributes:``.
        leave_out: Fields that are no settings of the service.
        defaults: Other defaults than the class has, and how to describe them.

    Raises:
        ValueError: A field is a secret by its name: a mistake of ours.
    """
    other = defaults or {}
    found = []
    for field in documented_fields(config_class):
        if field.name in leave_out:
            continue
        if field.name.endswith(_SECRETS):
            raise ValueError(f"{field.name} is a secret: leave it out, and have a file named")
        default, default_text = other.get(field.name, (field.default, None))
        found.append(
            Setting(
                name=field.name,
                kind=kind_of(field.name, field.annotation),
                default=default,
                about=field.about,
                default_text=default_text,
            )
        )
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Configured(Generic[T]):
    """What all layers together say.

    Attributes:
        config: What the service is started with.
        values: Every setting's value.
        origins: Where each is from: ``default``, ``FILE:LINE``, ``$VARIABLE`` or ``--flag``.
    """

    config: T
    values: Mapping[str, Any]
    origins: Mapping[str, str]


class Settings(Generic[T]):
    """All settings of one service.

    Args:
        component: Its name, such as ``local-scheduler``.
        settings: In the order in which they are shown.
        build: Makes the service's checked configuration of the values. Raises ConfigError whose
            ``problems`` begin with the name of the setting that they are about.
    """

    def __init__(
        self,
        component: str,
        settings: Sequence[Setting],
        build: Callable[[Mapping[str, Any]], T],
    ) -> None:
        self.component = component
        self.settings = tuple(settings)
        self.by_name = {setting.name: setting for setting in settings}
        self._build = build
        self.prefix = f"ROSTRAL_{component.upper().replace('-', '_')}_"

    def read(
        self,
        file: Path | None = None,
        *,
        flags: Mapping[str, Flag] | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> Configured[T]:
        """Reads all layers.

        Args:
            file: None: no file.
            flags: What the command line says, by the name of the setting.
            environ: The environment.

        Raises:
            ConfigError: With every fault of every layer, each with its place.
        """
        values, origins, faults = self._read_layers(file, flags or {}, environ)
        config: T | None = None
        try:
            config = self._build(values)
        except (ConfigError, InsecureBindError) as error:
            if isinstance(error, InsecureBindError) and not faults.lines:
                raise
            for problem in _problems(error):
                faults.add_checked(problem, origins)
        if config is None or faults.lines:
            raise self._wrong(faults)
        return Configured(config, values, origins)

    def look(
        self, file: Path | None = None, *, environ: Mapping[str, str] = os.environ
    ) -> Configured[None]:
        """The same for somebody who only looks: not from within the service.

        Faults that the bare defaults have as well are none of the file's: what they depend on, such
        as directories, is there when the service runs.

        Raises:
            ConfigError: With every fault of file and environment, each with its place.
        """
        values, origins, faults = self._read_layers(file, {}, environ)
        bare = self._faults_of(self._read_layers(None, {}, {})[0])
        for problem in self._faults_of(values):
            if problem not in bare:
                faults.add_checked(problem, origins)
        if faults.lines:
            raise self._wrong(faults)
        return Configured(None, values, origins)

    def _faults_of(self, values: Mapping[str, Any]) -> list[str]:
        try:
            self._build(values)
        except (ConfigError, InsecureBindError) as error:
            return _problems(error)
        return []

    def _wrong(self, faults: _Faults) -> ConfigError:
        return ConfigError(
            f"the configuration of {self.component} is wrong:\n  " + "\n  ".join(faults.lines),
            hint=_HINT,
            problems=faults.lines,
        )

    def _read_layers(
        self, file: Path | None, flags: Mapping[str, Flag], environ: Mapping[str, str]
    ) -> tuple[dict[str, Any], dict[str, str], _Faults]:
        values: dict[str, Any] = {s.name: s.present_default() for s in self.settings}
        origins = dict.fromkeys(values, DEFAULT)
        faults = _Faults()
        if file is not None:
            self._read_file(file, values, origins, faults)
        self._read_environment(environ, values, origins, faults)
        for name, flag in flags.items():
            values[name] = flag.value
            origins[name] = flag.name
        return values, origins, faults

    def _read_file(
        self, file: Path, values: dict[str, Any], origins: dict[str, str], faults: _Faults
    ) -> None:
        try:
            text = _read_text(file)
            table = tomllib.loads(text)
        except OSError as error:
            faults.lines.append(f"{file}: cannot be read: {error.strerror}")
            return
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            line = re.search(r"line (\d+)", str(error))
            faults.lines.append(f"{file}:{line[1] if line else 1}: not TOML: {error}")
            return
        except ConfigError as error:
            faults.lines.append(error.message)
            return
        lines = _lines_of_keys(text)
        for name, given in table.items():
            origin = f"{file}:{lines.get(name, 1)}"
            self._take(name, given, origin, values, origins, faults)

    def _read_environment(
        self,
        environ: Mapping[str, str],
        values: dict[str, Any],
        origins: dict[str, str],
        faults: _Faults,
    ) -> None:
        for variable in sorted(environ):
            if not variable.startswith(self.prefix):
                continue
            name = variable.removeprefix(self.prefix).lower()
            setting = self.by_name.get(name)
            given = environ[variable] if setting is None else setting.kind.parse(environ[variable])
            self._take(name, given, f"${variable}", values, origins, faults)

    def _take(
        self,
        name: str,
        given: object,
        origin: str,
        values: dict[str, Any],
        origins: dict[str, str],
        faults: _Faults,
    ) -> None:
        setting = self.by_name.get(name)
        if setting is None:
            near = difflib.get_close_matches(name, self.by_name, n=1)
            meant = f"did you mean {near[0]!r}?" if near else "see: config show --default"
            faults.lines.append(f"{origin}: key {name[:80]!r} unknown, {meant}")
            return
        origins[name] = origin
        try:
            values[name] = setting.kind.check(given)
        except (ValueError, TypeError):
            faults.add(
                name, f"{origin}: {name} is {_short(given)}; allowed: {setting.kind.allowed}"
            )

    def default_file(self, initial: Mapping[str, object] | None = None) -> str:
        """A file that says what the defaults are, every line of it a comment.

        Args:
            initial: Lines that are none: settings that the file is to have at first.
        """
        head = (
            f"Configuration of rostral's {self.component}. Each setting stands here with its "
            "default; take the # away to change it. Environment variables "
            f"{self.prefix}<KEY> and flags of the command are above this file."
        )
        parts = [_comment(head)]
        for setting in self.settings:
            if initial and setting.name in initial:
                line = f"{setting.name} = {setting.kind.show(initial[setting.name])}"
            elif setting.default is None or setting.default_text is not None:
                line = f"#{setting.name} ="
            else:
                line = f"#{setting.name} = {setting.kind.show(setting.default)}"
            about = f"{setting.about} Allowed: {setting.kind.allowed}."
            if setting.default_text is not None:
                about = f"{about} Default: {setting.default_text}."
            parts.append(f"{_comment(about)}\n{line}")
        return "\n\n".join(parts) + "\n"

    def show(self, configured: Configured[Any], *, origin: bool) -> str:
        """What holds, as a TOML file; with ``origin``, where each line is from."""
        lines = []
        for setting in self.settings:
            value = configured.values[setting.name]
            line = f"{setting.name} = {setting.kind.show(value)}"
            if value is None:
                line = f"# {setting.name} is not set"
            lines.append(f"{line}  # {configured.origins[setting.name]}" if origin else line)
        return "\n".join(lines) + "\n"


class _Faults:
    """What is wrong, and of which settings it is known already."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._named: set[str] = set()

    def add(self, name: str, line: str) -> None:
        self._named.add(name)
        self.lines.append(line)

    def add_checked(self, problem: str, origins: Mapping[str, str]) -> None:
        """Adds what the configuration's own check has found, with its place."""
        first = _NAMED_FIRST.match(problem)
        name = first[0] if first else ""
        if name in self._named:
            return
        origin = origins.get(name, DEFAULT)
        self.lines.append(problem if origin == DEFAULT else f"{origin}: {problem}")


def _problems(error: ConfigError | InsecureBindError) -> list[str]:
    """What a check has found; its hint, if it has one of its own, is part of the last."""
    if isinstance(error, InsecureBindError):
        return [f"bind: {error.message}; {error.hint}"]
    *others, last = error.problems or (error.message,)
    if error.hint is not None and error.hint != _HINT:
        last = f"{last}; {error.hint}"
    return [*others, last]


def _read_text(file: Path) -> str:
    """The file's text. Raises ConfigError when others could have written it, and OSError."""
    with file.open("rb") as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{file}: not a regular file")
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
            raise ConfigError(
                f"{file}: others may write to it (uid {status.st_uid}, mode "
                f"{stat.S_IMODE(status.st_mode):04o}); chmod go-w, and make it root's or yours"
            )
        return stream.read(_FILE_SIZE_MAX).decode()


def _lines_of_keys(text: str) -> dict[str, int]:
    """Where each key stands, or its table begins."""
    found: dict[str, int] = {}
    in_table = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("["):
            name = re.match(r"\s*\[+\s*([A-Za-z0-9_-]+)", line)
            if name is not None:
                found.setdefault(name[1], number)
                in_table = True
        elif not in_table and (key := _KEY.match(line)) is not None:
            found.setdefault(key[1], number)
    return found


def _comment(text: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent="# ", subsequent_indent="# ")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
