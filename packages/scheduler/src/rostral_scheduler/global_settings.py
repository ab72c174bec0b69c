"""The settings of ``rostral-scheduler global``: of the scheduler and of its service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from rostral_gcs.errors import ConfigError
from rostral_gcs.services.kinds import KINDS, LOG_LEVEL
from rostral_gcs.services.page_address import METRICS_ADDRESS, metrics_of
from rostral_gcs.services.settings import Setting, Settings, settings_of
from rostral_gcs.services.systemd import TLS_DEFAULTS, credential
from rostral_gcs.tokens import Tokens
from rostral_scheduler.core.placement import PlacementLimits
from rostral_scheduler.global_.config import GlobalSchedulerConfig

__all__ = ["INITIAL", "SETTINGS", "Serving", "with_token"]

INITIAL: Final = {"gcs_address": "127.0.0.1:6380"}
"""What a service's first configuration file says."""

# Stands for a token while the rest is checked.
_NO_TOKEN: Final = "-" * 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """How one ``global`` runs.

    Attributes:
        config: Of the scheduler, without the token; see ``with_token``.
        token_file: The cluster token.
        metrics: Where the page for Prometheus is, of which readers show a token of `token_file`;
            None: there is none.
    """

    config: GlobalSchedulerConfig
    token_file: Path
    metrics: tuple[str, int] | None


def _build(values: Mapping[str, Any]) -> Serving:
    problems = [
        f"{name} is not set; allowed: {what}"
        for name, what in (("gcs_address", "HOST:PORT"), ("token_file", "a path"))
        if values[name] is None
    ]
    if problems:
        raise ConfigError("; ".join(problems), problems=problems)
    limits = {field.name for field in fields(PlacementLimits)}
    ours = {"token_file", "metrics_address", "log_level"} | limits
    config = GlobalSchedulerConfig(
        **{name: value for name, value in values.items() if name not in ours},
        token=_NO_TOKEN,
        limits=PlacementLimits(**{name: values[name] for name in limits}),
    )
    config.validate()
    return Serving(config=config, token_file=values["token_file"], metrics=metrics_of(values))


SETTINGS: Final = Settings(
    "global-scheduler",
    [
        *settings_of(
            GlobalSchedulerConfig, leave_out=["token", "limits"], defaults={**TLS_DEFAULTS}
        ),
        *settings_of(PlacementLimits),
        Setting(
            name="token_file",
            kind=KINDS["Path"],
            default=lambda: credential("token"),
            default_text="the unit's credential",
            about="The cluster token, a file of mode 0600 that is ours.",
        ),
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


def with_token(serving: Serving) -> GlobalSchedulerConfig:
    """The configuration with the cluster token read.

    Raises:
        TokenFileError: The file cannot be used.
    """
    return replace(serving.config, token=Tokens(serving.token_file))
