"""The id index: ids that collide, many ids, and ids that were deleted."""

from __future__ import annotations

import struct

from rostral_objectstore._native.segment import Segment
from rostral_objectstore._native.table import Handle, ObjectTable

from .store import Store

MANY = 200_000
MASK = (1 << 64) - 1


def colliding_id(number: int) -> bytes:
    """20 bytes whose 64-bit hash is the same for every number: the hash begins with a xor."""
    rotated = (number << 23 | number >> 41) & MASK
    return struct.pack("<QQI", 0x1234567 ^ rotated, number, 0)


def put(table: ObjectTable, id: bytes) -> Handle:
    return table.put(Handle, id, 2, id, [], [])


def value(table: ObjectTable, handle: Handle) -> object:
    read = table.read(handle)
    assert read is not None
    return read[2]


def test_ids_with_one_hash_are_told_apart(table: ObjectTable) -> None:
    ids = [colliding_id(number) for number in range(500)]
    handles = {id: put(table, id) for id in ids}
    for id in ids[::2]:
        del handles[id]
    for i, id in enumerate(ids):
        found = table.find(Handle, id)
        if i % 2 == 0:
            assert found is None
        else:
            assert found is not None
            assert value(table, found) == id
    for id in ids[::4]:
        handles[id] = put(table, id)
    assert all(table.find(Handle, id) is not None for id in ids[::4])
    assert table.find(Handle, colliding_id(10_000)) is None


def test_200k_objects_are_found_and_gone_when_dropped() -> None:
    segment = Segment.create(256 << 20, bytes(16), 1)
    segment.use_slot(segment.claim_slot(1, 0, 6, bytes(16), bytes(16)))
    table = ObjectTable(segment)
    handles = {i: put(table, struct.pack("<Q12x", i)) for i in range(MANY)}
    for i in range(0, MANY, 2):
        del handles[i]
    for i in range(0, MANY, 97):
        found = table.find(Handle, struct.pack("<Q12x", i))
        assert (found is not None) == (i % 2 == 1)
    again = [put(table, struct.pack("<Q12x", i)) for i in range(0, MANY, 2)]
    assert [value(table, h) for h in again[::997]] == [
        struct.pack("<Q12x", i) for i in range(0, MANY, 2 * 997)
    ]


def test_two_processes_that_use_one_id_at_once_get_one_object(store: Store) -> None:
    """Both expect and drop the same few ids as fast as they can: nobody may see two records."""
    peers = [store.peer(), store.peer()]
    for peer in peers:
        peer.begin(
            "made = 0\n"
            "for round in range(3000):\n"
            "    id = ObjectID(bytes([round % 5]) * 20)\n"
            "    try:\n"
            "        handle = client.put(round, id)\n"
            "        made += 1\n"
            "    except ObjectAlreadyExistsError:\n"
            "        handle = table.find(ObjectHandle, id.binary())\n"
            "        if handle is not None and table.is_sealed(handle):\n"
            "            assert client.get(handle) % 5 == round % 5\n"
            "    del handle"
        )
    for peer in peers:
        peer.end()
    assert sum(peer.ask("made") for peer in peers) >= 3000
    assert store.audit()["objects"] == 0
    assert store.audit()["index_entries"] == 0
