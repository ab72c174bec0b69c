"""What a policy knows of Gymnasium's spaces: their width, their JSON, and what fits in them.

Observations may be Box, Discrete, MultiDiscrete or MultiBinary, or a Dict or Tuple of these;
actions Discrete, MultiDiscrete or Box of one dimension. Everything else is refused by name, here
and at once, and not by a shape error in the middle of training.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from rostral_rl import nested
from rostral_rl.arrays import FloatArray, SpaceArray
from rostral_rl.errors import PolicyFormatError, ShapeError, UnsupportedSpaceError
from rostral_rl.heads import HeadKind

Space: TypeAlias = spaces.Space[Any]
JsonObject: TypeAlias = dict[str, Any]


def feature_count(space: Space) -> int:
    """Width D of the float vector that a net sees for one observation of `space`.

    Raises:
        UnsupportedSpaceError: The space is of another kind.
    """
    match space:
        case spaces.Dict() | spaces.Tuple():
            return sum(feature_count(part) for _, part in nested.parts(space))
        case spaces.Box():
            return int(np.prod(space.shape, dtype=np.int64))
        case spaces.Discrete():
            return int(space.n)
        case spaces.MultiDiscrete():
            return int(np.sum(space.nvec))
        case spaces.MultiBinary():
            return int(np.prod(space.shape, dtype=np.int64))
        case _:
            raise UnsupportedSpaceError(
                f"observation space {space} is not supported",
                hint="wrap the environment with gymnasium.wrappers.FlattenObservation",
            )


def features(space: Space, obs: SpaceArray) -> FloatArray:
    """Turns a batch of observations into what a net reads.

    Args:
        space: The space of one observation.
        obs: (N, *space.shape) in the space's dtype.

    Returns:
        (N, D) float32; integers one-hot, the rest flattened. May be a view of `obs`. A nested
        space's observations come as `encode` left them, and are passed on.
    """
    count = obs.shape[0]
    match space:
        case spaces.Discrete():
            return np.eye(int(space.n), dtype=np.float32)[
                obs.astype(np.int64) - int(space.start)
            ]  # (N, n)
        case spaces.MultiDiscrete():
            offsets = np.concatenate(([0], np.cumsum(space.nvec.ravel())[:-1]))  # (k,)
            columns = (obs.reshape(count, -1) - space.start.ravel()).astype(
                np.int64
            ) + offsets  # (N, k)
            hot = np.zeros((count, int(np.sum(space.nvec))), np.float32)  # (N, sum of nvec)
            np.put_along_axis(hot, columns, 1.0, axis=1)
            return hot
        case _:
            # Not -1: there may be no row to tell the width from.
            width = math.prod(obs.shape[1:])
            return obs.reshape(count, width).astype(np.float32, copy=False)  # (N, D)


def stored(space: Space) -> Space:
    """The space as slabs and fragments keep it; see `nested.stored`."""
    return nested.stored(space, feature_count(space))


def encode(space: Space, obs: Any) -> Any:
    """One observation as an environment gives it, to what slabs keep of it."""
    if not nested.is_nested(space):
        return obs
    return nested.flatten(space, obs, _single_features)[0]


def _single_features(space: Space, obs: Any) -> FloatArray:
    if nested.is_nested(space):
        return nested.flatten(space, obs, _single_features)
    return features(space, nested.as_single(obs))


def mask_at(space: Space, action_space: Space) -> int | None:
    """First feature of the action mask; None where observations hold none."""
    return nested.mask_at(space, action_space, feature_count)


def mask_columns(space: Space, action_space: Space) -> slice | None:
    """The features that are the action mask; None where observations hold none."""
    first = mask_at(space, action_space)
    return None if first is None else slice(first, first + action_width(action_space))


def action_width(space: Space) -> int:
    """Outputs that a net needs for `space`: choices of a Discrete, dimensions of a Box.

    Raises:
        UnsupportedSpaceError: Anything but Discrete, MultiDiscrete, or a Box of one dimension.
    """
    match space:
        case spaces.MultiDiscrete() if len(space.nvec.shape) == 1:
            return int(np.sum(space.nvec))
        case spaces.Discrete():
            return int(space.n)
        case spaces.Box() if len(space.shape) == 1:
            return int(space.shape[0])
        case _:
            raise UnsupportedSpaceError(
                f"action space {space} is not supported",
                hint="Discrete, MultiDiscrete, or Box of shape (n,)",
            )


def choices(space: Space) -> tuple[int, ...]:
    """Choices of each part of a MultiDiscrete; empty for other spaces."""
    return tuple(space.nvec.tolist()) if isinstance(space, spaces.MultiDiscrete) else ()


def usual_head(space: Space) -> HeadKind:
    """The head of a stochastic policy that acts in `space`."""
    if isinstance(space, spaces.MultiDiscrete):
        return "multi"
    return "gaussian" if space.shape else "categorical"


def as_batch(space: Space, obs: npt.ArrayLike) -> tuple[SpaceArray, bool]:
    """Checks what a user hands to a policy and gives it a batch axis.

    Args:
        space: The space of one observation.
        obs: One observation `(*shape)` or a batch `(N, *shape)`; anything that NumPy can read.

    Returns:
        The batch `(N, *shape)` in the space's dtype, and whether a single observation was given.

    Raises:
        ShapeError: Another shape, or values that cannot become the space's dtype without loss of
            kind.
    """
    if nested.is_nested(space):
        return _nested_batch(space, obs)
    shape = tuple(space.shape or ())
    dtype = np.dtype(space.dtype)
    try:
        array = np.asarray(obs)
    except ValueError as error:  # Ragged nesting.
        raise _unfit(space, f"observation is not an array: {error}") from error
    single = array.shape == shape
    if (not single and array.shape[1:] != shape) or array.ndim > len(shape) + 1:
        raise _unfit(space, f"observation has shape {array.shape} {array.dtype}", array)
    if array.dtype != dtype:
        # 'same_kind' forbids float -> int and object -> anything, and lets float64 become float32.
        # Whole numbers written as JSON integers are welcome where floats are expected.
        if not np.can_cast(array.dtype, dtype, "same_kind"):
            raise _unfit(space, f"observation has dtype {array.dtype}, shape {array.shape}", array)
        with np.errstate(over="ignore"):  # What becomes infinite is refused below.
            array = array.astype(dtype)
    batch = np.ascontiguousarray(array.reshape(-1, *shape) if single else array)
    if dtype.kind == "f" and not np.isfinite(batch).all():
        raise _unfit(space, "observation holds NaN or infinity", array)
    if isinstance(space, spaces.Discrete):
        low, high = int(space.start), int(space.start + space.n)
        if batch.size and (batch.min() < low or batch.max() >= high):
            raise _unfit(space, f"observation outside {low}..{high - 1}", array)
    return batch, single


def _unfit(space: Space, message: str, array: SpaceArray | None = None) -> ShapeError:
    """The error for what does not fit a space that is not nested."""
    shape = tuple(space.shape or ())
    batched = ", ".join(["N", *map(str, shape)])
    expected = f"shape {shape} or ({batched}{',' if not shape else ''}) {np.dtype(space.dtype)}"
    got = None if array is None else f"shape {array.shape} {array.dtype}"
    return ShapeError(message, expected=expected, got=got)


def _nested_batch(space: nested.Nested, obs: Any) -> tuple[SpaceArray, bool]:
    """The same for a Dict or Tuple: (N, D) features. All parts must agree on whether they are many.

    What was flattened already, as slabs keep it, is welcome too.
    """
    if isinstance(obs, np.ndarray) and obs.dtype != np.dtype(object):
        return as_batch(stored(space), obs)
    counts: set[tuple[int, bool]] = set()

    def part_features(part: Space, value: Any) -> FloatArray:
        batch, single = as_batch(part, value)
        counts.add((len(batch), single))
        return features(part, batch)

    flat = nested.flatten(space, obs, part_features)
    if len(counts) != 1:
        raise ShapeError("parts of the observation are of different lengths", hint=f"{space}")
    return flat, counts.pop()[1]


def alike(one: Space, other: Space) -> bool:
    """Whether a policy made for one space fits the other: same kind, shape and choices.

    Bounds may differ: a policy does not know those of its observations.
    """
    if nested.is_nested(one) and nested.is_nested(other):
        ours, theirs = nested.parts(one), nested.parts(other)
        return [key for key, _ in ours] == [key for key, _ in theirs] and all(
            alike(a, b) for (_, a), (_, b) in zip(ours, theirs, strict=True)
        )
    return (
        type(one) is type(other)
        and one.shape == other.shape
        and one.dtype == other.dtype
        and np.array_equal(
            getattr(one, "n", getattr(one, "nvec", 0)),
            getattr(other, "n", getattr(other, "nvec", 0)),
        )
    )


def to_json(space: Space) -> JsonObject:
    """Describes a space by plain values; `from_json` is its inverse."""
    match space:
        case spaces.Box():
            return {
                "kind": "Box",
                "shape": list(space.shape),
                "dtype": str(space.dtype),
                # repr-exact floats; infinities as strings, because JSON has none.
                "low": [_bound(v) for v in space.low.ravel().tolist()],
                "high": [_bound(v) for v in space.high.ravel().tolist()],
            }
        case spaces.Discrete():
            return {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}
        case spaces.MultiDiscrete():
            return {
                "kind": "MultiDiscrete",
                "nvec": space.nvec.tolist(),
                "start": space.start.tolist(),
            }
        case spaces.MultiBinary():
            return {"kind": "MultiBinary", "shape": list(space.shape)}
        case spaces.Dict() | spaces.Tuple():
            described = [[key, to_json(part)] for key, part in nested.parts(space)]
            return {"kind": type(space).__name__, "parts": described}
        case _:
            raise UnsupportedSpaceError(f"space {space} cannot be saved")


def from_json(data: JsonObject) -> Space:
    """Rebuilds a space.

    Raises:
        PolicyFormatError: The description is not one that `to_json` writes.
    """
    try:
        match data["kind"]:
            case "Box":
                shape = tuple(data["shape"])
                dtype = np.dtype(data["dtype"])
                low = np.array([float(v) for v in data["low"]]).astype(dtype).reshape(shape)
                high = np.array([float(v) for v in data["high"]]).astype(dtype).reshape(shape)
                return spaces.Box(low, high, shape, dtype.type)
            case "Discrete":
                return spaces.Discrete(data["n"], start=data["start"])
            case "MultiDiscrete":
                return spaces.MultiDiscrete(np.array(data["nvec"]), start=np.array(data["start"]))
            case "MultiBinary":
                shape = data["shape"]
                # One dimension comes as a number: MultiBinary(4) and MultiBinary([4]) differ.
                return spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)
            case "Dict":
                return spaces.Dict({key: from_json(part) for key, part in data["parts"]})
            case "Tuple":
                return spaces.Tuple([from_json(part) for _, part in data["parts"]])
            case kind:
                raise PolicyFormatError(f"unknown kind of space {kind!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise PolicyFormatError(f"description of a space is incomplete: {data!r}") from error


def _bound(value: float) -> float | str:
    return value if np.isfinite(value) else str(value)
