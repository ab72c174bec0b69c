"""Batching by columns: requests follow each other, and no older row is left over a newer one."""

from __future__ import annotations

import asyncio

import pytest

from rostral_gcs import ClientOptions
from rostral_gcs.column_batching import UNDER_WAY_MAX, ColumnBatcher
from rostral_gcs.errors import GcsUnavailableError

OPTIONS = ClientOptions(batch_ops_max=2)


class Service:
    """Takes requests when it is let, and keeps what each wrote in the order of its doing."""

    def __init__(self) -> None:
        self.gates: list[asyncio.Future[bool]] = []
        self.sent: list[bytes] = []
        self.done: list[bytes] = []
        self._changed = asyncio.Condition()

    async def send(self, keys: list[bytes], _: list[bytes] | None) -> bool:
        gate: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.gates.append(gate)
        name = b"".join(keys)
        async with self._changed:
            self.sent.append(name)
            self._changed.notify_all()
        was_first = await gate
        self.done.append(name)
        return was_first

    async def until_sent(self, count: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.sent) >= count)


def _keys(text: str) -> list[bytes]:
    return [letter.encode() for letter in text]


def test_the_next_requests_are_sent_before_the_first_is_answered() -> None:
    async def scenario() -> None:
        service = Service()
        batcher = ColumnBatcher(service.send, OPTIONS, lambda: True)
        writing = asyncio.create_task(batcher.write(_keys("aabbccddee"), [b""] * 10))
        await service.until_sent(UNDER_WAY_MAX)
        for _ in range(10):
            await asyncio.sleep(0)
        assert service.sent == [b"aa", b"bb", b"cc"], "and no more of them than that"
        service.gates[0].set_result(True)
        await service.until_sent(4)
        assert not writing.done()
        for gate in service.gates[1:]:
            gate.set_result(True)
        await service.until_sent(5)
        service.gates[4].set_result(True)
        await writing
        assert service.sent == service.done == [b"aa", b"bb", b"cc", b"dd", b"ee"]
        await batcher.close()

    asyncio.run(scenario())


def test_without_order_there_is_one_request_at_a_time() -> None:
    async def scenario() -> None:
        service = Service()
        batcher = ColumnBatcher(service.send, OPTIONS)
        writing = asyncio.create_task(batcher.write(_keys("aabb"), None))
        await service.until_sent(1)
        for _ in range(10):
            await asyncio.sleep(0)
        assert service.sent == [b"aa"]
        service.gates[0].set_result(True)
        await service.until_sent(2)
        service.gates[1].set_result(True)
        await writing
        await batcher.close()

    asyncio.run(scenario())


def test_what_may_have_overtaken_a_second_attempt_is_sent_once_more() -> None:
    async def scenario() -> None:
        service = Service()
        batcher = ColumnBatcher(service.send, OPTIONS, lambda: True)
        writing = asyncio.create_task(batcher.write(_keys("aabbcc"), [b""] * 6))
        await service.until_sent(3)
        service.gates[1].set_result(True)
        service.gates[2].set_result(True)
        for _ in range(5):
            await asyncio.sleep(0)
        # The first one needed another attempt, after the others were done.
        service.gates[0].set_result(False)
        await service.until_sent(4)
        assert service.sent[3:] == [b"bb"], "one after the other"
        service.gates[3].set_result(True)
        await service.until_sent(5)
        service.gates[4].set_result(True)
        await writing
        assert service.done == [b"bb", b"cc", b"aa", b"bb", b"cc"]
        await batcher.close()

    asyncio.run(scenario())


def test_a_request_that_fails_fails_its_callers_alone() -> None:
    async def scenario() -> None:
        service = Service()
        batcher = ColumnBatcher(service.send, OPTIONS, lambda: True)
        writes = [
            asyncio.create_task(batcher.write(_keys(text), [b"", b""]))
            for text in ("aa", "bb", "cc")
        ]
        await service.until_sent(3)
        service.gates[1].set_exception(GcsUnavailableError("nobody there"))
        service.gates[0].set_result(True)
        service.gates[2].set_result(True)
        await writes[0]
        with pytest.raises(GcsUnavailableError):
            await writes[1]
        await writes[2]
        await batcher.close()

    asyncio.run(scenario())
