"""The shards of one store in Redis: what ``DataDir`` is for the embedded backend.

This file owns the store's identity while its shards are opened. Nothing lies on this machine, so
that any number of services may serve one store.
"""

from __future__ import annotations

import secrets

from rostral_gcs.backends.redis import RedisBackend
from rostral_gcs.backends.redis_primary import Identity
from rostral_gcs.redis_options import RedisOptions

__all__ = ["RedisStorage"]


class RedisStorage:
    """The shards of one store.

    Args:
        options: Checked.
        shard_count: Must be what the store was made with.
    """

    def __init__(self, options: RedisOptions, *, shard_count: int) -> None:
        self._options = options
        self._identity = Identity(
            cluster_id=secrets.token_bytes(16), is_proposal=True, shard_count=shard_count
        )

    @property
    def cluster_id(self) -> bytes:
        """16 random bytes made with the store; settled once a shard was opened."""
        return self._identity.cluster_id

    def backend(self, index: int) -> RedisBackend:
        """The storage of a shard, not yet open."""
        return RedisBackend(self._options, index, self._identity)

    def close(self) -> None:
        """Does nothing: each shard closes its own connections."""
