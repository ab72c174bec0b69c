"""The settings of ``rostral-objectstore serve``: of the store, of transfers and of metrics.

Owns where the service listens and spills when nobody says where.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rostral_gcs.credentials import tls_files
from rostral_gcs.errors import ConfigError
from rostral_gcs.services.kinds import KINDS, LOG_LEVEL, SIZE
from rostral_gcs.services.page_address import METRICS_ADDRESS, metrics_of
from rostral_gcs.services.settings import Setting, Settings, settings_of
from rostral_gcs.services.systemd import credential, directory
from rostral_gcs.services.users import worker_user_of_unit
from rostral_objectstore.addresses import SOCKET_NAME, SOCKET_VARIABLE, default_socket_path
from rostral_objectstore.config import StoreConfig, default_memory_bytes

if TYPE_CHECKING:
    from rostral_objectstore.transfer import TransferConfig

__all__ = ["SETTINGS", "Serving"]

_MAKE_TOKEN = "make one with: rostral-gcs token FILE"
_TRANSFER = (
    Setting(
        name="transfer_address",
        kind=KINDS["str"],
        default=None,
        about="HOST:PORT where objects are exchanged with other nodes; port 0 takes a free one. "
        "Without it, there is an exchange on loopback once the local scheduler asks for one. "
        "Anything but loopback needs TLS.",
    ),
    Setting(
        name="bandwidth_bytes_s",
        kind=SIZE,
        default=None,
        about="Bytes that leave for other nodes in a second, at most. Without it, there is no "
        "limit.",
    ),
    Setting(
        name="token_file",
        kind=KINDS["Path"],
        default=lambda: credential("token"),
        default_text="the unit's credential",
        about="The cluster token, a file of mode 0600 that is ours; transfers need it, also those "
        "for which the local scheduler asks, and so do metrics.",
    ),
    Setting(
        name="tls_certificate",
        kind=KINDS["Path"],
        default=partial(credential, "tls-certificate"),
        default_text="the unit's credential tls-certificate, else none",
        about="This node's certificate, PEM.",
    ),
    Setting(
        name="tls_key",
        kind=KINDS["Path"],
        default=partial(credential, "tls-key"),
        default_text="the unit's credential tls-key, else none",
        about="Its key, PEM, of mode 0600.",
    ),
    Setting(
        name="tls_ca",
        kind=KINDS["Path"],
        default=partial(credential, "tls-ca"),
        default_text="the unit's credential tls-ca, else none",
        about="Who signs the nodes' certificates, PEM.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """How one ``serve`` runs.

    Attributes:
        config: Of the daemon.
        metrics: Host and port of the page for Prometheus, and the file of the tokens that its
            readers show; None: there is no page.
    """

    config: StoreConfig
    metrics: tuple[tuple[str, int], str] | None


def _socket_path() -> str:
    given, runtime = os.environ.get(SOCKET_VARIABLE), directory("RUNTIME")
    if not given and runtime is not None:
        return str(runtime / SOCKET_NAME)
    return default_socket_path()


def _default_spill_directories() -> tuple[str, ...]:
    given = directory("CACHE")
    return () if given is None else (str(given),)


def _build(values: Mapping[str, Any]) -> Serving:
    ours = {setting.name for setting in _TRANSFER} | {"metrics_address", "log_level"}
    fields = {name: value for name, value in values.items() if name not in ours}
    fields["socket_path"] = str(Path(fields["socket_path"] or _socket_path()).absolute())
    fields["spill_directories"] = tuple(
        str(Path(path).absolute()) for path in fields["spill_directories"]
    )
    config = StoreConfig(
        **fields,
        transfer=_transfer_config(values),
        transfer_token_file=_file(values, "token_file"),
        transfer_tls=tls_files(values["tls_certificate"], values["tls_key"], values["tls_ca"]),
    )
    config.validate()
    where = metrics_of(values)
    if where is None:
        return Serving(config=config, metrics=None)
    if values["token_file"] is None:
        problem = "metrics_address is given without token_file"
        raise ConfigError(problem, hint=_MAKE_TOKEN, problems=[f"{problem}; {_MAKE_TOKEN}"])
    return Serving(config=config, metrics=(where, str(values["token_file"])))


def _file(values: Mapping[str, Any], name: str) -> str | None:
    return None if values[name] is None else str(values[name])


@contextlib.contextmanager
def _named(prefix: str) -> Iterator[None]:
    """Has problems begin with the name of the setting that they are about."""
    try:
        yield
    except ConfigError as error:
        problems = [prefix + problem for problem in error.problems or (error.message,)]
        raise ConfigError(error.message, hint=error.hint, problems=problems) from error


def _transfer_config(values: Mapping[str, Any]) -> TransferConfig | None:
    if values["transfer_address"] is None:
        return None
    if values["token_file"] is None:
        problem = "transfer_address is given without token_file"
        raise ConfigError(problem, hint=_MAKE_TOKEN, problems=[f"{problem}; {_MAKE_TOKEN}"])
    # Brings Arrow Flight along, which is an extra.
    from rostral_objectstore.transfer import (
        Credentials,
        FetchConfig,
        TransferConfig,
        TransferServerConfig,
    )

    credentials = Credentials(
        token_file=str(values["token_file"]),
        tls_certificate_file=_file(values, "tls_certificate"),
        tls_key_file=_file(values, "tls_key"),
        tls_ca_file=_file(values, "tls_ca"),
    )
    config = TransferConfig(
        server=TransferServerConfig(
            credentials=credentials,
            address=values["transfer_address"],
            bandwidth_bytes_s=values["bandwidth_bytes_s"],
        ),
        fetch=FetchConfig(credentials=credentials),
    )
    with _named("transfer_address: "):
        config.validate()
    return config


SETTINGS = Settings(
    "objectstore",
    [
        *settings_of(
            StoreConfig,
            leave_out=["node_id", "transfer", "transfer_token_file", "transfer_tls"],
            defaults={
                "socket_path": (
                    None,
                    f"${SOCKET_VARIABLE}, else {SOCKET_NAME} in the unit's runtime directory, else "
                    "in this user's",
                ),
                "memory_bytes": (default_memory_bytes, "0.3 of the machine's memory"),
                "cpu_count": (lambda: len(os.sched_getaffinity(0)), "all that we may use"),
                "worker_user": (worker_user_of_unit, "what the unit says, else none"),
                "spill_directories": (
                    _default_spill_directories,
                    "the unit's cache directory, else none",
                ),
            },
        ),
        *_TRANSFER,
        METRICS_ADDRESS,
        Setting(
            name="log_level",
            kind=LOG_LEVEL,
            default="warning",
            about="What is logged, and worse; a reload applies it.",
        ),
    ],
    _build,
)
