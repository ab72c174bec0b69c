"""The daemon is killed at every step of spilling and moving: its successor loses nothing.

The clients know nothing of it: they work on, and wait while nobody serves.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from rostral_objectstore import StoreClient
from rostral_objectstore._native import failpoints, repair
from rostral_objectstore._native.check import check
from rostral_objectstore.layout import ObjectState

from .manager import Manager
from .store import Nursery, Peer, PeerError, until

MIB = 1 << 20
# Three times the memory, by two clients together.
TOTAL_BYTES = 3 * 64 * MIB
# Steps with a small workload of their own, below.
OF_GAPS = ("move.copied", "move.left", "move.renamed")
OF_SPARSE_FILES = ("reclaim.rewritten",)
OF_DAMAGE = ("lose.marked",)
OF_REVIVING = ("revive.opened", "revive.pending")
OF_SPILLING = [
    name
    for name in failpoints.DAEMON_NAMES
    if name not in OF_GAPS + OF_SPARSE_FILES + OF_DAMAGE + OF_REVIVING
]

ATTACH = (
    "import spiller; client = StoreClient.connect(socket); work = spiller.Spiller(client, seed)"
)
PUT_AND_READ = "work.fill(total_bytes); work.verify()"


class Scene:
    """A daemon that will die at a step, and clients of it."""

    def __init__(self, folder: Path, nursery: Nursery) -> None:
        self.manager = Manager(folder)
        self._nursery = nursery
        self._peers: list[Peer] = []

    def peer(self, seed: int) -> Peer:
        """A client with a `work` to do."""
        peer = self._nursery.peer()
        self._peers.append(peer)
        peer.do(ATTACH, socket=self.manager.socket, seed=seed)
        return peer

    def replace_the_dead(self, step: str) -> None:
        """Waits for the daemon's death at the step, and starts the next one."""
        until(self.manager.is_dead, f"death at {step}", 8.0)
        assert self.manager.kill() == -signal.SIGKILL
        self.manager.start()

    def expect_nothing_left(self) -> None:
        """With the clients gone, memory and disk are as they were before they came."""
        for peer in self._peers:
            peer.do("del work")
        with StoreClient.connect(self.manager.socket) as client:
            nothing = dict.fromkeys(repair.audit(client.table), 0)
            with contextlib.suppress(AssertionError):
                until(lambda: repair.audit(client.table) == nothing, "an empty segment", 5.0)
            assert repair.audit(client.table) == nothing, repair.list_objects(client.table, 10)
            assert check(client.table) == []
            (folder,) = self.manager.spill.iterdir()
            until(
                lambda: [path.name for path in folder.iterdir()] == ["lock"], "an empty disk", 5.0
            )

    def close(self) -> None:
        for peer in self._peers:
            peer.kill()
        self.manager.close()


@pytest.fixture
def scene(folder: Path, nursery: Nursery) -> Iterator[Scene]:
    scene = Scene(folder, nursery)
    yield scene
    scene.close()


@pytest.mark.slow
@pytest.mark.parametrize("step", OF_SPILLING)
def test_a_daemon_that_dies_while_it_spills_and_restores_loses_nothing(
    scene: Scene, step: str
) -> None:
    scene.manager.start(armed=f"{step}=kill@2")
    peers = [scene.peer(seed) for seed in (1, 2)]
    for peer in peers:
        peer.begin(PUT_AND_READ, total_bytes=TOTAL_BYTES // len(peers))
    if step == "reclaim.deleted":
        for peer in peers:
            peer.end()
            peer.begin("work.keep_every(1000)")
    scene.replace_the_dead(step)
    for peer in peers:
        peer.end()
        peer.do("work.verify()")
    scene.expect_nothing_left()


@pytest.mark.slow
@pytest.mark.parametrize("step", OF_GAPS)
def test_a_daemon_that_dies_while_it_closes_gaps_loses_nothing(scene: Scene, step: str) -> None:
    """Every other object goes; what needs the room of many in one piece has them moved."""
    scene.manager.start(armed=f"{step}=kill@2")
    peer = scene.peer(1)
    peer.do("kept = [client.put(np.full(MIB // 8, i)) for i in range(48)]", MIB=MIB)
    peer.do("kept = kept[::2]")
    peer.begin("large = client.put(np.full(28 * MIB // 8, 7))")
    scene.replace_the_dead(step)
    peer.end()
    peer.do("assert (client.get(large) == 7).all()")
    peer.do("for i, h in enumerate(kept):\n    assert (client.get(h) == 2 * i).all(), i")
    peer.do("del kept, large, h")
    scene.expect_nothing_left()


@pytest.mark.slow
@pytest.mark.parametrize("step", OF_SPARSE_FILES)
def test_a_daemon_that_dies_while_it_writes_sparse_files_anew_loses_nothing(
    scene: Scene, step: str
) -> None:
    scene.manager.start(armed=f"{step}=kill@2")
    peer = scene.peer(1)
    peer.do("work.fill(4 * 64 << 20)")
    peer.do("work.keep_every(9)")
    scene.replace_the_dead(step)
    peer.do("work.verify()")
    scene.expect_nothing_left()


@pytest.mark.slow
@pytest.mark.parametrize("step", OF_DAMAGE)
def test_a_reader_of_a_lost_object_is_told_though_the_daemon_died_in_it(
    scene: Scene, step: str
) -> None:
    scene.manager.start(armed=f"{step}=kill@1")
    owner, reader = scene.peer(1), scene.peer(2)
    owner.do("kept = [client.put(np.full(MIB // 8, i)) for i in range(120)]", MIB=MIB)
    for path in scene.manager.spill.rglob("*"):
        if path.is_file() and path.name != "lock":
            path.unlink()
    reader.begin("client.get(id)", id=owner.ask("kept[0].id"))
    scene.replace_the_dead(step)
    with pytest.raises(PeerError) as caught:
        reader.end()
    assert caught.value.name in ("ObjectCorruptError", "ObjectLostError")
    owner.do("del kept")
    scene.expect_nothing_left()


@pytest.mark.slow
@pytest.mark.parametrize("step", OF_REVIVING)
def test_what_was_to_be_made_again_can_be_though_the_daemon_died_in_it(
    scene: Scene, step: str
) -> None:
    scene.manager.start(armed=f"{step}=kill@1")
    peer = scene.peer(1)
    peer.do("from rostral_objectstore._native import elsewhere")
    peer.do("lost = client.handle('6c' * 20)")
    peer.do("elsewhere.seal_elsewhere(client.table, lost, 1, 0, 1000)")
    peer.begin("revived = client.revive([lost])")
    scene.replace_the_dead(step)
    peer.end()
    # The next daemon was asked once more: it finds what the dead one had not done.
    assert peer.ask("revived") == [step == "revive.opened"]
    assert peer.ask("client.table.state(lost)") == ObjectState.PENDING
    peer.do("client.table.fill(lost, 1, b'made again', [], [])")
    assert peer.ask("client.contains(lost.id)") is True
    peer.do("del lost")
    scene.expect_nothing_left()
