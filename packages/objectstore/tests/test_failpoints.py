"""Kill -9 at every named step: the others run on, and the segment comes back to what it was."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from rostral_gcs.errors import ConfigError
from rostral_gcs.ids import ObjectID
from rostral_objectstore import StoreClient
from rostral_objectstore._native import failpoints, repair
from rostral_objectstore._native.check import check
from rostral_objectstore._native.heap import Heap
from rostral_objectstore._native.lanes import link_lane
from rostral_objectstore._native.queue import Queue
from rostral_objectstore.errors import ObjectAlreadyExistsError
from rostral_objectstore.layout import CHUNK_BYTES, QUEUE_READY

from .store import Nursery, Peer, Store, running, until

# How long a client may churn before it comes to a failpoint.
PATIENCE_S = 15.0

# Reached once in a client's life, or twice: there is no later visit to die at.
RARE = {"chunk.adopted"}
# Only two processes together come here: see below.
MET_BY_TWO = {"delete.disturbed"}
OF_TASKS = ("submit.", "queue.", "lane.", "claim.", "cancel.", "finish.", "resolve.", "task.")
CASES = [
    (name, visit)
    for name in failpoints.NAMES
    for visit in (1, 4)
    if name not in (*MET_BY_TWO, *failpoints.DAEMON_NAMES) and (visit == 1 or name not in RARE)
]

ARM = "import churn; os.environ['ROSTRAL_FAILPOINTS'] = armed"
# What somebody waits for, first: it is begun, and sometimes even sealed, when death comes.
VICTIM = """
work = churn.Churn(client, seed)
writable = client.create(1000, promised)
end = time.monotonic() + patience_s
while time.monotonic() < end:
    work.step()
"""
# Tasks with inputs that come late and with none, some of them in a lane; the victim runs some of
# them itself.
VICTIM_OF_TASKS = """
work = churn.Churn(client, seed)
writable = client.create(1000, promised)
context = TaskContext(os.urandom(16))
end = time.monotonic() + patience_s
while time.monotonic() < end:
    work.step()
    try:
        late = [client.handle(ObjectID(os.urandom(20))) for _ in range(2)]
        results = tasks.submit(
            ObjectHandle, context, queue, 0, bytes(work.chooser.choice([1, 600])), late, [], 2, 0,
            0, False)
        results += tasks.submit(ObjectHandle, context, lane, 0, b"", [], late, 1, 0, 0, False)
        results += tasks.submit(ObjectHandle, context, queue, 0, b"", late, [], 1, 0, 0, False)
        assert cancelling.cancel_result(table, results[-1], 0, 2, b"cancelled", 0) == 0
        for handle in late:
            table.fill(handle, 2, b"", [], [], work.chooser.choice([0, 1]))
        while task := tasks.next(queue, 0, []):
            for result in task.returns:
                table.fill_at(result, 2, b"made here", [], [])
            tasks.finish(task)
    except QueueFullError:
        tasks.sweep()
"""
# Streams, producer and consumer in one process: it dies now as the one, now as the other.
VICTIM_OF_STREAMS = """
work = churn.Churn(client, seed)
writable = client.create(1000, promised)
context = TaskContext(os.urandom(16))
end = time.monotonic() + patience_s
while time.monotonic() < end:
    work.step()
    for inband in (bytes(8), bytes(600)):
        reader = tasks.submit(
            ObjectHandle, context, queue, 0, inband, [], [], 1, 0, 0, False, None, None, 0, 2)
        task = tasks.next(queue, 0, [])
        writer = StreamWriter(table, task.loc)
        reader.wait(0)
        for number in range(4):
            if not writer.wait_room(1000):
                kept = reader.take()
            writer.write(2, inband, [], [])
        expected = reader.expect()
        del reader, expected, kept
        table.fill_at(task.returns[0], 2, b"", [], [])
        tasks.finish(task)
    tasks.sweep()
"""
# Values given up by hand: read or not, with references, and before they are sealed.
VICTIM_OF_FREES = """
work = churn.Churn(client, seed)
writable = client.create(1000, promised)
end = time.monotonic() + patience_s
while time.monotonic() < end:
    work.step()
    inner = client.put(bytes(600))
    outer = table.put(ObjectHandle, os.urandom(20), 2, inner.packed(), [], [inner])
    late = client.handle(ObjectID(os.urandom(20)))
    read = client.put(np.zeros(50_000))
    view = client.get(read)
    client.free([outer, read, late])
    table.fill(late, 2, bytes(work.chooser.choice([1, 600])), [], [])
    del inner, outer, late, read, view
"""
BYSTANDER = """
work = churn.Churn(client, 1)
while not stopped:
    work.step()
