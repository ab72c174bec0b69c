"""The parsers, as functions of bytes that may raise what their parser documents and no more.

What is unpickled (a task's arguments, a function) is no target: whoever may send it runs code by
right. The control plane never unpickles, which `tests/security` holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from google.protobuf.message import DecodeError

from rostral_gcs import requests
from rostral_gcs._proto import gcs_pb2
from rostral_gcs.backends.journal import read_journal, whole_part
from rostral_gcs.config import GcsConfig
from rostral_gcs.errors import GcsError, RostralError
from rostral_gcs.frames.wire import decode_welcome
from rostral_gcs.needs import GCS_NEEDS
from rostral_gcs.tables.registry import table_spec
from rostral_gcs.tokens import read_grants
from rostral_objectstore import array_form
from rostral_objectstore.control import decode_error
from rostral_objectstore.control_server import ControlServer
from rostral_objectstore.spill_file import FileIdentity, FileMismatchError, entries_in
from rostral_objectstore.transfer import byte_frames, messages
from rostral_rl.serve import wire
from rostral_scheduler._proto import scheduler_pb2
from rostral_scheduler.between import handshake
from rostral_scheduler.between import messages as between
from rostral_scheduler.between.stream import FrameReader
from rostral_scheduler.global_.wire import requests_of

from . import frame_wire
from .file_targets import (
    lineage_segment,
    package_file,
    policy_manifest,
    policy_weights,
    runtime_environment,
    sb3_description,
)
from .http_targets import metrics_http, policy_grpc, policy_http
from .store_targets import segment_header, store_requests

Target = Callable[[bytes], None]

_CONFIG: Final = GcsConfig(data_dir=Path("/nonexistent"), token="t" * 40)
_SCRATCH: Final = Path(tempfile.mkdtemp(prefix="rostral-fuzz-"))
_LOOP: Final = asyncio.new_event_loop()


class _Echo:
    """A daemon whose answer to everything is what it was asked."""

    async def handle(self, session: Any, method: Any, body: Any) -> dict[str, Any]:
        return {"method": str(method)[:80], "body": body}

    def disconnected(self, session: Any) -> None:
        """Nothing is kept."""


def control_socket(data: bytes) -> None:
    """All that a peer sends on a control socket, its greeting included."""
    ours, peer = socket.socketpair()
    with peer:
        peer.sendall(data[: 64 << 10])
        peer.shutdown(socket.SHUT_WR)
        logging.disable(logging.ERROR)
        _LOOP.run_until_complete(ControlServer("", _Echo())._serve(ours))


def control_frame(data: bytes) -> None:
    """One frame after a right greeting."""
    greeting = b"ROSTRAL\0" + (1).to_bytes(4, "little") + bytes(4)
    control_socket(greeting + len(data).to_bytes(4, "little") + data)


def control_error(data: bytes) -> None:
    """An error that a daemon has answered with."""
    try:
        body = msgspec.msgpack.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, ValueError, RecursionError):
        return
    if isinstance(body.get("state"), dict) and {"module", "name", "message"} <= body.keys():
        assert isinstance(decode_error(body), Exception)


def transfer_ticket(data: bytes) -> None:
    """What a peer asks a store for."""
    try:
        assert messages.decode_ticket(data).encode() == data
    except RostralError:
        return


def transfer_header(data: bytes) -> None:
    """What comes before each chunk of an object."""
    try:
        header = messages.decode_header(data)
        assert header.encode() == data
        messages.check_place(header, messages.Ticket(header.facts.id), 0, 1 << 20, 1 << 20)
    except RostralError:
        return


def byte_stream(data: bytes) -> None:
    """The key, the door and the refusals of byte streams."""
    if len(data) == byte_frames.HELLO_BYTES:
        byte_frames.key_of(data)
    with contextlib.suppress(RostralError):
        byte_frames.decode_door(data)
    header, text = data[: messages.HEADER_BYTES], data[messages.HEADER_BYTES :]
    if len(header) == messages.HEADER_BYTES and byte_frames.refused_text_bytes(header) is not None:
        assert isinstance(byte_frames.decode_refusal(header, text), RostralError)


def gcs_write(data: bytes) -> None:
    """A write, as one request and by columns."""
    for kind, name in ((gcs_pb2.WriteRequest, "Write"), (gcs_pb2.WriteColumnsRequest, "")):
        try:
            request: Any = kind.FromString(data)
            requests.check_request_id(request.request_id)
            if name:
                need = GCS_NEEDS[name].of_request
                assert need is not None
                need(request)
                for op in request.ops:
                    requests.parse_op(op, _CONFIG)
            else:
                requests.check_columns(request, _CONFIG)
        except (DecodeError, GcsError):
            continue


def gcs_read(data: bytes) -> None:
    """Reads, scans and watches."""
    try:
        read = gcs_pb2.ReadRequest.FromString(data)
        table_spec(read.table)
        requests.check_keys(read.keys, _CONFIG)
        requests.check_prefixes(read.prefixes, _CONFIG)
    except (DecodeError, GcsError):
        pass
    try:
        requests.check_scan(gcs_pb2.ScanRequest.FromString(data), _CONFIG)
        requests.check_prefix(gcs_pb2.WatchRequest.FromString(data).prefix, _CONFIG)
    except (DecodeError, GcsError):
        pass


def gcs_rows(data: bytes) -> None:
    """Rows of every table that the server decodes; the first byte chooses."""
    tables = [requests._DECODED[name] for name in sorted(requests._DECODED)]
    table: Any = tables[data[0] % len(tables)] if data else tables[0]
    try:
        table.decode(data[1:17], data[17:], 1)
    except GcsError:
        return


def frame_greeting(data: bytes) -> None:
    """The first bytes of a connection, and what a service answers a greeting with."""
    _LOOP.run_until_complete(frame_wire.play(data, greeted=False))
    with contextlib.suppress(GcsError):
        decode_welcome(data)


def frame_calls(data: bytes) -> None:
    """What a peer sends that has shown its token."""
    _LOOP.run_until_complete(frame_wire.play(data, greeted=True))


def gcs_journal(data: bytes) -> None:
    """A journal that a death or somebody else has changed."""
    path = _SCRATCH / "journal"
    path.write_bytes(data)
    try:
        read_journal(path)
    except GcsError:
        return
    finally:
        assert data.startswith(whole_part(data))


def placement(data: bytes) -> None:
    """Requests to a global scheduler."""
    try:
        requests_of(scheduler_pb2.PlaceRequest.FromString(data))
    except (DecodeError, GcsError):
        return


def between_nodes(data: bytes) -> None:
    """What another node's scheduler begins with, answers, and says in frames."""
    with contextlib.suppress(RostralError):
        parsed = handshake.parse_hello(data)
        assert parsed is None or parsed[1] <= min(len(data), handshake.HELLO_BYTES_MAX)
    if len(data) == handshake.ANSWER_BYTES:
        with contextlib.suppress(RostralError):
            handshake.decode_answer(data)
    with contextlib.suppress(RostralError):
        between.decode(data)
    reader, middle = FrameReader(), len(data) // 2
    with contextlib.suppress(RostralError):
        reader.feed(data[:middle])
        reader.feed(data[middle:])


