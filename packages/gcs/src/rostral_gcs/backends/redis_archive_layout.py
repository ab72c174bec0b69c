"""The archive of a shard as Redis knows it: which files there are, and which rows may go to one.

This file owns the scripts; the keys are those of ``redis_layout.py``:

==================== ====== ===================================================================
``{P:N}:a:TABLE``    list   keys in the order of their appends, packed as in ``p:TABLE``. What is
                            flushed is taken from its head; what is not over then goes to its end
``{P:N}:archive``    hash   a file's number to ``TABLE:BATCHES:STATE``; STATE is ``open`` while its
                            rows may still be in Redis too, and then ``done``
``{P:N}:meta``       hash   ``archived``: the newest file's number; ``archive_number``: the newest
                            that was given out; who flushes, until when, and under which number
==================== ====== ===================================================================

One service at a time flushes a shard, and each step of it is refused once another has taken over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rostral_gcs.backends.redis_layout import Script

__all__ = ["CLAIM", "CLEAR", "FINISH", "REGISTER", "RELEASE", "FileNote"]

# KEYS: meta. ARGV: our name, for how many ms we flush. Returns a file's number, or 0: another does.
CLAIM: Final = Script(
    """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local meta = redis.call('HMGET', KEYS[1], 'flusher', 'flush_until')
if meta[1] and meta[1] ~= '' and meta[1] ~= ARGV[1] and tonumber(meta[2]) > now then return 0 end
local number = redis.call('HINCRBY', KEYS[1], 'archive_number', 1)
redis.call('HSET', KEYS[1], 'flusher', ARGV[1], 'flush_until',
  string.format('%.0f', now + tonumber(ARGV[2])), 'flush_number', number)
return number
"""
)

# KEYS: meta. ARGV: our name. Another may flush now.
RELEASE: Final = Script(
    """
if redis.call('HGET', KEYS[1], 'flusher') == ARGV[1] then
  redis.call('HSET', KEYS[1], 'flusher', '')
end
return 1
"""
)

# KEYS: meta, archive. ARGV: our name, the file's number, what is noted of it. Returns whether it
# was done: from now on readers know of the file.
REGISTER: Final = Script(
    """
local meta = redis.call('HMGET', KEYS[1], 'flusher', 'archived')
if meta[1] ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
if tonumber(ARGV[2]) > tonumber(meta[2] or '0') then
  redis.call('HSET', KEYS[1], 'archived', ARGV[2])
end
return 1
"""
)

# KEYS: meta, rows, index. ARGV: our name, then keys and the versions (8 bytes) that were archived.
# Deletes those rows that were not written since. Returns whether it was done.
CLEAR: Final = Script(
    """
if redis.call('HGET', KEYS[1], 'flusher') ~= ARGV[1] then return 0 end
for i = 2, #ARGV, 2 do
  local value = redis.call('HGET', KEYS[2], ARGV[i])
  if value and string.sub(value, 1, 8) == ARGV[i + 1] then
    redis.call('HDEL', KEYS[2], ARGV[i])
    redis.call('ZREM', KEYS[3], ARGV[i])
  end
end
return 1
"""
)

# KEYS: meta, archive, keys by age. ARGV: our name, the number, how many batches have been dealt
# with, what is noted of the file afterwards (empty: there is none), batches of keys that stay.
# May be called twice. Returns whether it was done.
FINISH: Final = Script(
    """
local meta = redis.call('HMGET', KEYS[1], 'flusher', 'flush_number')
if meta[1] ~= ARGV[1] then return 0 end
local noted = redis.call('HGET', KEYS[2], ARGV[2])
local is_open = noted and string.sub(noted, -5) == ':open'
if not is_open and (noted or meta[2] ~= ARGV[2]) then return 1 end
if ARGV[3] ~= '0' then redis.call('LTRIM', KEYS[3], ARGV[3], -1) end
for i = 5, #ARGV do redis.call('RPUSH', KEYS[3], ARGV[i]) end
if noted then redis.call('HSET', KEYS[2], ARGV[2], ARGV[4]) end
if meta[2] == ARGV[2] then redis.call('HSET', KEYS[1], 'flush_number', '') end
return 1
"""
)


@dataclass(frozen=True, slots=True)
class FileNote:
    """What Redis knows of a file.

    Attributes:
        table: Of its rows.
        batches: How many of the oldest batches of keys its rows were taken from.
        is_open: Whether its rows may still be in Redis too.
    """

    table: int
    batches: int
    is_open: bool

    @classmethod
    def decode(cls, text: bytes) -> FileNote:
        """From its stored form."""
        table, batches, state = text.split(b":")
        return cls(int(table), int(batches), state == b"open")

    def encode(self) -> bytes:
        """As it is stored."""
        return b"%d:%d:%s" % (self.table, self.batches, b"open" if self.is_open else b"done")
