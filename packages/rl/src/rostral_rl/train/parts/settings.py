"""Reads and checks settings: defaults, then the tested preset, then the caller's own."""

from __future__ import annotations

import dataclasses
import importlib.resources
import math
import tomllib
from collections.abc import Mapping
from typing import Any, TypeVar

from rostral_rl.errors import InvalidSettingError
from rostral_rl.names import unknown_name
from rostral_rl.train.parts.schedules import Linear, largest, smallest

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
    assert dataclasses.is_dataclass(kind)
    known = [field.name for field in dataclasses.fields(kind)]
    merged = {**preset(algorithm, env), **given}
    for name in merged:
        if name not in known:
            raise unknown_name(f"setting of {algorithm}", name, known)
    return kind(**{name: _read(value) for name, value in merged.items()})


def preset(algorithm: str, env: str | None) -> dict[str, object]:
    """The tested settings of `algorithm` for `env`; empty where there are none."""
    file = importlib.resources.files("rostral_rl.train") / "configs" / f"{algorithm}.toml"
    tables: dict[str, dict[str, object]] = tomllib.loads(file.read_text("utf-8"))
    return tables.get(env, {}) if env else {}


def check_count(name: str, value: object) -> None:
    """Refuses anything but an integer > 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise InvalidSettingError(f"{name} must be an integer > 0, got {value!r}")


def check_number(
    name: str, value: object, *, low: float = 0.0, high: float = math.inf, low_open: bool = False
) -> None:
    """Refuses a number or schedule that leaves [low, high], or (low, high] with `low_open`."""
    if isinstance(value, bool) or not isinstance(value, int | float | Linear):
        raise InvalidSettingError(f"{name} must be a number or a schedule, got {value!r}")
    below = smallest(value) <= low if low_open else smallest(value) < low
    # Written so that NaN fails too.
    if below or not largest(value) <= high or not smallest(value) >= low:
        opening = "(" if low_open else "["
        raise InvalidSettingError(f"{name} must lie in {opening}{low:g}, {high:g}], got {value!r}")


def _read(value: object) -> Any:
    """What TOML and the command line write for what Python spells `linear(...)` and `(64, 64)`."""
    if isinstance(value, dict):
        try:
            return Linear(**value)
        except TypeError as error:
            raise InvalidSettingError(
                f"not a schedule: {value!r}", hint="{start = 1e-3, end = 0.0}"
            ) from error
    return tuple(value) if isinstance(value, list) else value
