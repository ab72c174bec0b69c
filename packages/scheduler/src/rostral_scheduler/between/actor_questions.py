"""What a node asks another one of an actor that lives there: what a handle of it is made of."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from rostral_scheduler.between.living_nodes import LivingNodes
from rostral_scheduler.between.messages import ActorFacts, AskActor

if TYPE_CHECKING:
    from rostral_scheduler.between.forwarded import Forwarded

__all__ = ["ActorQuestions"]

_ANSWER_TIMEOUT_S = 5.0
_CONNECT_PAUSE_S = 0.005


class ActorQuestions:
    """Those that are not answered yet, on the running event loop.

    Args:
        view: The living nodes.
        forwarded: By which messages travel.
    """

    def __init__(self, view: LivingNodes, forwarded: Forwarded) -> None:
        self._view, self._forwarded = view, forwarded
        self._facts: dict[bytes, list[asyncio.Future[ActorFacts]]] = {}

    async def ask(self, actor_id: bytes, node_id: bytes) -> ActorFacts | None:
        """What a node says of an actor of its own; None: nothing, in time."""
        deadline_s = asyncio.get_running_loop().time() + _ANSWER_TIMEOUT_S
        while (peer := self._forwarded.open_peer(node_id)) is None:
            if node_id not in self._view.by_id or asyncio.get_running_loop().time() > deadline_s:
                return None
            await asyncio.sleep(_CONNECT_PAUSE_S)
        future: asyncio.Future[ActorFacts] = asyncio.get_running_loop().create_future()
        self._facts.setdefault(actor_id, []).append(future)
        peer.link.send(AskActor(actor_id))
        try:
            async with asyncio.timeout_at(deadline_s):
                return await future
        except TimeoutError:
            return None

    def answered(self, message: ActorFacts) -> None:
        """The node's answer."""
        for future in self._facts.pop(message.actor_id, []):
            if not future.done():
                future.set_result(message)
