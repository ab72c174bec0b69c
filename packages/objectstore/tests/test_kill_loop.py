"""Eight clients under a random killer: the short form of `tests/soaks/soak_store.py kills`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .kill_loop import KillLoop
from .store import Store


@pytest.mark.slow
def test_random_kills_of_eight_clients_harm_nobody(store: Store, folder: Path) -> None:
    loop = KillLoop(store, str(folder / "board"), seed=int(os.environ.get("SEED", "7")))
    outcome = loop.run(15.0)
    assert outcome.is_clean(), (outcome, loop.what)
    assert outcome.kills > 10
    assert outcome.objects_checked > 500
    assert outcome.checks_of_all > 2
