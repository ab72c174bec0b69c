"""The checker finds each kind of damage: words of the segment are overwritten from outside."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator

import pytest

from rostral_objectstore import ObjectHandle
from rostral_objectstore._native.check import check
from rostral_objectstore._native.segment import Segment
from rostral_objectstore._native.table import ObjectTable
from rostral_objectstore.layout import CHUNK_BYTES

# Where things lie, in bytes; layout.h has the structures.
SLOTS_OFFSET, CHUNK_WORDS_OFFSET, CHUNK_RECORDS_OFFSET, CHUNKS_OFFSET = 24, 48, 56, 72
INDEX_OFFSET, SLOT_BYTES, RECORD_BYTES, OBJECT_BYTES = 32, 256, 256, 128
SLOT_STATE, RELEASING, LOCKING, COUNT_OBJECT = 0, 160, 164, 168
WORD, ID, CONTAINERS, SIZE, DATA, NEXT, HOLDERS, PINS, DEPENDENTS = 0, 8, 32, 40, 48, 56, 64, 72, 80
VALUE = 88
FREED = 128
OTHER_SLOT = 40


class Poke:
    """Reads and writes words of a segment past everything."""

    def __init__(self, segment: Segment) -> None:
        self.memory = mmap.mmap(segment.fd, 0)

    def get(self, offset: int, form: str = "<Q") -> int:
        value: int = struct.unpack_from(form, self.memory, offset)[0]
        return value

    def set(self, offset: int, value: int, form: str = "<Q") -> None:
        struct.pack_into(form, self.memory, offset, value)

    def chunk_of(self, loc: int) -> int:
        return (loc * 64 - self.get(CHUNKS_OFFSET)) // CHUNK_BYTES

    def chunk_word(self, chunk: int) -> int:
        return self.get(CHUNK_WORDS_OFFSET) + 8 * chunk

    def chunk_record(self, chunk: int) -> int:
        return self.get(CHUNK_RECORDS_OFFSET) + RECORD_BYTES * chunk

    def slot(self, index: int, field: int) -> int:
        return self.get(SLOTS_OFFSET) + SLOT_BYTES * index + field


class Sound:
    """A segment with one object of each kind, and where they lie."""

    def __init__(self, segment: Segment, table: ObjectTable) -> None:
        self.table, self.poke = table, Poke(segment)

        def put(index: int, size: int, contained: list[ObjectHandle]) -> ObjectHandle:
            return table.put(ObjectHandle, bytes([index] * 20), 2, bytes(size), [], contained)

        self.inline, self.small, self.large = put(1, 10, []), put(2, 1000, []), put(3, 200_000, [])
        self.nested = put(4, 100, [self.small, self.large])
        self.array = table.put(ObjectHandle, bytes([5] * 20), 5, b"form", [bytes(1000)], [])
        self.kept = [self.array, self.inline, self.small, self.large, self.nested]

    def at(self, handle: ObjectHandle, field: int) -> int:
        return handle.loc * 64 + field

    def data(self, handle: ObjectHandle) -> int:
        return self.poke.get(self.at(handle, DATA), "<I")


@pytest.fixture
def sound(segment: Segment, table: ObjectTable) -> Iterator[Sound]:
    sound = Sound(segment, table)
    assert check(table) == []
    yield sound
    segment.close()  # what was damaged is not to be taken apart
    sound.poke.memory.close()


def test_a_segment_in_use_is_sound(sound: Sound) -> None:
    handle, buffer = sound.table.create(ObjectHandle, bytes(20), 5000, 3)
    sound.kept += [sound.table.expect(ObjectHandle, b"x" * 20), handle]
    assert check(sound.table) == []
    del buffer


# By rule: what is overwritten (a field of an object, with which value), and what is said then.
OBJECT_DAMAGE: dict[str, tuple[str, int, str, int, str]] = {
    "a block without a name": ("small", DATA, "<I", 0, "has no name"),
    "a seal without bytes": ("small", DATA, "<I", 0, "is sealed and has no bytes"),
    "a name of no block": ("large", DATA, "<I", 5, "is no block in use"),
    "a block too small": ("small", SIZE, "<Q", 1 << 20, "its block has"),
    "an inline value's block": ("inline", DATA, "<I", 77, "a block that it needs not"),
    "an unknown state": ("inline", WORD, "<B", 8, "is in no state"),
    "a freed object's block": ("small", WORD, "<B", 7, "is freed and not read, and has a block"),
    "a deletion without end": ("inline", WORD, "<B", 4, "still being deleted"),
    "a record without object": ("inline", WORD, "<B", 0, "is in use and has no object"),
    "an id that is not found": ("inline", ID, "<B", 99, "is not found by its id"),
    "an entry of another id": ("inline", ID, "<B", 99, "that has another id"),
    "a count too high": (
        "small",
        CONTAINERS,
        "<B",
        2,
        "counts 2 references to it, but there are 1",
    ),
    "a count too low": ("large", CONTAINERS, "<B", 0, "counts 0 references to it, but there are 1"),
    "another version": ("small", WORD + 4, "<I", 9, "which is another object by now"),
    "a holder that is not live": ("inline", HOLDERS + 5, "<B", 1, "held by slot 40, which is not"),
    "a pin without a hold": ("inline", PINS, "<Q", 2, "pinned by slots that do not hold it"),
    "nobody": ("inline", HOLDERS, "<Q", 0, "is kept by nobody"),
    "an open list of tasks": ("small", DEPENDENTS, "<Q", 0, "tasks could still wait for it"),
    "a head of its own": ("array", VALUE + 2, "<B", 99, "another head in its record"),
    "an end of its own": ("array", VALUE + 1, "<B", 1, "another head in its record"),
    "a head that is missing": ("array", VALUE, "<B", 0, "another head in its record"),
    "a head that is too much": ("nested", VALUE, "<B", 4, "another head in its record"),
    "a follower of no deletion": ("small", NEXT, "<I", 3, "has a next one to delete"),
}


@pytest.mark.parametrize("rule", OBJECT_DAMAGE)
def test_damage_to_an_object_is_found(sound: Sound, rule: str) -> None:
    name, field, form, value, said = OBJECT_DAMAGE[rule]
    sound.poke.set(sound.at(getattr(sound, name), field), value, form)
    assert any(said in sentence for sentence in check(sound.table)), check(sound.table)


def test_two_names_of_one_block_are_found(sound: Sound) -> None:
    sound.poke.set(sound.at(sound.large, DATA), sound.data(sound.small), "<I")
    assert any("is named by" in sentence for sentence in check(sound.table))


def test_a_writer_that_is_not_live_is_found(sound: Sound) -> None:
    handle, _buffer = sound.table.create(ObjectHandle, bytes(20), 5000, 3)
    sound.poke.set(sound.at(handle, WORD + 2), OTHER_SLOT, "<H")
    assert any("being written by slot 40" in sentence for sentence in check(sound.table))


def test_damage_to_the_list_of_references_is_found(sound: Sound) -> None:
    sound.poke.set(sound.data(sound.nested) * 64 + 16, 3, "<I")
    assert any("counts 0 to 3 of its 2 references" in line for line in check(sound.table))


@pytest.mark.parametrize(
    ("field", "said"),
    [(RELEASING, "is releasing"), (LOCKING, "is locking"), (COUNT_OBJECT, "is counting")],
)
def test_what_a_slot_has_left_open_is_found(sound: Sound, field: int, said: str) -> None:
    sound.poke.set(sound.poke.slot(OTHER_SLOT, field), 3, "<I")
    assert [sentence for sentence in check(sound.table) if f"slot 40 {said}" in sentence]


@pytest.mark.parametrize(
    ("state", "said"), [(2, "dead and not buried"), (1, "beyond the 1 given out")]
)
def test_a_slot_in_a_wrong_state_is_found(sound: Sound, state: int, said: str) -> None:
    sound.poke.set(sound.poke.slot(OTHER_SLOT, SLOT_STATE), state, "<I")
    assert any(said in sentence for sentence in check(sound.table))


def test_locks_and_wrong_entries_of_the_index_are_found(sound: Sound) -> None:
    index = sound.poke.get(INDEX_OFFSET)
    sound.poke.set(index, 3, "<I")
    sound.poke.set(index + 8, 1)
    sentences = " ".join(check(sound.table))
    assert "index group 0 is locked by 2" in sentences
    assert "index group 0 names 0x1, no record" in sentences


CHUNK_DAMAGE = {
    "a claim": (1, "is still claimed"),
    "no kind": (9, "is of no kind"),
    "a lost body": (6 | 1 << 32, "is the body of no run"),
    "a run without end": (5 | 1 << 62, "has 1073741824 chunks"),
    "a free chunk of somebody": (1 << 16, "is free, but its word is"),
    "a slab of the dead": (2 | OTHER_SLOT << 16 | 1 << 32, "which is not live"),
    "a slab of no class": (2 | 99 << 8 | 1 << 32, "has the word"),
    "no queue": (7 | 1 << 32, "there is no queue"),
    "nobody's run": (5 | 1 << 32, "has no name"),
}


@pytest.mark.parametrize("rule", CHUNK_DAMAGE)
def test_damage_to_a_chunk_is_found(sound: Sound, rule: str) -> None:
    word, said = CHUNK_DAMAGE[rule]
    sound.poke.set(sound.poke.chunk_word(500), word)
    assert any(said in sentence for sentence in check(sound.table)), check(sound.table)


def test_damage_to_the_middle_of_a_run_is_found(sound: Sound) -> None:
    chunk = sound.poke.chunk_of(sound.data(sound.large))
    sound.poke.set(sound.poke.chunk_word(chunk + 2), 6 | 7 << 32)
    assert any("not body 2 of the run" in sentence for sentence in check(sound.table))


def test_damage_to_the_bitmaps_of_a_slab_is_found(sound: Sound) -> None:
    record = sound.poke.chunk_record(sound.poke.chunk_of(sound.data(sound.small)))
    sound.poke.set(record, sound.poke.get(record) | 1 << 40)
    sound.poke.set(record + FREED, 1 << 50)
    sound.poke.set(record + 8, 0)
    sentences = " ".join(check(sound.table))
    for said in ("has no name", "freed blocks that are not in use", "blocks beyond its end"):
        assert said in sentences


def test_a_record_that_is_not_in_use_but_held_is_found(sound: Sound) -> None:
    spare = sound.inline.loc + 100 * OBJECT_BYTES // 64
    sound.poke.set(spare * 64 + HOLDERS, 1)
    sound.poke.set(spare * 64 + WORD, 3, "<B")
    sentences = " ".join(check(sound.table))
    assert "is not in use, and held" in sentences
    assert "is not in use, but has an object" in sentences
