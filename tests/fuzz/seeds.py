"""Inputs that the parsers take, to begin with: `python -m fuzz.seeds` writes the corpora."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Final
from unittest import mock

import msgspec

from rostral_gcs._proto import gcs_pb2
from rostral_gcs.backends.base import Answer, Change
from rostral_gcs.backends.journal import Journal, whole_part
from rostral_gcs.frames.wire import NONCE_SIZE, Kind, encode, encode_hello, encode_welcome
from rostral_objectstore import array_form
from rostral_objectstore.control import encode_error
from rostral_objectstore.errors import ProtocolError
from rostral_objectstore.transfer.byte_frames import Door, encode_refusal
from rostral_objectstore.transfer.messages import ChunkHeader, ObjectFacts, Ticket
from rostral_scheduler._proto import scheduler_pb2
from rostral_scheduler.between import handshake
from rostral_scheduler.between import messages as between

from . import frame_wire
from .file_targets import file_seeds
from .http_targets import http_seeds
from .store_targets import store_seeds

CORPUS: Final = Path(__file__).parent / "corpus"
_FRAME: Final = msgspec.msgpack.encode([1, "stats", {"id": b"i" * 20, "size": 7, "limit": 1.5}])
_GREETING: Final = b"ROSTRAL\0" + (1).to_bytes(4, "little") + bytes(4)
_ROW: Final = gcs_pb2.WriteOp(table="kv", key=b"space\0key", value=b"value", expected_version=3)
_DOOR: Final = Door(4711, b"k" * 32)


def _between_frame() -> bytes:
    frame = bytearray(4)
    between.encode_into([between.Beat()], frame, 4)
    return (len(frame) - 4).to_bytes(4, "little") + frame[4:]


def seeds() -> dict[str, list[bytes]]:
    """By target."""
    write = gcs_pb2.WriteRequest(request_id=b"r" * 16, ops=[_ROW])
    read = gcs_pb2.ReadRequest(table="nodes", keys=[b"n" * 16], prefixes=[b"n"])
    scan = gcs_pb2.ScanRequest(table="actors", prefix=b"a", limit=10)
    place = scheduler_pb2.PlaceRequest()
    place.tasks.add()
    refusal = encode_refusal(ProtocolError("no such object"))
    return {
        **http_seeds(),
        **file_seeds(),
        **store_seeds(),
        "control_socket": [_GREETING + len(_FRAME).to_bytes(4, "little") + _FRAME],
        "control_frame": [_FRAME, msgspec.msgpack.encode([0, "x", {}])],
        "control_error": [msgspec.msgpack.encode(encode_error(ProtocolError("wrong", hint="do")))],
        "transfer_ticket": [Ticket(b"i" * 20, 5, 7).encode()],
        "transfer_header": [ChunkHeader(ObjectFacts(b"i" * 20, 1, 0, 9), 0, 77).encode()],
        "byte_stream": [_DOOR.encode(), _DOOR.hello(), refusal],
        "gcs_write": [write.SerializeToString()],
        "gcs_read": [read.SerializeToString(), scan.SerializeToString()],
        "gcs_rows": [bytes([table]) + b"k" * 16 + b"\x0a\x03abc\x12\x00" for table in range(4)],
        "gcs_journal": [_journal()],
        "frame_greeting": [
            encode(Kind.HELLO, body=encode_hello(frame_wire.SERVICE, bytes(NONCE_SIZE)))
            + encode(Kind.PROOF, body=bytes(32)),
            encode_welcome(1 << 20, bytes(32)),
        ],
        "frame_calls": [
            encode(Kind.CALL, id=1, method=1, body=b"body")
            + encode(Kind.PING)
            + encode(Kind.CALL, id=2, method=9)
            + encode(Kind.CANCEL, id=1)
        ],
        "placement": [place.SerializeToString()],
        "between_nodes": [
            _between_frame(),
            handshake.encode_hello(b"o" * 16, b"h" * 16, "t" * 40),
            handshake.encode_answer(handshake.Verdict.WELCOME),
        ],
        "policy_json": [json.dumps({"obs": [[0.5, 1], [2, -3e5]]}).encode()],
        "policy_tensor": [b"float32 2,1\n" + b"\0" * 8],
        "array_header": [array_form.encode(array_form.form_of((2, 3), "float32")[0])],
        "spill_file": [b"\0" * 64],
        "token_file": [b"A" * 43 + b"\n" + b"B" * 43 + b" scope=read name=x until=99\n"],
    }


def _journal() -> bytes:
    """Two records, of the same turn each time."""
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch("os.urandom", lambda size: b"t" * size),
    ):
        journal = Journal(Path(folder) / "journal")
        change = Change(1, 8, b"key", b"value", True)
        journal.append([change], [Answer(b"r" * 16, b"payload", 1.5)], durable=False)
        journal.append([Change(2, 8, b"key", None, True)], [], durable=True)
        journal.close(remove=False)
        return whole_part((Path(folder) / "journal").read_bytes())


def write_corpora() -> None:
    """Adds the seeds to the corpora."""
    for target, inputs in seeds().items():
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for data in inputs:
            (folder / f"{hashlib.sha1(data).hexdigest()}.bin").write_bytes(data)


if __name__ == "__main__":
    write_corpora()
