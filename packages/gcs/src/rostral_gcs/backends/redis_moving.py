"""Rows that change shards in Redis: the scripts by which a store there gets more of them.

This file owns what is done to one shard when shards are added, and no order of steps: that is
``shared_growth.py``'s. A shard's *layout* names the table of shards by which it may be written to;
``+NUMBER:NAME`` is that of a growth under way, and nobody's: so writes wait. Growths are numbered,
so that one that was taken for dead touches no shard that a later one has. Each commit is
compare-and-set on the shard's generation, which a change of the layout raises: whoever planned a
write by another table of shards is refused, wherever it runs. Each script may be run twice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Final

from rostral_gcs.backends.base import Row
from rostral_gcs.backends.redis_layout import Keys, Meta, Script, pack_row, unpack_row
from rostral_gcs.backends.redis_work import Call, Work
from rostral_gcs.errors import ShardsMovedError

__all__ = ["RedisMover", "RedisShards"]

_ADOPT_ROWS: Final = 500

_NOW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# KEYS: meta. ARGV: what the layout must be, the name of a growth, and for how many ms nobody else
# may give it up. Returns the layout of the growth; empty: another one holds.
_CLAIM: Final = Script(
    _NOW
    + """
local present = redis.call('HGET', KEYS[1], 'layout') or ''
if string.match(present, '^%+%d+:(.*)$') == ARGV[2] then return present end
if present ~= ARGV[1] then return '' end
local layout = '+' .. redis.call('HINCRBY', KEYS[1], 'growths', 1) .. ':' .. ARGV[2]
redis.call('HSET', KEYS[1], 'layout', layout,
  'grow_until', string.format('%.0f', now + tonumber(ARGV[3])))
redis.call('HINCRBY', KEYS[1], 'generation', 1)
return layout
"""
)

# KEYS: meta. ARGV: what the layout must be, what it is then. Returns whether it is so.
_SET_LAYOUT: Final = Script(
    """
local present = redis.call('HGET', KEYS[1], 'layout') or ''
if present == ARGV[2] then return 1 end
if present ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'layout', ARGV[2])
redis.call('HINCRBY', KEYS[1], 'generation', 1)
return 1
"""
)

# KEYS: meta of a shard that is none yet. ARGV: the layout of a growth. Returns whether it has that
# now: not if it is a shard of the store, or a later growth's.
_TAKE: Final = Script(
    """
local present = redis.call('HGET', KEYS[1], 'layout') or ''
if present == ARGV[1] then return 1 end
local number = tonumber(string.match(present, '^%+(%d+):') or '')
if present ~= '' and not number then return 0 end
if number and number >= tonumber(string.match(ARGV[1], '^%+(%d+):')) then return 0 end
redis.call('HSET', KEYS[1], 'layout', ARGV[1])
redis.call('HINCRBY', KEYS[1], 'generation', 1)
return 1
"""
)

# KEYS: meta. ARGV: the layout of a growth, for how many ms more. Returns whether it still is that.
_RENEW: Final = Script(
    _NOW
    + """
if redis.call('HGET', KEYS[1], 'layout') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'grow_until', string.format('%.0f', now + tonumber(ARGV[2])))
return 1
"""
)

# KEYS: meta. ARGV: the layout of a growth, the one before it. Returns whether the growth is given
# up: it is if whoever began it has not been heard of for so long as it said.
_GIVE_UP: Final = Script(
    _NOW
    + """
local meta = redis.call('HMGET', KEYS[1], 'layout', 'grow_until')
if meta[1] ~= ARGV[1] or tonumber(meta[2] or '0') > now then return 0 end
redis.call('HSET', KEYS[1], 'layout', ARGV[2])
redis.call('HINCRBY', KEYS[1], 'generation', 1)
return 1
"""
)

# KEYS: meta, rows, index. ARGV: the layout of a growth, a sequence that further ones are to be
# above, then keys and stored values. Returns whether the layout was that.
_ADOPT_ROWS_SCRIPT: Final = Script(
    """
