"""What client and server must agree on beyond the messages: the one place where it is spelled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["FRAME_METHODS", "PROTOCOL_VERSION", "REQUEST_ID_SIZE", "SERVICE"]

PROTOCOL_VERSION: Final = 1
"""Rises with every change that an older client or server would misunderstand."""

REQUEST_ID_SIZE: Final = 16
"""Bytes of a write's request id: random, and the same when it is sent again."""

SERVICE: Final = "rostral.gcs.v1.Gcs"
"""The service's name, in gRPC and in frames."""

FRAME_METHODS: Final[Mapping[str, int]] = {
    "Hello": 1,
    "Write": 2,
    "WriteColumns": 3,
    "Read": 4,
    "Scan": 5,
    "Query": 6,
    "Watch": 7,
    "AddShards": 8,
    "RenewNodeLease": 9,
}
"""The number of each call of gcs.proto where it travels in frames (``frames/``); never reused."""
