"""What a shard looks like in Redis: its keys, the form of its values, and its scripts.

This file owns the only spelling of the keys, and the Lua. All keys of a shard have one hash tag, so
that they lie in one slot of a cluster, and every script is given each key that it touches.

==================== ====== ===================================================================
``{P:N}:meta``       hash   what ``Meta`` reads, the format, the cluster's id, the shard count
``{P:N}:t:TABLE``    hash   key to version (8 bytes) and value
``{P:N}:k:TABLE``    zset   the keys, all with score 0, so that they are scanned in order
``{P:N}:p:TABLE``    list   keys that were appended and are not in the zset yet: their width, 4
                            bytes, and the keys, one after the other
``{P:N}:a:TABLE``    list   keys by age, and ``{P:N}:archive``: see ``redis_archive_layout.py``
``{P:N}:history``    zset   packed changes, with the sequence of the last one as the score
``{P:N}:answers``    hash   request id to answer
``{P:N}:times``      zset   request ids by the time of their answer
``{P:N}:leases``     zset   node ids by the primary's time, in ms, at which their lease ends
==================== ====== ===================================================================

A commit is one script, and so applied whole or not at all. It is compare-and-set on ``generation``,
which every commit raises: whoever planned on older rows is refused, and reads again. That is what
lets several services write to one shard. A request that has an answer already is refused too, so
that writes which depend on no row need not be looked up before.

Numbers are text throughout: Lua's are doubles.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rostral_gcs.backends.base import Change, Opened, Row

__all__ = [
    "ADOPT",
    "APPEND",
    "COMMIT",
    "FORGET",
    "LEASES_LEFT",
    "LEASES_RENEW",
    "FORMAT",
    "META_FIELDS",
    "ORDER",
    "RAISE_WAIT",
    "SCAN",
    "TRIM",
    "Keys",
    "Meta",
    "Script",
    "pack_changes",
    "pack_row",
    "pack_sizes",
    "unpack_changes",
    "unpack_row",
    "upper_bound",
]

FORMAT: Final = "1"
# Bytes of values in one member of the history; the next change begins another.
_PACK_SIZE_MAX: Final = 256 * 1024

_VERSION: Final = struct.Struct(">Q")
_CHANGE: Final = struct.Struct("<QHIi")
_SIZE: Final = struct.Struct("<Q")


class Keys:
    """The keys of one shard.

    Args:
        prefix: Of the cluster.
        shard: Its index.
    """

    def __init__(self, prefix: str, shard: int) -> None:
        tag = f"{{{prefix}:{shard}}}"
        self._tag = tag
        self.meta = f"{tag}:meta".encode()
        self.history = f"{tag}:history".encode()
        self.answers = f"{tag}:answers".encode()
        self.times = f"{tag}:times".encode()
        self.leases = f"{tag}:leases".encode()
        self.hints = f"{tag}:hints".encode()
        self.archive = f"{tag}:archive".encode()

    def rows(self, table: int) -> bytes:
        """The table's rows."""
        return f"{self._tag}:t:{table}".encode()

    def pending(self, table: int) -> bytes:
        """Keys that were appended and are not in order yet."""
        return f"{self._tag}:p:{table}".encode()

    def ages(self, table: int) -> bytes:
        """Keys in the order of their appends."""
        return f"{self._tag}:a:{table}".encode()

    def index(self, table: int) -> bytes:
        """The table's keys in order."""
        return f"{self._tag}:k:{table}".encode()


