"""The checksum of what leaves memory."""

from __future__ import annotations

from rostral_objectstore.checksum import checksum


def test_parts_have_the_checksum_of_the_whole() -> None:
    assert checksum(b"ab", memoryview(b"cd"), b"") == checksum(bytearray(b"abcd"))


def test_one_changed_bit_or_another_place_changes_it() -> None:
    block = bytearray(10_000)
    sums = {checksum(block), checksum(block, seed=64)}
    for at in range(0, len(block), 977):
        block[at] ^= 1
        sums.add(checksum(block))
        block[at] ^= 1
    assert len(sums) == 2 + len(range(0, len(block), 977))
