"""`free`: the memory is given back though references live, and whoever reads on is told."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rostral
from rostral import _context
from rostral.exceptions import ObjectFreedError, ObjectLostError, TaskError
from rostral.experimental import free
from rostral_objectstore._native import repair

from .actors import late_function
from .waiting import OBJECTS_MAX, object_ids, until

pytestmark = pytest.mark.usefixtures("cluster")

SIZES = [10, 100_000]


def read_function() -> Any:
    @rostral.remote
    def read(refs: list[rostral.ObjectRef[Any]]) -> str:
        try:
            rostral.get(refs[0])
        except ObjectFreedError as error:
            return error.object_ref_hex
        return "nothing"

    return read


def bytes_of(refs: list[rostral.ObjectRef[Any]]) -> int:
    """What the values take of the store."""
    names = {ref.binary() for ref in refs}
    listed = repair.list_objects(_context.connected().table, OBJECTS_MAX)
    return sum(info["size"] for info in listed if info["id"] in names)


@pytest.mark.parametrize("size", SIZES)
def test_get_of_a_freed_object_is_a_typed_error_in_any_process(size: int) -> None:
    ref = rostral.put(bytes(size))
    free([ref])
    for _ in range(2):
        with pytest.raises(ObjectFreedError, match=ref.hex()) as caught:
            rostral.get(ref)
    assert isinstance(caught.value, ObjectLostError)
    assert caught.value.object_ref_hex == ref.hex()
    with pytest.raises(ObjectFreedError):
        rostral.get([rostral.put(1), ref])
    assert rostral.get(read_function().remote([ref])) == ref.hex()


def test_the_memory_is_back_though_references_live() -> None:
    refs = [rostral.put(np.zeros(100_000)) for _ in range(10)]
    assert bytes_of(refs) > 8_000_000
    free(refs)
    assert bytes_of(refs) == 0


def test_views_of_a_freed_object_keep_their_bytes() -> None:
    array = np.arange(100_000)
    ref = rostral.put(array)
    view = rostral.get(ref)
    free([ref])
    others = [rostral.put(np.zeros(100_000)) for _ in range(5)]
    assert (view == array).all()
    assert bytes_of([ref]) > 800_000
    del others, view
    assert bytes_of([ref]) == 0


def test_a_freed_object_counts_as_ready() -> None:
    ref = rostral.put(1)
    free([ref])
    assert rostral.wait([ref], timeout=0) == ([ref], [])


def test_a_task_that_is_given_a_freed_object_fails_and_names_it() -> None:
    @rostral.remote
    def use(value: Any, other: int = 0) -> Any:
        return value

    ref = rostral.put(1)
    free([ref])
    for call in (use.remote(ref), use.remote(0, other=ref)):
        with pytest.raises(ObjectFreedError, match=ref.hex()) as caught:
            rostral.get(call)
        assert isinstance(caught.value, TaskError)


def test_a_call_of_an_actor_that_is_given_a_freed_object_fails_and_the_next_does_not() -> None:
    class Echo:
        def say(self, value: Any) -> Any:
            return value

    actor = rostral.remote(Echo).remote()
    ref = rostral.put(1)
    free([ref])
    with pytest.raises(ObjectFreedError, match=ref.hex()):
        rostral.get(actor.say.remote(ref))
    assert rostral.get(actor.say.remote(2)) == 2


def test_what_a_freed_value_refers_to_is_released() -> None:
    inner = rostral.put(bytes(100_000))
    name = inner.binary()
    outer = rostral.put([inner])
    del inner
    assert name in object_ids()
    free([outer])
    assert name not in object_ids()


def test_a_result_that_is_not_there_yet_is_freed_when_it_comes(marks: Path) -> None:
    ref = late_function(marks).remote(bytes(100_000))
    blocked = read_function().remote([ref])
    caught: list[str] = []

    def get() -> None:
        with pytest.raises(ObjectFreedError) as error:
            rostral.get(ref)
        caught.append(error.value.object_ref_hex)

    thread = threading.Thread(target=get)
    thread.start()
    free([ref])
    assert rostral.wait([ref], timeout=0) == ([], [ref])
    marks.write_text("done")
    thread.join(20)
    assert caught == [ref.hex()]
    assert rostral.get(blocked, timeout=20) == ref.hex()


def test_a_freed_result_is_not_made_again(tmp_path: Path) -> None:
    runs = tmp_path / "runs"

    @rostral.remote
    def count() -> int:
        with runs.open("a") as file:
            file.write("x")
        return 1

    ref = count.remote()
    assert rostral.get(ref) == 1
    free([ref])
    with pytest.raises(ObjectFreedError):
        rostral.get(ref)
    assert runs.read_text() == "x"


def test_awaiting_a_freed_object_raises() -> None:
    ref = rostral.put(1)
    free([ref])

    async def scenario() -> None:
        with pytest.raises(ObjectFreedError):
            await ref

    asyncio.run(scenario())
    with pytest.raises(ObjectFreedError):
        ref.future().result(10)


def test_a_worker_frees_what_its_driver_holds() -> None:
    @rostral.remote
    def give_up(refs: list[rostral.ObjectRef[Any]]) -> None:
        free(refs)

    ref = rostral.put(bytes(100_000))
    rostral.get(give_up.remote([ref]))
    with pytest.raises(ObjectFreedError):
        rostral.get(ref)


def test_freed_twice_is_freed_once() -> None:
    ref = rostral.put(1)
    free([ref, ref])
    free(ref)
    with pytest.raises(ObjectFreedError):
        rostral.get(ref)


def test_a_freed_object_is_nowhere() -> None:
    ref = rostral.put(1)
    free([ref])
    where = rostral.experimental.get_object_locations([ref])[ref]
    assert where == {"node_ids": [], "object_size": None, "did_spill": False}


@pytest.mark.parametrize("wrong", [5, "text", None, {}, ()])
def test_free_of_what_is_no_reference_is_a_type_error(wrong: Any) -> None:
    with pytest.raises(TypeError, match=type(wrong).__name__):
        free(wrong)
    ref = rostral.put(1)
    with pytest.raises(TypeError, match="item 1"):
        free([ref, wrong])
    assert rostral.get(ref) == 1


def test_a_reference_of_another_store_is_refused() -> None:
    with pytest.raises(ValueError, match="another store"):
        free([rostral.ObjectRef.from_random()])


def test_objects_that_were_freed_go_with_their_last_reference() -> None:
    before = object_ids()
    refs = [rostral.put(bytes(size)) for size in SIZES]
    free(refs)
    assert len(object_ids() - before) == len(refs)
    del refs
    until(lambda: not object_ids() - before, "the end of the freed objects")


def test_free_has_the_name_that_programs_written_against_ray_call_it_by() -> None:
    assert rostral._private.internal_api.free is free
