"""The settings of `rostral-rl serve`: of the server, of its batches, and of the process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rostral.services import (
    KINDS,
    LOG_LEVEL,
    TLS_DEFAULTS,
    ConfigError,
    Setting,
    Settings,
    credential,
    settings_of,
)
from rostral_rl.errors import InvalidSettingError
from rostral_rl.serve.batcher import BatchConfig
from rostral_rl.serve.config import ServeConfig
from rostral_rl.serve.engine import EngineConfig
from rostral_rl.serve.sessions import SessionConfig

__all__ = ["SETTINGS", "Serving"]

# Stands for a token while the rest is checked.
_NO_TOKEN = "-" * 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """How one `serve` runs.

    Attributes:
        config: Of the server, without the token that is in `token_file`.
        folder: The policy's.
        token_file: None: callers show none.
    """

    config: ServeConfig
    folder: Path
    token_file: Path | None


def _build(values: Mapping[str, Any]) -> Serving:
    if values["folder"] is None:
        problem = "folder is not set; allowed: the folder of a policy"
        raise ConfigError(problem, problems=[problem])
    try:
        engine = EngineConfig(
            **_of(EngineConfig, values, but=("batch", "sessions")),
            batch=BatchConfig(**_of(BatchConfig, values)),
            sessions=SessionConfig(**_of(SessionConfig, values)),
        )
        config = ServeConfig(
            **_of(ServeConfig, values, but=("token", "engine")),
            token=None if values["token_file"] is None else _NO_TOKEN,
            engine=engine,
        )
    except InvalidSettingError as error:
        raise ConfigError(error.message, hint=error.hint, problems=[error.message]) from error
    return Serving(config=config, folder=values["folder"], token_file=values["token_file"])


def _of(
    config_class: type[Any], values: Mapping[str, Any], *, but: tuple[str, ...] = ()
) -> dict[str, Any]:
    names = [field.name for field in fields(config_class) if field.name not in but]
    return {name: values[name] for name in names}


SETTINGS = Settings(
    "policy-server",
    [
        Setting(
            name="folder",
            kind=KINDS["Path"],
            default=None,
            about="The policy: a folder that training wrote.",
        ),
        *settings_of(ServeConfig, leave_out=["token", "engine"], defaults={**TLS_DEFAULTS}),
        *settings_of(EngineConfig, leave_out=["batch", "sessions"]),
        *settings_of(BatchConfig),
        *settings_of(SessionConfig),
        Setting(
            name="token_file",
            kind=KINDS["Path"],
            default=lambda: credential("token"),
            default_text="the unit's credential, else none",
            about="Callers must show the token in it; a file of mode 0600 that is ours. Without "
            "one, only loopback is listened at.",
        ),
        Setting(
            name="log_level",
            kind=LOG_LEVEL,
            default="warning",
            about="What is logged, and worse; a reload applies it.",
        ),
    ],
    _build,
)
