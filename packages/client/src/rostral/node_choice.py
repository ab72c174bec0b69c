"""Which nodes a task or actor may run on: by their labels, or by name.

A selector is a dict from a label's name to what its value must be: `"v"`, `"!v"`, `"in(v, w)"` or
`"!in(v, w)"`. A node without the label meets what begins with an exclamation mark.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rostral.scheduling_strategies import NodeAffinitySchedulingStrategy
from rostral_scheduler.core import labels as node_labels
from rostral_scheduler.core.labels import values_of

if TYPE_CHECKING:
    from rostral.options import ActorOptions, TaskOptions

_WORD = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_KEY = re.compile(rf"(?:{_WORD}/)?{_WORD}")
_VALUE = re.compile(rf"(?:{_WORD})?")


def check_labels(name: str, labels: object) -> None:
    """Labels, by name. Raises TypeError, ValueError."""
    for key, value in _pairs(name, labels):
        if not _VALUE.fullmatch(value):
            raise ValueError(f"{name}[{key!r}] is {value[:80]!r}, which is no value of a label")


def check_selector(name: str, selector: object) -> None:
    """A selector of nodes. Raises TypeError, ValueError."""
    for key, value in _pairs(name, selector):
        values = values_of(value.removeprefix("!"))
        if not values or not all(_VALUE.fullmatch(one) for one in values):
            raise ValueError(
                f"{name}[{key!r}] is {value[:80]!r}: it must be 'v', '!v', 'in(v, w)' or "
                "'!in(v, w)', with values of letters, digits, '-', '_' and '.'"
            )


def check_fallback(strategy: object) -> None:
    """What may do instead, in order: dicts with a selector. Raises TypeError, ValueError."""
    if isinstance(strategy, str | Mapping) or not isinstance(strategy, Sequence):
        raise TypeError(f"fallback_strategy must be a list, not {type(strategy).__name__}")
    for index, other in enumerate(strategy):
        name = f"fallback_strategy[{index}]"
        if not isinstance(other, Mapping):
            raise TypeError(f"{name} must be a dict, not {type(other).__name__}")
        if set(other) != {"label_selector"}:
            raise ValueError(f"{name} has {sorted(map(str, other))}: it must have label_selector")
        check_selector(f"{name}['label_selector']", other["label_selector"])


def _pairs(name: str, labels: object) -> list[tuple[str, str]]:
    if not isinstance(labels, Mapping):
        raise TypeError(f"{name} must be a dict, not {type(labels).__name__}")
    for key, value in labels.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"{name} has {key!r}: {value!r}: both must be strings")
        if not _KEY.fullmatch(key):
            raise ValueError(f"{name} has {key[:80]!r}, which is no name of a label")
    return list(labels.items())


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether a node with these labels is one that the selector means."""
    return node_labels.matches(selector.items(), labels)


def where_of(options: TaskOptions | ActorOptions) -> dict[str, Any] | None:
    """What the options say of nodes, as a scheduler is asked for it; None: nothing."""
    where = _allowed(options)
    if getattr(options, "speculate", False):
        return {**(where or {}), "speculate": True}
    return where


def _allowed(options: TaskOptions | ActorOptions) -> dict[str, Any] | None:
    strategy = options.scheduling_strategy
    if isinstance(strategy, NodeAffinitySchedulingStrategy):
        return {"node_id": bytes.fromhex(strategy.node_id), "soft": strategy.soft}
    if options.label_selector:
        others: Sequence[Mapping[str, Any]] = options.fallback_strategy or ()
        selectors = [options.label_selector, *(other["label_selector"] for other in others)]
        return {"selectors": [dict(selector) for selector in selectors]}
    return {"spread": True} if strategy == "SPREAD" else None
