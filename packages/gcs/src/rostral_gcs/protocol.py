"""What client and server must agree on beyond the messages: the one place where it is spelled."""

from __future__ import annotations

from typing import Final

__all__ = ["PROTOCOL_VERSION", "REQUEST_ID_SIZE"]

PROTOCOL_VERSION: Final = 1
"""Rises with every change that an older client or server would misunderstand."""

REQUEST_ID_SIZE: Final = 16
"""Bytes of a write's request id: random, and the same when it is sent again."""
