"""Sums of resources by name, while the policy weighs who gets what.

This file owns the arithmetic on plain dicts of units; the ledger itself is in ``resources.py``.
"""

from __future__ import annotations

from rostral_scheduler.core.resources import ResourceSet

__all__ = ["add", "covers", "subtract"]


def add(amounts: dict[str, int], shape: ResourceSet) -> None:
    """Adds the shape's amounts."""
    for name, units in shape:
        amounts[name] = amounts.get(name, 0) + units


def subtract(amounts: dict[str, int], shape: ResourceSet) -> None:
    """Takes the shape's amounts off; what is left may be below 0."""
    for name, units in shape:
        amounts[name] = amounts.get(name, 0) - units


def covers(amounts: dict[str, int], shape: ResourceSet) -> bool:
    """Whether there is enough of everything."""
    return all(amounts.get(name, 0) >= units for name, units in shape)
