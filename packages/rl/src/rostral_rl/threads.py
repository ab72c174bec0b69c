"""Keeps the threads of linear algebra out of each other's way.

NumPy's OpenBLAS hands a product of 256 by 64 by 64 to all cores and its threads then spin for more
work, on the very cores where torch is about to compute: on 2 cores that made the training of a 2x64
net three times slower than one thread throughout. Larger products are worth their threads.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

ONE_THREAD_MACS_MAX = 40_000_000
"""Multiply-adds of a forward pass up to which one thread is taken. On 2 shared cores, two threads
lost at 2 million (0.9 against 0.6 ms) and still at 35 million (4.2 against 2.5 ms); on 2 that were
idle they won at 51 million, SAC's of 2x256 at a batch of 256: 120 against 98 steps a second."""


@contextmanager
def threads_for(macs: int, acting: int | None = None) -> Iterator[None]:
    """Computes with one thread, in NumPy and torch alike, where a pass is too small to share.

    For the whole process while it lasts.

    Args:
        macs: Multiply-adds of one forward pass: rows times parameters.
        acting: The same of a pass in NumPy, where that differs: whoever learns from large batches
            in torch may act on one observation at a time.
    """
    # Acting needs no torch; where nobody imported it there is nothing to limit.
    torch = sys.modules.get("torch") if macs <= ONE_THREAD_MACS_MAX else None
    before = torch.get_num_threads() if torch is not None else 1
    with ExitStack() as stack:
        if (macs if acting is None else acting) <= ONE_THREAD_MACS_MAX:
            stack.enter_context(_libraries().limit(limits=1, user_api="blas"))
        if torch is not None:
            torch.set_num_threads(1)
            stack.callback(torch.set_num_threads, before)
        yield


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Has torch and NumPy take numbers below 1e-38 for 0 on this thread.

    What learns leaves moments of gradients that were 0 for long to decay, and arithmetic with so
    small numbers takes a hundred times as long: Adam's step of 68,000 parameters, all of that kind,
    took 6.9 ms, and 0.3 ms otherwise.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@lru_cache(maxsize=1)
def _libraries() -> ThreadpoolController:
    # Finding the loaded libraries takes milliseconds, limiting them microseconds.
    return ThreadpoolController().select(user_api="blas")
