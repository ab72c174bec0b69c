"""Questions to the store's daemon that must not fail because it is between two lives.

Owns how long is waited for the next one. No task fails for that: it is not its fault.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

from rostral_objectstore.client import StoreClient
from rostral_objectstore.errors import StoreRestartedError, StoreUnavailableError

__all__ = ["patiently"]

_WAIT_S: Final = 60.0
_PAUSE_S: Final = 0.2
Answer = TypeVar("Answer")


def patiently(client: StoreClient, ask: Callable[[], Answer]) -> Answer:
    """Asks, again and again while no daemon is there. Blocks.

    Raises: what `ask` does; StoreUnavailableError if none comes within a minute, or the client is
    closed; StoreRestartedError, at once, if one comes with other memory.
    """
    given_up_at_s = time.monotonic() + _WAIT_S
    while True:
        try:
            return ask()
        except StoreRestartedError:
            raise
        except StoreUnavailableError:
            if client.segment.closed or time.monotonic() > given_up_at_s:
                raise
        time.sleep(_PAUSE_S)