def policy_json(data: bytes) -> None:
    """A body of JSON for a policy server."""
    try:
        wire.decode_json(data)
    except RostralError:
        return


def policy_tensor(data: bytes) -> None:
    """A raw tensor: two lines of headers, then the body."""
    head, _, body = data.partition(b"\n")
    dtype, _, shape = head.decode("latin-1").partition(" ")
    try:
        wire.decode_raw(body, {wire.DTYPE_HEADER: dtype, wire.SHAPE_HEADER: shape})
    except RostralError:
        return


def array_header(data: bytes) -> None:
    """The form of an array in the store, and bytes that may be too few for it."""
    try:
        found = array_form.view(data, bytearray(64))
    except (RostralError, ValueError):
        return
    assert isinstance(found, np.ndarray)
    assert found.nbytes <= 64


def spill_file(data: bytes) -> None:
    """A file of spilled objects that somebody has changed."""
    path = _SCRATCH / "spilled"
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    try:
        list(entries_in(fd, FileIdentity(*SPILL_IDENTITY)))
    except FileMismatchError:
        return
    finally:
        os.close(fd)


SPILL_IDENTITY: Final[tuple[Any, ...]] = (b"n" * 16, 1)


def token_file(data: bytes) -> None:
    """A token file that an operator has edited."""
    path = _SCRATCH / "token"
    if not path.exists():
        path.touch(mode=0o600)
    path.write_bytes(data[:4096])
    try:
        assert read_grants(path)
    except RostralError:
        return


TARGETS: Final[dict[str, Target]] = {
    target.__name__: target
    for target in (
        control_socket,
        control_frame,
        control_error,
        transfer_ticket,
        transfer_header,
        byte_stream,
        gcs_write,
        gcs_read,
        gcs_rows,
        gcs_journal,
        frame_greeting,
        frame_calls,
        placement,
        between_nodes,
        policy_json,
        policy_tensor,
        array_header,
        spill_file,
        token_file,
        policy_http,
        policy_grpc,
        metrics_http,
        policy_manifest,
        policy_weights,
        sb3_description,
        package_file,
        runtime_environment,
        lineage_segment,
        store_requests,
        segment_header,
    )
}
