"""How a call tells the actor which method it is of and what was said at the call.

One number in the call's record: the method's number, the concurrency group if one was named, and
whether the exceptions worth another try were said. Owns the meaning of its bits; both sides use it.
"""

from __future__ import annotations

import enum

METHOD_BITS = 32
GROUP_BITS = 16
METHOD_MASK = (1 << METHOD_BITS) - 1
GROUP_MASK = (1 << GROUP_BITS) - 1
RETRY_SHIFT = METHOD_BITS + GROUP_BITS


class Retry(enum.IntEnum):
    """What a call says of the exceptions that are worth another try."""

    OF_METHOD = 0
    NEVER = 1
    ALWAYS = 2
    LISTED = 3  # the tuple of exception types is the call's first argument


def call_word(method: int, group: int | None, retry: Retry) -> int:
    """The word of a call; `group` None: the method's own."""
    return method | (0 if group is None else group + 1) << METHOD_BITS | retry << RETRY_SHIFT


def method_of(word: int) -> int:
    """The method's number."""
    return word & METHOD_MASK


def group_of(word: int) -> int | None:
    """The group named at the call, or None."""
    number = word >> METHOD_BITS & GROUP_MASK
    return number - 1 if number else None


def retry_of(word: int) -> Retry:
    """What was said of retries."""
    return Retry(word >> RETRY_SHIFT)
