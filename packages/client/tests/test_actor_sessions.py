"""Handles of actors that outlast something: their cluster, the function that closes over them."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

import rostral
from rostral.exceptions import ActorHandleNotFoundError, ActorNotFoundError

from .actors import counter_class, get
from .waiting import is_alive

SHAPE: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 64 << 20}

pytestmark = pytest.mark.usefixtures("leaves_nothing")


def test_a_handle_of_an_old_session_is_not_found() -> None:
    with rostral.init(**SHAPE):
        counter = counter_class().remote()
        assert get(counter.add.remote()) == 1
    with rostral.init(**SHAPE):
        with pytest.raises(ActorHandleNotFoundError) as caught:
            rostral.kill(counter)
        assert isinstance(caught.value, ValueError)
        assert ActorHandleNotFoundError is ActorNotFoundError


def test_a_task_that_runs_again_gets_the_actor_that_it_made_before(marks: Path) -> None:
    with rostral.init(**SHAPE):
        counters = counter_class()

        class Keeper:
            def keep(self, handles: list[Any]) -> None:
                self.kept = handles

        remote: Any = rostral.remote
        keeper = remote(Keeper).remote()

        @rostral.remote(max_retries=1)
        def make() -> Any:
            counter = counters.remote()
            rostral.get(keeper.keep.remote([counter]))
            is_first = not marks.read_text()
            with marks.open("a") as file:
                file.write(f"{rostral.get(counter.pid.remote())}\n")
            if is_first:
                os.kill(os.getpid(), signal.SIGKILL)
            return counter

        counter = get(make.remote())
        assert marks.read_text().split() == [str(get(counter.pid.remote()))] * 2


def test_a_handle_in_a_closure_keeps_its_actor() -> None:
    with rostral.init(**SHAPE):
        counter = counter_class().remote()
        pid = get(counter.pid.remote())
        held = counter

        @rostral.remote
        def use() -> int:
            value: int = rostral.get(held.add.remote())
            return value

        assert get(use.remote()) == 1
        del counter
        assert get([use.remote() for _ in range(3)])[-1] >= 2
        assert is_alive(pid)
