"""Fake devices have the manners of real ones: the errors that they are there to find are errors."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from rostral_objectstore.errors import DeviceError, DeviceFullError
from rostral_objectstore.gpu import fake_backend
from rostral_objectstore.gpu.fake_device import AddressSpace

OWNER = """
import sys
from rostral_objectstore.gpu.fake_device import AddressSpace
space = AddressSpace(0, 1 << 20)
memory = space.allocate(4096)
space.default_stream.upload(memory.pointer, memoryview(b"x" * 4096))
space.fence().synchronize()
sys.stdout.write(space.export(memory).hex() + "\\n")
sys.stdout.flush()
for line in sys.stdin:
    if line == "free\\n":
        memory.close()
        sys.stdout.write("freed\\n")
        sys.stdout.flush()
"""


@pytest.fixture
def space() -> AddressSpace:
    return AddressSpace(0, 1 << 20)


@contextlib.contextmanager
def owner() -> Iterator[tuple[subprocess.Popen[str], bytes]]:
    """Another process, which has memory, and the handle of that."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process, bytes.fromhex(process.stdout.readline())
        process.kill()


def free(process: subprocess.Popen[str]) -> None:
    """Has the owner free its memory."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("free\n")
    process.stdin.flush()
    assert process.stdout.readline() == "freed\n"


def test_nothing_is_done_before_somebody_waits(space: AddressSpace) -> None:
    memory, seen = space.allocate(8), bytearray(8)
    space.default_stream.upload(memory.pointer, memoryview(b"12345678"))
    space.default_stream.download(memoryview(seen), memory.pointer)
    assert seen == bytes(8)
    space.fence().synchronize()
    assert seen == b"12345678"


def test_a_stream_that_does_not_wait_for_another_reads_too_early(space: AddressSpace) -> None:
    memory, seen = space.allocate(4), bytearray(4)
    writer, reader = space.new_stream(), space.new_stream()
    writer.upload(memory.pointer, memoryview(b"late"))
    reader.download(memoryview(seen), memory.pointer)
    reader.run_to(reader.position()[1])
    assert seen == bytes(4)
    reader.wait_for([writer.position()])
    reader.download(memoryview(seen), memory.pointer)
    reader.run_to(reader.position()[1])
    assert seen == b"late"


def test_memory_is_bounded_and_comes_back(space: AddressSpace) -> None:
    memory = space.allocate(1 << 20)
    with pytest.raises(DeviceFullError, match="no room for 1"):
        space.allocate(1)
    memory.close()
    space.allocate(1 << 20).close()


def test_an_address_that_is_nobodys_is_an_error(space: AddressSpace) -> None:
    memory = space.allocate(4096)
    with pytest.raises(DeviceError, match="out of bounds"):
        space.default_stream.copy(memory.pointer, memory.pointer + 4000, 200)
    memory.close()
    with pytest.raises(DeviceError, match="no address of fake device"):
        space.default_stream.copy(memory.pointer, memory.pointer, 8)


def test_a_handle_cannot_be_opened_by_its_owner(space: AddressSpace) -> None:
    with pytest.raises(DeviceError, match="cannot be opened by the process that exported it"):
        space.open(space.export(space.allocate(8)))


def test_a_handle_is_good_while_its_owner_lives_and_stale_after(space: AddressSpace) -> None:
    with owner() as (process, handle):
        memory = space.open(handle)
        seen = bytearray(4096)
        space.default_stream.download(memoryview(seen), memory.pointer)
        space.fence().synchronize()
        assert seen == b"x" * 4096
        process.kill()
        process.wait()
        with pytest.raises(DeviceError, match="which owned this memory, is dead"):
            space.default_stream.copy(memory.pointer, memory.pointer, 8)
        with pytest.raises(DeviceError, match="the handle is stale"):
            space.open(handle)


def test_a_handle_is_open_once_in_a_process(space: AddressSpace) -> None:
    with owner() as (_, handle):
        memory = space.open(handle)
        with pytest.raises(DeviceError, match="open in this process already"):
            space.open(handle)
        memory.close()
        space.open(handle).close()


def test_memory_that_its_owner_frees_is_an_error_to_touch_and_to_open(space: AddressSpace) -> None:
    with owner() as (process, handle):
        memory = space.open(handle)
        free(process)
        with pytest.raises(DeviceError, match="has freed it"):
            space.default_stream.copy(memory.pointer, memory.pointer, 8)
        memory.close()
        with pytest.raises(DeviceError, match=r"invalid|has freed the memory"):
            space.open(handle)


def test_the_default_stream_does_not_wait_for_a_non_blocking_one(space: AddressSpace) -> None:
    memory, seen = space.allocate(4), bytearray(4)
    stream = space.new_stream(non_blocking=True)
    stream.upload(memory.pointer, memoryview(b"late"))
    stream.download(memoryview(seen), memory.pointer)
    space.fence().synchronize()
    assert seen == bytes(4)
    space.everything().synchronize()
    assert seen == b"late"


def test_only_streams_that_the_default_one_does_not_wait_for_are_asked_where_they_are() -> None:
    backend = fake_backend.FakeBackend()
    assert backend.here(0) is None
    array = fake_backend.asarray(np.arange(4))
    assert np.array_equal(array.numpy(), np.arange(4))  # and so the default stream is idle
    with fake_backend.own_stream():
        array.fill(np.arange(4, 8))
        here = backend.here(0)
    assert here is not None
    here.synchronize()
    assert np.array_equal(array.numpy(), np.arange(4, 8))
    assert backend.here(0) is None


def test_a_device_array_shows_the_processor_nothing_by_itself() -> None:
    array = fake_backend.asarray(np.arange(4))
    with pytest.raises(TypeError, match="not converted by itself"):
        np.asarray(array)


@pytest.mark.parametrize(
    ("visible", "identities"),
    [
        (None, ["FAKE-0", "FAKE-1", "FAKE-2"]),
        ("", []),
        ("2,0", ["FAKE-2", "FAKE-0"]),
        ("FAKE-1", ["FAKE-1"]),
        ("1,9,0", ["FAKE-1"]),
        ("-1", []),
        # Of slices CUDA shows one.
        ("MIG-FAKE-1/0,MIG-FAKE-1/1", ["MIG-FAKE-1/0"]),
        ("MIG-FAKE-1/1", ["MIG-FAKE-1/1"]),
        ("MIG-FAKE-7/0", []),
    ],
)
def test_a_process_sees_the_devices_that_it_is_told_to(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, identities: list[str]
) -> None:
    monkeypatch.setenv(fake_backend.DEVICES_VARIABLE, "3")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    backend = fake_backend.FakeBackend()
    assert [backend.identity(device) for device in range(backend.device_count())] == identities
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible
