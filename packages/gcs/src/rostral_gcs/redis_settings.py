"""The settings of ``rostral-gcs serve`` that are about Redis, and the password's file."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final, NoReturn

from rostral_gcs.errors import ConfigError
from rostral_gcs.redis_options import RedisOptions
from rostral_gcs.services.kinds import KINDS, Kind
from rostral_gcs.services.settings import Setting, settings_of

__all__ = ["REDIS_SETTINGS", "read_redis"]

_BACKENDS: Final = ("embedded", "redis")


def _check_backend(value: object) -> str:
    if value not in _BACKENDS:
        raise ValueError("backend")
    return str(value)


REDIS_SETTINGS: Final = (
    Setting(
        name="backend",
        kind=Kind(
            allowed=" or ".join(_BACKENDS),
            short="NAME",
            check=_check_backend,
            is_text=True,
            choices=_BACKENDS,
        ),
        default="embedded",
        about="Where the rows lie: in files of data_dir, or in Redis.",
    ),
    *(
        replace(setting, name=f"redis_{setting.name}")
        for setting in settings_of(
            RedisOptions, leave_out=["password"], defaults={"urls": ((), "none")}
        )
    ),
    Setting(
        name="redis_password_file",
        kind=KINDS["Path"],
        default=None,
        about="Holds the password of the user that the URLs name, on one line; mode 0600.",
    ),
)


def read_redis(values: Mapping[str, Any]) -> RedisOptions | None:
    """What the values say; None for the embedded backend.

    Raises:
        ConfigError: They contradict each other, or the password cannot be read.
    """
    urls: tuple[str, ...] = tuple(values["redis_urls"])
    if values["backend"] == "embedded":
        if urls:
            _refuse("redis_urls is given, but backend is embedded; allowed: with backend redis")
        return None
    if not urls:
        _refuse("redis_urls is empty; allowed: one URL or more, as redis://127.0.0.1:6379")
    names = [field.name for field in fields(RedisOptions) if field.name not in ("urls", "password")]
    return RedisOptions(
        urls=urls,
        password=_read_password(values["redis_password_file"]),
        **{name: values[f"redis_{name}"] for name in names},
    )


def _read_password(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        _refuse(f"redis_password_file {path} cannot be read: {error}; write it, mode 0600", error)
    if mode & 0o077:
        _refuse(f"redis_password_file {path} has mode {mode:04o}; allowed: 0600 or stricter")
    return text


def _refuse(problem: str, cause: Exception | None = None) -> NoReturn:
    raise ConfigError(problem, hint="correct it", problems=(problem,)) from cause
