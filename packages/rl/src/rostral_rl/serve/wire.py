"""The two bodies that the policy server and its client speak, and how arrays go in and out of them.

JSON for people: `{"obs": [...]}` in, `{"action": ..., "version": n}` out. Raw tensors for programs:
the array's bytes in C order, with its dtype and shape in headers; about ten times less work at both
ends for a 64x64 image. The raw form names NumPy dtypes of fixed size only and is never unpickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from rostral_rl.arrays import SpaceArray
from rostral_rl.errors import ShapeError

JSON = "application/json"
RAW = "application/octet-stream"
SHAPE_HEADER = "x-tensor-shape"
DTYPE_HEADER = "x-tensor-dtype"
VERSION_HEADER = "x-policy-version"
SESSION_HEADER = "x-session"
RESET_HEADER = "x-session-reset"
DEADLINE_HEADER = "x-deadline-ms"
DIMENSIONS_MAX = 8
_DIGITS_MAX = 20
_DTYPE_OF = {
    name: np.dtype(name)
    for name in (
        *("float16", "float32", "float64", "int8", "int16", "int32", "int64"),
        *("uint8", "uint16", "uint32", "uint64", "bool"),
    )
}
# A dtype makes its own name anew each time, which takes longer than a small net's forward pass.
_NAME_OF = {dtype: name for name, dtype in _DTYPE_OF.items()}
DTYPES = frozenset(_DTYPE_OF)


def encode_raw(array: SpaceArray) -> tuple[bytes, dict[str, str]]:
    """An array as body and headers."""
    return array.tobytes(), raw_headers(array)


def raw_headers(array: SpaceArray) -> dict[str, str]:
    """The headers of an array's raw body."""
    return {
        "content-type": RAW,
        DTYPE_HEADER: _NAME_OF.get(array.dtype) or str(array.dtype),
        SHAPE_HEADER: ",".join(map(str, array.shape)),
    }


def tensor_headers(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """Of a request's headers, those that say what its raw body is."""
    return {
        name: headers[name.encode()].decode("latin-1")
        for name in (DTYPE_HEADER, SHAPE_HEADER)
        if name.encode() in headers
    }


def decode_raw(body: bytes, headers: Mapping[str, str]) -> SpaceArray:
    """The array of a raw body; a read-only view of it.

    Raises:
        ShapeError: Headers are missing or senseless, or do not fit the body's length.
    """
    dtype, shape = tensor_form(headers)
    return array_of(body, dtype.name, shape)


def tensor_form(headers: Mapping[str, str]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Dtype and shape of the arrays that come with these headers.

    Raises:
        ShapeError: Headers are missing or senseless.
    """
    dtype, shape_text = headers.get(DTYPE_HEADER, ""), headers.get(SHAPE_HEADER)
    if dtype not in DTYPES:
        raise ShapeError(f"{DTYPE_HEADER} is {dtype!r}", hint=f"one of {', '.join(sorted(DTYPES))}")
    if shape_text is None:
        raise ShapeError(f"{SHAPE_HEADER} is missing", hint="for example 8,4; empty for a scalar")
    # Stripped once: what `strip` takes for space, `int` may not.
    parts = [part.strip() for part in shape_text.split(",") if part]
    readable = all(part.isdecimal() and len(part) <= _DIGITS_MAX for part in parts)
    if len(parts) > DIMENSIONS_MAX or not readable:
        raise ShapeError(
            f"{SHAPE_HEADER} is {shape_text[:80]!r}", hint="for example 8,4; empty for a scalar"
        )
    return _DTYPE_OF[dtype], tuple(int(part) for part in parts)


def array_of(body: bytes, dtype: str, shape: tuple[int, ...]) -> SpaceArray:
    """The array of bytes in C order; a read-only view of them.

    Raises:
        ShapeError: Another dtype than those of `DTYPES`, or not as many bytes as that needs.
    """
    if dtype not in DTYPES or len(shape) > DIMENSIONS_MAX:
        raise ShapeError(
            f"a tensor of {dtype[:80]!r} with {len(shape)} dimensions",
            hint=f"at most {DIMENSIONS_MAX}; one of {', '.join(sorted(DTYPES))}",
        )
    size = _DTYPE_OF[dtype].itemsize
    for length in shape:
        size *= length
    if size != len(body):
        raise ShapeError(
            f"shape {str(shape)[:80]} {dtype} needs {size} bytes, the body has {len(body)}"
        )
    try:
        return np.frombuffer(body, _DTYPE_OF[dtype]).reshape(shape)
    except ValueError as error:  # No element, but one length beyond all bounds.
        raise ShapeError(f"a tensor of shape {str(shape)[:80]}", hint="no such array") from error


class _Question(msgspec.Struct):
    obs: Any


_decode = msgspec.json.Decoder(_Question).decode
encode_json = msgspec.json.encode


def decode_json(body: bytes) -> npt.ArrayLike:
    """The value of "obs" in a JSON body.

    Raises:
        ShapeError: Not JSON, or not an object with "obs".
    """
    try:
        obs: npt.ArrayLike = _decode(body).obs
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ShapeError(
            f'the body is not a JSON object with "obs": {error}', hint='{"obs": [...]}'
        ) from error
    return obs
