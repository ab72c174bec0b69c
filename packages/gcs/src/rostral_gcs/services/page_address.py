"""The setting that says where a service's page of metrics is: on this machine alone.

Apart from the page itself, since who reads settings does not wait for an HTTP server's code.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any, Final

from rostral_gcs.errors import ConfigError
from rostral_gcs.services.kinds import KINDS
from rostral_gcs.services.settings import Setting

__all__ = ["METRICS_ADDRESS", "metrics_of", "page_address"]

METRICS_ADDRESS: Final = Setting(
    name="metrics_address",
    kind=KINDS["str"],
    default=None,
    about="HOST:PORT of a page for Prometheus, on this machine alone, whose readers show the "
    "token. Without it, there is none.",
)


def page_address(text: str) -> tuple[str, int]:
    """HOST:PORT, on this machine only. Raises ConfigError.

    What a service does is its user's own business, and the page has no TLS.
    """
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    try:
        number = int(port)
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError as error:
        raise ConfigError(
            f"the address {text[:80]!r} is not HOST:PORT", hint="write 127.0.0.1:9108"
        ) from error
    if not address.is_loopback or not 0 <= number < 1 << 16:
        raise ConfigError(
            f"metrics are served on this machine alone, not at {text[:80]}",
            hint="write 127.0.0.1:PORT and let a collector on the machine fetch them",
        )
    return str(address), number


def metrics_of(values: Mapping[str, Any]) -> tuple[str, int] | None:
    """Where the setting `metrics_address` has the page; None: there is none. Raises ConfigError."""
    given = values["metrics_address"]
    if given is None:
        return None
    try:
        return page_address(given)
    except ConfigError as error:
        problem = f"metrics_address: {error.message}"
        raise ConfigError(
            problem, hint=error.hint, problems=[f"{problem}; {error.hint}"]
        ) from error
