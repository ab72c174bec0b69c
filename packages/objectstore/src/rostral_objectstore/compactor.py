"""Closes the gaps between free chunks, so that a large block finds its room in one piece.

Carries out what core/compaction.py plans, by the moves of _native/residence.pyx. Only the store
daemon does this, on one thread at a time.
"""

from __future__ import annotations

from rostral_objectstore._native import residence
from rostral_objectstore._native.chunk_map import chunk_map
from rostral_objectstore._native.table import Handle, ObjectTable
from rostral_objectstore.core.compaction import Extent, Move, largest_free, plan_moves
from rostral_objectstore.errors import ObjectNotFoundError
from rostral_objectstore.layout import CHUNK_BYTES

# A plan fails when somebody takes a gap or a run first: then there is a new map to plan by.
PLANS_MAX = 8


class Compactor:
    """Moves what may be moved, for who finds too few chunks in a row.

    Attributes:
        moved_bytes: since the start.
        moves: as often was a run moved.
    """

    def __init__(self, table: ObjectTable) -> None:
        self._table = table
        self.moved_bytes = 0
        self.moves = 0

    def make_run(self, chunks_wanted: int) -> bool:
        """Whether so many free chunks lie in a row now, or did for a moment.

        False: too few are free, or what lies between them is pinned, small, or finds no gap.
        Blocks while it copies: at most as many bytes as the store has, mostly a few times as many
        as are wanted.
        """
        chunks = self._table.segment.capacity // CHUNK_BYTES
        for _ in range(PLANS_MAX):
            found, runs = chunk_map(self._table)
            extents = [Extent._make(extent) for extent in found]
            plan = plan_moves(extents, chunks_wanted, moved_max=chunks)
            if plan is None:
                return False
            if all(self._move(move, runs) for move in plan):
                return True
        return largest_free([Extent._make(e) for e in chunk_map(self._table)[0]]) >= chunks_wanted

    def _move(self, move: Move, runs: dict[int, tuple[int, int, bytes]]) -> bool:
        # Moved by an earlier step of the plan, a run is no longer where the map had it.
        loc, version, id = runs.pop(move.first)
        try:
            handle = self._table.adopt(Handle, loc, version, id)
        except ObjectNotFoundError:
            return True  # deleted meanwhile: its chunks are free
        moved = residence.move(self._table, handle, move.target)
        if moved:
            runs[move.target] = loc, version, id
            self.moves += 1
            self.moved_bytes += move.length * CHUNK_BYTES
        return moved
