"""Checkpoint hooks of actors."""

from __future__ import annotations

from rostral.options import ActorOptions

HOOKS = ("__checkpoint__", "__restore__")


def check_hooks(cls: type, options: ActorOptions) -> None:
    """Refuses a checkpoint interval for a class that has no hooks. Raises TypeError."""
    if options.checkpoint_interval is None:
        return
    missing = [name for name in HOOKS if not callable(getattr(cls, name, None))]
    if missing:
        raise TypeError(
            f"{cls.__qualname__} has a checkpoint_interval but no {' and no '.join(missing)}: "
            "write `def __checkpoint__(self) -> value` and `def __restore__(self, value)`"
        )
