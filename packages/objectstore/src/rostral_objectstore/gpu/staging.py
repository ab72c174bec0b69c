"""Copies between a device and the processor's memory, through pinned memory in pieces.

A device copies at full speed from and to pinned memory only, and to pin the whole store would take
its memory from everybody else for good. So two pinned pieces take turns: while the device fills or
empties one, the processor is at the other.
"""

from __future__ import annotations

from rostral_objectstore.gpu.backend import Backend, Event

PIECE_BYTES = 4 << 20


class Staging:
    """Blocking copies, for one thread at a time."""

    def __init__(self, backend: Backend, device: int) -> None:
        self._stream = backend.stream(device)
        self._backend = backend
        self._pieces: list[memoryview] = []

    def upload(self, target: int, source: memoryview) -> None:
        """To the device; returns when it is there. Raises DeviceError."""
        pieces = self._pinned()
        busy: list[Event | None] = [None, None]
        for number, start in enumerate(range(0, source.nbytes, PIECE_BYTES)):
            event = busy[number % 2]
            if event is not None:
                event.synchronize()
            part = source[start : start + PIECE_BYTES]
            piece = pieces[number % 2][: part.nbytes]
            piece[:] = part
            self._stream.upload(target + start, piece)
            busy[number % 2] = self._stream.record()
        self._stream.record().synchronize()

    def download(self, target: memoryview, source: int) -> None:
        """From the device; returns when it is here. Raises DeviceError."""
        pieces = self._pinned()
        starts = range(0, target.nbytes, PIECE_BYTES)
        coming: list[tuple[int, memoryview, Event]] = []
        for number, start in enumerate(starts):
            piece = pieces[number % 2][: min(PIECE_BYTES, target.nbytes - start)]
            if len(coming) == 2:
                _take(target, *coming.pop(0))
            self._stream.download(piece, source + start)
            coming.append((start, piece, self._stream.record()))
        for one in coming:
            _take(target, *one)

    def _pinned(self) -> list[memoryview]:
        if not self._pieces:
            self._pieces = [self._backend.pinned(PIECE_BYTES) for _ in range(2)]
        return self._pieces


def _take(target: memoryview, start: int, piece: memoryview, event: Event) -> None:
    event.synchronize()
    target[start : start + piece.nbytes] = piece
