"""Each parser takes its corpus, and mutations of it, with no error but those that it may raise."""

from __future__ import annotations

import random

import pytest

from .seeds import CORPUS, seeds
from .targets import TARGETS

MUTATIONS = 1500
WORDS = [b"\0", b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80", b"\xc1", b"[", b"{", b'"']


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The data with some of its bytes changed, taken out, doubled or put in."""
    changed = bytearray(data)
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(5):
            case 0 if at < len(changed):
                changed[at] ^= 1 << chance.randrange(8)
            case 1:
                del changed[at : at + chance.randrange(1, 9)]
            case 2:
                changed[at:at] = chance.choice(WORDS) * chance.choice([1, 1, 1, 64, 3000])
            case 3:
                changed[at:at] = changed[at : at + chance.randrange(1, 64)]
            case _:
                changed[at : at + 4] = chance.randbytes(4)
    return bytes(changed)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_parser_holds_against_its_corpus_and_mutations_of_it(name: str) -> None:
    kept = [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
    assert set(seeds()[name]) <= set(kept), "python -m fuzz.seeds writes the corpus"
    chance = random.Random(name)
    for data in kept:
        TARGETS[name](data)
    for _ in range(MUTATIONS):
        TARGETS[name](mutated(chance.choice(kept), chance))
