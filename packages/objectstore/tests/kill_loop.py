"""Clients that are killed at random, forked anew, and checked: the store must not notice.

Every few seconds all clients pause between two steps, the dead are buried, and the segment is held
against all its rules.
"""

from __future__ import annotations

import random
import time
from dataclasses import asdict, dataclass

from rostral_objectstore._native.check import check

from .board import Board
from .store import Peer, PeerError, Store

CLIENTS = 8
SIZE_BYTES_MAX = 4_000_000
SHARED_IDS = 12
CHECK_INTERVAL_S = 2.0
# No step takes a tenth of this on a busy machine: who needs longer hangs.
PATIENCE_S = 20.0
PAUSE_BETWEEN_KILLS_S_MAX = 0.03

CLIENT = """
import board, churn
work = churn.Churn(client, seed, size_max=size_max, shared_count=shared_count)
board.Board(path).run(work, row)
"""


@dataclass(slots=True)
class Outcome:
    """What a run has seen. Everything but the first three must be zero."""

    kills: int = 0
    objects_checked: int = 0
    checks_of_all: int = 0
    wrong_bytes: int = 0
    hangs: int = 0
    leaked_blocks: int = 0
    violations: int = 0

    def is_clean(self) -> bool:
        return not (self.wrong_bytes or self.hangs or self.leaked_blocks or self.violations)

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


class KillLoop:
    """A run over one store; `what` collects a line for each thing that was wrong."""

    def __init__(self, store: Store, board_path: str, seed: int) -> None:
        self.store = store
        self.board, self._path = Board(board_path), board_path
        self.chooser = random.Random(seed)
        self.outcome = Outcome()
        self.what: list[str] = []
        self._rows: dict[int, Peer] = {}
        self._hired = 0
        self._pauses = 0

    def run(self, duration_s: float) -> Outcome:
        """Kills for the time, and then lets everybody go."""
        end = time.monotonic() + duration_s
        next_check = time.monotonic() + CHECK_INTERVAL_S
        while time.monotonic() < end and self.outcome.is_clean():
            while len(self._rows) < CLIENTS:
                self.hire()
            time.sleep(self.chooser.random() * PAUSE_BETWEEN_KILLS_S_MAX)
            self.kill_one()
            self.notice_errors()
            if time.monotonic() > next_check:
                self.check_all()
                next_check = time.monotonic() + CHECK_INTERVAL_S
        self.check_all()
        for row in list(self._rows):
            self.dismiss(row)
        self.expect_empty()
        self.board.close()
        return self.outcome

    def hire(self) -> None:
        peer = self.store.peer()
        self._hired += 1
        self._rows[self._hired] = peer
        peer.begin(
            CLIENT,
            seed=self.chooser.getrandbits(32),
            path=self._path,
            row=self._hired,
            size_max=SIZE_BYTES_MAX,
            shared_count=SHARED_IDS,
        )

    def kill_one(self) -> None:
        self.dismiss(self.chooser.choice(list(self._rows)))
        self.outcome.kills += 1

    def dismiss(self, row: int) -> None:
        self._rows.pop(row).kill()
        self.outcome.objects_checked += self.board.read(row)[1]

    def notice_errors(self) -> None:
        """No client ends by itself: one that has was wrong about something."""
        assert self.store.process.poll() is None, "the daemon is dead"
        for row, peer in list(self._rows.items()):
            if not peer.has_answered():
                continue
            try:
                peer.end()
            except PeerError as error:
                self.what.append(str(error))
            except EOFError:
                self.what.append(f"client {peer.pid} died by itself")
            self.outcome.wrong_bytes += 1
            self.dismiss(row)

    def check_all(self) -> None:
        """Everybody pauses, the dead are buried, and the whole segment is looked at."""
        self._pauses += 1
        self.board.want(self._pauses)
        try:
            if self.comes_to_rest():
                found = check(self.store.watcher.table)
                self.what += found
                self.outcome.violations += len(found)
                self.outcome.checks_of_all += 1
        finally:
            self.board.want(0)

    def comes_to_rest(self) -> bool:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            self.notice_errors()
            moving = [row for row in self._rows if self.board.read(row)[2] != self._pauses]
            if not moving and len(self.store.slots()) == len(self._rows):
                return True
            if time.monotonic() > deadline:
                self.outcome.hangs += max(1, len(moving))
                self.what.append(f"clients {moving} hang; slots {self.store.slots()} are in use")
                return False
            time.sleep(0.002)

    def expect_empty(self) -> None:
        """Without clients there is no block, and no object."""
        deadline = time.monotonic() + PATIENCE_S
        while any(self.store.audit().values()) and time.monotonic() < deadline:
            time.sleep(0.01)
        audit = self.store.audit()
        self.outcome.leaked_blocks = audit["blocks"] + audit["objects"] + audit["holds"]
        if self.outcome.leaked_blocks:
            self.what.append(f"left behind: {audit}")
