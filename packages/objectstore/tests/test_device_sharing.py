"""Device arrays between processes: put by one, read by others, with no copy by the host."""

from __future__ import annotations

import numpy as np
import pytest

from rostral_objectstore.errors import DeviceUnavailableError, ObjectKindError
from rostral_objectstore.gpu import opened

from .device_arrays import copied_later, on_device, on_host, own_stream, ramp
from .device_store import DeviceStore, used_bytes
from .store import PeerError, until

pytestmark = pytest.mark.slow  # each test starts a store, and that a process for its device


def test_what_one_process_puts_another_reads_on_the_device(device_store: DeviceStore) -> None:
    peer = device_store.peer()
    peer.do("handle = client.put(on_device(ramp(100_000)), 'weights')")
    client = device_store.connect()
    array = client.get("weights")
    assert np.array_equal(on_host(array), ramp(100_000))
    assert array.shape == (100_000,)
    stats = device_store.device_stats(client)
    assert stats["arrays"] == 1
    # Nothing of it is in the processor's memory.
    assert sum(one.size_bytes for one in client.list_objects()) < 10_000


def test_an_array_outlives_the_process_that_put_it(device_store: DeviceStore) -> None:
    creator, reader = device_store.peer(), device_store.peer()
    creator.do("handle = client.put(on_device(ramp(5000)), 'kept')")
    reader.do("handle = client.handle('kept')")
    slot = creator.ask("slot")
    creator.kill()
    device_store.store.until_gone(slot)
    assert reader.ask("np.array_equal(on_host(client.get(handle)), ramp(5000))")


def test_arrays_inside_a_value_stay_on_the_device(device_store: DeviceStore) -> None:
    client, peer = device_store.connect(), device_store.peer()
    fragment = {
        "obs": on_device(np.linspace(0, 1, 64 * 8, dtype=np.float32).reshape(64, 8)),
        "done": on_device(np.arange(64) % 7 == 0),
        "length": 64,
        "info": np.ones(2000),
    }
    handle = client.put(fragment, "fragment")
    peer.do("fragment = client.get('fragment')")
    assert peer.ask("on_host(fragment['obs']).shape, str(on_host(fragment['done']).dtype)") == (
        (64, 8),
        "bool",
    )
    assert peer.ask("float(on_host(fragment['obs'])[63, 7]), fragment['length']") == (1.0, 64)
    del handle


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (5, 7)])
def test_any_shape_comes_back(device_store: DeviceStore, shape: tuple[int, ...]) -> None:
    client = device_store.connect()
    values = np.full(shape, 2.5, np.float64)
    handle = client.put(on_device(values))
    back = on_host(client.get(handle))
    assert back.shape == shape
    assert np.array_equal(back, values)


def test_put_returns_when_the_bytes_are_there(device_store: DeviceStore) -> None:
    client, peer = device_store.connect(), device_store.peer()
    for number in range(20):
        values = ramp(50_000, number)
        handle = client.put(on_device(values), f"step {number}")
        # A device that does nothing before somebody waits would show zeros here.
        assert peer.ask(f"int(on_host(client.get('step {number}')).sum())") == int(values.sum())
        del handle


def test_get_gives_the_processors_memory_to_who_asks_for_it(device_store: DeviceStore) -> None:
    client = device_store.connect()
    handle = client.put(on_device(ramp(10_000).reshape(100, 100)))
    array = client.get(handle, device="cpu")
    assert type(array) is np.ndarray
    assert np.array_equal(array, ramp(10_000).reshape(100, 100))
    assert not array.flags.writeable
    assert np.array_equal(on_host(client.get(handle)), array)


def test_a_process_without_the_device_gets_the_processors_memory(
    device_store: DeviceStore,
) -> None:
    client, blind = device_store.connect(), device_store.peer(attached=False)
    blind.do("os.environ['CUDA_VISIBLE_DEVICES'] = ''")
    blind.do("client = StoreClient.connect(socket)", socket=device_store.store.socket)
    handle = client.put({"weights": on_device(ramp(3000))}, "model")
    assert blind.ask("type(client.get('model')['weights']).__name__") == "ndarray"
    assert blind.ask("int(client.get('model')['weights'].sum())") == int(ramp(3000).sum())
    with pytest.raises(PeerError, match="DeviceUnavailableError"):
        blind.do("client.get('model', device='cuda:0')")
    del handle


