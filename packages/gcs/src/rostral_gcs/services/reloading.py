"""What SIGHUP does to a service's configuration: what can change while it runs, changes.

Owns the comparison of what runs with what the file says now. A file with a fault changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rostral_gcs.services.settings import Configured, Flag, Settings
from rostral_gcs.services.systemd import configure_logging

__all__ = ["Reloader"]

_LIVE: Final = "log_level"


class Reloader:
    """Reads one service's configuration again, as often as it is called.

    Args:
        settings: Of the service.
        file: As at the start.
        flags: As at the start: they stay above the file.
        running: What the service was started with.
    """

    def __init__(
        self,
        settings: Settings[Any],
        file: Path | None,
        flags: Mapping[str, Flag],
        running: Configured[Any],
    ) -> None:
        self._settings = settings
        self._file = file
        self._flags = flags
        self._values = dict(running.values)

    def __call__(self) -> str:
        """Applies what can be applied, and says in a line what was done.

        Raises:
            ConfigError: The file is wrong; nothing has changed.
        """
        now = self._settings.read(self._file, flags=self._flags).values
        changed = sorted(name for name, value in now.items() if value != self._values[name])
        parts = []
        if _LIVE in changed:
            changed.remove(_LIVE)
            configure_logging(now[_LIVE])
            self._values[_LIVE] = now[_LIVE]
            parts.append(f"{_LIVE} is {now[_LIVE]}")
        if changed:
            parts.append(f"changed, but only a restart applies it: {', '.join(changed)}")
        return "; ".join(parts) or "nothing has changed"