work.leave()
"""


def test_an_unknown_failpoint_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"did you mean .*chunk\.claimed"):
        failpoints.parse("chunk.claimd=kill")
    with pytest.raises(ConfigError, match=r"there are .*release\.said"):
        failpoints.parse("42=kill")
    with pytest.raises(ConfigError, match="cannot 'kil'"):
        failpoints.parse("chunk.claimed=kil")
    with pytest.raises(ConfigError, match="count from 1"):
        failpoints.parse("chunk.claimed=kill@0")


def test_a_process_with_a_misspelt_failpoint_does_not_attach(store: Store) -> None:
    peer = store.peer(attached=False)
    peer.do("os.environ['ROSTRAL_FAILPOINTS'] = 'nothing.like.it=kill'")
    peer.do(
        "from rostral_gcs.errors import ConfigError\n"
        "try:\n"
        "    StoreClient.connect(socket)\n"
        "except ConfigError:\n"
        "    refused = True",
        socket=store.socket,
    )
    assert peer.ask("refused")


def test_counting_stops_nobody(store: Store) -> None:
    peer = armed_peer(store, "block.used=count")
    peer.do("from rostral_objectstore._native import failpoints\nkept = client.put(bytes(1000))")
    assert peer.ask("failpoints.hits()['block.used']") == 1


def armed_peer(store: Store, armed: str) -> Peer:
    """A process that attaches with these failpoints armed."""
    peer = store.peer(attached=False)
    peer.do(ARM, armed=armed)
    peer.do(
        "client = StoreClient.connect(socket); slot = client.slot; table = client.table; "
        "tasks = client.tasks",
        socket=store.socket,
    )
    return peer


def until_dead(peer: Peer, what: str) -> None:
    """It was killed at the step, and did not come to its end."""
    with contextlib.suppress(EOFError, ConnectionResetError):
        peer.end()
        pytest.fail(f"{what} was never reached")
    until(lambda: not Path(f"/proc/{peer.pid}").exists(), f"death of {peer.pid} at {what}")


@pytest.fixture(scope="module")
def busy_store(tmp_path_factory: pytest.TempPathFactory, nursery: Nursery) -> Iterator[Store]:
    """A store for all deaths; in the end nothing may be left in it."""
    with running(tmp_path_factory.mktemp("s"), nursery, 64 << 20) as store:
        yield store


@pytest.fixture
def bystander(busy_store: Store) -> Iterator[Peer]:
    """A living client that works all the time, and checks what it reads; until SIGUSR1."""
    peer = busy_store.peer()
    peer.do(
        "import churn\n"
        "stopped = False\n"
        "def stop(number, frame):\n"
        "    global stopped\n"
        "    stopped = True\n"
        "signal.signal(signal.SIGUSR1, stop)"
    )
    peer.begin(BYSTANDER)
    yield peer
    peer.kill()


@pytest.fixture
def cast(busy_store: Store) -> Iterator[list[Peer]]:
    """Processes of one test; none of them outlives it."""
    peers: list[Peer] = []
    yield peers
    for peer in peers:
        peer.kill()


def end_tasks(client: StoreClient, queues: list[Queue]) -> None:
    """What a scheduler would do about the tasks of the dead: here they all fail."""
    for task in repair.list_tasks(client.segment, 10_000):
        repair.fail(client.table, task["loc"], 2, b"", 0)
    for queue in queues:
        repair.claim_all(client.segment, queue.loc)
        queue.free()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "visit"), CASES)
def test_a_death_at_any_step_harms_nobody(
    busy_store: Store, bystander: Peer, cast: list[Peer], name: str, visit: int
) -> None:
    """The story of each death.

    1. A bystander works on objects that it shares with the victim; a waiter waits for one.
    2. The victim dies at the step.
    3. What it had promised is made by another; the waiter gets that.
    4. The bystander saw no wrong byte, and the segment is empty.
    """
    store = busy_store
    promised = ObjectID(os.urandom(20))
    waiter, client = store.peer(), store.connect()
    victim = armed_peer(store, f"{name}=kill@{visit}")
    cast += [waiter, victim]
    waiter.do("handle = client.handle(promised)", promised=promised)
    waiter.begin("value = client.get(handle)")
    slot = victim.ask("slot")
    queue, lane = (
        Queue.create(client.segment, 64, QUEUE_READY, bytes(16), bytes(16)) for _ in range(2)
    )
    link_lane(queue, lane, 0, 1, 0, None, queue)
    stories = {"stream": VICTIM_OF_STREAMS, "free": VICTIM_OF_FREES}
    story = stories.get(name.partition(".")[0], VICTIM)
    victim.begin(
        VICTIM_OF_TASKS if name.startswith(OF_TASKS) else story,
        seed=visit,
        promised=promised,
        patience_s=PATIENCE_S,
        queue=queue.loc,
        lane=lane.loc,
    )
    until_dead(victim, name)
    store.until_gone(slot)
    end_tasks(client, [queue, lane])
    try:
        kept = client.put("made by another", promised)
    except ObjectAlreadyExistsError:
        kept = client.handle(promised)
    waiter.end()
    assert waiter.ask("len(value)") in {15, 1000}
    bystander.signal(signal.SIGUSR1)
    bystander.end()
    waiter.do("del handle, value")
    del kept
    nothing = dict.fromkeys(store.audit(), 0)
    with contextlib.suppress(AssertionError):
        until(lambda: store.audit() == nothing, "an empty segment", 5.0)
    assert store.audit() == nothing, repair.list_objects(client.table, 10)
    assert check(client.table) == []
    client.close()


SMALL, LARGE = 1000, 1_000_000
CUT_SHORT = [
    *((step, SMALL) for step in ("release.said", "release.unnamed", "release.marked_freed")),
    *((step, LARGE) for step in ("release.said", "release.unnamed", "run.taken_back")),
    *((step, LARGE) for step in ("run.unsaid", "run.body_freed", "run.freed")),
]


@pytest.mark.parametrize(("step", "size"), CUT_SHORT)
def test_a_release_that_death_cuts_short_is_finished_though_the_owner_lives(
    store: Store, step: str, size: int
) -> None:
    owner, victim = store.connect(), armed_peer(store, f"{step}=kill")
    handle = owner.put(bytes(size))
    victim.do("kept = client.handle(id)", id=handle.id)
    del handle
    assert store.audit()["blocks"] == 1
    slot = victim.ask("slot")
    victim.begin("del kept")
    until_dead(victim, step)
    store.until_gone(slot)
    assert store.audit() == dict.fromkeys(store.audit(), 0)
    assert Heap(owner.segment).chunks_by_kind()[5:7] == [0, 0]


def test_a_block_is_not_used_again_before_its_release_is_over(store: Store) -> None:
    """Not before it is over, nor before the dead one's is ended.

    1. The owner fills a slab; another process frees one of its blocks, and stops in that.
    2. The owner allocates: it never gets that block.
    3. The other dies; now the owner does.
    """
    owner, other = store.connect(), armed_peer(store, "release.marked_freed=stop")
    heap = Heap(owner.segment)
    handle = owner.put(bytes(SMALL))
    others = {heap.allocate(SMALL) for _ in range(CHUNK_BYTES // 1024 - 1)}
    first = min(others) // (CHUNK_BYTES // 64) * (CHUNK_BYTES // 64)
    (block,) = set(range(first, first + CHUNK_BYTES // 64, 1024 // 64)) - others
    other.do("kept = client.handle(id)", id=handle.id)
    del handle
    slot = other.ask("slot")
    other.begin("del kept")
    until(lambda: is_stopped(other), "stop in the release")
    taken = {heap.allocate(SMALL) for _ in range(200)}
    assert block not in taken
    other.kill()
    store.until_gone(slot)
    taken |= {heap.allocate(SMALL) for _ in range(100)}
    assert block in taken
    for loc in taken | others:
        heap.release(loc)


def test_a_deleter_that_dies_stepping_back_leaves_the_object_to_its_new_holder(
    store: Store,
) -> None:
    """Both see each other, and one of them is gone.

    1. The last holder drops the object; it stops after it has begun to delete.
    2. Another takes hold: it waits for the deleter to decide.
    3. The deleter goes on, sees the holder, and dies before it has stepped back.
    4. The daemon steps back for it; the holder reads the object.
    """
    deleter = armed_peer(store, "delete.begun=stop,delete.disturbed=kill")
    holder = store.peer()
    deleter.do("kept = client.put(bytes(1000))")
    id, slot = deleter.ask("kept.id"), deleter.ask("slot")
    deleter.begin("del kept")
    until(lambda: is_stopped(deleter), "stop in the deletion")
    holder.begin("kept = client.handle(id)", id=id)
    # One on the object, and one on the record that it had ready in case there was none.
    until(lambda: store.audit()["holds"] == 2, "the new holder")
    deleter.signal(signal.SIGCONT)
    until_dead(deleter, "delete.disturbed")
    store.until_gone(slot)
    holder.end()
    assert holder.ask("client.get(kept)") == bytes(1000)


def test_who_sleeps_without_a_timeout_is_woken_though_the_sealer_died_before_it_woke_him(
    store: Store,
) -> None:
    sealer, sleeper = armed_peer(store, "seal.closed=kill"), store.peer()
    id = ObjectID(os.urandom(20))
    sealer.do("writable = client.create(1000, id)", id=id)
    sleeper.do("handle = client.handle(id)", id=id)
    slot = sleeper.ask("slot")
    sleeper.begin("tasks.next(0, -1, [handle])")
    until(lambda: store.watcher.segment.slot_info(slot)["sleeping"], "sleep")
    sealer.begin("writable.seal()")
    until_dead(sealer, "seal.closed")
    sleeper.end(5.0)
    assert sleeper.ask("len(client.get(handle))") == 1000


def is_stopped(peer: Peer) -> bool:
    return Path(f"/proc/{peer.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
