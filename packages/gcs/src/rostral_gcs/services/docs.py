"""What a configuration's dataclass says of its fields: annotation, default, and the words.

Two ways of documenting a field are read, since both are in use: a text right below it, and an entry
under ``Attributes:`` of the class's own.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from typing import Final

__all__ = ["DocumentedField", "documented_fields"]

_ENTRY: Final = re.compile(r"(\w+): (.*)")


@dataclasses.dataclass(frozen=True, slots=True)
class DocumentedField:
    """One field.

    Attributes:
        name: Of the field.
        annotation: As it is written.
        default: None where it has none.
        about: What its documentation says, in one line.
    """

    name: str
    annotation: str
    default: object
    about: str


def documented_fields(config_class: type) -> list[DocumentedField]:
    """The fields of a dataclass in their order, each with its documentation."""
    words = _below_fields(config_class) | _under_attributes(config_class)
    return [
        DocumentedField(field.name, str(field.type), _default(field), words.get(field.name, ""))
        for field in dataclasses.fields(config_class)
    ]


def _default(field: dataclasses.Field[object]) -> object:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None


def _under_attributes(config_class: type) -> dict[str, str]:
    _, _, section = (inspect.getdoc(config_class) or "").partition("Attributes:\n")
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in textwrap.dedent(section).splitlines():
        entry = _ENTRY.match(line)
        if entry is not None:
            current = found.setdefault(entry[1], [entry[2]])
        elif line.startswith(" "):
            current.append(line.strip())
    return {name: _one_line(" ".join(lines)) for name, lines in found.items()}


def _below_fields(config_class: type) -> dict[str, str]:
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(config_class))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for statement, following in zip(tree.body, tree.body[1:], strict=False):
        match statement, following:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = _one_line(text)
    return found


def _one_line(text: str) -> str:
    return " ".join(text.replace("``", "").replace("`", "").split())
