"""Functions that capture much: told of above 10 MB, and refused above 100 MB."""

from __future__ import annotations

import logging
from typing import Any

import pytest

import rostral
from rostral.functions import BYTES_MAX, WARN_BYTES

pytestmark = pytest.mark.usefixtures("cluster")


def captures(size: int) -> Any:
    data = bytes(size)

    @rostral.remote
    def captor() -> int:
        return len(data)

    return captor


def test_one_over_10_mb_runs_and_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "rostral.functions"):
        assert rostral.get(captures(WARN_BYTES - 10_000).remote()) == WARN_BYTES - 10_000
        assert caplog.messages == []
        assert rostral.get(captures(WARN_BYTES).remote()) == WARN_BYTES
    (message,) = caplog.messages
    assert "captor pickles to" in message


def test_one_over_100_mb_is_refused_by_name() -> None:
    captor = captures(BYTES_MAX)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"captor pickles to \d+ bytes, over the limit"):
            captor.remote()
