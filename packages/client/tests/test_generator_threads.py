"""Generators that several threads and event loops read: each comes to the end, and none trips."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

import rostral

from .actors import get
from .generators import count_function

pytestmark = pytest.mark.usefixtures("leaves_no_object")

ITEM_COUNT = 2000
TIMEOUT_S = 20.0


class ClosedMeanwhile:
    """A stream that another thread finds at its end, and closes, just before it is looked at."""

    def __init__(self) -> None:
        self.generator: Any = None

    def _look(self, *_: object) -> Any:
        self.generator._is_finished = True
        raise ValueError("the stream was closed")

    take = wait = expect = _look
    is_over = property(_look)


def closed_meanwhile() -> Any:
    stream: Any = ClosedMeanwhile()
    stream.generator = rostral.ObjectRefGenerator(rostral.put(None), stream)
    return stream.generator


def test_whoever_looks_when_another_closes_the_stream_sees_its_end() -> None:
    with pytest.raises(StopIteration):
        next(closed_meanwhile())
    with pytest.raises(StopAsyncIteration):
        asyncio.run(closed_meanwhile().__anext__())
    assert closed_meanwhile().next_ready() is False
    assert closed_meanwhile().is_finished() is True
    generator = closed_meanwhile()
    assert rostral.wait([generator], timeout=TIMEOUT_S) == ([generator], [])


def test_a_stream_that_fails_for_another_reason_says_so() -> None:
    class Broken(ClosedMeanwhile):
        def _look(self, *_: object) -> Any:
            raise ValueError("broken")

        take = wait = expect = _look
        is_over = property(_look)

    stream: Any = Broken()
    generator: Any = rostral.ObjectRefGenerator(rostral.put(None), stream)
    looks: list[Callable[[], object]] = [
        lambda: next(generator),
        lambda: asyncio.run(generator.__anext__()),
        generator.next_ready,
        generator.is_finished,
    ]
    for look in looks:
        with pytest.raises(ValueError, match="broken"):
            look()


def test_loops_and_threads_share_a_generator_to_its_end() -> None:
    """Each item is taken once, by a thread, by an event loop, or by one that polls."""
    generator = count_function().remote(ITEM_COUNT)
    taken: list[int] = []
    errors: list[BaseException] = []

    def read() -> None:
        taken.extend(get(ref) for ref in generator)

    def poll() -> None:
        while not generator.is_finished():
            if generator.next_ready():
                with contextlib.suppress(StopIteration):
                    taken.append(get(next(generator)))

    def read_in_loop() -> None:
        async def read_all() -> None:
            async for ref in generator:
                taken.append(await ref)

        asyncio.run(read_all())

    def recorded(code: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                code()
            except BaseException as error:
                errors.append(error)

        return run

    codes = [read, read, poll, poll, read_in_loop, read_in_loop]
    threads = [threading.Thread(target=recorded(code)) for code in codes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert errors == []
    assert not any(thread.is_alive() for thread in threads)
    assert sorted(taken) == list(range(ITEM_COUNT))
