"""What values a setting takes: from TOML, from the text of an environment variable, and back.

One ``Kind`` for each type that a field of a configuration may be annotated with. A new type of
field needs an entry in ``KINDS`` and nothing else.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

__all__ = ["KINDS", "LOG_LEVEL", "SIZE", "Kind", "kind_of", "parse_size"]

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]?)(?:i?B)?", re.IGNORECASE)
# A limit in bytes has one of these ends.
_SIZE_NAMES: Final = ("_bytes", "_bytes_max", "_size_max")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One type of setting.

    Attributes:
        allowed: In words, for errors.
        check: The value that TOML's value stands for. Raises ValueError or TypeError.
        short: For a flag's help.
        is_text: Whether the text of an environment variable is the value itself.
        choices: All values, if they are few.
    """

    allowed: str
    short: str
    check: Callable[[Any], Any]
    is_text: bool = False
    choices: tuple[str, ...] = ()

    def parse(self, text: str) -> object:
        """What the text of an environment variable means as TOML; itself, if it is none."""
        if self.is_text:
            return text
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            return text

    def show(self, value: object) -> str:
        """The value as TOML."""
        return _toml(value)


def parse_size(text: str) -> int:
    """Bytes: 65536, 64K, 64M, 4G, 1.5T; a B or iB after the unit changes nothing.

    Raises:
        ValueError: It is no size.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text[:80]!r} is no size: write 65536, 64M or 1.5G")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def _toml(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case list() | tuple():
            return "[" + ", ".join(_toml(item) for item in value) + "]"
        case Mapping():
            inner = ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items())
            return f"{{ {inner} }}" if inner else "{}"
        case _:
            return json.dumps(str(value), ensure_ascii=False)


def _exactly(kind: type) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        # A bool is an int to Python, and never meant as one.
        if type(value) is not kind:
            raise TypeError(kind.__name__)
        return value

    return check


def _float(value: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError("float")
    return float(value)


def _size(value: Any) -> int:
    if isinstance(value, str):
        return parse_size(value)
    return int(_exactly(int)(value))


def _path(value: Any) -> Path:
    text = _exactly(str)(value)
    if not text or "\0" in text:
        raise ValueError("path")
    return Path(text).expanduser()


def _texts(value: Any) -> tuple[str, ...]:
    # One alone may stand without brackets, as environment variables have it.
    items = [value] if isinstance(value, str) else _exactly(list)(value)
    return tuple(_exactly(str)(item) for item in items)


def _table(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def check_table(value: Any) -> dict[str, Any]:
        return {name: check(item) for name, item in _exactly(dict)(value).items()}

    return check_table


def _one_of(choices: tuple[str, ...]) -> Callable[[Any], Any]:
    def check_choice(value: Any) -> str:
        if value not in choices:
            raise ValueError("choice")
        return str(value)

    return check_choice


_LEVELS: Final = ("debug", "info", "warning", "error")

SIZE: Final = Kind(
    allowed="bytes, as a number or with a unit: 65536, '64M', '1.5G'", short="SIZE", check=_size
)
LOG_LEVEL: Final = Kind(
    allowed=", ".join(_LEVELS),
    short="LEVEL",
    check=_one_of(_LEVELS),
    is_text=True,
    choices=_LEVELS,
)
KINDS: Final = {
    "bool": Kind(allowed="true or false", short="BOOL", check=_exactly(bool)),
    "int": Kind(allowed="a whole number", short="INTEGER", check=_exactly(int)),
    "float": Kind(allowed="a number", short="NUMBER", check=_float),
    "str": Kind(allowed="a text in quotes", short="TEXT", check=_exactly(str), is_text=True),
    "Path": Kind(allowed="a path in quotes", short="PATH", check=_path, is_text=True),
    "tuple[str, ...]": Kind(allowed="a list of texts: ['a', 'b']", short="TEXT", check=_texts),
    "Mapping[str, float]": Kind(
        allowed="a table of numbers: { name = 1.0 }",
        short="NAME=AMOUNT",
        check=_table(_float),
    ),
    "Mapping[str, str]": Kind(
        allowed="a table of texts: { name = 'value' }",
        short="TABLE",
        check=_table(_exactly(str)),
    ),
}


def kind_of(name: str, annotation: str) -> Kind:
    """The kind of a field, as it is annotated; optional ones too.

    Raises:
        KeyError: No such kind yet: a mistake of ours.
    """
    kind = KINDS[annotation.removesuffix(" | None")]
    return SIZE if kind is KINDS["int"] and name.endswith(_SIZE_NAMES) else kind
