"""References on their way: who keeps them keeps the object, and objects outlive who made them."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

import rostral

from .actors import get
from .waiting import end_workers, object_ids, until

pytestmark = pytest.mark.usefixtures("cluster")


def keeper() -> Any:
    class Keeper:
        """Keeps references, and reads them."""

        def __init__(self) -> None:
            self.kept: list[rostral.ObjectRef[Any]] = []

        def keep(self, refs: list[rostral.ObjectRef[Any]]) -> None:
            self.kept += refs

        def read(self) -> list[Any]:
            return rostral.get(self.kept)

        def give(self) -> list[rostral.ObjectRef[Any]]:
            return self.kept

        def let_go(self) -> None:
            self.kept.clear()

        def put(self, size: int) -> list[rostral.ObjectRef[Any]]:
            return [rostral.put(np.arange(size))]

    return rostral.remote(Keeper).remote()


def test_what_an_actor_keeps_stays_until_it_lets_go() -> None:
    actor = keeper()
    ref = rostral.put("kept")
    name = ref.binary()
    get(actor.keep.remote([ref]))
    del ref
    gc.collect()
    assert get(actor.read.remote()) == ["kept"]
    assert name in object_ids()
    get(actor.let_go.remote())
    until(lambda: name not in object_ids(), "the end of the object")


def test_what_an_actor_kept_goes_with_it() -> None:
    actor = keeper()
    ref = rostral.put("kept")
    name = ref.binary()
    get(actor.keep.remote([ref]))
    del ref
    rostral.kill(actor)
    until(lambda: name not in object_ids(), "the end of the object")


def test_a_reference_that_is_handed_from_actor_to_actor_keeps_the_object() -> None:
    first, second = keeper(), keeper()
    get(first.keep.remote([rostral.put("handed on")]))
    for ref in get(first.give.remote()):
        get(second.keep.remote([ref]))
    del ref
    rostral.kill(first)
    assert get(second.read.remote()) == ["handed on"]


def test_a_reference_that_goes_down_a_chain_of_tasks_keeps_the_object() -> None:
    @rostral.remote
    def down(refs: list[rostral.ObjectRef[Any]], depth: int) -> Any:
        if depth == 0:
            return rostral.get(refs[0])
        return rostral.get(down.remote(refs, depth - 1))

    ref = rostral.put("deep")
    name = ref.binary()
    result = down.remote([ref], 5)
    del ref
    assert get(result) == "deep"
    until(lambda: name not in object_ids(), "the end of the object")


def test_what_a_dead_actor_put_is_still_there() -> None:
    actor = keeper()
    (ref,) = get(actor.put.remote(100_000))
    rostral.kill(actor)
    assert (rostral.get(ref, timeout=20) == np.arange(100_000)).all()


def test_a_result_outlives_the_process_that_made_it() -> None:
    @rostral.remote
    def make() -> Any:
        return np.arange(100_000)

    ref = make.remote()
    get(ref)
    end_workers()
    assert (rostral.get(ref, timeout=20) == np.arange(100_000)).all()
