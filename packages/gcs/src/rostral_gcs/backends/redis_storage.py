"""The shards of one store in Redis: what ``DataDir`` is for the embedded backend.

This file owns the store's identity while its shards are opened. Nothing lies on this machine but
what was flushed to the archive, so that any number of services may serve one store.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from rostral_gcs.archive.files import ArchiveForm
from rostral_gcs.backends.redis import RedisBackend
from rostral_gcs.backends.redis_archive import Archiving
from rostral_gcs.backends.redis_primary import Identity
from rostral_gcs.errors import InvalidArgumentError
from rostral_gcs.redis_options import RedisOptions

__all__ = ["RedisStorage"]


class RedisStorage:
    """The shards of one store.

    Args:
        options: Checked.
        shard_count: Must be what the store was made with.
        archive_dir: Where finished tasks and old events go; the same for all services.
        archive_form: Of new files there.
        lineage_rows_max: Most rows of tasks and events in Redis, all shards together.
    """

    def __init__(
        self,
        options: RedisOptions,
        *,
        shard_count: int,
        archive_dir: Path,
        archive_form: ArchiveForm = "auto",
        lineage_rows_max: int = 1_500_000,
    ) -> None:
        self._options = options
        rows_max = max(8, lineage_rows_max // shard_count)
        self._archiving = Archiving(archive_dir, archive_form, rows_max)
        self._identity = Identity(
            cluster_id=secrets.token_bytes(16), is_proposal=True, shard_count=shard_count
        )

    @property
    def cluster_id(self) -> bytes:
        """16 random bytes made with the store; settled once a shard was opened."""
        return self._identity.cluster_id

    @property
    def shard_count(self) -> int:
        """How many shards the store was made with; settled once a shard was opened."""
        return self._identity.shard_count

    def check_room(self, shard_count: int) -> None:
        """Refuses shards for which there is no place.

        Raises:
            InvalidArgumentError: Each shard has a URL of its own.
        """
        count = len(self._options.urls)
        if count > 1:
            raise InvalidArgumentError(
                f"{shard_count} shards, but redis_urls names the servers of {count}; allowed: "
                "adding to a store whose shards all lie in one place",
                hint="make a new store with more, or move this one to a Redis Cluster",
            )

    def backend(self, index: int) -> RedisBackend:
        """The storage of a shard, not yet open."""
        return RedisBackend(self._options, index, self._identity, self._archiving)

    def close(self) -> None:
        """Does nothing: each shard closes its own connections."""
