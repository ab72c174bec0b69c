"""Sending commands and scripts, and following a slot of a cluster that is on its way.

This file owns two replies of which nobody else hears: NOSCRIPT, after which a script is sent whole,
and ASK: the slot is being moved, and this key is there already. Then the command goes to the node
that is named, after ASKING, and the next one begins at the old node again. Of a script whose keys
are not all at one place yet Redis says TRYAGAIN, which is the caller's to wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rostral_gcs.backends.redis_layout import Script
from rostral_gcs.backends.redis_link import (
    Command,
    NotYetError,
    RedisLink,
    ReplyError,
    first_error,
)

__all__ = ["Call", "Follow", "Work", "ask_all", "ask_together"]


@dataclass(frozen=True, slots=True)
class Call:
    """A script with its keys and arguments."""

    script: Script
    keys: list[bytes]
    arguments: list[object]


Work = Command | Call
Follow = Callable[[str], RedisLink]
"""The connection to a node of the cluster, by its address."""


def ask_all(link: RedisLink, work: Sequence[Work], follow: Follow) -> list[Any]:
    """Replies to commands of which each stands for itself, and may be done twice.

    Raises:
        LinkBrokenError: As for ``RedisLink.ask``.
        ReplyError: The first refusal.
    """
    replies = _ask(link, work)
    for at, reply in enumerate(replies):
        if isinstance(reply, ReplyError) and reply.code == "ASK":
            replies[at] = _ask(follow(reply.moved_to), [work[at]], asking=True)[0]
    error = first_error(replies)
    if error is not None:
        raise error
    return replies


def ask_together(
    link: RedisLink, work: Sequence[Work], follow: Follow, *, patience_s: float | None = None
) -> tuple[RedisLink, list[Any]]:
    """Replies, refusals among them, to a write and what must follow it on the same connection.

    Returns:
        The connection that the write went to, and the replies.

    Raises:
        LinkBrokenError: As for ``RedisLink.ask``.
        NotYetError: The same; or the write is to be done at another node.
    """
    replies = _ask(link, work, patience_s=patience_s)
    if isinstance(replies[0], ReplyError) and replies[0].code == "ASK":
        if patience_s is not None:
            raise NotYetError
        link = follow(replies[0].moved_to)
        replies = _ask(link, work, asking=True)
    return link, replies


def _ask(
    link: RedisLink,
    work: Sequence[Work],
    *,
    asking: bool = False,
    patience_s: float | None = None,
) -> list[Any]:
    replies = _send(link, work, whole=False, asking=asking, patience_s=patience_s)
    if any(isinstance(reply, ReplyError) and reply.code == "NOSCRIPT" for reply in replies):
        replies = _send(link, work, whole=True, asking=asking, patience_s=patience_s)
    return replies


def _send(
    link: RedisLink,
    work: Sequence[Work],
    *,
    whole: bool,
    asking: bool,
    patience_s: float | None,
) -> list[Any]:
    commands: list[Command] = []
    for item in work:
        if asking:
            commands.append(("ASKING",))
        if isinstance(item, Call):
            call = item.script.call_whole if whole else item.script.call
            commands.append(call(item.keys, item.arguments))
        else:
            commands.append(item)
    replies = link.ask(commands, patience_s=patience_s)
    return replies[1::2] if asking else replies
