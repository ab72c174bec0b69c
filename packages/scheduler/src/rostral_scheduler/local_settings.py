"""The settings of ``rostral-scheduler local``: what ``LocalSchedulerConfig`` has, and its service.

Owns where the service finds the store, listens and writes when nobody says where.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from rostral_gcs.errors import ConfigError
from rostral_gcs.services.kinds import KINDS, LOG_LEVEL, SIZE
from rostral_gcs.services.page_address import METRICS_ADDRESS, metrics_of
from rostral_gcs.services.settings import Setting, Settings, settings_of
from rostral_gcs.services.systemd import TLS_DEFAULTS, credential, directory
from rostral_gcs.services.users import worker_user_of_unit
from rostral_gcs.tokens import Tokens
from rostral_objectstore.addresses import SOCKET_NAME, SOCKET_VARIABLE
from rostral_scheduler.config import LocalSchedulerConfig, default_cpu_count

__all__ = ["INITIAL", "SETTINGS", "Serving", "with_token"]

INITIAL: Final = {"gcs_address": "127.0.0.1:6380"}
"""What a service's first configuration file says."""

# Stands for a token while the rest is checked.
_NO_TOKEN: Final = "-" * 16
_NEEDED: Final = {
    "store_socket": "the store's socket",
    "socket_path": "a path to listen at",
    "session_dir": "a directory",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """How one ``local`` runs.

    Attributes:
        config: Of the scheduler, without the token; see ``with_token``.
        token_file: The cluster token.
        delegated_cgroup: Whether the service's control group is ours to divide.
        workers_memory_max_bytes: The kernel's limit for all workers together.
        node_file: Where drivers of this user find the node; None: they are told.
        metrics: Where the page for Prometheus is, of which readers show a token of `token_file`;
            None: there is none.
    """

    config: LocalSchedulerConfig
    token_file: Path | None
    delegated_cgroup: bool
    workers_memory_max_bytes: int | None
    node_file: Path | None
    metrics: tuple[str, int] | None


def _in(kind: str, *parts: str) -> Path | None:
    folder = directory(kind)
    return None if folder is None else folder.joinpath(*parts)


def _store_socket() -> str | None:
    given, runtime = os.environ.get(SOCKET_VARIABLE), directory("RUNTIME")
    if given or runtime is None:
        return given or None
    return str(runtime.parent / "objectstore" / SOCKET_NAME)


def _socket_path() -> str | None:
    path = _in("RUNTIME", "scheduler.sock")
    return None if path is None else str(path)


_OURS: Final = (
    Setting(
        name="token_file",
        kind=KINDS["Path"],
        default=lambda: credential("token"),
        default_text="the unit's credential",
        about="The cluster token, a file of mode 0600 that is ours; needed with gcs_address.",
    ),
    Setting(
        name="delegated_cgroup",
        kind=KINDS["bool"],
        default=False,
        about="The control group of the service is ours to divide, as Delegate= of its unit says: "
        "workers get one of their own in it.",
    ),
    Setting(
        name="workers_memory_max_bytes",
        kind=SIZE,
        default=None,
        about="What all workers together may take, with the objects that they wrote, before the "
        "kernel ends one of them; needs delegated_cgroup. Above memory_limit_bytes, at which the "
        "scheduler ends work in an orderly way. Without it, there is no such limit.",
    ),
    Setting(
        name="node_file",
        kind=KINDS["Path"],
        default=lambda: _in("RUNTIME", "node.json"),
        default_text="node.json in the unit's runtime directory, else none",
        about="Where drivers of this user find the node.",
    ),
    METRICS_ADDRESS,
    Setting(
        name="log_level",
        kind=LOG_LEVEL,
        default="warning",
        about="What is logged, and worse; a reload applies it.",
    ),
)


def _build(values: Mapping[str, Any]) -> Serving:
    problems = [
        f"{name} is not set; allowed: {what}"
        for name, what in _NEEDED.items()
        if values[name] is None
    ]
    if values["gcs_address"] is not None and values["token_file"] is None:
        problems.append("gcs_address is given without token_file; allowed: both or neither")
    if values["workers_memory_max_bytes"] is not None and not values["delegated_cgroup"]:
        problems.append("workers_memory_max_bytes is given without delegated_cgroup")
    if values["metrics_address"] is not None and values["token_file"] is None:
        problems.append("metrics_address is given without token_file")
    if problems:
        raise ConfigError("; ".join(problems), problems=problems)
    ours = {setting.name for setting in _OURS}
    config = LocalSchedulerConfig(
        **{name: value for name, value in values.items() if name not in ours},
        gcs_token="" if values["gcs_address"] is None else _NO_TOKEN,
    )
    config.validate()
    return Serving(
        config=config,
        token_file=values["token_file"],
        delegated_cgroup=values["delegated_cgroup"],
        workers_memory_max_bytes=values["workers_memory_max_bytes"],
        node_file=values["node_file"],
        metrics=metrics_of(values),
    )


SETTINGS: Final = Settings(
    "local-scheduler",
    [
        *settings_of(
            LocalSchedulerConfig,
            leave_out=["gcs_token", "peer_token", "worker_cgroup"],
            defaults={
                "store_socket": (
                    _store_socket,
                    f"${SOCKET_VARIABLE}, else that of the store's unit",
                ),
                "socket_path": (_socket_path, "scheduler.sock in the unit's runtime directory"),
                "session_dir": (lambda: _in("STATE"), "the unit's state directory"),
                "venv_dir": (lambda: _in("CACHE", "venvs"), "venvs in the unit's cache directory"),
                "worker_user": (worker_user_of_unit, "what the unit says, else none"),
                "num_cpus": (default_cpu_count, "all that we may use"),
                **TLS_DEFAULTS,
            },
        ),
        *_OURS,
    ],
    _build,
)


def with_token(serving: Serving) -> LocalSchedulerConfig:
    """The configuration with the cluster token read.

    Raises:
        TokenFileError: The file cannot be used.
    """
    if serving.config.gcs_address is None or serving.token_file is None:
        return serving.config
    return replace(serving.config, gcs_token=Tokens(serving.token_file))
