"""What a store daemon reads of others: its clients' requests, and a segment that it is given."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import tempfile
from typing import Any, Final

import msgspec

from rostral_gcs.errors import RostralError
from rostral_objectstore._native.segment import Segment
from rostral_objectstore.config import MEMORY_BYTES_MIN, StoreConfig
from rostral_objectstore.control_server import ControlServer
from rostral_objectstore.daemon import StoreDaemon

HEADER_BYTES: Final = 4096
ANSWERED_WITHIN_S: Final = 5.0
# Starts processes, which is no parser's work.
_LEFT_OUT: Final = frozenset({"device"})


class _Peer:
    """A session of a client that never comes back."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.state: dict[str, Any] = {}


@functools.cache
def _daemon() -> tuple[asyncio.AbstractEventLoop, StoreDaemon]:
    loop = asyncio.new_event_loop()
    folder = tempfile.mkdtemp(prefix="rostral-fuzz-store-")
    config = StoreConfig(
        socket_path=f"{folder}/store.sock",
        memory_bytes=MEMORY_BYTES_MIN,
        pages_ahead_bytes=0,
        # Nobody has to be waited for.
        full_timeout_s=0.0,
        repair_timeout_s=0.0,
    )
    daemon = StoreDaemon(config)
    loop.run_until_complete(daemon.start())
    logging.disable(logging.ERROR)
    return loop, daemon


def store_requests(data: bytes) -> None:
    """One request to a store daemon, after a right greeting: its method, then its body."""
    try:
        method, body = msgspec.msgpack.decode(data)
    except (msgspec.DecodeError, ValueError, TypeError, RecursionError):
        return
    if isinstance(method, str) and method in _LEFT_OUT:
        return
    loop, daemon = _daemon()
    loop.run_until_complete(_ask(daemon, method, body))


async def _ask(daemon: StoreDaemon, method: Any, body: Any) -> None:
    session: Any = _Peer()
    server = ControlServer("", daemon)
    async with asyncio.timeout(ANSWERED_WITHIN_S):
        _, answer = await server._answer(session, method, body)
    for fd in answer.pop("_fds", ()):
        os.fstat(fd)
    msgspec.msgpack.encode(answer)
    daemon.disconnected(session)
    # The burial of its slot.
    await asyncio.sleep(0)


@functools.cache
def _right_segment() -> tuple[bytes, int]:
    """The header of a segment as a daemon makes it, and the segment's size."""
    segment = Segment.create(MEMORY_BYTES_MIN, bytes(16), 1, huge_pages=False)
    size = os.fstat(segment.fd).st_size
    header = os.pread(segment.fd, HEADER_BYTES, 0)
    segment.close()
    return header, size


def segment_header(data: bytes) -> None:
    """A segment whose header has other bytes from a place on: who maps it must notice."""
    header, size = _right_segment()
    place, changed = int.from_bytes(data[:2], "little") % HEADER_BYTES, data[2:]
    fd = os.memfd_create("fuzz-segment", os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    os.pwrite(fd, (header[:place] + changed + header[place + len(changed) :])[:HEADER_BYTES], 0)
    with contextlib.suppress(RostralError):
        segment = Segment.attach(fd, 0)
        # What a mapped header says is used as it is.
        segment.slot_info(255)
        segment.close()


def store_seeds() -> dict[str, list[bytes]]:
    """By target."""
    packed = b"i" * 20 + bytes(8)
    requests: list[tuple[str, dict[str, Any]]] = [
        ("attach", {"kind": "client", "worker_id": bytes(16), "job_id": bytes(16)}),
        ("reattach", {"slot": 3, "incarnation": bytes(16)}),
        ("stats", {}),
        ("pin", {"id": b"i" * 20, "loc": 64, "version": 1}),
        ("unpin", {"id": b"i" * 20}),
        ("make_room", {"size": 1000, "waited_s": 0.5}),
        ("restore", {"id": b"i" * 20, "loc": 64, "version": 1}),
        ("free", {"objects": [packed]}),
        ("revive", {"objects": [packed]}),
        ("list_objects", {"limit": 5, "state": "sealed"}),
        ("fetch", {"objects": [packed]}),
    ]
    return {
        "store_requests": [msgspec.msgpack.encode(request) for request in requests],
        "segment_header": [
            bytes([16, 0]) + bytes(8),
            bytes([24, 0]) + (1 << 40).to_bytes(8, "little"),
        ],
    }
