"""The settings of ``rostral-gcs serve``: what ``GcsConfig`` has, and what a process needs besides.

Owns where the service looks for its data and token when nobody says where.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rostral_gcs.auth import write_token
from rostral_gcs.config import GcsConfig
from rostral_gcs.errors import StorageError, TokenFileError
from rostral_gcs.redis_settings import REDIS_SETTINGS, read_redis
from rostral_gcs.services.kinds import KINDS, LOG_LEVEL
from rostral_gcs.services.settings import Setting, Settings, settings_of
from rostral_gcs.services.systemd import TLS_DEFAULTS, credential, directory
from rostral_gcs.tokens import Tokens

__all__ = ["SETTINGS", "Serving", "default_data_dir", "with_token"]

# Stands for a token while the rest is checked: none is read, and none is made, before all is right.
_NO_TOKEN = "-" * 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """How one ``serve`` runs.

    Attributes:
        config: Of the server, without its token; see ``with_token``.
        token_file: None: in the data directory, made when missing.
        port_file: Where the bound port is written.
    """

    config: GcsConfig
    token_file: Path | None
    port_file: Path | None


def default_data_dir() -> Path:
    """Where the data lies when nobody says where."""
    given = directory("STATE")
    if given is not None:
        return given
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "rostral" / "gcs"


def _build(values: Mapping[str, Any]) -> Serving:
    ours = {"token_file", "port_file", "log_level"}
    ours.update(setting.name for setting in REDIS_SETTINGS)
    config = GcsConfig(
        token=_NO_TOKEN,
        redis=read_redis(values),
        **{name: value for name, value in values.items() if name not in ours},
    )
    config.validate()
    return Serving(config=config, token_file=values["token_file"], port_file=values["port_file"])


SETTINGS = Settings(
    "gcs",
    [
        *settings_of(
            GcsConfig,
            leave_out=["token", "redis"],
            defaults={
                "data_dir": (
                    default_data_dir,
                    "the unit's state directory, else ~/.local/state/rostral/gcs",
                ),
                "port": (6380, None),
                **TLS_DEFAULTS,
                # The loop is the service's own.
                "commit_on_loop": (True, None),
            },
        ),
        *REDIS_SETTINGS,
        Setting(
            name="token_file",
            kind=KINDS["Path"],
            default=lambda: credential("token"),
            default_text="the unit's credential, else DATA_DIR/token, made when missing",
            about="The cluster token: a file of mode 0600 that is ours.",
        ),
        Setting(
            name="port_file",
            kind=KINDS["Path"],
            default=None,
            about="The bound port is written here when ready, and the file removed at the end.",
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


def with_token(serving: Serving) -> GcsConfig:
    """The configuration with the cluster token read, and made if this is the first start.

    Raises:
        TokenFileError: The file cannot be used.
        StorageError: The data directory cannot be made.
    """
    return replace(serving.config, token=Tokens(_token_file(serving)))


def _token_file(serving: Serving) -> Path:
    if serving.token_file is not None:
        return serving.token_file
    data_dir = serving.config.data_dir
    path = data_dir / "token"
    if not path.exists():
        try:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"cannot make data directory {data_dir}: {error.strerror}",
                hint="choose a directory you may write to with --data-dir",
            ) from error
        # Two first starts at once: the one that comes second reads what the first made.
        with contextlib.suppress(TokenFileError):
            write_token(path)
    return path
