"""Stores and peers for all tests of the package."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rostral_objectstore._native.segment import Segment
from rostral_objectstore._native.table import ObjectTable
from rostral_objectstore._native.task import Tasks
from rostral_objectstore.errors import DeviceUnavailableError
from rostral_objectstore.gpu.backend import own_backend

from . import device_store
from .store import Nursery, Store, running

MEMORY_BYTES = 512 << 20


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="rostral-") as name:
        yield Path(name)


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Where other processes come from."""
    with tempfile.TemporaryDirectory(prefix="rostral-") as name:
        nursery = Nursery(Path(name))
        yield nursery
        nursery.close()


@pytest.fixture
def store(folder: Path, nursery: Nursery) -> Iterator[Store]:
    """A store of 512 MiB; when the test is over, nothing may be left in it."""
    with running(folder, nursery, MEMORY_BYTES) as store:
        yield store


@pytest.fixture
def small_store(folder: Path, nursery: Nursery) -> Iterator[Store]:
    """A store of 16 MiB."""
    with running(folder, nursery, 16 << 20) as store:
        yield store


@pytest.fixture
def segment() -> Iterator[Segment]:
    """A segment of 64 MiB with one process, this one: no daemon."""
    segment = Segment.create(64 << 20, bytes(16), 1)
    segment.use_slot(segment.claim_slot(os.getpid(), 0, 6, bytes(16), bytes(16)))
    yield segment
    segment.close()


@pytest.fixture
def table(segment: Segment) -> ObjectTable:
    """The object table of that segment."""
    return ObjectTable(segment)


@pytest.fixture
def tasks(table: ObjectTable) -> Tasks:
    """Its tasks."""
    return Tasks(table)


@pytest.fixture(scope="session")
def table_store(nursery: Nursery) -> Iterator[Store]:
    """One store for tests that differ in values only."""
    with (
        tempfile.TemporaryDirectory(prefix="rostral-") as name,
        running(Path(name), nursery, MEMORY_BYTES) as store,
    ):
        yield store


@pytest.fixture
def device_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process, and those that it starts, have devices."""
    for name, value in device_store.device_environment().items():
        monkeypatch.setenv(name, value)
    try:
        own_backend()
    except DeviceUnavailableError as error:
        pytest.skip(f"no GPU: {error}")


@pytest.fixture(scope="session")
def device_nursery() -> Iterator[Nursery]:
    """Where processes come from that have devices."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as name:
        for variable, value in device_store.device_environment().items():
            patch.setenv(variable, value)
        nursery = Nursery(Path(name))
        yield nursery
        nursery.close()


@pytest.fixture(name="device_store")
def device_store_(
    device_environment: None, folder: Path, device_nursery: Nursery
) -> Iterator[device_store.DeviceStore]:
    """A store with 32 MiB of a device's memory; at its end nothing may be left in either."""
    size_bytes = device_store.DEVICE_BYTES
    with device_store.running_devices(
        folder, device_nursery, MEMORY_BYTES, device_bytes=size_bytes
    ) as store:
        yield store
