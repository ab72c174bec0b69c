"""The seed tree: streams are told apart by purpose, index and life, and by nothing else."""

from __future__ import annotations

import itertools

import pytest

from rostral_rl.errors import InvalidSettingError
from rostral_rl.seeding import SeedTree, Stream


def test_streams_do_not_repeat() -> None:
    tree = SeedTree(7)
    seeds = [
        tree.seed(stream, index, life=life)
        for stream, index, life in itertools.product(Stream, range(20), range(3))
    ]
    assert len(set(seeds)) == len(seeds)


def test_the_same_name_is_the_same_stream() -> None:
    first, second = SeedTree(3), SeedTree(3)
    assert first.seed(Stream.ENV, 4) == second.seed(Stream.ENV, 4)
    drawn = first.generator(Stream.ACTION, 4).random(5).tolist()
    assert drawn == second.generator(Stream.ACTION, 4).random(5).tolist()


def test_recorded_seeds_stay_what_they_were() -> None:
    # Published results name seeds: a change here makes every one of them unrepeatable.
    assert [SeedTree(1).seed(Stream.ENV, i) for i in range(3)] == [841291577, 121559155, 1005619631]


@pytest.mark.parametrize("root", [-1, 1.5, "1", None])
def test_a_root_that_is_no_count_is_refused(root: object) -> None:
    with pytest.raises(InvalidSettingError, match="seed must be an integer >= 0"):
        SeedTree(root)  # type: ignore[arg-type]
