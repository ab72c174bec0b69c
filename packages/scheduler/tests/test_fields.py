"""Fields of requests: what is no bytes is refused, and nothing is made of it."""

from __future__ import annotations

import pytest

from rostral_scheduler.errors import RequestError
from rostral_scheduler.local.fields import binaries, binary


def test_bytes_are_taken_as_they_are() -> None:
    assert binary({"id": b"ab"}, "id") == b"ab"
    assert binaries({"ids": [b"a", b"b", b"c"]}, "ids", 2) == [b"a", b"b"]


@pytest.mark.parametrize("value", [1 << 40, "ab", None, [b"ab"]])
def test_what_is_no_bytes_is_refused(value: object) -> None:
    with pytest.raises(RequestError, match="id is a"):
        binary({"id": value}, "id")


@pytest.mark.parametrize("value", [1 << 40, b"ab", [1 << 40], [b"a", "b"], None])
def test_what_is_no_list_of_bytes_is_refused(value: object) -> None:
    with pytest.raises(RequestError, match="ids must be a list of bytes"):
        binaries({"ids": value}, "ids", 2)
