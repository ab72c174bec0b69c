"""Flags of a command for a service's settings: one description serves file, environment and flags.

Owns the turning of settings into click's options, and the way back: which of them somebody has
given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from rostral_gcs.services.kinds import KINDS, Kind
from rostral_gcs.services.settings import Flag, Setting, Settings

__all__ = ["given_flags", "setting_options"]

F = TypeVar("F", bound=Callable[..., Any])


class _SettingType(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A flag's value, as an environment variable would have it. Anything else is wrong usage."""

    def __init__(self, kind: Kind) -> None:
        self.name = kind.short
        self._kind = kind

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> object:
        """The value. Fails as a usage error."""
        try:
            return self._kind.check(self._kind.parse(str(value)))
        except (ValueError, TypeError):
            self.fail(f"{str(value)[:80]!r}; allowed: {self._kind.allowed}", param, ctx)


class _Amount(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """One entry of a table of numbers."""

    name = "NAME=AMOUNT"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        """The pair. Fails as a usage error."""
        name, _, amount = str(value).partition("=")
        try:
            return name, float(amount)
        except ValueError:
            self.fail(f"{str(value)[:80]!r}: give NAME=AMOUNT", param, ctx)


def setting_options(settings: Settings[Any], flags: Mapping[str, str]) -> Callable[[F], F]:
    """Decorates a command with options for some of the settings.

    Args:
        settings: Of the service.
        flags: The setting's name by the flag, in the order of the help.
    """

    def decorate(command: F) -> F:
        for flag, name in reversed(list(flags.items())):
            command = _option(flag, settings.by_name[name])(command)
        return command

    return decorate


def _option(flag: str, setting: Setting) -> Callable[[F], F]:
    kind, help_text = setting.kind, setting.about
    described = setting.describe_default()
    if described is not None and kind is not KINDS["bool"]:
        help_text = f"{help_text}  [default: {described}]"
    if kind is KINDS["bool"]:
        declaration = f"{flag}/--no-{flag.removeprefix('--')}" if setting.default else flag
        return click.option(declaration, setting.name, is_flag=True, default=None, help=help_text)
    if kind is KINDS["tuple[str, ...]"]:
        return click.option(flag, setting.name, multiple=True, help=help_text)
    if kind is KINDS["Mapping[str, float]"]:
        return click.option(flag, setting.name, multiple=True, type=_Amount(), help=help_text)
    if kind.choices:
        choice = click.Choice(kind.choices)
        return click.option(flag, setting.name, type=choice, help=help_text)
    return click.option(flag, setting.name, type=_SettingType(kind), help=help_text)


def given_flags(settings: Settings[Any]) -> dict[str, Flag]:
    """What the command line that is being carried out says of the settings, by their names."""
    context = click.get_current_context()
    found = {}
    for param in context.command.params:
        setting = settings.by_name.get(str(param.name))
        if setting is None or context.get_parameter_source(setting.name) in (
            ParameterSource.DEFAULT,
            None,
        ):
            continue
        value = context.params[setting.name]
        if setting.kind is KINDS["Mapping[str, float]"]:
            value = dict(value)
        found[setting.name] = Flag(param.opts[0], value)
    return found
