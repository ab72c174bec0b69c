"""Spaces: features a net reads, what fits, and the way through JSON."""

from __future__ import annotations

import json
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from rostral_rl.errors import PolicyFormatError, ShapeError, UnsupportedSpaceError
from rostral_rl.spaces import (
    action_width,
    as_batch,
    feature_count,
    features,
    from_json,
    to_json,
)

SPACES: list[gymnasium.Space[Any]] = [
    spaces.Box(-np.inf, np.inf, (2, 3), np.float32),
    spaces.Box(np.array((-1.5, 0.1), np.float32), np.array((0.0, np.inf), np.float32)),
    spaces.Box(0, 255, (4, 4), np.uint8),
    spaces.Discrete(5),
    spaces.Discrete(3, start=-1),
    spaces.MultiDiscrete([3, 2]),
    spaces.MultiBinary(4),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_json_and_back_is_the_same_space(space: gymnasium.Space[Any]) -> None:
    assert from_json(json.loads(json.dumps(to_json(space), allow_nan=False))) == space


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_features_equal_gymnasiums_flatten(space: gymnasium.Space[Any]) -> None:
    space.seed(3)
    sampled = [space.sample() for _ in range(9)]
    got = features(space, np.stack(sampled))
    expected = np.stack([np.asarray(spaces.flatten(space, each)) for each in sampled])
    assert got.shape == (9, feature_count(space))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected.astype(np.float32))


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_samples_fit_alone_and_in_batches(space: gymnasium.Space[Any]) -> None:
    space.seed(3)
    sampled = [space.sample() for _ in range(9)]
    assert as_batch(space, sampled[0])[1]
    batch, single = as_batch(space, np.stack(sampled))
    assert not single
    np.testing.assert_array_equal(batch, np.stack(sampled))


def test_a_choice_outside_its_range_does_not_fit() -> None:
    with pytest.raises(ShapeError, match=r"outside -1\.\.1"):
        as_batch(spaces.Discrete(3, start=-1), 2)


def test_spaces_that_no_policy_handles_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedSpaceError, match="Text"):
        feature_count(spaces.Tuple((spaces.Discrete(2), spaces.Text(3))))
    with pytest.raises(UnsupportedSpaceError, match="MultiBinary"):
        action_width(spaces.MultiBinary(3))
    with pytest.raises(PolicyFormatError, match="Graph"):
        from_json({"kind": "Graph"})
