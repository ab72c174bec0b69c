"""How soon a put is seen by another process that waits for it.

Owns the two processes and their pacing. The waiter says in a shared word which round it is about to
wait for; the putter sees that, leaves it the time to be really waiting, reads the clock and puts.
The waiter reads the same clock (CLOCK_MONOTONIC is one for all processes) when it has the value.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import statistics
import time
from multiprocessing import shared_memory
from multiprocessing.connection import Connection
from typing import Any

from store_engines import RedisStore, RostralStore

# Shorter than the store spins, and longer than the waiter needs from its word to its wait.
WAITING_S = 20e-6
# Long enough for the waiter to have gone to sleep.
SLEEPING_S = 1e-3
WARM_UP_ROUNDS = 50
VALUE = b"v" * 16
STUCK_AFTER_S = 20.0

clock = time.perf_counter_ns


class Board:
    """Words that both processes see: the waiter's round, and the putter's for who only spins."""

    def __init__(self, name: str | None = None) -> None:
        self._block = shared_memory.SharedMemory(name=name, create=name is None, size=64)
        assert self._block.buf is not None
        self._words = self._block.buf.cast("q")
        self._is_ours = name is None
        self.name = self._block.name

    def say(self, word: int, round: int) -> None:
        """Writes the word."""
        self._words[word] = round

    def await_word(self, word: int, round: int) -> None:
        """Spins until the word says so."""
        words = self._words
        gives_up_ns = clock() + int(STUCK_AFTER_S * 1e9)
        while words[word] != round:
            if clock() > gives_up_ns:
                raise TimeoutError(f"round {round} never came")

    def close(self) -> None:
        """Detaches; who made it removes it."""
        self._words.release()
        self._block.close()
        if self._is_ours:
            self._block.unlink()


class RostralPair:
    """`put` with an id that the other's `get` waits for."""

    def __init__(self, address: str, keys: list[bytes]) -> None:
        from rostral_gcs.ids import ObjectID

        self._client = RostralStore(address).client
        self._ids = [ObjectID(key) for key in keys]
        self._kept: Any = None

    def put(self, round: int) -> None:
        """The object lives until the next is put, so that the waiter finds it."""
        self._kept = self._client.put(VALUE, self._ids[round])

    def get(self, round: int) -> None:
        """Waits."""
        self._client.get(self._ids[round], timeout_s=STUCK_AFTER_S)


class RedisPair:
    """RPUSH and BLPOP: the way of Redis to wait for a value."""

    def __init__(self, address: str, keys: list[bytes]) -> None:
        self._client = RedisStore(address).client
        self._keys = keys

    def put(self, round: int) -> None:
        """Pushes."""
        self._client.rpush(self._keys[round], VALUE)

    def get(self, round: int) -> None:
        """Waits."""
        self._client.blpop([self._keys[round]], timeout=STUCK_AFTER_S)


class WordPair:
    """A word in shared memory that the other spins on: what the machine can do from Python."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def put(self, round: int) -> None:
        """Writes it."""
        self._board.say(1, round)

    def get(self, round: int) -> None:
        """Spins."""
        self._board.await_word(1, round)


def pair(engine: str, address: str, keys: list[bytes], board: Board) -> Any:
    """One side of what is measured."""
    if engine == "rostral":
        return RostralPair(address, keys)
    return RedisPair(address, keys) if engine == "redis" else WordPair(board)


def wait_rounds(
    connection: Connection, engine: str, address: str, keys: list[bytes], name: str
) -> None:
    """The waiter's whole life: sends when it had each value, in nanoseconds."""
    board = Board(name)
    with contextlib.closing(connection):
        side = pair(engine, address, keys, board)
        seen_ns = []
        for round in range(len(keys)):
            board.say(0, round)
            side.get(round)
            seen_ns.append(clock())
        connection.send(seen_ns)
    board.close()


def seen_after_us(engine: str, address: str, rounds: int, pause_s: float) -> float:
    """The median time from just before a put to the return of the get that waited for it."""
    keys = [os.urandom(20) for _ in range(rounds + WARM_UP_ROUNDS)]
    board = Board()
    board.say(0, -1)
    board.say(1, -1)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    waiter = context.Process(target=wait_rounds, args=(there, engine, address, keys, board.name))
    waiter.start()
    there.close()
    try:
        side = pair(engine, address, keys, board)
        put_ns = []
        for round in range(len(keys)):
            board.await_word(0, round)
            pause(pause_s)
            put_ns.append(clock())
            side.put(round)
        seen_ns = here.recv()
    finally:
        here.close()
        waiter.kill()
        waiter.join()
        board.close()
    took_ns: list[int] = [seen - put for seen, put in zip(seen_ns, put_ns, strict=True)]
    return statistics.median(took_ns[WARM_UP_ROUNDS:]) / 1e3


def pause(seconds: float) -> None:
    """Sleeps what is long enough to sleep; the rest is spun."""
    end_ns = clock() + int(seconds * 1e9)
    if seconds >= SLEEPING_S:
        time.sleep(seconds)
    while clock() < end_ns:
        pass