META_FIELDS: Final = (
    "epoch",
    "generation",
    "last_sequence",
    "trimmed_sequence",
    "base_sequence",
    "history_size",
    "wait",
    "replid",
    "gaps",
    "archived",
    "layout",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """The shard's own row.

    Attributes:
        epoch: Counts the primaries, and the restarts of each. A server with a lower one than we
            know of was away, and is neither read nor written.
        generation: Counts the commits.
        last_sequence: Of the newest change.
        trimmed_sequence: History up to and including this one is gone.
        base_sequence: The newest one when the epoch began.
        history_size: Bytes of values in the history.
        wait: How many replicas must have a write before it is acknowledged.
        replid: The replication id that the primary of this epoch had when it began.
        gaps: Sequences that no change has: from the last that a new primary had, to where it went
            on. What the one before had given out and nobody has any more lies within.
        archived: The number of the newest file that rows were moved to.
        layout: Names the table of shards by which it may be written to; see ``redis_moving.py``.
            Empty: that of a store that never grew.
    """

    epoch: int
    generation: int
    last_sequence: int
    trimmed_sequence: int
    base_sequence: int
    history_size: int
    wait: int
    replid: str
    gaps: tuple[tuple[int, int], ...]
    archived: int
    layout: str

    @property
    def moment(self) -> tuple[int, int]:
        """What tells this state of the shard from all others."""
        return self.epoch, self.generation

    @property
    def opened(self) -> Opened:
        """What a shard is told of it."""
        return Opened(
            last_sequence=self.last_sequence,
            trimmed_sequence=self.trimmed_sequence,
            history_size=self.history_size,
            base_sequence=self.base_sequence,
            gaps=self.gaps,
        )

    @classmethod
    def read(cls, fields: Sequence[bytes | None]) -> Meta | None:
        """From the values of ``META_FIELDS``; None when the shard was never made there."""
        if fields[0] is None:
            return None
        texts = [b"" if value is None else bytes(value) for value in fields]
        numbers = [int(text or b"0") for text in texts[:7]]
        spans = [span.split(b":") for span in texts[8].split(b",") if span]
        return cls(
            epoch=numbers[0],
            generation=numbers[1],
            last_sequence=numbers[2],
            trimmed_sequence=numbers[3],
            base_sequence=numbers[4],
            history_size=numbers[5],
            wait=numbers[6],
            replid=texts[7].decode(),
            gaps=tuple((int(start), int(end)) for start, end in spans),
            archived=int(texts[9] or b"0"),
            layout=texts[10].decode(),
        )


def upper_bound(prefix: bytes) -> bytes:
    """The end of a lexicographic range over the keys with the prefix."""
    stripped = prefix.rstrip(b"\xff")
    if not stripped:
        return b"+"  # Above all keys.
    return b"(" + stripped[:-1] + bytes([stripped[-1] + 1])


def pack_row(version: int, value: bytes) -> bytes:
    """The stored form of a row's value."""
    return _VERSION.pack(version) + value


def unpack_row(key: bytes, stored: bytes) -> Row:
    """The row again."""
    return Row(key, stored[_VERSION.size :], _VERSION.unpack_from(stored)[0])


def pack_sizes(sizes: Sequence[int]) -> bytes:
    """The sizes as the script reads them: 4 bytes each, little-endian."""
    return struct.pack(f"<{len(sizes)}I", *sizes)


def pack_changes(changes: Iterable[Change]) -> list[tuple[int, bytes]]:
    """Members of the history, each with the sequence of its last change."""
    packs: list[tuple[int, bytes]] = []
    parts: list[bytes] = []
    size = last_sequence = 0
    for change in changes:
        value = change.value
        length = -1 if value is None else len(value)
        head = _CHANGE.pack(change.sequence, change.table, len(change.key), length)
        parts += (head, change.key, value or b"")
        size += max(length, 0)
        last_sequence = change.sequence
        if size >= _PACK_SIZE_MAX:
            packs.append((last_sequence, _SIZE.pack(size) + b"".join(parts)))
            parts, size = [], 0
    if parts:
        packs.append((last_sequence, _SIZE.pack(size) + b"".join(parts)))
    return packs


def unpack_changes(packed: bytes) -> list[Change]:
    """The changes of one member."""
    changes: list[Change] = []
    at = _SIZE.size
    while at < len(packed):
        sequence, table, key_size, value_size = _CHANGE.unpack_from(packed, at)
        at += _CHANGE.size
        key = packed[at : at + key_size]
        at += key_size
        value = None if value_size < 0 else packed[at : at + value_size]
        at += max(value_size, 0)
        changes.append(Change(sequence, table, key, value, True))
    return changes


class Script:
    """One Lua script, called by its hash and sent whole to a server that does not know it."""

    def __init__(self, text: str) -> None:
        self._text = text.encode()
        self._sha = hashlib.sha1(self._text, usedforsecurity=False).hexdigest()

    def call(self, keys: Sequence[bytes], arguments: Sequence[object]) -> tuple[Any, ...]:
        """The command by hash."""
        return ("EVALSHA", self._sha, len(keys), *keys, *arguments)

    def call_whole(self, keys: Sequence[bytes], arguments: Sequence[object]) -> tuple[Any, ...]:
        """The command with the text."""
        return ("EVAL", self._text, len(keys), *keys, *arguments)


# unpack() fails above some 8,000 values, so long lists go in pieces.
_EACH: Final = """
local function each(command, key, from, to)
  for at = from, to, 4000 do
    redis.call(command, key, unpack(ARGV, at, math.min(at + 3999, to)))
  end
end
"""

# KEYS: meta, answers, times, history, then rows and index of each table, then the keys by age of
# those that have them: a key that does not exist would have a cluster whose slot moves wait.
# ARGV: epoch, generation, last sequence before; new generation, new last sequence, size of the
# history's new values; how many answer, time and history values, and tables; for each of these how
# many deleted keys, row values and index values, and whether its keys are kept by age (1); then all
# these.
COMMIT: Final = Script(
    _EACH
    + """
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'generation', 'last_sequence', 'wait')
if meta[1] ~= ARGV[1] or meta[2] ~= ARGV[2] or meta[3] ~= ARGV[3] then
  return {0, meta[4] or ''}
end
local tables = tonumber(ARGV[10])
local at, ages = 11 + 4 * tables, 4 + 2 * tables
for i = at, at + tonumber(ARGV[7]) - 1, 2 do
  if redis.call('HEXISTS', KEYS[2], ARGV[i]) == 1 then return {0, meta[4] or ''} end
end
local function take(command, key, count)
  if count > 0 then
    each(command, key, at, at + count - 1)
    at = at + count
  end
end
redis.call('HSET', KEYS[1], 'generation', ARGV[4], 'last_sequence', ARGV[5])
if ARGV[6] ~= '0' then redis.call('HINCRBY', KEYS[1], 'history_size', ARGV[6]) end
take('HSET', KEYS[2], tonumber(ARGV[7]))
take('ZADD', KEYS[3], tonumber(ARGV[8]))
take('ZADD', KEYS[4], tonumber(ARGV[9]))
for i = 1, tables do
  local counts = 7 + 4 * i
  local rows, index = KEYS[3 + 2 * i], KEYS[4 + 2 * i]
  local deletes = tonumber(ARGV[counts])
  if deletes > 0 then
    each('HDEL', rows, at, at + deletes - 1)
    take('ZREM', index, deletes)
  end
  if ARGV[counts + 3] == '1' then
    ages = ages + 1
    for j = at, at + tonumber(ARGV[counts + 1]) - 1, 2 do
      redis.call('RPUSH', KEYS[ages], struct.pack('<I4', #ARGV[j]) .. ARGV[j])
    end
  end
  take('HSET', rows, tonumber(ARGV[counts + 1]))
  take('ZADD', index, tonumber(ARGV[counts + 2]))
end
return {1, meta[4] or ''}
"""
)

# KEYS: meta, answers, times, then rows, pending keys and keys by age of each part.
# ARGV: epoch, generation, last sequence before; new generation, new last sequence; how many answer
# and time values; for each part key size, first sequence, how many rows, keys, sizes, values; then
# the answers and times. Rows come as columns: cut here, they cost the service a fraction.
# Their keys are put in order later (ORDER), since that costs more than all the rest. The answer
# ends with how many batches of keys wait for it, of the table that has most, and how many rows each
# part's table has now.
APPEND: Final = Script(
    _EACH
    + """
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'generation', 'last_sequence', 'wait')
if meta[1] ~= ARGV[1] or meta[2] ~= ARGV[2] or meta[3] ~= ARGV[3] then
  return {0, meta[4] or ''}
end
local parts = (#KEYS - 3) / 3
local from = 8 + 6 * parts
local to = from + tonumber(ARGV[6]) - 1
for i = from, to, 2 do
  if redis.call('HEXISTS', KEYS[2], ARGV[i]) == 1 then return {0, meta[4] or ''} end
end
redis.call('HSET', KEYS[1], 'generation', ARGV[4], 'last_sequence', ARGV[5])
if to >= from then each('HSET', KEYS[2], from, to) end
if ARGV[7] ~= '0' then each('ZADD', KEYS[3], to + 1, to + tonumber(ARGV[7])) end
local sub, pack, read, waiting = string.sub, struct.pack, struct.unpack, 0
local row_counts = {}
for i = 1, parts do
  local rows, pending, p = KEYS[1 + 3 * i], KEYS[2 + 3 * i], 2 + 6 * i
  local width, first, count = tonumber(ARGV[p]), tonumber(ARGV[p + 1]), tonumber(ARGV[p + 2])
  local keys, sizes, values = ARGV[p + 3], ARGV[p + 4], ARGV[p + 5]
  local at = 1
  for low = 0, count - 1, 2000 do
    local high = math.min(low + 1999, count - 1)
    local pairs_, n = {}, 0
    for row = low, high do
      local key = sub(keys, row * width + 1, row * width + width)
      local stop = at + read('<I4', sizes, row * 4 + 1)
      pairs_[n + 1] = key
      pairs_[n + 2] = pack('>I8', first + row) .. sub(values, at, stop - 1)
      at = stop
      n = n + 2
    end
    redis.call('HSET', rows, unpack(pairs_, 1, n))
  end
  local batch = pack('<I4', width) .. keys
  waiting = math.max(waiting, redis.call('RPUSH', pending, batch))
  redis.call('RPUSH', KEYS[3 + 3 * i], batch)
  row_counts[i] = redis.call('HLEN', rows)
end
return {1, meta[4] or '', waiting, unpack(row_counts)}
"""
)

# KEYS: index and pending keys of a table. ARGV: how many batches of keys to put in order. Returns
# how many are left.
ORDER: Final = Script(
    """
for _ = 1, tonumber(ARGV[1]) do
  local batch = redis.call('LPOP', KEYS[2])
  if not batch then return 0 end
  local width = struct.unpack('<I4', batch)
  for low = 5, #batch, width * 2000 do
    local members, n = {}, 0
    for at = low, math.min(low + width * 2000, #batch + 1) - 1, width do
      members[n + 1] = '0'
      members[n + 2] = string.sub(batch, at, at + width - 1)
      n = n + 2
    end
    redis.call('ZADD', KEYS[1], unpack(members, 1, n))
  end
end
return redis.call('LLEN', KEYS[2])
"""
)

# KEYS: meta. ARGV: the server's replication id, the epoch known to us, how many replicas to wait
# for from now on (empty: as before), how many sequences to leave out, format, cluster id, shard
# count. Makes the shard when there is none and we know of none.
ADOPT: Final = Script(
    """
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then
  if ARGV[2] ~= '0' then return {'gone'} end
  redis.call('HSET', KEYS[1], 'epoch', 1, 'generation', 0, 'last_sequence', 0,
    'trimmed_sequence', 0, 'base_sequence', 0, 'history_size', 0, 'wait', 0, 'gaps', '',
    'replid', ARGV[1], 'format', ARGV[5], 'cluster_id', ARGV[6], 'shard_count', ARGV[7])
elseif tonumber(epoch) < tonumber(ARGV[2]) then
  return {'behind', epoch}
elseif redis.call('HGET', KEYS[1], 'replid') ~= ARGV[1] then
  local last = redis.call('HGET', KEYS[1], 'last_sequence')
  local base = string.format('%.0f', tonumber(last) + tonumber(ARGV[4]))
  local spans = redis.call('HGET', KEYS[1], 'gaps') or ''
  local kept = {}
  for span in string.gmatch(spans, '[^,]+') do kept[#kept + 1] = span end
  while #kept > 15 do table.remove(kept, 1) end
  kept[#kept + 1] = last .. ':' .. base
  redis.call('HSET', KEYS[1], 'epoch', string.format('%.0f', tonumber(epoch) + 1),
    'replid', ARGV[1], 'last_sequence', base, 'base_sequence', base,
    'gaps', table.concat(kept, ','))
  redis.call('HINCRBY', KEYS[1], 'generation', 1)
  -- Numbers that were given out and are not known here any more must not come again.
  redis.call('HINCRBY', KEYS[1], 'archive_number', 1000)
  if ARGV[3] ~= '' then redis.call('HSET', KEYS[1], 'wait', ARGV[3]) end
end
return {'ok', redis.call('HGET', KEYS[1], 'format'), redis.call('HGET', KEYS[1], 'cluster_id'),
  redis.call('HGET', KEYS[1], 'shard_count'), redis.call('HGET', KEYS[1], 'grown') or ''}
"""
)

# KEYS: meta. ARGV: epoch, how many replicas must have a write from now on. Never lowers it.
RAISE_WAIT: Final = Script(
    """
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'wait')
if meta[1] == ARGV[1] and tonumber(meta[2]) < tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], 'wait', ARGV[2])
  return 1
end
return 0
"""
)

# KEYS: index, rows. ARGV: lower bound, upper bound, how many rows, how many bytes.
# Returns whether there is more, then keys and stored values in turn.
SCAN: Final = Script(
    """
local found, size, limit = {0}, 0, tonumber(ARGV[3])
local keys = redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1], ARGV[2], 'LIMIT', 0, limit + 1)
for from = 1, #keys, 500 do
  local to = math.min(from + 499, #keys)
  local values = redis.call('HMGET', KEYS[2], unpack(keys, from, to))
  for i = from, to do
    if i > limit or size > tonumber(ARGV[4]) then
      found[1] = 1
      return found
    end
    local value = values[i - from + 1]
    if value then
      found[#found + 1] = keys[i]
      found[#found + 1] = value
      size = size + #value - 8
    end
  end
end
return found
"""
)

# KEYS: meta, history. ARGV: up to which sequence; a member to replace, and its replacement with
# its score, or three empty ones. Returns how many members went and how many bytes of values.
TRIM: Final = Script(
    """
local size = 0
local packs = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[1], 'LIMIT', 0, 256)
for _, pack in ipairs(packs) do size = size + struct.unpack('<I8', pack) end
if #packs > 0 then redis.call('ZREMRANGEBYRANK', KEYS[2], 0, #packs - 1) end
if ARGV[2] ~= '' and redis.call('ZREM', KEYS[2], ARGV[2]) == 1 then
  size = size + struct.unpack('<I8', ARGV[2]) - struct.unpack('<I8', ARGV[3])
  redis.call('ZADD', KEYS[2], ARGV[4], ARGV[3])
end
if size > 0 then redis.call('HINCRBY', KEYS[1], 'history_size', string.format('%.0f', -size)) end
local trimmed = redis.call('HGET', KEYS[1], 'trimmed_sequence') or '0'
if tonumber(ARGV[1]) > tonumber(trimmed) then
  redis.call('HSET', KEYS[1], 'trimmed_sequence', ARGV[1])
end
return {#packs, size}
"""
)

# KEYS: answers, times. ARGV: before which time. Returns how many went.
FORGET: Final = Script(
    """
local ids = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(' .. ARGV[1], 'LIMIT', 0, 1000)
if #ids > 0 then
  redis.call('HDEL', KEYS[1], unpack(ids))
  redis.call('ZREM', KEYS[2], unpack(ids))
end
return #ids
"""
)

# KEYS: leases. ARGV: ids and for each how many milliseconds its lease runs from now.
LEASES_RENEW: Final = Script(
    """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 3600000)
for i = 1, #ARGV, 2 do redis.call('ZADD', KEYS[1], now + ARGV[i + 1], ARGV[i]) end
return #ARGV / 2
"""
)

# KEYS: leases. ARGV: ids. Returns for each how many milliseconds are left; 0 or less: none.
LEASES_LEFT: Final = Script(
    """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local left = {}
for i = 1, #ARGV do left[i] = (redis.call('ZSCORE', KEYS[1], ARGV[i]) or now) - now end
return left
"""
)
