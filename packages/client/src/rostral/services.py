"""What a service that is built on Rostral needs of the machine: settings, a life, systemd units.

Re-exports, for packages above this one; the code and its documentation are in
``rostral_gcs.services``.
"""

from __future__ import annotations

from rostral_gcs.auth import load_token
from rostral_gcs.credentials import TlsFiles, is_loopback, tls_files
from rostral_gcs.errors import ConfigError
from rostral_gcs.services.commands import (
    config_group,
    config_option,
    errors_shown,
    systemd_group,
)
from rostral_gcs.services.flags import given_flags, setting_options
from rostral_gcs.services.kinds import KINDS, LOG_LEVEL
from rostral_gcs.services.life import ServiceLife
from rostral_gcs.services.reloading import Reloader
from rostral_gcs.services.settings import DEFAULT, Flag, Setting, Settings, settings_of
from rostral_gcs.services.systemd import (
    TLS_DEFAULTS,
    configure_logging,
    credential,
    inherited_socket,
)
from rostral_gcs.services.tls_server import following_context
from rostral_gcs.services.unit_files import UnitFiles
from rostral_gcs.tokens import Scope, Tokens

__all__ = [
    "DEFAULT",
    "KINDS",
    "LOG_LEVEL",
    "TLS_DEFAULTS",
    "ConfigError",
    "Flag",
    "Reloader",
    "Scope",
    "ServiceLife",
    "Setting",
    "Settings",
    "TlsFiles",
    "Tokens",
    "UnitFiles",
    "config_group",
    "config_option",
    "configure_logging",
    "credential",
    "errors_shown",
    "following_context",
    "given_flags",
    "inherited_socket",
    "is_loopback",
    "load_token",
    "setting_options",
    "settings_of",
    "systemd_group",
    "tls_files",
]
