"""Reads and checks settings: defaults, then the tested preset, then the caller's own."""

from __future__ import annotations

import dataclasses
import importlib.resources
import math
import tomllib
from collections.abc import Mapping
from typing import Any, TypeVar

from rostral_rl.errors import ConfigError, InvalidSettingError
from rostral_rl.names import unknown_name
from rostral_rl.train.parts.schedules import Linear, Piecewise, largest, smallest

T = TypeVar("T")


def build_settings(
    kind: type[T], algorithm: str, env: str | None, given: Mapping[str, object]
) -> T:
    """Makes an algorithm's settings.

    Args:
        kind: The algorithm's dataclass of settings; it checks ranges itself.
        algorithm: Its name; presets are in `configs/<name>.toml`.
        env: Gymnasium id whose preset to start from; None, or an id without one, starts from the
            defaults.
        given: The caller's own, which win.

    Raises:
        UnknownNameError: A setting that the algorithm does not have; suggests the nearest.
        InvalidSettingError: A value of the wrong type or out of range.
    """
    return read_settings(kind, algorithm, {**preset(algorithm, env), **given})


def read_settings(kind: type[T], algorithm: str, given: Mapping[str, object]) -> T:
    """Settings from plain values, as TOML and JSON write them; errors as for `build_settings`."""
    assert dataclasses.is_dataclass(kind)
    known = [field.name for field in dataclasses.fields(kind)]
    for name in given:
        if name not in known:
            raise unknown_name(f"setting of {algorithm}", name, known)
    return kind(**{name: _read(value) for name, value in given.items()})


def preset(algorithm: str, env: str | None) -> dict[str, object]:
    """The tested settings of `algorithm` for `env`; empty where there are none."""
    file = importlib.resources.files("rostral_rl.train") / "configs" / f"{algorithm}.toml"
    if not file.is_file():
        return {}
    tables: dict[str, dict[str, object]] = tomllib.loads(file.read_text("utf-8"))
    return tables.get(env, {}) if env else {}


def check_count(name: str, value: object) -> None:
    """Refuses anything but an integer > 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ConfigError(name, value, allowed="an integer > 0")


def check_number(
    name: str, value: object, *, low: float = 0.0, high: float = math.inf, low_open: bool = False
) -> None:
    """Refuses a number or schedule that leaves [low, high], or (low, high] with `low_open`."""
    if isinstance(value, bool) or not isinstance(value, int | float | Linear | Piecewise):
        raise ConfigError(name, value, allowed="a number or a schedule")
    below = smallest(value) <= low if low_open else smallest(value) < low
    # Written so that NaN fails too.
    if below or not largest(value) <= high or not smallest(value) >= low:
        opening = "(" if low_open else "["
        raise ConfigError(name, value, allowed=f"in {opening}{low:g}, {high:g}]")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuses anything but one of `choices`."""
    if value not in choices:
        raise ConfigError(name, value, allowed=f"one of {', '.join(choices)}")


def check_hidden(value: object, *, empty: bool = False) -> None:
    """Refuses anything but a tuple of layer widths; with `empty` there may be none."""
    if not isinstance(value, tuple) or (not value and not empty):
        raise ConfigError("hidden", value, allowed="a tuple of widths")
    for width in value:
        check_count("hidden", width)


def check_conv(value: object) -> None:
    """Refuses anything but None, or a tuple of layers: filters, size and stride each."""
    if value is None:
        return
    layers = value if isinstance(value, tuple) else (None,)
    for layer in layers:
        if not isinstance(layer, tuple) or len(layer) != 3:
            raise ConfigError(
                "conv", value, allowed="layers of (filters, size, stride), () or None"
            )
        for number in layer:
            check_count("conv", number)


def _read(value: object) -> Any:
    """What TOML and the command line write for what Python spells `linear(...)` and `(64, 64)`."""
    if isinstance(value, dict):
        try:
            return Piecewise(**value) if "points" in value else Linear(**value)
        except (TypeError, ValueError) as error:
            raise InvalidSettingError(
                f"not a schedule: {value!r}", hint="{start = 1e-3, end = 0.0}"
            ) from error
    return tuple(map(_read, value)) if isinstance(value, list) else value
