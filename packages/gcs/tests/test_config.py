"""A wrong configuration is refused whole: all faults at once, nothing started."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rostral_gcs import GcsConfig
from rostral_gcs.errors import ConfigError, InsecureBindError
from rostral_gcs.tokens import Tokens


def test_defaults_are_valid_and_hide_the_token(config: GcsConfig) -> None:
    config.validate()
    assert Tokens.of(config.token).current() not in repr(config)


def test_all_faults_are_listed_at_once(config: GcsConfig) -> None:
    wrong = replace(
        config, port=70000, token="t", shard_count=0, retry_window_s=float("nan"), bind="nowhere"
    )
    with pytest.raises(ConfigError) as caught:
        wrong.validate()
    assert len(caught.value.problems) == 5
    for name in ("port", "token", "shard_count", "retry_window_s", "bind"):
        assert name in str(caught.value)


@pytest.mark.parametrize("bind", ["0.0.0.0", "::", "192.0.2.1"])
def test_more_than_loopback_must_be_asked_for_outright(config: GcsConfig, bind: str) -> None:
    with pytest.raises(InsecureBindError, match="without TLS"):
        replace(config, bind=bind).validate()
    replace(config, bind=bind, insecure=True).validate()


@pytest.mark.parametrize("bind", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_asking(config: GcsConfig, bind: str) -> None:
    replace(config, bind=bind).validate()