def test_a_host_array_goes_to_the_device_for_who_asks_for_it(device_store: DeviceStore) -> None:
    client, peer = device_store.connect(), device_store.peer()
    plain = client.put(ramp(2000), "plain")
    assert np.array_equal(on_host(client.get(plain, device="cuda:0")), ramp(2000))
    moved = client.put(ramp(2000), "moved", device="cuda:0")
    assert peer.ask("int(on_host(client.get('moved')).sum())") == int(ramp(2000).sum())
    del plain, moved


def test_a_device_array_goes_to_the_host_for_who_asks_for_it(device_store: DeviceStore) -> None:
    client = device_store.connect()
    handle = client.put(on_device(ramp(2000)), device="cpu")
    assert np.array_equal(client.get(handle), ramp(2000))


def test_the_last_handle_gives_the_devices_memory_back(device_store: DeviceStore) -> None:
    client, peer = device_store.connect(), device_store.peer()
    handle = client.put(on_device(ramp(1 << 20)), "large")
    peer.do("array = client.get('large')")
    assert used_bytes(device_store.device_stats(client)) >= 4 << 20
    del handle
    # A reader's array keeps the memory, though nobody has the object any more.
    assert used_bytes(device_store.device_stats(client)) >= 4 << 20
    assert peer.ask("int(on_host(array)[-1])") == (1 << 20) - 1
    peer.do("del array")
    until(lambda: used_bytes(device_store.device_stats(client)) == 0, "memory given back")


def test_a_readers_work_is_over_before_its_memory_is_used_again(device_store: DeviceStore) -> None:
    client = device_store.connect()
    handle = client.put(on_device(ramp(1 << 18)))
    array = client.get(handle)
    copy = copied_later(array)
    del array, handle
    until(lambda: used_bytes(device_store.device_stats(client)) == 0, "memory given back")
    others = [client.put(on_device(ramp(1 << 18, 7))) for _ in range(4)]
    assert np.array_equal(on_host(copy), ramp(1 << 18))
    del others


def test_work_on_the_stream_of_who_drops_an_array_is_over_before_its_memory_is_used_again(
    device_store: DeviceStore,
) -> None:
    client = device_store.connect()
    handle = client.put(on_device(ramp(1 << 18)))
    array = client.get(handle)
    with own_stream():
        copy = copied_later(array)
        del array, handle
        until(lambda: used_bytes(device_store.device_stats(client)) == 0, "memory given back")
        others = [client.put(on_device(ramp(1 << 18, 7))) for _ in range(4)]
        assert np.array_equal(on_host(copy), ramp(1 << 18))
    del others


def test_put_waits_for_the_stream_that_its_caller_works_on(device_store: DeviceStore) -> None:
    client, peer = device_store.connect(), device_store.peer()
    with own_stream():
        handle = client.put(on_device(ramp(50_000)), "from a stream")
    assert peer.ask("int(on_host(client.get('from a stream')).sum())") == int(ramp(50_000).sum())
    del handle


def test_attachments_of_one_process_share_the_opening_of_a_devices_memory(
    device_store: DeviceStore,
) -> None:
    first, second = device_store.connect(), device_store.connect()
    handle = first.put(on_device(ramp(1000)), "shared")
    array = second.get("shared")
    first.close()
    assert np.array_equal(on_host(array), ramp(1000))
    again = second.put(on_device(ramp(1000, 3)))
    assert np.array_equal(on_host(second.get(again)), ramp(1000, 3))
    del handle


def test_memory_is_closed_with_its_last_user_and_opened_again(device_store: DeviceStore) -> None:
    first = device_store.connect()
    handle = first.put(on_device(ramp(1000)), "kept")
    second = device_store.connect()
    kept = second.handle("kept")
    (tier,) = first.devices._tiers.values()
    first.close()
    until(
        lambda: tier._handle not in {handle for _, handle in list(opened._openings)},
        "the memory to be closed",
    )
    assert np.array_equal(on_host(second.get(kept)), ramp(1000))
    del handle


def test_a_value_that_is_no_array_cannot_be_put_on_a_device(device_store: DeviceStore) -> None:
    with pytest.raises(ObjectKindError, match="a dict cannot be put on a device"):
        device_store.connect().put({}, device="cuda:0")


def test_a_device_that_is_not_there_is_an_error(device_store: DeviceStore) -> None:
    client = device_store.connect()
    handle = client.put(on_device(ramp(10)))
    with pytest.raises(DeviceUnavailableError, match="no device cuda:99"):
        client.get(handle, device="cuda:99")
    with pytest.raises(ValueError, match="'gpu' is no device"):
        client.get(handle, device="gpu")
