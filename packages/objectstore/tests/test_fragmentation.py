"""A store kept at nine tenths by values of all sizes has room for each that fits what is free."""

from __future__ import annotations

from pathlib import Path

import pytest

from .fragmentation_loop import FragmentationLoop
from .store import Nursery, running


@pytest.mark.slow
def test_every_put_that_fits_finds_room_in_a_store_kept_at_nine_tenths(
    folder: Path, nursery: Nursery
) -> None:
    with running(folder, nursery, 64 << 20) as store:
        loop = FragmentationLoop(store, seed=11)
        outcome = loop.run(8.0)
        assert outcome.is_clean(), (outcome, loop.what)
