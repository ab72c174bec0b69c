"""How Python's `logging` writes in the driver and its workers, as `init(logging_config=)` says.

Without one, Rostral leaves logging alone.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rostral._context import task_scope

STANDARD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) - {"args", "msg", "exc_info"}
TEXT_FORMAT = "%(asctime)s\t%(levelname)s %(filename)s:%(lineno)s -- %(message)s"


@dataclass(frozen=True, slots=True)
class LoggingConfig:
    """One way of writing log records, on stderr.

    Args:
        encoding: `"TEXT"`: one line for people; `"JSON"`: one object for programs.
        log_level: Of the root logger; a name of `logging`, in capitals or not, or a number.
        additional_log_standard_attrs: Further attributes of a `logging.LogRecord` to write.

    Raises: TypeError, ValueError.
    """

    encoding: Literal["TEXT", "JSON"] = "TEXT"
    log_level: str | int = "INFO"
    additional_log_standard_attrs: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.encoding not in ("TEXT", "JSON"):
            raise ValueError(f"encoding is {self.encoding!r}: it must be 'TEXT' or 'JSON'")
        if isinstance(self.log_level, bool) or not isinstance(self.log_level, str | int):
            raise TypeError(f"log_level must be a name or a number, not {self.log_level!r}")
        if isinstance(self.log_level, str):
            if self.log_level.upper() not in logging.getLevelNamesMapping():
                raise ValueError(f"log_level is {self.log_level!r}: logging has no such level")
            object.__setattr__(self, "log_level", self.log_level.upper())
        attributes = self.additional_log_standard_attrs
        if isinstance(attributes, str) or not all(isinstance(name, str) for name in attributes):
            raise TypeError("additional_log_standard_attrs must be a list of strings")
        for name in attributes:
            if name not in STANDARD_ATTRIBUTES:
                raise ValueError(f"{name!r} is no attribute of a logging.LogRecord")
        object.__setattr__(self, "additional_log_standard_attrs", tuple(attributes))

    def encode(self) -> str:
        """The configuration as text, for workers."""
        return json.dumps(asdict(self))


def decode(text: str) -> LoggingConfig:
    """What `encode` has made text of."""
    return LoggingConfig(**json.loads(text))


class _Formatter(logging.Formatter):
    def __init__(self, config: LoggingConfig, facts: Mapping[str, str]) -> None:
        super().__init__(TEXT_FORMAT)
        self._config = config
        self._facts = facts

    def _extra(self, record: logging.LogRecord) -> dict[str, Any]:
        found: dict[str, Any] = dict(self._facts)
        scope = task_scope.get()
        if scope is not None:
            found |= {"task_id": scope.task_id.hex(), "task_name": scope.name}
            if scope.actor_id is not None:
                found["actor_id"] = scope.actor_id.hex()
        for name in self._config.additional_log_standard_attrs:
            found[name] = getattr(record, name, None)
        return found

    def format(self, record: logging.LogRecord) -> str:
        """One line, or one for each of a traceback's in text."""
        if self._config.encoding == "TEXT":
            extra = " ".join(f"{name}={value}" for name, value in self._extra(record).items())
            return f"{super().format(record)} {extra}".rstrip()
        fields = {
            "asctime": self.formatTime(record),
            "levelname": record.levelname,
            "message": record.getMessage(),
            "filename": record.filename,
            "lineno": record.lineno,
            **self._extra(record),
        }
        if record.exc_info:
            fields["exc_text"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


def apply(config: LoggingConfig, facts: Mapping[str, str]) -> Callable[[], None]:
    """Has the root logger of this process write so; returns what undoes it.

    Args:
        config: How.
        facts: Ids that each record has, by name.
    """
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(config, facts))
    root.handlers[:] = [handler]
    root.setLevel(config.log_level)

    def undo() -> None:
        if root.handlers == [handler]:
            root.handlers[:] = handlers
            root.setLevel(level)

    return undo
