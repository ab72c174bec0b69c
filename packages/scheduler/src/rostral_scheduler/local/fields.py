"""Fields of requests, checked.

Any process of the user's may send anything: `bytes()` of a number would make as many of them.
"""

from __future__ import annotations

from rostral_objectstore.control import Body
from rostral_scheduler.errors import RequestError

__all__ = ["binaries", "binary"]


def binary(body: Body, name: str) -> bytes:
    """The field's bytes. Raises KeyError, or RequestError when it is something else."""
    value = body[name]
    if not isinstance(value, bytes):
        raise RequestError(f"{name} is a {type(value).__name__}; it must be bytes")
    return value


def binaries(body: Body, name: str, count_max: int) -> list[bytes]:
    """The first of the field's items. Raises KeyError, or RequestError when one is no bytes."""
    values = body[name]
    if not isinstance(values, list) or not all(isinstance(one, bytes) for one in values):
        raise RequestError(f"{name} must be a list of bytes")
    return values[:count_max]
