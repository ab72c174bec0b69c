"""The folder of environments: made once, kept while used, bounded."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from rostral_scheduler.local.environment_cache import Cache


class Maker:
    """Fills an entry, and counts how often it was asked to."""

    def __init__(self, size: int = 10_000, *, fails: bool = False) -> None:
        self.size, self.fails, self.count = size, fails, 0

    async def __call__(self, path: Path) -> None:
        self.count += 1
        (path / "part").write_bytes(bytes(self.size))
        await asyncio.sleep(0)
        if self.fails:
            raise ValueError("cannot be made")


def cache(folder: Path, *, count_max: int = 10, size_max: int = 1 << 30) -> Cache:
    return Cache(folder / "cache", count_max=count_max, size_max=size_max)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "cache").iterdir() if path.is_dir())


def test_of_many_who_want_it_at_once_one_makes_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        maker = Maker()
        # Two caches of one folder stand for two nodes.
        kept = [cache(tmp_path), cache(tmp_path)]
        leases = await asyncio.gather(*(kept[n % 2].lease("one", maker) for n in range(6)))
        assert maker.count == 1
        assert {lease.path for lease in leases} == {tmp_path / "cache" / "one"}
        for lease in leases:
            lease.end()

    asyncio.run(scenario())


def test_what_cannot_be_made_leaves_nothing_and_may_be_tried_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        kept = cache(tmp_path)
        with pytest.raises(ValueError, match="cannot be made"):
            await kept.lease("one", Maker(fails=True))
        assert names(tmp_path) == []
        (await kept.lease("one", Maker())).end()
        assert names(tmp_path) == ["one"]

    asyncio.run(scenario())


def test_what_a_dead_maker_left_is_made_anew(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "cache" / "one").mkdir(parents=True)
        (tmp_path / "cache" / "one" / "half").touch()
        lease = await cache(tmp_path).lease("one", Maker())
        assert sorted(path.name for path in lease.path.iterdir()) == [".complete", "part"]
        lease.end()

    asyncio.run(scenario())


def test_unused_entries_beyond_the_count_go_oldest_first(tmp_path: Path) -> None:
    async def scenario() -> None:
        kept = cache(tmp_path, count_max=2)
        for age, name in enumerate(("new", "old", "oldest")):
            (await kept.lease(name, Maker())).end()
            then = time.time() - 100 * age
            os.utime(tmp_path / "cache" / name / ".complete", (then, then))
        assert await kept.trim() == ["oldest"]
        assert names(tmp_path) == ["new", "old"]
        assert not (tmp_path / "cache" / "oldest.lock").exists()

    asyncio.run(scenario())


def test_entries_in_use_are_never_removed(tmp_path: Path) -> None:
    async def scenario() -> None:
        kept, other = cache(tmp_path, size_max=1), cache(tmp_path)
        lease = await other.lease("used", Maker())
        (await other.lease("unused", Maker())).end()
        assert await kept.trim() == ["unused"]
        lease.end()
        assert await kept.trim() == ["used"]

    asyncio.run(scenario())
