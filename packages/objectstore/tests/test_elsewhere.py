"""Objects that are sealed here, and whose bytes are on another node, or nowhere."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from rostral_gcs.ids import ObjectID
from rostral_objectstore import ObjectHandle, StoreClient
from rostral_objectstore._native import elsewhere, repair
from rostral_objectstore._native.check import check
from rostral_objectstore._native.table import Handle, ObjectTable
from rostral_objectstore._native.task import TaskContext, Tasks
from rostral_objectstore.errors import ObjectElsewhereError, ObjectFreedError, ObjectLostError
from rostral_objectstore.layout import ObjectFlag, ObjectState

from .store import Store
from .test_tasks import new_queue, submit
from .test_transfer_daemon import MIB, Daemon, pair

__all__ = ["pair"]

KIND = 2


@pytest.fixture
def client(store: Store) -> StoreClient:
    return store.connect()


def away(table: ObjectTable, size: int = 100_000, flags: int = 0) -> Handle:
    """An object that is elsewhere."""
    handle = table.expect(Handle, os.urandom(20))
    assert elsewhere.seal_elsewhere(table, handle, KIND, flags, size)
    return handle


def waiting_task(tasks: Tasks, queue_loc: int, needed: Handle) -> Handle:
    context = TaskContext(os.urandom(16))
    (result,) = tasks.submit(Handle, context, queue_loc, 1, b"", [needed], [], 1, 0, 0, False)
    return result


def test_an_object_elsewhere_is_sealed_for_who_waits_and_not_for_who_fetches(
    client: StoreClient,
) -> None:
    handle = away(client.table)
    assert elsewhere.is_elsewhere(client.table, handle)
    assert client.table.state(handle) == ObjectState.SPILLED
    assert client.table.wait([handle], 1, 0) == 1
    assert elsewhere.facts(client.table, handle) == (KIND, 0, 100_000)
    assert not elsewhere.seal_elsewhere(client.table, handle, KIND, 0, 5), "sealed already"
    assert check(client.table) == []
    with pytest.raises(ObjectElsewhereError, match="another node"):
        client.table.read(handle)


def test_tasks_that_wait_for_it_start_and_fail_if_it_is_an_error(
    table: ObjectTable, tasks: Tasks
) -> None:
    for flags, failed in ((0, False), (int(ObjectFlag.ERROR), True)):
        queue = new_queue(table.segment)
        needed = table.expect(Handle, os.urandom(20))
        waiting_task(tasks, queue.loc, needed)
        assert tasks.next(queue.loc, 0, []) is None
        assert elsewhere.seal_elsewhere(table, needed, KIND, flags, 10)
        claimed = tasks.next(queue.loc, 0, [])
        assert claimed is not None
        assert tasks.has_failed(needed) == failed
        tasks.finish(claimed)


def test_its_bytes_come_and_readers_see_them(client: StoreClient) -> None:
    values = np.arange(50_000)
    there = client.put(values)
    raw = client.table.read_raw(there)
    assert raw is not None
    kind, flags, data = raw
    handle = client.table.expect(ObjectHandle, os.urandom(20))
    elsewhere.seal_elsewhere(client.table, handle, kind, flags, len(data))
    asked = []

    def recover(wanted: Handle) -> None:
        asked.append(wanted.hex())
        room = elsewhere.begin_bringing(client.table, wanted)
        assert room is not None
        memoryview(room)[:] = memoryview(data)
        assert elsewhere.finish_bringing(client.table, wanted, room, kind, flags)

    elsewhere.set_recovery(client.table, recover)
    for _ in range(2):
        np.testing.assert_array_equal(client.get(handle), values)
    assert asked == [handle.hex()]
    assert client.table.state(handle) == ObjectState.SEALED
    assert elsewhere.begin_bringing(client.table, handle) is None, "it is here"
    assert check(client.table) == []


def test_bytes_of_another_kind_are_refused(client: StoreClient) -> None:
    handle = away(client.table, 10)
    room = elsewhere.begin_bringing(client.table, handle)
    assert room is not None
    with pytest.raises(ValueError, match="another kind"):
        elsewhere.finish_bringing(client.table, handle, room, KIND + 1, 0)
    with pytest.raises(ValueError, match="another kind"):
        elsewhere.finish_bringing(client.table, handle, room, KIND, int(ObjectFlag.COMPOUND))
    del room
    assert elsewhere.is_elsewhere(client.table, handle)
    assert check(client.table) == []


def test_one_that_is_called_back_to_life_is_waited_for_again(
    table: ObjectTable, tasks: Tasks
) -> None:
    queue = new_queue(table.segment)
    lost = away(table)
    assert elsewhere.revive(table, lost)
    assert table.state(lost) == ObjectState.PENDING
    assert not elsewhere.revive(table, lost), "it is expected already"
    assert table.read(lost) is None
    waiting_task(tasks, queue.loc, lost)
    assert tasks.next(queue.loc, 0, []) is None, "it waits"
    assert table.fill(lost, KIND, b"made anew", [], [])
    claimed = tasks.next(queue.loc, 0, [])
    assert claimed is not None
    tasks.finish(claimed)
    read = table.read(lost)
    assert read is not None
    assert read[2] == b"made anew"
    tasks.sweep()
    assert check(table) == []


def test_a_task_that_is_submitted_once_more_makes_what_was_lost_of_its_results(
    table: ObjectTable, tasks: Tasks
) -> None:
    queue = new_queue(table.segment)
    (result,) = submit(tasks, queue, b"")
    claimed = tasks.next(queue.loc, 0, [])
    assert claimed is not None
    assert elsewhere.seal_elsewhere(table, result, KIND, 0, 1000)
    tasks.finish(claimed)
    assert tasks.sweep() == 0
    assert elsewhere.revive(table, result)
    task_id = result.binary()[:16]
    context = TaskContext(bytes(16))
    tasks.submit(Handle, context, queue.loc, 1, b"", [], [], 1, 0, 0, False, task_id)
    again = tasks.next(queue.loc, 0, [])
    assert again is not None
    assert again.returns == (result.loc,)
    assert table.fill_at(result.loc, KIND, b"again", [], [])
    tasks.finish(again)
    assert tasks.sweep() == 0
    assert check(table) == []


def test_a_reader_waits_until_it_is_made_again(store: Store, client: StoreClient) -> None:
    lost = away(client.table)
    other = store.connect()

    def recover(_: Handle) -> None:
        assert elsewhere.revive(client.table, lost)

    elsewhere.set_recovery(other.table, recover)
    reader = other.handle(ObjectID(lost.binary()))
    assert other.table.read(reader) is None
    seen = threading.Thread(target=lambda: other.wait([reader], timeout_s=10.0))
    seen.start()
    client.table.fill(lost, KIND, b"again", [], [])
    seen.join(10.0)
    read = other.table.read(reader)
    assert read is not None
    assert read[2] == b"again"


def test_the_daemon_calls_back_to_life_what_is_nowhere_and_nothing_else(
    client: StoreClient,
) -> None:
    lost, there = away(client.table), client.put(np.ones(1000))
    assert client.revive([lost, there, lost]) == [True, False, False]
    assert client.table.state(lost) == ObjectState.PENDING


def test_it_goes_with_its_last_holder_and_with_free(client: StoreClient) -> None:
    before = repair.count_objects(client.table)
    handle, freed = away(client.table), away(client.table)
    keys = [(one.loc, one.version) for one in (handle, freed)]
    assert elsewhere.gone(client.table, keys) == []
    client.free([freed])
    assert elsewhere.gone(client.table, keys) == keys[1:]
    with pytest.raises(ObjectFreedError):
        client.table.read(freed)
    del handle, freed
    assert elsewhere.gone(client.table, keys) == keys
    assert repair.count_objects(client.table) == before


def test_a_recovery_that_fails_is_what_the_reader_gets(client: StoreClient) -> None:
    def recover(handle: Handle) -> None:
        raise ObjectLostError("nobody has it", object_ref_hex=handle.hex())

    elsewhere.set_recovery(client.table, recover)
    with pytest.raises(ObjectLostError, match="nobody has it"):
        client.table.read(away(client.table))


def test_a_fetch_brings_what_is_known_to_be_elsewhere(pair: list[Daemon]) -> None:
    here, there = pair
    for values in (np.arange(MIB), np.arange(100)):
        made = there.client.put(values)
        kind, flags, size = elsewhere.facts(there.client.table, made)
        known = here.client.handle(made.id)
        assert elsewhere.seal_elsewhere(here.client.table, known, kind, flags, size)
        with pytest.raises(ObjectElsewhereError):
            here.client.get(known)
        here.client.fetch(made.id, [there.address], cached=False)
        assert here.client.table.state(known) == ObjectState.SEALED
        np.testing.assert_array_equal(here.client.get(known), values)
    assert check(here.client.table) == []


def test_a_store_does_not_give_away_what_is_elsewhere(pair: list[Daemon]) -> None:
    here, there = pair
    handle = away(there.client.table)
    with pytest.raises(Exception, match="not sealed here"):
        here.client.fetch(ObjectID(handle.binary()), [there.address], timeout_s=10.0)
