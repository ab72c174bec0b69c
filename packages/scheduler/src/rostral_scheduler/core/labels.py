"""Labels of nodes, and whether a selector means a node that has them.

This file owns the comparison. A selector is a dict from a label's name to what its value must be:
`"v"`, `"!v"`, `"in(v, w)"` or `"!in(v, w)"`. A node without the label meets what begins with an
exclamation mark. Whether a selector is well formed is checked where users write it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

__all__ = ["NODE_ID_LABEL", "Selector", "matches", "selector_of", "values_of"]

NODE_ID_LABEL = "ray.io/node-id"
"""A label that every node has."""

_LIST = re.compile(r"in\((.*)\)")

Selector = tuple[tuple[str, str], ...]
"""A selector as it is compared and kept: pairs in the order of the labels' names."""


def selector_of(selector: Mapping[str, str]) -> Selector:
    """The selector in its one form."""
    return tuple(sorted(selector.items()))


def values_of(text: str) -> list[str]:
    """The values that a selector lists, without its exclamation mark."""
    listed = _LIST.fullmatch(text)
    return [text] if listed is None else [one.strip() for one in listed[1].split(",")]


def matches(selector: Iterable[tuple[str, str]], labels: Mapping[str, str]) -> bool:
    """Whether a node with these labels is one that the selector means."""
    return all(
        (labels.get(key) in values_of(value.removeprefix("!"))) != value.startswith("!")
        for key, value in selector
    )
