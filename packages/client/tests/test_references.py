"""References: their methods, pickling them by hand, waiting for them in coroutines."""

from __future__ import annotations

import asyncio
import pickle
import queue
import threading
from pathlib import Path
from typing import Any

import pytest

import rostral
from rostral import ObjectRef
from rostral.exceptions import OutOfBandReferenceError, TaskError

from .actors import late_function
from .waiting import end_workers

pytestmark = pytest.mark.usefixtures("cluster")

SWITCHES = [
    "ROSTRAL_ALLOW_OUT_OF_BAND_REFERENCES",
    "RAY_allow_out_of_band_object_ref_serialization",
]


def fail_function() -> Any:
    @rostral.remote
    def fail() -> None:
        raise KeyError("zork")

    return fail


# ---- methods


def test_a_reference_says_what_it_is() -> None:
    ref = rostral.put(1)
    assert bytes.fromhex(ref.hex()) == ref.binary()
    assert ref.size() == len(ref.binary())
    assert ref.binary().startswith(ref.task_id().binary())
    assert ref.job_id().hex() == rostral.get_runtime_context().get_job_id()
    assert (ref.owner_address(), ref.call_site()) == ("", "")
    assert not ref.is_nil()


def test_the_nil_reference_stands_for_none() -> None:
    nil: ObjectRef[Any] = ObjectRef.nil()
    assert nil.is_nil()
    assert nil == ObjectRef(bytes(20))
    assert nil.hex() == "0" * 40


def test_a_random_reference_names_no_object() -> None:
    ref: ObjectRef[Any] = ObjectRef.from_random()
    assert ref != ObjectRef.from_random()
    assert not ref.is_nil()
    for use in (lambda: rostral.get(ref, timeout=5), lambda: rostral.wait([ref], timeout=5)):
        with pytest.raises(ValueError, match="another store"):
            use()


def test_a_reference_is_found_by_its_id() -> None:
    ref = rostral.put("value")
    assert rostral.get(ObjectRef(ref.binary())) == "value"
    assert ObjectRef(b"x" * 20).binary() == b"x" * 20


@pytest.mark.parametrize("wrong", [b"", b"x" * 19, b"x" * 21])
def test_an_id_of_another_length_is_a_value_error(wrong: bytes) -> None:
    with pytest.raises(ValueError, match="needs 20 bytes"):
        ObjectRef(wrong)


def test_an_id_that_is_no_bytes_is_a_type_error() -> None:
    make: Any = ObjectRef
    with pytest.raises(TypeError, match="needs bytes"):
        make("text")


def test_the_class_takes_a_parameter() -> None:
    assert ObjectRef[int] is ObjectRef


# ---- pickled by hand


@pytest.mark.parametrize("switch", SWITCHES)
def test_pickling_a_reference_by_hand_can_be_forbidden(
    switch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(switch, "0")
    ref = rostral.put(1)

    @rostral.remote
    def capture() -> Any:
        return rostral.get(ref)

    @rostral.remote
    def take(refs: Any) -> Any:
        return rostral.get(refs[0])

    with pytest.raises(OutOfBandReferenceError, match="was pickled by hand"):
        pickle.dumps(ref)
    with pytest.raises(OutOfBandReferenceError, match=switch.split("_")[0] and "captured"):
        capture.remote()
    assert rostral.get(take.remote([ref]), timeout=20) == 1
    assert rostral.get(rostral.get(rostral.put([ref]))[0]) == 1


def test_a_closure_keeps_what_it_captures() -> None:
    ref = rostral.put("kept")

    @rostral.remote
    def capture() -> Any:
        return rostral.get(ref)

    assert rostral.get(capture.remote(), timeout=20) == "kept"
    assert rostral.get(capture.remote(), timeout=20) == "kept"
    end_workers()


# ---- callbacks


def test_a_callback_gets_the_value_or_the_error() -> None:
    got: queue.SimpleQueue[Any] = queue.SimpleQueue()
    ref = rostral.put("value")
    assert ref._on_completed(got.put) is ref
    assert got.get(timeout=20) == "value"
    fail_function().remote()._on_completed(got.put)
    error = got.get(timeout=20)
    assert isinstance(error, KeyError)
    assert isinstance(error, TaskError)


def test_a_callback_is_called_when_the_object_is_ready(marks: Path) -> None:
    ref = late_function(marks).remote(1)
    ready = threading.Event()
    assert ref._on_ready(ready.set) is ref
    assert not ready.wait(0.05)
    marks.write_text("done")
    assert ready.wait(20)
    for of in (ref, fail_function().remote()):
        ready.clear()
        of._on_ready(ready.set)
        assert ready.wait(20)


def test_a_callback_that_raises_does_not_end_the_others(caplog: pytest.LogCaptureFixture) -> None:
    done = threading.Event()

    def wrong(_: Any) -> None:
        raise RuntimeError("the callback's own")

    rostral.put(1)._on_completed(wrong)
    rostral.put(2)._on_ready(done.set)
    assert done.wait(20)
    assert rostral.put(3).future().result(timeout=20) == 3
    assert "the callback's own" in caplog.text


# ---- coroutines


def run(scenario: Any) -> None:
    asyncio.run(asyncio.wait_for(scenario, 30))


def test_gather_takes_references_as_they_are() -> None:
    async def scenario() -> None:
        refs = [rostral.put(n) for n in range(10)]
        assert await asyncio.gather(*refs) == list(range(10))
        both = rostral.put(1), fail_function().remote()
        results = await asyncio.gather(*both, return_exceptions=True)
        assert results[0] == 1
        assert isinstance(results[1], KeyError)

    run(scenario())


def test_asyncio_wait_takes_futures_of_references(marks: Path) -> None:
    async def scenario() -> None:
        late = late_function(marks).remote("late").as_future()
        soon = rostral.put("soon").as_future()
        done, pending = await asyncio.wait([late, soon], return_when=asyncio.FIRST_COMPLETED)
        assert (done, pending) == ({soon}, {late})
        await asyncio.to_thread(marks.write_text, "done")
        assert await late == "late"

    run(scenario())


def test_a_cancelled_await_does_not_cancel_the_task(marks: Path) -> None:
    ref = late_function(marks).remote("value")

    async def scenario() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ref.as_future(), 0.05)
        await asyncio.to_thread(marks.write_text, "done")
        assert await ref == "value"

    run(scenario())
    assert rostral.get(ref, timeout=20) == "value"


def test_get_in_a_coroutine_warns_that_its_loop_waits(
    marks: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ref = late_function(marks).remote("value")

    async def scenario() -> None:
        threading.Timer(0.05, marks.write_text, ["done"]).start()
        assert rostral.get(ref, timeout=20) == "value"

    run(scenario())
    assert "await the reference" in caplog.text


# ---- where objects are


def test_an_object_is_on_this_node_with_its_size(marks: Path) -> None:
    large, small = rostral.put(bytes(1 << 20)), rostral.put(1)
    late = late_function(marks).remote(1)
    find = rostral.experimental.get_object_locations
    found = find([large, small, late])
    node = rostral.get_runtime_context().get_node_id()
    assert found[large] == {"node_ids": [node], "object_size": 1 << 20, "did_spill": False}
    assert found[small]["node_ids"] == [node]
    assert found[late] == {"node_ids": [], "object_size": None, "did_spill": False}
    assert rostral.experimental.get_local_object_locations([large]) == find([large])
    marks.write_text("done")
    rostral.get(late, timeout=20)
    wrong: Any = find
    with pytest.raises(TypeError, match="list of references"):
        wrong(large)
    with pytest.raises(TypeError, match="item 0"):
        wrong([1])
