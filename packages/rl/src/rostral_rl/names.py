"""Turns an unknown name into an error that offers the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from rostral_rl.errors import UnknownNameError


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """Builds the error for a misspelt name.

    Args:
        kind: What was named: "algorithm", "environment", "setting of ppo".
        name: What the caller wrote.
        known: All valid names.

    Returns:
        The error, with the nearest valid names (at most three), or all of a short list, as its
        hint.
    """
    names = sorted(known)
    lowered = {n.lower(): n for n in names}
    near = [lowered[n] for n in difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.6)]
    if near:
        return UnknownNameError(
            f"unknown {kind} {name!r}", hint=f"did you mean {' or '.join(near)}?"
        )
    listed = ", ".join(names) if len(names) <= 40 else f"{len(names)} are registered"
    return UnknownNameError(f"unknown {kind} {name!r}", hint=f"known: {listed}")
