"""How fast a node may send: a bucket of bytes that fills at a steady rate.

Pure: the clock's reading is passed in, and the caller does the waiting and the locking.
"""

from __future__ import annotations


class ByteBudget:
    """Bytes that may be sent now, and when more may.

    A sender may go into debt by what it is about to send and then waits until the debt is paid, so
    that senders are served in the order in which they asked, whatever their sizes.

    Invariant: `available <= burst_bytes`.

    Args:
        rate_bytes_s: bytes that come in per second.
        burst_bytes: how many may gather while nobody sends.
        now_s: the clock's reading at the start; the bucket is full then.
    """

    def __init__(self, *, rate_bytes_s: float, burst_bytes: float, now_s: float) -> None:
        self._rate = rate_bytes_s
        self._burst = burst_bytes
        self._available = burst_bytes
        self._seen_s = now_s

    def spend(self, size_bytes: int, now_s: float) -> float:
        """Takes the bytes out; returns the seconds to wait before they may be sent."""
        earned = max(0.0, now_s - self._seen_s) * self._rate
        self._seen_s = max(now_s, self._seen_s)
        self._available = min(self._burst, self._available + earned) - size_bytes
        return max(0.0, -self._available / self._rate)
