"""Subscriptions: every seal and deletion is told, to whoever is quick enough and to nobody else."""

from __future__ import annotations

import asyncio
import threading

import pytest

from rostral_gcs.ids import ObjectID
from rostral_objectstore import ObjectEvent, StoreClient, Subscription
from rostral_objectstore.errors import StoreClosedError

from .store import Store, until


def watched(client: StoreClient) -> bool:
    """Whether writers write events."""
    return client.segment.is_watched


def events(subscription: Subscription, count: int) -> list[ObjectEvent]:
    """The next so many events."""
    found = [subscription.get(10.0) for _ in range(count)]
    assert None not in found
    return [event for event in found if event is not None]


def test_a_seal_and_a_deletion_in_another_process_are_told(store: Store) -> None:
    client, peer = store.connect(), store.peer()
    peer.do("early = client.put(1, 'early')")
    with client.subscribe() as subscription:
        peer.do("kept = client.put(bytes(1000), 'told'); del kept, early")
        told = events(subscription, 3)
        assert subscription.get(timeout_s=0) is None
    assert [(event.kind, event.id, event.size_bytes) for event in told] == [
        ("sealed", ObjectID.from_name("told"), 1000),
        ("deleted", ObjectID.from_name("told"), 1000),
        ("deleted", ObjectID.from_name("early"), told[2].size_bytes),
    ]


def test_only_ids_with_the_prefix_are_told(store: Store) -> None:
    client, peer = store.connect(), store.peer()
    with client.subscribe(b"ab") as subscription:
        peer.do("ids = [ObjectID(p + bytes(18)) for p in (b'aa', b'ab', b'ba')]")
        peer.do("kept = [client.put(1, id) for id in ids]")
        (event,) = events(subscription, 1)
        assert event.id == ObjectID(b"ab" + bytes(18))
        assert subscription.get(timeout_s=0) is None


def test_what_is_waited_for_and_never_written_is_not_told(store: Store) -> None:
    client = store.connect()
    with client.subscribe() as subscription:
        client.handle("never")
        client.create(10).abort()
        assert subscription.get(timeout_s=0.01) is None


def test_a_waiting_reader_is_woken(store: Store) -> None:
    reader, client = store.peer(), store.connect()
    reader.do("subscription = client.subscribe()")
    slot = reader.ask("slot")
    reader.begin("event = next(subscription)")
    until(lambda: store.watcher.segment.slot_info(slot)["sleeping"], "the reader's sleep")
    handle = client.put(1, "woken")
    reader.end()
    assert reader.ask("event.kind, event.id") == ("sealed", handle.id)


def test_a_slow_reader_is_told_how_many_it_missed(store: Store) -> None:
    client, peer = store.connect(), store.peer()
    with client.subscribe() as subscription:
        peer.do("for _ in range(5000): client.put(1)")
        first = subscription.get(timeout_s=1.0)
        assert first == ObjectEvent(kind="missed", missed=10_000 - 4096)
        rest = events(subscription, 4096)
        assert {event.kind for event in rest} == {"sealed", "deleted"}
        assert subscription.get(timeout_s=0) is None


def test_many_writers_lose_no_event(store: Store) -> None:
    client, peers = store.connect(), [store.peer() for _ in range(4)]
    with client.subscribe() as subscription:
        for peer in peers:
            peer.begin("kept = [client.put(i) for i in range(500)]")
        told = events(subscription, 2000)
        for peer in peers:
            peer.end()
        ids = {id for peer in peers for id in peer.ask("[handle.id for handle in kept]")}
    assert {event.kind for event in told} == {"sealed"}
    assert {event.id for event in told} == ids


def test_writers_that_are_killed_leave_holes_and_no_more(store: Store) -> None:
    client = store.connect()
    with client.subscribe() as subscription:
        for _ in range(5):
            peer = store.peer()
            slot = peer.ask("slot")
            peer.begin("while True: client.put(1)")
            assert subscription.get(10.0) is not None
            peer.kill()
            store.until_gone(slot)
            while subscription.get(0.05) is not None:
                pass
            handle = client.put(1)
            (event,) = events(subscription, 1)
            assert (event.kind, event.id) == ("sealed", handle.id)
            del handle
            assert events(subscription, 1)[0].kind == "deleted"


def test_a_dead_subscriber_is_forgotten(store: Store) -> None:
    peer, client = store.peer(), store.connect()
    slot = peer.ask("slot")
    peer.do("subscription = client.subscribe()")
    assert watched(client)
    peer.kill()
    store.until_gone(slot)
    assert not watched(client)


def test_nothing_is_written_when_nobody_reads(store: Store) -> None:
    client = store.connect()
    assert not watched(client)
    first, second = client.subscribe(), client.subscribe()
    first.close()
    first.close()
    assert watched(client)
    second.close()
    assert not watched(client)
    with pytest.raises(StoreClosedError):
        second.get()


def test_closing_ends_an_iteration(store: Store) -> None:
    client = store.connect()
    subscription = client.subscribe()
    ended = threading.Event()

    def iterate() -> None:
        for _ in subscription:
            pass
        ended.set()

    threading.Thread(target=iterate).start()
    subscription.close()
    assert ended.wait(10.0)


def test_events_are_read_in_asyncio(store: Store) -> None:
    client, peer = store.connect(), store.peer()

    async def read() -> list[ObjectID | None]:
        found = []
        with client.subscribe() as subscription:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await anext(subscription)
            peer.begin("kept = [client.put(i, f'number {i}') for i in range(10)]")
            async for event in subscription:
                found.append(event.id)
                if len(found) == 10:
                    break
        return found

    assert asyncio.run(read()) == [ObjectID.from_name(f"number {i}") for i in range(10)]
    peer.end()
