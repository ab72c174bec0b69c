"""Batching of writes: a lone one is sent at once, and those that come meanwhile go together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from rostral_gcs import ClientOptions
from rostral_gcs._proto import gcs_pb2
from rostral_gcs.batching import Batcher
from rostral_gcs.errors import ClientClosedError

OPTIONS = ClientOptions(batch_ops_max=3)


class Service:
    """Answers a request when it is let; keeps what each held."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.gates: list[asyncio.Future[None]] = []
        self.senders: list[asyncio.Task[object] | None] = []
        self._changed = asyncio.Condition()

    async def send(self, ops: Sequence[gcs_pb2.WriteOp]) -> Sequence[gcs_pb2.WriteResult]:
        gate = asyncio.get_running_loop().create_future()
        async with self._changed:
            self.requests.append(b"".join(op.key for op in ops))
            self.gates.append(gate)
            self.senders.append(asyncio.current_task())
            self._changed.notify_all()
        await gate
        return [gcs_pb2.WriteResult(version=op.key[0]) for op in ops]

    async def until_sent(self, count: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.requests) >= count)


def _ops(text: str) -> list[gcs_pb2.WriteOp]:
    return [gcs_pb2.WriteOp(table="kv", key=letter.encode()) for letter in text]


def test_a_lone_write_is_sent_by_its_own_caller() -> None:
    async def scenario() -> None:
        service = Service()
        batcher = Batcher(service.send, OPTIONS)
        writing = asyncio.create_task(batcher.write(_ops("ab")))
        await service.until_sent(1)
        assert service.senders == [writing]
        service.gates[0].set_result(None)
        assert [result.version for result in await writing] == [ord("a"), ord("b")]

    asyncio.run(scenario())


def test_writes_made_meanwhile_go_together_and_after_it() -> None:
    async def scenario() -> None:
        service = Service()
        batcher = Batcher(service.send, OPTIONS)
        writing = [asyncio.create_task(batcher.write(_ops(letter))) for letter in "abcde"]
        await service.until_sent(1)
        for _ in range(10):
            await asyncio.sleep(0)
        assert service.requests == [b"a"]
        service.gates[0].set_result(None)
        await service.until_sent(2)
        assert service.requests == [b"a", b"bcd"]
        service.gates[1].set_result(None)
        await service.until_sent(3)
        service.gates[2].set_result(None)
        assert [(await one)[0].version for one in writing] == list(b"abcde")

    asyncio.run(scenario())


def test_more_than_one_request_holds_is_split() -> None:
    async def scenario() -> None:
        service = Service()
        batcher = Batcher(service.send, OPTIONS)
        writing = asyncio.create_task(batcher.write(_ops("abcd")))
        for at in range(2):
            await service.until_sent(at + 1)
            service.gates[at].set_result(None)
        assert [result.version for result in await writing] == list(b"abcd")
        assert service.requests == [b"abc", b"d"]

    asyncio.run(scenario())


def test_who_gives_up_takes_nobody_along() -> None:
    async def scenario() -> None:
        service = Service()
        batcher = Batcher(service.send, OPTIONS)
        alone = asyncio.create_task(batcher.write(_ops("a")))
        await service.until_sent(1)
        other = asyncio.create_task(batcher.write(_ops("b")))
        await asyncio.sleep(0)
        alone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await alone
        await service.until_sent(2)
        service.gates[1].set_result(None)
        assert [result.version for result in await other] == [ord("b")]

    asyncio.run(scenario())


def test_closing_waits_for_what_was_written_and_refuses_more() -> None:
    async def scenario() -> None:
        service = Service()
        batcher = Batcher(service.send, OPTIONS)
        writing = [asyncio.create_task(batcher.write(_ops(letter))) for letter in "ab"]
        await service.until_sent(1)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        service.gates[0].set_result(None)
        await service.until_sent(2)
        assert not closing.done()
        service.gates[1].set_result(None)
        await closing
        assert [(await one)[0].version for one in writing] == list(b"ab")
        with pytest.raises(ClientClosedError):
            await batcher.write(_ops("c"))

    asyncio.run(scenario())
