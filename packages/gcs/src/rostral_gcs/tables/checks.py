"""Checks that the row types share: names, resources, times.

This file owns the wording of these refusals. It raises InvalidArgumentError and nothing else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final

from rostral_gcs.errors import InvalidArgumentError

__all__ = ["check_name", "check_namespace", "check_resources", "check_seconds"]

_RESOURCE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.:/@-]{0,127}")
RESOURCE_MAX: Final = 1e6
# Bytes, of the one resource that is counted in them.
MEMORY_BYTES_MAX: Final = 1e15
NAME_LENGTH_MAX: Final = 256


def check_name(what: str, name: str) -> None:
    """Refuses a name with a slash, NUL or other control character, or over 256 characters."""
    if len(name) > NAME_LENGTH_MAX or "/" in name or any(ord(char) < 32 for char in name):
        raise InvalidArgumentError(
            f"{what} is {name[:80]!r}; allowed: up to {NAME_LENGTH_MAX} characters, no slash, no "
            "control characters",
            hint="choose another name",
        )


def check_namespace(namespace: str) -> None:
    """Refuses what could not be told from the key that follows it."""
    check_name("namespace", namespace)


def check_resources(what: str, resources: Mapping[str, object]) -> None:
    """Refuses bad names, and amounts that are bool, negative, NaN, infinite or too large.

    Up to 1e6 of anything, and up to 1e15 bytes of `memory`.
    """
    for name, amount in resources.items():
        if not _RESOURCE.fullmatch(name):
            raise InvalidArgumentError(
                f"{what} has resource name {name[:80]!r}; allowed: a letter, then letters, "
                "digits and _.:/@-, up to 128",
                hint="rename the resource",
            )
        if (
            isinstance(amount, bool)
            or not isinstance(amount, int | float)
            or not math.isfinite(amount)
            or not 0 <= amount <= (MEMORY_BYTES_MAX if name == "memory" else RESOURCE_MAX)
        ):
            raise InvalidArgumentError(
                f"{what}[{name!r}] is {str(amount)[:80]}; allowed: a number from 0 to 1e6, "
                "bytes of memory to 1e15",
                hint="correct the amount",
            )


def check_seconds(what: str, seconds: float) -> None:
    """Refuses NaN, infinite and negative times."""
    if not math.isfinite(seconds) or seconds < 0:
        raise InvalidArgumentError(
            f"{what} is {seconds}; allowed: a finite number of seconds, 0 or more",
            hint="correct the clock or the field",
        )
