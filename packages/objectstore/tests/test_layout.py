"""The constants that Python knows are those of the header that defines them."""

from __future__ import annotations

import os
import re
from enum import IntEnum
from pathlib import Path

import pytest

from rostral_objectstore import layout
from rostral_objectstore._native.segment import Segment
from rostral_objectstore.errors import SegmentError

# The header is in the source tree and the sdist, not in the wheel that is tested.
HEADER = Path(__file__).parent.parent / "src/rostral_objectstore/_native/layout.h"


def constants() -> dict[str, int]:
    text = HEADER.read_text()
    found = re.findall(r"^#define (\w+) (0x[0-9a-f]+|\d+)u?(?:ll)?\b", text, re.MULTILINE)
    found += re.findall(r"^\s*(\w+) = (\d+),?", text, re.MULTILINE)
    found += re.findall(r"\b(SLOT_\w+) = (\d+)", text)
    return {name: int(number, 0) for name, number in found}


@pytest.mark.parametrize(
    ("enum", "prefix"),
    [
        (layout.SlotState, "SLOT_"),
        (layout.SlotKind, "KIND_"),
        (layout.ObjectState, "OBJECT_"),
        (layout.ObjectFlag, "OBJECT_FLAG_"),
        (layout.TaskState, "TASK_"),
        (layout.TaskFlag, "TASK_FLAG_"),
    ],
)
def test_enums_are_the_headers(enum: type[IntEnum], prefix: str) -> None:
    header = constants()
    assert {prefix + m.name: m.value for m in enum} == {
        prefix + m.name: header[prefix + m.name] for m in enum
    }


def test_numbers_are_the_headers() -> None:
    header = constants()
    assert header["CHUNK_SIZE"] == layout.CHUNK_BYTES
    assert header["MAX_SLOTS"] == layout.SLOTS_MAX
    assert header["LANES_MAX"] == layout.LANES_MAX
    assert header["NO_SLOT"] == layout.NO_SLOT
    assert header["RETRY_FOREVER"] == layout.RETRY_FOREVER


# Of `struct header`: segment_size, slots_offset, index_offset, index_group_count,
# chunk_words_offset, chunk_records_offset, chunk_count, chunks_offset.
@pytest.mark.parametrize("place", range(16, 80, 8))
@pytest.mark.parametrize("value", [0, 8, 1 << 63, (1 << 64) - 1])
def test_a_header_that_leads_outside_the_segment_is_refused(place: int, value: int) -> None:
    segment = Segment.create(16 << 20, bytes(16), 1)
    try:
        Segment.attach(os.dup(segment.fd), 0).close()
        os.pwrite(segment.fd, value.to_bytes(8, "little"), place)
        with pytest.raises(SegmentError):
            Segment.attach(os.dup(segment.fd), 0)
    finally:
        segment.close()
