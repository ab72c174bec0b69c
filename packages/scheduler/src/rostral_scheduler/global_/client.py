"""How a local scheduler asks the global ones: finds them, asks one, and the next if it fails.

This file owns the choice among schedulers and the bounds of trying. Where there is none, it places
by the same policy itself, so that a cluster needs none to work.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from rostral_gcs import AsyncGcsClient
from rostral_gcs.channels import open_channel
from rostral_gcs.error_wire import error_from_rpc
from rostral_gcs.errors import (
    GcsInternalError,
    GcsOverloadedError,
    GcsUnavailableError,
    TooLargeError,
)
from rostral_scheduler._proto import scheduler_pb2, scheduler_pb2_grpc
from rostral_scheduler.core.placement_request import Answer, Later, TaskRequest
from rostral_scheduler.global_ import rows
from rostral_scheduler.global_.config import PlacingOptions
from rostral_scheduler.global_.placer import Placer
from rostral_scheduler.global_.wire import answers_of, encode_requests

__all__ = ["GlobalSchedulerClient"]

logger = logging.getLogger("rostral.scheduler.global")

# What a scheduler that is overloaded, ends or has a defect answers: another may do better.
_TRY_ANOTHER = (GcsUnavailableError, GcsOverloadedError, GcsInternalError, TooLargeError)


@dataclass(slots=True)
class _Peer:
    """One global scheduler."""

    address: str
    channel: grpc.aio.Channel
    stub: Any = field(repr=False)
    failed_at_s: float = -1e9
    call_count: int = 0
    """Calls under way."""


class GlobalSchedulerClient:
    """Asks global schedulers where tasks shall run. Used on one event loop.

    Args:
        gcs: A connected client of the cluster's GCS; stays the caller's.
        options: Bounds.

    Raises:
        ConfigError: The options are wrong.
    """

    def __init__(self, gcs: AsyncGcsClient, options: PlacingOptions | None = None) -> None:
        self._options = options if options is not None else PlacingOptions()
        self._options.validate()
        self._gcs = gcs
        self._peers: dict[str, _Peer] = {}
        self._read_at_s = -1e9
        self._reading = asyncio.Lock()
        self._own: Placer | None = None
        self._retired: list[_Peer] = []
        self._reaper = rows.Reaper()

    async def close(self) -> None:
        """Closes the connections. May be called twice."""
        if self._own is not None:
            await self._own.stop()
            self._own = None
        for peer in (*self._peers.values(), *self._retired):
            await peer.channel.close(None)
        self._peers.clear()
        self._retired.clear()

    async def place(self, batch: Sequence[TaskRequest]) -> list[Answer]:
        """Asks where each task shall run.

        Tries one scheduler after the other while none answers, for ``timeout_s`` in all; then, or
        when there is none, this process places by itself. So it always answers.

        Args:
            batch: The tasks. One that is asked about again, with the same attempt, may be placed
                elsewhere: whoever runs it must drop the second copy.

        Returns:
            One answer for each task, in order: Placed, Infeasible, or Later.

        Raises:
            GcsError: The token is wrong, or a request makes no sense.
        """
        answers: list[Answer] = []
        for at in range(0, len(batch), self._options.batch_tasks_max):
            answers += await self._place_some(batch[at : at + self._options.batch_tasks_max])
        return answers

    async def _place_some(self, batch: Sequence[TaskRequest]) -> list[Answer]:
        message = encode_requests(batch)
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._options.timeout_s
        tried: set[str] = set()
        while loop.time() < deadline_s:
            await self._read_rows()
            peer = self._choose(tried)
            if peer is None:
                break
            tried.add(peer.address)
            reply = await self._ask(peer, message, deadline_s)
            if reply is not None and len(reply.answers) == len(batch):
                return answers_of(reply)
        return await self._place_here(batch)

    # ---- finding them

    async def _read_rows(self) -> None:
        loop = asyncio.get_running_loop()
        async with self._reading:
            if loop.time() - self._read_at_s < self._options.refresh_s:
                return
            try:
                async with asyncio.timeout(self._options.call_timeout_s):
                    found = await rows.list_schedulers(self._gcs)
            except (GcsUnavailableError, TimeoutError) as error:
                # Those that are known may still answer.
                logger.debug("cannot read the rows of global schedulers error=%s", error)
                return
            finally:
                self._read_at_s = loop.time()
            dead = self._reaper.dead(found, loop.time())
            addresses = {row.address for row in found if row.key not in dead}
            for address in self._peers.keys() - addresses:
                self._retired.append(self._peers.pop(address))
            # Closing a channel cancels the calls on it, and with them whoever waits.
            for peer in [peer for peer in self._retired if not peer.call_count]:
                self._retired.remove(peer)
                await peer.channel.close(None)
            for address in addresses - self._peers.keys():
                self._peers[address] = self._connect(address)

    def _connect(self, address: str) -> _Peer:
        channel = open_channel(
            address,
            self._gcs.tls,
            options=[
                # The address is the cluster's own: a proxy from the environment has no part in it.
                ("grpc.enable_http_proxy", 0),
                ("grpc.initial_reconnect_backoff_ms", 50),
                ("grpc.max_reconnect_backoff_ms", 1_000),
                ("grpc.max_send_message_length", self._options.message_size_max),
                ("grpc.max_receive_message_length", self._options.message_size_max),
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )
        make: Callable[[grpc.aio.Channel], object] = scheduler_pb2_grpc.GlobalSchedulerStub
        return _Peer(address, channel, make(channel))

    # ---- asking

    def _choose(self, tried: set[str]) -> _Peer | None:
        """One that was not tried for this batch; those that failed of late come last."""
        now_s = asyncio.get_running_loop().time()
        untried = [peer for peer in self._peers.values() if peer.address not in tried]
        well = [p for p in untried if now_s - p.failed_at_s > self._options.avoid_s]
        # By chance, so that many local schedulers share the work out.
        return random.choice(well or untried) if untried else None

    async def _ask(
        self, peer: _Peer, message: scheduler_pb2.PlaceRequest, deadline_s: float
    ) -> scheduler_pb2.PlaceReply | None:
        loop = asyncio.get_running_loop()
        timeout_s = min(self._options.call_timeout_s, max(0.001, deadline_s - loop.time()))
        peer.call_count += 1
        try:
            reply: scheduler_pb2.PlaceReply = await peer.stub.Place(
                message, metadata=self._gcs.call_metadata, timeout=timeout_s
            )
            return reply
        except grpc.aio.AioRpcError as failure:
            error = error_from_rpc(failure, peer.address)
            if not isinstance(error, _TRY_ANOTHER):
                raise error from failure
            peer.failed_at_s = loop.time()
            logger.debug("address=%s does not place error=%s", peer.address, error)
            return None
        finally:
            peer.call_count -= 1

    # ---- with none

    async def _place_here(self, batch: Sequence[TaskRequest]) -> list[Answer]:
        if self._own is None:
            self._own = Placer(self._gcs, self._options.limits)
            self._own.start()
        try:
            async with asyncio.timeout(self._options.call_timeout_s):
                await self._own.synced.wait()
        except TimeoutError:
            retry_s = self._options.limits.retry_s
            return [Later(retry_s, "neither a global scheduler nor the GCS answers")] * len(batch)
        return self._own.place(batch)