local meta = redis.call('HMGET', KEYS[1], 'layout', 'last_sequence', 'trimmed_sequence')
if meta[1] ~= ARGV[1] then return 0 end
for i = 3, #ARGV, 2 do
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
  redis.call('ZADD', KEYS[3], 0, ARGV[i])
end
for i, name in ipairs({'last_sequence', 'trimmed_sequence'}) do
  if tonumber(meta[i + 1]) < tonumber(ARGV[2]) then redis.call('HSET', KEYS[1], name, ARGV[2]) end
end
redis.call('HINCRBY', KEYS[1], 'generation', 1)
return 1
"""
)

# KEYS: meta, rows, index. ARGV: the layout of a growth. Deletes some rows; returns how many, or -1:
# the layout was another.
_EMPTY: Final = Script(
    """
if redis.call('HGET', KEYS[1], 'layout') ~= ARGV[1] then return -1 end
local keys = redis.call('ZRANGE', KEYS[3], 0, 999)
if #keys > 0 then
  redis.call('HDEL', KEYS[2], unpack(keys))
  redis.call('ZREM', KEYS[3], unpack(keys))
  redis.call('HINCRBY', KEYS[1], 'generation', 1)
end
return #keys
"""
)

# KEYS: meta, rows and index of the table of shards. ARGV: the layout of a growth, the next one, how
# many shards there are then, and keys and values. Returns whether it is so: the moment from which
# the new table of shards holds.
_STORE_MAP: Final = Script(
    """
local meta = redis.call('HMGET', KEYS[1], 'layout', 'last_sequence')
if meta[1] == ARGV[2] then return 1 end
if meta[1] ~= ARGV[1] then return 0 end
for i = 4, #ARGV, 2 do
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
  redis.call('ZADD', KEYS[3], 0, ARGV[i])
end
redis.call('HSET', KEYS[1], 'layout', ARGV[2], 'grown', ARGV[3])
redis.call('HINCRBY', KEYS[1], 'generation', 1)
return 1
"""
)

# KEYS: meta, rows, index. ARGV: keys.
_DROP: Final = Script(
    """
for i = 1, #ARGV do
  redis.call('HDEL', KEYS[2], ARGV[i])
  redis.call('ZREM', KEYS[3], ARGV[i])
end
redis.call('HINCRBY', KEYS[1], 'generation', 1)
return 1
"""
)


class RedisMover:
    """What growing does to one shard. Used where its backend is.

    Args:
        keys: The shard's.
        ask: Runs scripts at the primary, again while there is none, and returns when as many
            replicas as must have what they did.
    """

    def __init__(self, keys: Keys, ask: Callable[[Sequence[Work]], list[Any]]) -> None:
        self._keys = keys
        self._ask = ask

    def layout(self) -> str:
        """The shard's layout."""
        (found,) = self._ask([("HGET", self._keys.meta, "layout")])
        return (found or b"").decode()

    def claim(self, before: str, name: str, claim_s: float) -> str:
        """Begins a growth, if the first shard has that layout; empty: another one holds.

        ``claim_s``: for how long nobody else may give it up.
        """
        arguments: list[object] = [before, name, round(claim_s * 1000)]
        layout: bytes
        (layout,) = self._ask([Call(_CLAIM, [self._keys.meta], arguments)])
        return layout.decode()

    def set_layout(self, before: str, after: str) -> bool:
        """Gives the shard another layout, if it has that of before."""
        return self._did(Call(_SET_LAYOUT, [self._keys.meta], [before, after]))

    def take(self, layout: str) -> bool:
        """Gives a new shard the layout of a growth; False: it is none, or a later growth's."""
        return self._did(Call(_TAKE, [self._keys.meta], [layout]))

    def renew(self, layout: str, claim_s: float) -> bool:
        """Says that whoever grows is still at it; False: it was given up."""
        return self._did(Call(_RENEW, [self._keys.meta], [layout, round(claim_s * 1000)]))

    def give_up(self, layout: str, before: str) -> bool:
        """Ends the growth of somebody who is gone; False: it may still be there."""
        return self._did(Call(_GIVE_UP, [self._keys.meta], [layout, before]))

    def adopt(self, layout: str, table: int, rows: Sequence[Row], last_sequence: int) -> bool:
        """Puts rows as they are; False: another layout holds, and not all of them were put."""
        used = [self._keys.meta, *self._table(table)]
        for at in range(0, max(1, len(rows)), _ADOPT_ROWS):
            arguments: list[object] = [layout, last_sequence]
            for row in rows[at : at + _ADOPT_ROWS]:
                arguments += (row.key, pack_row(row.version, row.value))
            if not self._did(Call(_ADOPT_ROWS_SCRIPT, used, arguments)):
                return False
        return True

    def empty(self, layout: str, table: int) -> bool:
        """Deletes all rows of a table: what a growth left that came to nothing."""
        call = Call(_EMPTY, [self._keys.meta, *self._table(table)], [layout])
        while (count := int(self._ask([call])[0])) > 0:
            pass
        return count == 0

    def store_map(
        self, layout: str, after: str, shard_count: int, table: int, rows: Sequence[Row]
    ) -> bool:
        """Stores the new table of shards and gives this shard its layout, in one step."""
        arguments: list[object] = [layout, after, shard_count]
        for row in rows:
            arguments += (row.key, pack_row(row.version, row.value))
        return self._did(Call(_STORE_MAP, [self._keys.meta, *self._table(table)], arguments))

    def read(self, table: int, keys: Sequence[bytes]) -> dict[bytes, Row]:
        """The rows that exist among the keys, whatever the layout."""
        (values,) = self._ask([("HMGET", self._keys.rows(table), *keys)])
        return {
            key: unpack_row(key, stored)
            for key, stored in zip(keys, values, strict=True)
            if stored is not None
        }

    def replicas(self) -> int:
        """How many must have a write before it is acknowledged."""
        (found,) = self._ask([("HGET", self._keys.meta, "wait")])
        return int(found or b"0")

    def drop(self, table: int, keys: Sequence[bytes]) -> None:
        """Deletes rows without a trace."""
        for at in range(0, len(keys), _ADOPT_ROWS):
            part: list[object] = list(keys[at : at + _ADOPT_ROWS])
            self._ask([Call(_DROP, [self._keys.meta, *self._table(table)], part)])

    def _did(self, call: Call) -> bool:
        (done,) = self._ask([call])
        return bool(done)

    def _table(self, table: int) -> list[bytes]:
        return [self._keys.rows(table), self._keys.index(table)]


class RedisShards(ABC):
    """What a backend knows of the layout of its shard, and refuses when that has changed.

    Args:
        keys: The shard's.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self.mover = RedisMover(keys, self.ask)
        self._layout = ""
        # None: of a shard that is used by no table of shards, as when it is opened.
        self._expected_layout: str | None = None

    @abstractmethod
    def ask(self, work: Sequence[Work]) -> list[Any]:
        """Replies to what may be done twice; looks at the meta row last."""

    @property
    def layout(self) -> str:
        """The shard's, as was last heard."""
        return self._layout

    def expect(self, layout: str) -> None:
        """Has the shard be used by this layout."""
        self._expected_layout = layout

    def drop(self, table: int, keys: Sequence[bytes]) -> None:
        """Deletes rows that another shard has now."""
        self.mover.drop(table, keys)

    def _read_unmoved(self, work: Sequence[Work]) -> list[Any]:
        """As ``ask``, unless rows may have been dropped before: the meta row was read last."""
        replies = self.ask(work)
        expected = self._expected_layout
        if expected is not None and self._layout != expected and self._layout[:1] != "+":
            raise self._moved()
        return replies

    def _check_writable(self, meta: Meta) -> None:
        """Refuses to commit what was planned by another table of shards."""
        if meta.layout != self._expected_layout and self._expected_layout is not None:
            raise self._moved()

    def _moved(self) -> ShardsMovedError:
        return ShardsMovedError(
            f"shards are being added to the store of {self._keys.meta.decode()}, or were",
            hint="nothing is lost by waiting",
        )
